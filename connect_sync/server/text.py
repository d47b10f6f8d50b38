"""gRPC-Web for clients that cannot read binary bodies: base64 around what the enveloped form says.

A body may be cut into separately padded pieces of base64 at any point ("gRPC Web", "Protocol differences"):
each chunk of a response is one, so that it can be read as soon as it has arrived.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator

from connect_sync.deadline import Deadline
from connect_sync.errors import MalformedError
from connect_sync.http import READ_SIZE, Body, ClosingIterator, Request, Response

_QUANTUM = 4
"""Characters that belong together: three bytes, fewer with padding."""


class TextHandler:
    """Answers calls whose bodies are base64."""

    def __init__(self, post: Callable[[Request, Body], Response]) -> None:
        """Let ``post`` answer, which knows nothing of base64."""
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
    """The bytes that a body of base64 stands for."""

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
        # No more is asked for than what the reader waits for takes, padding aside.
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
        """Bound the reads of the base64."""
        self._body.set_deadline(deadline)

    def is_disconnected(self) -> bool:
        """Tell whether who sends the base64 has left."""
        return self._body.is_disconnected()

    def close(self) -> None:
        """Close the body of base64."""
        self._body.close()


def _decode(text: bytes) -> Iterator[bytes]:
    """Yield the bytes of each piece of base64: a piece ends where it is padded."""
    start = 0
    while start < len(text):
        padding = text.find(b"=", start)
        end = len(text) if padding < 0 else (padding // _QUANTUM + 1) * _QUANTUM
        try:
            yield b64decode(text[start:end], validate=True)
        except Base64Error as error:
            raise MalformedError("the body is not base64") from error
        start = end
