"""The gRPC-Web protocol, both sides of it.

It is gRPC for HTTP without trailers, or with trailers that browsers hide: what gRPC puts into the trailers
is sent in a last envelope, as lines like the headers of HTTP/1.1. A response without messages may have it
among its headers instead ("Trailers-Only"), which a client has to understand. Our server always writes the
envelope: every client understands it, and CORS cannot hide it.

The rules are those of "gRPC Web" (PROTOCOL-WEB.md of gRPC).
"""

from __future__ import annotations

from connect_sync.code import Code
from connect_sync.errors import ConnectError
from connect_sync.headers import Headers
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols.grpc import STATUS, GrpcFamily, decode_status, encode_status
from connect_sync.protocols.protocol import EndEnvelopeProtocol, metadata_of
from connect_sync.version import VERSION

GRPC_WEB_MARK = "x-grpc-web"
X_USER_AGENT = "x-user-agent"

# "User Agent": the form is that of gRPC's own, "grpc-" language "-" variant "/" version.
_USER_AGENT = f"grpc-python-connect-sync/{VERSION}"


class GrpcWeb(GrpcFamily, EndEnvelopeProtocol):
    """gRPC-Web, its messages in their binary form."""

    type = ProtocolType.GRPC_WEB
    content_type = "application/grpc-web"
    end_flag = 0x80

    def write_request(self, headers: Headers, timeout_ms: float | None) -> None:
        """Add the mark of gRPC-Web, the timeout and, unless the caller has set it, ``x-user-agent``."""
        headers[GRPC_WEB_MARK] = "1"
        headers.setdefault(X_USER_AGENT, _USER_AGENT)
        super().write_request(headers, timeout_ms)

    def encode_end(self, error: ConnectError | None, metadata: Headers | None) -> bytes:
        """Write the status and the trailing metadata, a line each."""
        lines = [f"{name}: {value}\r\n" for name, value in encode_status(error, metadata).multi_items()]
        return "".join(lines).encode("ascii")

    def decode_end(self, payload: bytes) -> tuple[ConnectError | None, Headers]:
        """Read the status and the trailing metadata. Raises ConnectError."""
        pairs = []
        for line in payload.decode("latin-1").split("\n"):
            if not line.strip():
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise ConnectError(
                    Code.INTERNAL, "malformed line in the response's trailers: it has no colon"
                )
            pairs.append((name.strip(), value.strip()))
        return decode_status(Headers.from_wire(pairs))

    def trailers_only_end(self, headers: Headers) -> tuple[ConnectError | None, Headers] | None:
        """Return the status and the metadata of a response that is "Trailers-Only"."""
        if STATUS not in headers:
            return None
        error, metadata = decode_status(headers)
        return error, metadata_of(metadata)


class GrpcWebText(GrpcWeb):
    """gRPC-Web for clients that cannot read binary bodies: the server encodes it in base64."""

    content_type = "application/grpc-web-text"


GRPC_WEB = GrpcWeb()
GRPC_WEB_TEXT = GrpcWebText()
