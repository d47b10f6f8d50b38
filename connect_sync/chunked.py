"""The chunked transfer coding, in which a body of unknown length is sent (RFC 9112, section 7.1).

Both sides read it: the client, and servers' adapters where a server leaves it to the application.
"""

from __future__ import annotations

import re

_match_chunk_head = re.compile(rb"(0*[0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n").fullmatch


def read_chunk_size(line: bytes) -> int:
    """Return how many bytes of data follow the first line of a chunk; 0 for the last chunk.

    Extensions are passed over. Nothing else is tolerated, such as a sign or a bare line feed: where two
    programs on the way disagree about a size, one of them takes a part of the body for the next message.

    Raises:
        ValueError: The line is not the first of a chunk.
    """
    match = _match_chunk_head(line)
    if match is None:
        raise ValueError(f"no chunk begins with {line[:40]!r}")
    return int(match[1], 16)
