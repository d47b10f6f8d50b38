"""The chunked transfer coding, in which a body of unknown length is sent (RFC 9112, section 7.1).

Both sides read it: servers' adapters where a server leaves that to the application, and the client.
"""

from __future__ import annotations

import re

_match_chunk_head = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n").fullmatch


def read_chunk_size(line: bytes) -> int:
    """Return how many bytes of data follow the first line of a chunk; 0 for the last one.

    Extensions are passed over.

    Raises:
        ValueError: The line is none. It ends in CR and LF, and its size is in hexadecimal digits: others
            than they who read it in another way would take a part of the body for the next message.
    """
    match = _match_chunk_head(line)
    if match is None:
        raise ValueError(f"no chunk begins with {line[:40]!r}")
    return int(match[1], 16)
