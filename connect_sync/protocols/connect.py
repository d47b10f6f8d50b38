"""The Connect protocol, both sides of it.

Unary calls are plain HTTP: a bare message each way, the code of an error as HTTP status with a JSON body,
trailing metadata as headers with a prefix, and a GET for methods without side effects. Streams are
envelopes in a response that is always 200; the last envelope is JSON that says how the call ended.

The rules are those of the Connect protocol reference; names in comments are its headings.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote_from_bytes

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from connect_sync import rpc
from connect_sync.code import Code
from connect_sync.codec import Codec
from connect_sync.compression import Compression
from connect_sync.errors import ConnectError, ErrorDetail
from connect_sync.headers import Headers, decode_base64, encode_base64
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols.protocol import (
    EndEnvelopeProtocol,
    WireProtocol,
    media_type,
    metadata_of,
)

PROTOCOL_VERSION = "connect-protocol-version"
TIMEOUT_MS = "connect-timeout-ms"
TRAILER_PREFIX = "trailer-"
ERROR_CONTENT_TYPE = "application/json"

_is_timeout = re.compile(r"[0-9]{1,10}").fullmatch
MAX_TIMEOUT_MS = 9_999_999_999
"""The longest timeout in milliseconds, of ten digits: some 115 days."""


class _Connect(WireProtocol):
    """What unary calls and streams share: the version, the timeout, and errors of HTTP."""

    type = ProtocolType.CONNECT
    version = PROTOCOL_VERSION
    known_version = "1"
    timeout = TIMEOUT_MS
    content_type_prefix: str
    """The part of content types before the codec's name."""

    def content_types(self, codec: Codec) -> tuple[str, ...]:
        """Return the one content type."""
        return (self.content_type_prefix + codec.name,)

    def is_error_content_type(self, content_type: str) -> bool:
        """Tell whether the body is JSON, as errors are."""
        return media_type(content_type) == ERROR_CONTENT_TYPE

    def parse_timeout(self, timeout: str) -> float:
        """Return the milliseconds that the header says. Raises ConnectError."""
        if not _is_timeout(timeout):
            raise ConnectError(
                Code.INVALID_ARGUMENT,
                f"{TIMEOUT_MS} must be a whole number of at most 10 digits, got {timeout!r}",
            )
        return int(timeout)

    def write_request(self, headers: Headers, timeout_ms: float | None) -> None:
        """Add the version and the timeout, which is at most ``MAX_TIMEOUT_MS``."""
        headers[self.version] = self.known_version
        if timeout_ms is not None:
            headers[TIMEOUT_MS] = str(max(1, int(timeout_ms)))


class ConnectUnary(_Connect):
    """Unary calls: a bare message each way."""

    content_type_prefix = "application/"
    content_encoding = "content-encoding"
    accept_encoding = "accept-encoding"


class ConnectStream(_Connect, EndEnvelopeProtocol):
    """Streams, and the unary side of client and server streaming: everything in envelopes."""

    content_type_prefix = "application/connect+"
    content_encoding = "connect-content-encoding"
    accept_encoding = "connect-accept-encoding"
    end_flag = 0x02

    def encode_end(self, error: ConnectError | None, metadata: Headers | None) -> bytes:
        """Write an EndStreamResponse, its metadata without the names that are reserved."""
        end: dict[str, Any] = {}
        if error is not None:
            end["error"] = _error_to_json(error)
        if metadata:
            trailers = metadata_of(metadata)
            if trailers:
                end["metadata"] = {name: trailers.get_all(name) for name in trailers}
        return _dump(end)

    def decode_end(self, payload: bytes) -> tuple[ConnectError | None, Headers]:
        """Read an EndStreamResponse. Raises ConnectError."""
        end = _load(payload)
        if not isinstance(end, dict):
            raise ConnectError(Code.INTERNAL, "the end-of-stream message is not a JSON object")
        error = end.get("error")
        metadata = end.get("metadata")
        if not isinstance(error, dict | None) or not isinstance(metadata, dict | None):
            raise ConnectError(
                Code.INTERNAL, "the end-of-stream message is malformed: error and metadata must be objects"
            )
        trailers = Headers.from_wire(
            (name, value)
            for name, values in (metadata or {}).items()
            if isinstance(values, list)
            for value in values
            if isinstance(value, str)
        )
        return None if error is None else _error_from_json(error, Code.UNKNOWN), trailers


UNARY = ConnectUnary()
STREAM = ConnectStream()


# Unary responses


def encode_error(error: ConnectError) -> bytes:
    """Write the JSON body of an error response ("Error end-stream", "Unary-Response")."""
    return _dump(_error_to_json(error))


def decode_error(status: int, body: bytes) -> ConnectError | None:
    """Read the JSON body of an error response; return None if it is not an error of the protocol.

    Where the code is unknown, or missing beside a message, it is inferred from the status ("HTTP to error
    code").
    """
    error = _load(body)
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    if isinstance(code, str) or (code is None and isinstance(message, str)):
        return _error_from_json(error, Code.from_http_status(status))
    return None


