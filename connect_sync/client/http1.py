"""A response over HTTP/1.1, as it arrives: its head, where its body ends, and its body (RFC 9112).

`http.client` parses heads as it does those of emails, which takes a good part of a call's time, and it
tolerates malformed framing: lengths, codings and chunks. If a proxy on the way reads that differently, one of
the two takes part of a body for the next response; here it is an error. Lines of a head may be folded, and
end in a bare line feed.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from typing import Protocol

from connect_sync.chunked import read_chunk_size
from connect_sync.headers import Headers

_match_status_line = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r?\n").fullmatch
_is_length = re.compile(r"[0-9]{1,18}").fullmatch
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_BLANK_LINES = (b"\r\n", b"\n")
_MAX_LINE = 64 * 1024
_MAX_FIELDS = 100
_MAX_SHOWN = 40
"""How many characters of a server's data an error may show."""
_IN_BODY = "in the middle of its body"


class _Reader(Protocol):
    """The part of ``io.BufferedReader`` that is used."""

    def read1(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class HTTP1Response:
    """A response, read from a connection: its head by ``begin``, its body by ``read``."""

    status: int
    headers: Headers
    length: int | None
    """The announced size of the body, in bytes; None if it is unknown until the body ends."""
    is_complete: bool
    """Whether the body was read to its end."""
    is_persistent: bool
    """Whether the connection may carry another response after this one (RFC 9112, section 9.3)."""

    def __init__(self, reader: _Reader, method: str) -> None:
        """Read the response to a request of an HTTP ``method`` from ``reader``."""
        self._reader = reader
        self._is_for_head = method == "HEAD"
        self._is_chunked = False
        self._has_begun_chunks = False
        self._left: int | None = None
        """The bytes left of the body or the chunk; None if the body ends with the connection."""

    def begin(self) -> None:
        """Read the head, after those of interim responses, and determine where the body ends.

        Raises:
            HTTPException: The data is not the head of a response.
            OSError: The connection is lost.
        """
        while True:
            line = self._read_line("before the response")
            match = _match_status_line(line)
            if match is None:
                raise HTTPException(f"expected an HTTP/1.1 status line, got {line[:_MAX_SHOWN]!r}")
            self.status = int(match[2])
            self.headers = Headers.from_wire(self._read_fields("in the middle of its head"))
            # RFC 9110, section 15.2: any number of interim responses may precede the final one.
            if self.status >= 200 or self.status == 101:
                self._find_end(is_http_1_0=match[1] == b"0")
                return

    def _read_line(self, place: str) -> bytes:
        """Read a line. ``place`` says where the connection was closed if there is none."""
        line = self._reader.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise HTTPException(f"a line of the response is longer than {_MAX_LINE} bytes")
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the connection was closed {place}")
        return line

    def _read_fields(self, place: str) -> list[tuple[str, str]]:
        """Return the names and the values of the headers, or of the trailers after the last chunk."""
        fields: list[tuple[str, str]] = []
        for _ in range(_MAX_FIELDS + 1):
            line = self._read_line(place)
            if line in _BLANK_LINES:
                return fields
            _add_field(fields, line)
        raise HTTPException(f"the response has more than {_MAX_FIELDS} header lines")

    def _find_end(self, *, is_http_1_0: bool) -> None:
        """Determine how the body is framed, and whether the connection ends with it (section 6.3)."""
        connection = self._elements("connection")
        self.is_persistent = "close" not in connection and (not is_http_1_0 or "keep-alive" in connection)
        self.length = None
        codings = self._elements("transfer-encoding")
        lengths = set(self._elements("content-length"))
        if self._is_for_head or self.status in (101, 204, 304):
            self.length = 0
            if self.status == 101:
                self.is_persistent = False  # from here on the connection does not speak HTTP
            elif self.status == 204 and (codings or lengths - {"0"}):
                self.is_persistent = False  # a body may follow, though it must not
        elif codings:
            # Empty elements are ignored (RFC 9110, section 5.6.1).
            if [coding for coding in codings if coding] != ["chunked"]:
                raise HTTPException(
                    f"unknown transfer coding in the response: {', '.join(codings)[:_MAX_SHOWN]!r}"
                )
            # Section 6.1: chunks in HTTP/1.0, or with a length, may be an attempt at smuggling.
            self.is_persistent = self.is_persistent and not is_http_1_0 and not lengths
            self._is_chunked = True
        elif lengths:
            (length, *others) = lengths
            if others or not _is_length(length):
                raise HTTPException("invalid or conflicting Content-Length in the response")
            self.length = int(length)
        else:
            self.is_persistent = False
        self._left = 0 if self._is_chunked else self.length
        self.is_complete = self.length == 0

    def _elements(self, name: str) -> list[str]:
        """Return the elements of a header that is a list, in lower case."""
        return [
            element.strip(" \t").lower()
            for value in self.headers.get_all(name)
            for element in value.split(",")
        ]

    def read(self, size: int) -> bytes:
        """Return what has arrived of the body, up to ``size`` bytes; empty once the body has ended.

        Raises:
            HTTPException: The chunks are malformed.
            OSError: The connection is lost, or was closed before the body ended.
        """
        if self.is_complete:
            return b""
        if self._is_chunked and not self._left and not self._next_chunk():
            self.is_complete = True
            return b""
        left = self._left
        data = self._reader.read1(size if left is None or size < left else left)
        if left is None:
            self.is_complete = not data
        elif data:
            self._left = left - len(data)
            self.is_complete = not self._left and not self._is_chunked
        else:
            raise ConnectionError(f"the connection was closed {_IN_BODY}")
        return data

    def _next_chunk(self) -> bool:
        """Read the line before a chunk's data; return False for the last chunk, which has none."""
        if self._has_begun_chunks and self._read_line(_IN_BODY) != b"\r\n":
            raise HTTPException("a chunk of the response is longer than its announced size")
        self._has_begun_chunks = True
        try:
            self._left = read_chunk_size(self._read_line(_IN_BODY))
        except ValueError as error:
            raise HTTPException(str(error)) from error
        if not self._left:
            self._read_fields(_IN_BODY)  # trailers, which neither Connect nor gRPC-Web uses
        return bool(self._left)


def _add_field(fields: list[tuple[str, str]], line: bytes) -> None:
    text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
    if "\r" in text or "\0" in text:
        raise HTTPException("invalid character in a header of the response")
    if text[0] in " \t":
        text = text.strip(" \t")
        if not fields:
            raise HTTPException("the first header line of the response is a continuation")
        # Section 5.2: a line that continues the one before it.
        name, value = fields[-1]
        fields[-1] = (name, f"{value} {text}".strip(" \t"))
        return
    name, colon, value = text.partition(":")
    name = name.rstrip(" \t")
    if not colon or not _is_token(name):
        raise HTTPException(f"expected a header in the response, got {text[:_MAX_SHOWN]!r}")
    fields.append((name, value.strip(" \t")))


# What arrives while a request is still being sent

_interim_status = re.compile(rb"HTTP/1\.[0-9] 1(?!01)").match
_interim_response = re.compile(rb"HTTP/1\.[0-9] 1(?!01).*?\n\r?\n", re.DOTALL).match
_STATUS_SIZE = len("HTTP/1.1 200")


def without_interim_responses(data: bytes) -> bytes:
    """Return a server's ``data`` without the interim responses it begins with.

    They do not answer the request, and may come at any time (RFC 9110, section 15.2).
    """
    while interim := _interim_response(data):
        data = data[interim.end() :]
    return data


def has_begun(data: bytes) -> bool:
    """Tell whether ``data`` is the start of a final response, rather than perhaps of an interim one.

    An interim response that is longer than the limit of a line counts as final: it is read, and refused.
    """
    is_undecided = len(data) < _STATUS_SIZE or _interim_status(data)
    return not is_undecided or len(data) > _MAX_LINE
