"""gRPC-Web for clients that cannot read binary bodies: base64 around the enveloped form.

A body may be split into separately padded pieces of base64 at any point ("gRPC Web", "Protocol differences").
Each chunk of a response is such a piece, so it can be read as soon as it arrives.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator

from connect_sync.deadline import Deadline
from connect_sync.errors import MalformedError
from connect_sync.http import READ_SIZE, Body, ClosingIterator, Request, Response

_QUANTUM = 4
"""Characters per group: they encode three bytes, fewer with padding."""


class TextHandler:
    """Answers calls whose bodies are base64."""

    def __init__(self, post: Callable[[Request, Body], Response]) -> None:
        """Wrap ``post``, which handles binary bodies."""
        self._post = post

    def post(self, request: Request, body: Body) -> Response:
        """Answer a POST."""
        response = self._post(request, TextBody(body))
        if isinstance(response.body, tuple):
            response.body = tuple(map(b64encode, response.body))
        else:
            response.body = ClosingIterator(response.body, transform=b64encode)
        return response


class TextBody(Body):
    """The decoded bytes of a base64 body."""

    __slots__ = ("_body", "_rest", "length")

    length: int | None

    def __init__(self, body: Body) -> None:
        """Decode ``body``."""
        self._body = body
        self._rest = b""
        self.length = None

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            MalformedError: They are not base64, or end inside a quantum of it.
        """
        # Ask for no more than the requested bytes take in base64, without padding.
        missing = (size + 2) // 3 * _QUANTUM - len(self._rest)
        while True:
            chunk = self._body.read(min(max(missing, 1), READ_SIZE))
            text = self._rest + chunk
            whole = len(text) - len(text) % _QUANTUM
            if whole:
                self._rest = text[whole:]
                return b"".join(_decode(text[:whole]))
            if not chunk:
                if text:
                    raise MalformedError("the body ends inside a quantum of base64")
                return b""
            self._rest = text
            missing = _QUANTUM - len(text)

    def set_deadline(self, deadline: Deadline) -> None:
        """Bound the reads of the underlying body."""
        self._body.set_deadline(deadline)

    def is_disconnected(self) -> bool:
        """Tell whether the client has disconnected."""
        return self._body.is_disconnected()

    def close(self) -> None:
        """Close the underlying body."""
        self._body.close()


def _decode(text: bytes) -> Iterator[bytes]:
    """Yield the decoded bytes of each piece of base64: padding ends a piece."""
    start = 0
    while start < len(text):
        padding = text.find(b"=", start)
        end = len(text) if padding < 0 else (padding // _QUANTUM + 1) * _QUANTUM
        try:
            yield b64decode(text[start:end], validate=True)
        except Base64Error as error:
            raise MalformedError("the body is not base64") from error
        start = end
