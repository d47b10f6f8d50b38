"""What the server and the client need to know of a protocol, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from connect_sync.compression import Compression, Compressions
from connect_sync.deadline import Deadline
from connect_sync.errors import ConnectError
from connect_sync.headers import Headers

_NOT_METADATA = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_RESERVED_PREFIXES = ("connect-", "grpc-")


def remove_reserved(headers: Headers) -> None:
    """Remove what is not metadata: the headers by which HTTP and the protocols frame a call."""
    for name in [name for name in headers if name in _NOT_METADATA or name.startswith(_RESERVED_PREFIXES)]:
        del headers[name]


class Protocol(ABC):
    """The headers of a protocol's requests, written by a client and read by a server."""

    content_type_prefix: str
    """What stands before the codec's name in content types: ``application/connect+``."""
    content_encoding: str
    """The header that names the compression of the messages of its side."""
    accept_encoding: str
    """The header that lists the compressions that the client can read."""

    @abstractmethod
    def read_timeout_ms(self, headers: Headers) -> float | None:
        """Return a request's timeout in milliseconds, None where it has none.

        Raises:
            ConnectError: ``invalid_argument``, if the header is malformed.
        """

    @abstractmethod
    def write_request(self, headers: Headers, timeout_ms: float | None) -> None:
        """Add what tells the server the protocol's version and the timeout."""

    def read_request(
        self, headers: Headers, compressions: Compressions
    ) -> tuple[Deadline | None, Compression | None, Compression | None]:
        """Return a request's deadline, the compression that it uses and the one to answer with.

        Raises:
            ConnectError: ``invalid_argument`` for a malformed timeout or an unknown version;
                ``unimplemented`` for a compression that is not among ``compressions``.
        """
        timeout_ms = self.read_timeout_ms(headers)
        encoding = headers.get(self.content_encoding)
        received = None if encoding is None else compressions.find(encoding)
        accept = headers.get(self.accept_encoding)
        # Connect reference: without a list, the client reads what it used itself.
        accepted = received if accept is None else compressions.negotiate(accept)
        return None if timeout_ms is None else Deadline(timeout_ms), received, accepted


class EnvelopedProtocol(Protocol):
    """A protocol whose messages, and the end of whose streams, travel in envelopes."""

    end_flag: int
    """The flag of the envelope that ends a response."""

    @abstractmethod
    def encode_end(self, error: ConnectError | None, trailers: Headers | None) -> bytes:
        """Write the payload that ends a response: its error, if any, and its trailing metadata."""

    @abstractmethod
    def decode_end(self, payload: bytes) -> tuple[ConnectError | None, Headers]:
        """Read the payload that ends a response.

        Raises:
            ConnectError: ``internal``, if it is malformed.
        """