def split_trailers(headers: Headers) -> tuple[Headers, Headers]:
    """Split the headers of a unary response into leading and trailing metadata."""
    if not any(name.startswith(TRAILER_PREFIX) for name in headers):
        return headers, Headers()
    leading: list[tuple[str, str]] = []
    trailing: list[tuple[str, str]] = []
    for name, value in headers.multi_items():
        if name.startswith(TRAILER_PREFIX):
            trailing.append((name[len(TRAILER_PREFIX) :], value))
        else:
            leading.append((name, value))
    return Headers.from_wire(leading), Headers.from_wire(trailing)


# GET ("Unary-Get-Request")

GET_VERSION = "v1"


class GetQuery(NamedTuple):
    """The message in the query of a GET."""

    compression: str
    """The compression's name, ``identity`` or empty for none."""
    message: bytes
    """The message, compressed by it."""


def encode_get_query(codec: Codec, compression: Compression | None, message: bytes) -> str:
    """Write the query for a message that ``codec`` wrote and ``compression`` compressed."""
    as_base64 = codec.name != "json" or compression is not None
    if as_base64:
        text = urlsafe_b64encode(message).rstrip(b"=").decode("ascii")
    else:
        text = quote_from_bytes(message, safe="")
    return (
        f"connect={GET_VERSION}"
        + ("&base64=1" if as_base64 else "")
        + (f"&compression={compression.name}" if compression is not None else "")
        + f"&encoding={codec.name}&message={text}"
    )


def parse_get_query(query: str) -> dict[str, str]:
    """Return the parameters of a GET by name, of a repeated one the first. ``encoding`` names the codec.

    Values are percent-decoded, to one character a byte (latin-1).
    """
    return dict(reversed(parse_qsl(query, keep_blank_values=True, encoding="latin-1")))


def decode_get_query(parameters: Mapping[str, str], require_version: bool = False) -> GetQuery:
    """Read the message from the parameters of a GET. Unknown ones are ignored.

    Args:
        parameters: What `parse_get_query` returned.
        require_version: Whether ``connect=v1`` may not be absent.

    Raises:
        ConnectError: ``invalid_argument``, naming the parameter that is wrong or missing.
    """
    version = parameters.get("connect")
    if version:
        if version != GET_VERSION:
            raise _bad_parameter("connect", f"must be {GET_VERSION!r}, got {version!r}")
    elif require_version:
        raise _bad_parameter("connect", f"is missing: it must be {GET_VERSION!r}")
    if "message" not in parameters:
        raise _bad_parameter("message", "is missing")
    try:
        message = parameters["message"].encode("latin-1")
    except UnicodeEncodeError as error:
        raise _bad_parameter("message", "is not percent-encoded") from error
    if parameters.get("base64") == "1":
        message = _decode_urlsafe_base64(message)
    return GetQuery(parameters.get("compression", ""), message)


_is_urlsafe_base64 = re.compile(rb"[0-9A-Za-z_\-]*={0,2}").fullmatch


def _decode_urlsafe_base64(text: bytes) -> bytes:
    try:
        if _is_urlsafe_base64(text):
            return urlsafe_b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4))
    except Base64Error:
        pass
    raise _bad_parameter("message", "is not URL-safe base64")


def _bad_parameter(name: str, problem: str) -> ConnectError:
    return ConnectError(Code.INVALID_ARGUMENT, f"the query parameter {name!r} {problem}")


# Errors as JSON ("Error end-stream")


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")


def _load(data: bytes) -> Any:
    """Read JSON; return None for anything else."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _error_to_json(error: ConnectError) -> dict[str, Any]:
    value: dict[str, Any] = {"code": error.code.value}
    if error.message:
        value["message"] = error.message
    if error.details:
        value["details"] = [_detail_to_json(detail) for detail in error.details]
    return value


def _detail_to_json(detail: ErrorDetail) -> dict[str, Any]:
    value: dict[str, Any] = {"type": detail.type, "value": encode_base64(detail.data)}
    try:
        message = _find_message_class(detail.type).FromString(detail.data)
        value["debug"] = json_format.MessageToDict(message)
    except Exception:
        return value  # ``debug`` is for people, and optional: here the type is unknown
    return value


def _find_message_class(type_name: str) -> type[Message]:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
    except KeyError:
        descriptor = rpc.DESCRIPTORS.FindMessageTypeByName(type_name)
    return message_factory.GetMessageClass(descriptor)


def _error_from_json(value: dict[str, Any], fallback: Code) -> ConnectError:
    try:
        code = Code(value.get("code", ""))
    except ValueError:
        code = fallback
    message = value.get("message")
    details = value.get("details")
    return ConnectError(
        code,
        message if isinstance(message, str) else "",
        _details_from_json(details if isinstance(details, list) else []),
    )


def _details_from_json(values: list[Any]) -> list[ErrorDetail]:
    details = []
    for value in values:
        try:
            # Some servers write the type as a URL, as google.protobuf.Any does.
            type_name = value["type"].rpartition("/")[2]
            details.append(ErrorDetail(type_name, decode_base64(value["value"])))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # an unreadable detail must not hide the error
    return details
