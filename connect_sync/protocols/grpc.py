"""The gRPC protocol: the server's side of it, and what gRPC-Web takes from it.

Requests name their timeout, their compression and what the client can read by headers of their own;
messages travel in envelopes; a status says how the call ended, which in gRPC is sent in the HTTP trailers.
There is no client's side: urllib3 speaks HTTP/1.1, which cannot carry gRPC.

The rules are those of "gRPC over HTTP2"; names in comments are its terms.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from google.protobuf.message import DecodeError

from connect_sync import rpc
from connect_sync.code import Code
from connect_sync.codec import Codec
from connect_sync.compression import Compression, Compressions
from connect_sync.errors import ConnectError, ErrorDetail
from connect_sync.headers import Headers, decode_base64, encode_base64
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols.protocol import EnvelopedProtocol, ResponseEnd, metadata_of

TIMEOUT = "grpc-timeout"
STATUS = "grpc-status"
MESSAGE = "grpc-message"
DETAILS = "grpc-status-details-bin"

_DEFAULT_CODEC = "proto"
_TYPE_URL_PREFIX = "type.googleapis.com/"

# "Timeout": at most eight digits and a unit.
_match_timeout = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_UNIT_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1_000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}
_MAX_TIMEOUT_DIGITS = 99_999_999

# "Percent-Encoded": letters, digits and these are not encoded.
_UNENCODED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class GrpcFamily(EnvelopedProtocol):
    """What gRPC and gRPC-Web share: the headers of requests, and the status."""

    content_type: str
    """The content type without a codec's name, which means Protobuf's binary format."""
    timeout = TIMEOUT
    content_encoding = "grpc-encoding"
    accept_encoding = "grpc-accept-encoding"

    def content_types(self, codec: Codec) -> tuple[str, ...]:
        """Return the content type with the codec's name, and without it if the codec is the default."""
        named = f"{self.content_type}+{codec.name}"
        return (named, self.content_type) if codec.name == _DEFAULT_CODEC else (named,)

    def parse_timeout(self, timeout: str) -> float:
        """Return the timeout in milliseconds. Raises ConnectError."""
        match = _match_timeout(timeout)
        if match is None:
            raise ConnectError(
                Code.INVALID_ARGUMENT,
                f"{TIMEOUT} must be at most 8 digits and one of {', '.join(_UNIT_MS)}, got {timeout!r}",
            )
        return int(match[1]) * _UNIT_MS[match[2]]

    def negotiate(
        self, compressions: Compressions, accept: str, received: Compression | None
    ) -> Compression | None:
        """Return the request's own compression, if the client can read it, else one of ours that it can.

        The client's list has no order ("Message-Accept-Encoding"): grpcio begins it with ``identity``.
        """
        return compressions.choose(accept, received)

    def write_request(self, headers: Headers, timeout_ms: float | None) -> None:
        """Add the timeout: in milliseconds, or in seconds if those take more than 8 digits."""
        if timeout_ms is None:
            return
        milliseconds = max(1, int(timeout_ms))
        if milliseconds <= _MAX_TIMEOUT_DIGITS:
            headers[TIMEOUT] = f"{milliseconds}m"
        else:
            headers[TIMEOUT] = f"{milliseconds // 1000}S"


class Grpc(GrpcFamily):
    """gRPC: the status and the trailing metadata are HTTP trailers."""

    type = ProtocolType.GRPC
    content_type = "application/grpc"
    has_trailers = True

    def end_response(self, error: ConnectError | None, metadata: Headers | None) -> ResponseEnd:
        """Return the end of a response: its trailers, and nothing more of its body."""
        return ResponseEnd(b"", encode_status(error, metadata))


GRPC = Grpc()


# The status ("Status", "Status-Message", "Custom-Metadata")


def encode_status(error: ConnectError | None, metadata: Headers | None) -> Headers:
    """Write how a call ended, and its trailing metadata without the names that are reserved."""
    status = Headers() if metadata is None else metadata_of(metadata)
    if error is None:
        status[STATUS] = "0"
        return status
    status[STATUS] = str(error.code.number)
    if error.message:
        status[MESSAGE] = _encode_message(error.message)
    if error.details:
        status[DETAILS] = encode_base64(_encode_details(error))
    return status


def decode_status(status: Headers) -> tuple[ConnectError | None, Headers]:
    """Read how a call ended, and its trailing metadata.

    A status that is missing, or is not a number, is an error with the code ``unknown``.
    """
    metadata = Headers.from_wire(
        (name, value) for name, value in status.multi_items() if name not in (STATUS, MESSAGE, DETAILS)
    )
    number = status.get(STATUS, "").strip()
    if number == "0":
        return None, metadata
    message = _decode_message(status.get(MESSAGE, ""))
    if not _is_number(number):
        problem = f"{STATUS} must be a number, got {number!r}" if STATUS in status else f"missing {STATUS}"
        return ConnectError(Code.UNKNOWN, f"{problem}: {message}" if message else problem), metadata
    return _with_details(Code.from_number(int(number)), message, status.get(DETAILS)), metadata


_is_number = re.compile(r"[0-9]{1,9}").fullmatch


def _encode_message(message: str) -> str:
    text = quote(message, safe=_UNENCODED, errors="replace")
    # HTTP strips the spaces around a value (RFC 9110, section 5.5).
    without_leading = text.lstrip(" ")
    inner = without_leading.rstrip(" ")
    leading = len(text) - len(without_leading)
    trailing = len(without_leading) - len(inner)
    return "%20" * leading + inner + "%20" * trailing


def _decode_message(text: str) -> str:
    # Malformed percent-encoding is kept as it is ("Status-Message").
    return unquote_to_bytes(text.encode("latin-1", errors="replace")).decode(errors="replace")


def _encode_details(error: ConnectError) -> bytes:
    status = rpc.Status(code=error.code.number, message=rpc.encodable(error.message))
    for detail in error.details:
        status.details.add(type_url=_TYPE_URL_PREFIX + detail.type, value=detail.data)
    data: bytes = status.SerializeToString()
    return data


def _with_details(code: Code, message: str, encoded: str | None) -> ConnectError:
    """Return the error with the details of an encoded status, which also has its code and full message.

    Details that cannot be read must not hide the error.
    """
    if encoded is None:
        return ConnectError(code, message)
    try:
        status = rpc.Status.FromString(decode_base64(encoded))
    except (ValueError, DecodeError):
        return ConnectError(code, message)
    details = [ErrorDetail(detail.type_url.rpartition("/")[2], detail.value) for detail in status.details]
    if status.code:
        return ConnectError(Code.from_number(status.code), status.message, details)
    return ConnectError(code, message, details)
