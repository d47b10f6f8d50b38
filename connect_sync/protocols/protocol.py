"""What the server and the client need to know of a protocol, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple

from connect_sync.code import Code
from connect_sync.codec import Codec
from connect_sync.compression import Compression, Compressions
from connect_sync.deadline import Deadline
from connect_sync.envelope import wrap
from connect_sync.errors import ConnectError
from connect_sync.headers import Headers
from connect_sync.protocol_type import ProtocolType

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


def metadata_of(headers: Headers) -> Headers:
    """Return a copy of ``headers`` without those by which HTTP and the protocols frame a call."""
    return headers.select(_is_metadata)


def _is_metadata(name: str) -> bool:
    return name not in _NOT_METADATA and not name.startswith(_RESERVED_PREFIXES)


class WireProtocol(ABC):
    """The headers of a protocol's requests, written by a client and read by a server."""

    type: ProtocolType
    """The protocol that this is, or is a form of."""
    timeout: str
    """The header that tells how long a call may take."""
    content_encoding: str
    """The header that names the compression of the messages of its side."""
    accept_encoding: str
    """The header that lists the compressions that the client can read."""
    version: str = ""
    """The header that tells the protocol's version, where it has one."""
    known_version: str = ""
    """The only version that exists, where it has one."""

    def __init__(self) -> None:
        """Make the only instance of a protocol."""
        self._names = (self.version, self.timeout, self.content_encoding, self.accept_encoding)

    @abstractmethod
    def content_types(self, codec: Codec) -> tuple[str, ...]:
        """Return the content types of messages that ``codec`` writes: first the one that a client sends."""

    @abstractmethod
    def parse_timeout(self, timeout: str) -> float:
        """Return what the header says, in milliseconds.

        Raises:
            ConnectError: ``invalid_argument``, if it is malformed.
        """

    @abstractmethod
    def write_request(self, headers: Headers, timeout_ms: float | None) -> None:
        """Add what tells the server the protocol's version and the timeout."""

    def read_request(
        self, headers: Headers, compressions: Compressions, require_version: bool = False
    ) -> tuple[Deadline | None, Compression | None, Compression | None]:
        """Return a request's deadline, the compression that it uses and the one to answer with.

        An empty version or timeout counts as absent.

        Args:
            headers: The headers of the request.
            compressions: The compressions that are offered.
            require_version: Whether the version may not be absent, in a protocol that has one.

        Raises:
            ConnectError: ``invalid_argument`` for a malformed timeout, and for a version that is unknown,
                or required and absent; ``unimplemented`` for a compression that is not among
                ``compressions``.
        """
        version, timeout, encoding, accept = headers.get_many(self._names)
        if version != self.known_version and self.version and (version or require_version):
            expected = f"{self.version} must be {self.known_version!r}"
            text = f"{expected}, got {version!r}" if version else f"missing required header: {expected}"
            raise ConnectError(Code.INVALID_ARGUMENT, text)
        deadline = Deadline(self.parse_timeout(timeout)) if timeout else None
        received = None if encoding is None else compressions.find(encoding)
        # Connect reference, "Unary-Request": without a list, the client reads the compression that it used.
        accepted = received if accept is None else self.negotiate(compressions, accept, received)
        return deadline, received, accepted

    def negotiate(
        self, compressions: Compressions, accept: str, received: Compression | None
    ) -> Compression | None:
        """Return the compression to answer with, None for none.

        Args:
            compressions: The compressions that are offered.
            accept: The compressions that the client can read, as it lists them.
            received: The compression of its request.
        """
        return compressions.negotiate(accept)

    def check_content_type(self, codec: Codec, content_type: str) -> None:
        """Check that a successful response is of this protocol and the codec of its request.

        Raises:
            ConnectError: ``internal`` for another codec, ``unknown`` for another protocol.
        """
        expected = self.content_types(codec)
        found = media_type(content_type)
        if found in expected:
            return
        family = expected[0].removesuffix(codec.name)
        # gRPC-Web may leave the codec's name out, and the "+" with it.
        code = Code.INTERNAL if f"{found}+".startswith(family) else Code.UNKNOWN
        raise ConnectError(code, f"the response's content type is {content_type!r}, not {expected[0]!r}")

    def is_error_content_type(self, content_type: str) -> bool:
        """Tell whether the body of a response whose status is not 200 may hold the call's error."""
        return False

    def trailers_only_end(self, headers: Headers) -> tuple[ConnectError | None, Headers] | None:
        """Return the end of a response whose headers hold it in place of its body; None for others."""
        return None


class ResponseEnd(NamedTuple):
    """The end of a response."""

    data: bytes
    """The last bytes of the body; may be empty."""
    trailers: Headers | None
    """The HTTP trailers; None in a protocol without them."""


class EnvelopedProtocol(WireProtocol):
    """A protocol whose messages travel in envelopes."""

    has_trailers: bool = False
    """Whether a response ends with HTTP trailers."""

    @abstractmethod
    def end_response(self, error: ConnectError | None, metadata: Headers | None) -> ResponseEnd:
        """Return the end of a response. Its trailers belong to the caller.

        Args:
            error: How the call failed; None for success.
            metadata: The trailing metadata, if any. Reserved names are left out.
        """


class EndEnvelopeProtocol(EnvelopedProtocol):
    """A protocol whose responses end with an envelope, so that any HTTP can carry them."""

    end_flag: int
    """The flag of the envelope that ends a response."""

    @cached_property
    def _success(self) -> ResponseEnd:
        """The end of most responses."""
        return ResponseEnd(wrap(self.encode_end(None, None), self.end_flag), None)

    @abstractmethod
    def encode_end(self, error: ConnectError | None, metadata: Headers | None) -> bytes:
        """Write the payload that ends a response: its error, if any, and its trailing metadata.

        Reserved names are left out of the metadata.
        """

    @abstractmethod
    def decode_end(self, payload: bytes) -> tuple[ConnectError | None, Headers]:
        """Read the payload that ends a response.

        Raises:
            ConnectError: ``internal``, if it is malformed.
        """

    def end_response(self, error: ConnectError | None, metadata: Headers | None) -> ResponseEnd:
        """Return the end of a response: its last envelope."""
        if error is None and not metadata:
            return self._success
        return ResponseEnd(wrap(self.encode_end(error, metadata), self.end_flag), None)


def media_type(content_type: str) -> str:
    """Return a content type in lower case and without its parameters."""
    return content_type.partition(";")[0].strip().lower()
