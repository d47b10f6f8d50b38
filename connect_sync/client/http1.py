"""The head of a response over HTTP/1.1, and where its body ends (RFC 9112, sections 4 to 6).

`http.client` has heads parsed as those of emails, which takes half of a call's time, and takes the first line
that is no header for the end. What is malformed is an error here. Bodies are left to `http.client`.
"""

from __future__ import annotations

import re
import socket
from http.client import BadStatusLine, HTTPException, HTTPResponse
from typing import BinaryIO, cast

_match_status_line = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r?\n").fullmatch
_is_length = re.compile(r"[0-9]{1,18}").fullmatch
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_BLANK_LINES = (b"\r\n", b"\n")
_MAX_LINE = 64 * 1024
_MAX_FIELDS = 100
_MAX_SHOWN = 40
"""How many characters of what a server has sent may stand in an error."""


class HTTP1Response(HTTPResponse):
    """A response to be read from a reader, in place of a socket; ``begin`` reads its head."""

    version: int
    status: int
    chunked: bool
    chunk_left: int | None
    length: int | None
    will_close: bool

    def __init__(self, reader: BinaryIO, method: str) -> None:
        """Read from ``reader`` the response to a request of an HTTP ``method``."""
        super().__init__(cast(socket.socket, reader), method=method)
        self._is_for_head = method == "HEAD"
        self.fields: list[tuple[str, str]] = []
        """The names, in lower case, and the values of the headers."""

    def begin(self) -> None:
        """Read the head, and find out where the body ends.

        Raises:
            HTTPException: It is no head of a response.
            OSError: The connection is lost.
        """
        line = self._read_line()
        match = _match_status_line(line)
        if match is None:
            raise BadStatusLine(repr(line[:_MAX_SHOWN]))
        self.version = 11 if match[1] != b"0" else 10
        self.status = int(match[2])
        for _ in range(_MAX_FIELDS + 1):
            line = self._read_line()
            if line in _BLANK_LINES:
                break
            self._add_field(line)
        else:
            raise HTTPException(f"the response has more than {_MAX_FIELDS} lines of headers")
        self._find_end()

    def _read_line(self) -> bytes:
        line: bytes = self.fp.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise HTTPException(f"a line of the response's head is longer than {_MAX_LINE} bytes")
        if not line.endswith(b"\n"):
            raise HTTPException("the response ends within its head")
        return line

    def _add_field(self, line: bytes) -> None:
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
        if "\r" in text or "\0" in text:
            raise HTTPException("a header of the response has characters that none can have")
        if text[0] in " \t":
            text = text.strip(" \t")
            if not self.fields:
                raise HTTPException("the first header of the response goes on with none")
            # Section 5.2: a line that goes on with the one before.
            name, value = self.fields[-1]
            self.fields[-1] = (name, f"{value} {text}".strip(" \t"))
            return
        name, colon, value = text.partition(":")
        name = name.rstrip(" \t")
        if not colon or not _is_token(name):
            raise HTTPException(f"a line of the response's head is no header: {text[:_MAX_SHOWN]!r}")
        self.fields.append((name.lower(), value.strip(" \t")))

    def _find_end(self) -> None:
        """Set by what the body is framed, and whether the connection ends with it."""
        connection = self._tokens("connection")
        is_kept = "keep-alive" in connection or "keep-alive" in self._tokens("proxy-connection")
        self.will_close = "close" in connection or (self.version == 10 and not is_kept)
        self.chunked = False
        self.chunk_left = None
        self.length = None
        codings = self._tokens("transfer-encoding")
        lengths = set(self._tokens("content-length"))
        if self._is_for_head or self.status < 200 or self.status in (204, 304):
            self.length = 0
        elif codings == ["chunked"]:
            self.chunked = True
            # Section 6.1: chunks in HTTP/1.0, or beside a length, may be somebody's attempt to smuggle.
            self.will_close = self.will_close or self.version == 10 or bool(lengths)
        elif codings:
            raise HTTPException(
                f"the response has an unknown transfer coding: {', '.join(codings)[:_MAX_SHOWN]!r}"
            )
        elif lengths:
            (length, *others) = lengths
            if others or not _is_length(length):
                raise HTTPException("the length that the response announces is no number")
            self.length = int(length)
        else:
            self.will_close = True

    def _tokens(self, name: str) -> list[str]:
        """Return the elements of a header that is a list, in lower case."""
        return [
            token.strip(" \t").lower()
            for field, value in self.fields
            if field == name
            for token in value.split(",")
        ]
