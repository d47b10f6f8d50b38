"""What the unit tests share: methods made by hand, services of one method, scripted transports, a clock.

Envelopes and base64 are written and read here by other means than the library's, so that the two check
each other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from threading import get_ident
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from wsgiref.validate import validator

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import (
    Code,
    ConnectClient,
    ConnectError,
    ErrorMapping,
    Headers,
    HeadersInput,
    IdempotencyLevel,
    Interceptor,
    Method,
    ProtocolType,
    RequestContext,
    StreamKind,
)
from connect_sync.client import Lifetime
from connect_sync.codec import Codec
from connect_sync.compression import Compression
from connect_sync.http import Body, Request, Response, close_iterator
from connect_sync.server import Service
from connect_sync.testing import InMemoryTransport

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_MessageT = TypeVar("_MessageT", bound=Message)

TextMethod: TypeAlias = Method[StringValue, StringValue]
Handler: TypeAlias = Callable[[Any, RequestContext], Any]

SERVICE = "unit.v1.UnitService"
UNARY: TextMethod = Method(SERVICE, "Unary", StringValue, StringValue)
READ: TextMethod = Method(
    SERVICE, "Read", StringValue, StringValue, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)
CLIENT_STREAM: TextMethod = Method(SERVICE, "Collect", StringValue, StringValue, StreamKind.CLIENT_STREAM)
SERVER_STREAM: TextMethod = Method(SERVICE, "Expand", StringValue, StringValue, StreamKind.SERVER_STREAM)
BIDI: TextMethod = Method(SERVICE, "Chat", StringValue, StringValue, StreamKind.BIDI_STREAM)

CLIENT_PROTOCOLS = (ProtocolType.CONNECT, ProtocolType.GRPC_WEB)

END = 0x02
WEB_END = 0x80
COMPRESSED = 0x01


# Messages and their bytes


def text(value: str = "") -> StringValue:
    return StringValue(value=value)


def proto(value: str = "") -> bytes:
    return text(value).SerializeToString()


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(payload)) + payload


def envelopes(*values: str) -> bytes:
    return b"".join(envelope(proto(value)) for value in values)


def split_envelopes(data: bytes) -> list[tuple[int, bytes]]:
    """Part the bytes of a whole body, which have to be whole envelopes."""
    envelopes = []
    while data:
        flags, size = struct.unpack_from(">BI", data)
        assert len(data) >= 5 + size, "the body ends inside an envelope"
        envelopes.append((flags, data[5 : 5 + size]))
        data = data[5 + size :]
    return envelopes


# What gRPC's status is made of


def trailer_lines(data: bytes) -> list[tuple[str, str]]:
    """Read the payload that ends a response of gRPC-Web, which has to be whole lines."""
    *lines, rest = data.decode("ascii").split("\r\n")
    assert rest == "", "the last line has no end"
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def rpc_status(code: int, message: str = "", *details: tuple[str, bytes]) -> bytes:
    """Write a google.rpc.Status: each detail is the URL of its type, and its bytes."""
    packed = [field(1, url.encode()) + field(2, data) for url, data in details]
    number = b"\x08%c" % code if code else b""
    return number + field(2, message.encode()) + b"".join(field(3, detail, True) for detail in packed)


def field(number: int, data: bytes, is_repeated: bool = False) -> bytes:
    """Write a field of bytes of a Protobuf message; an empty one is left out, if it is not repeated."""
    assert len(data) < 0x80, "longer lengths take more than a byte"
    return b"%c%c%b" % (number << 3 | 2, len(data), data) if data or is_repeated else b""


# Handlers


def echo(request: StringValue, ctx: RequestContext) -> StringValue:
    return request


def join(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
    return text(",".join(request.value for request in requests))


def split(request: StringValue, ctx: RequestContext) -> Iterator[StringValue]:
    for part in request.value.split(","):
        yield text(part)


DEFAULT_HANDLERS: dict[StreamKind, Handler] = {
    StreamKind.UNARY: echo,
    StreamKind.CLIENT_STREAM: join,
    StreamKind.SERVER_STREAM: split,
}


def yielding(*values: str) -> Handler:
    """Return a handler that streams ``values``."""

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield from map(text, values)

    return handler


def failing(error: Exception) -> Handler:
    """Return a handler that raises ``error``."""

    def handler(request: Any, ctx: RequestContext) -> Any:
        raise error

    return handler


# The server


def serve(
    method: Method[Any, Any],
    handler: Handler | None = None,
    *,
    interceptors: Iterable[Interceptor] = (),
    read_max_bytes: int = 4 << 20,
    compressions: Iterable[Compression | str] = ("gzip",),
    compress_min_bytes: int = 0,
    errors: ErrorMapping = MappingProxyType({}),
    **options: Any,
) -> Service:
    """Return a service that has one method."""
    implementation = SimpleNamespace(handle=handler or DEFAULT_HANDLERS.get(method.kind))
    return Service(
        implementation,
        {"handle": method},
        interceptors=interceptors,
        read_max_bytes=read_max_bytes,
        compressions=compressions,
        compress_min_bytes=compress_min_bytes,
        errors=errors,
        **options,
    )


class Answer:
    """A response of the server, read to its end."""

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self.chunks = list(response.body)
        self.body = b"".join(self.chunks)
        self.trailers = response.trailers

    @property
    def text(self) -> str:
        """The message of a unary response in the proto codec."""
        assert self.status == 200, self.body
        return StringValue.FromString(self.body).value

    @property
    def error(self) -> dict[str, Any]:
        """The error of a unary response."""
        assert self.status != 200
        assert self.headers["content-type"] == "application/json"
        error: dict[str, Any] = json.loads(self.body)
        return error

    @property
    def envelopes(self) -> list[tuple[int, bytes]]:
        return split_envelopes(self.body)

    @property
    def texts(self) -> list[str]:
        """The messages of an uncompressed stream in the proto codec."""
        assert self.status == 200, self.body
        *messages, _ = self.envelopes
        assert all(flags == 0 for flags, _ in messages)
        return [StringValue.FromString(payload).value for _, payload in messages]

    @property
    def end(self) -> dict[str, Any]:
        """What the last envelope of a stream holds."""
        assert self.status == 200, self.body
        flags, payload = self.envelopes[-1]
        assert flags == END
        end: dict[str, Any] = json.loads(payload)
        return end

    @property
    def code(self) -> str | None:
        """The code of the error, in whichever of the two forms the answer is; None for success."""
        if self.headers["content-type"].startswith("application/connect+"):
            error = self.end.get("error")
        else:
            error = None if self.status == 200 else self.error
        return None if error is None else error["code"]


def post(
    service: Service,
    method: Method[Any, Any],
    body: bytes | Iterable[bytes] | None = None,
    headers: HeadersInput = (),
    *,
    codec: str = "proto",
) -> Response:
    """Post a request in the form that suits ``method``; without a body, with one empty message."""
    is_unary = method.kind is StreamKind.UNARY
    if body is None:
        body = b"" if is_unary else envelope(b"")
    prefix = "application/" if is_unary else "application/connect+"
    return service(
        Request(
            "POST",
            method.path,
            Headers({"content-type": prefix + codec, **dict(headers)}),
            (body,) if isinstance(body, bytes) else body,
        )
    )


def ask(
    service: Service,
    method: Method[Any, Any],
    body: bytes | Iterable[bytes] | None = None,
    headers: HeadersInput = (),
    *,
    codec: str = "proto",
) -> Answer:
    """Post a request and read the response to its end."""
    return Answer(post(service, method, body, headers, codec=codec))


# Codecs


def encode(codec: Codec, message: Message, *, deterministic: bool = False) -> bytes:
    return codec.encoder(type(message), deterministic=deterministic)(message)


def decode(codec: Codec, data: bytes, message_class: type[_MessageT]) -> _MessageT:
    message: _MessageT = codec.decoder(message_class)(data)
    return message


# WSGI


def run_wsgi(
    application: WSGIApplication, environ: WSGIEnvironment
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return status, headers and body of an answer, which goes through the standard library's validator."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        heads.append((status, headers))
        return lambda data: None

    chunks = validator(application)(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        close_iterator(chunks)
    ((status, headers),) = heads
    return status, headers, body


# The client


def in_memory(service: Service, **options: Any) -> ConnectClient:
    """Return a client of ``service``."""
    options.setdefault("compress_min_bytes", 0)
    return ConnectClient("http://unit.test", transport=InMemoryTransport(service), **options)


class ScriptedBody(Body):
    """A body of given chunks, which keeps what was asked of it."""

    def __init__(self, *chunks: bytes, length: int | None = None) -> None:
        self._chunks = list(chunks)
        self.length = length
        self.sizes: list[int] = []
        self.close_count = 0

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        return self._chunks.pop(0) if self._chunks else b""

    def close(self) -> None:
        self.close_count += 1

    @property
    def remaining(self) -> list[bytes]:
        return self._chunks


class ExactBody(Body):
    """A body that gives as many bytes as it is asked for, and so sees how many those are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._data[self.position : self.position + size]
        self.position += len(data)
        return data


class SentRequest:
    """A request that a client has sent, as it was at that time."""

    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = Headers(request.headers)
        self.has_known_length = isinstance(request.body, tuple)
        self.body = b"".join(request.body)


class ScriptedTransport:
    """Answers requests by given responses, one after the other, and keeps what was sent."""

    def __init__(self, *responses: Response | ConnectError) -> None:
        self._responses = list(responses)
        self.sent: list[SentRequest] = []
        self.lifetimes: list[Lifetime] = []
        self.is_closed = False

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        self.sent.append(SentRequest(request))
        self.lifetimes.append(lifetime)
        response = self._responses.pop(0)
        if isinstance(response, ConnectError):
            raise response
        return response

    def close(self) -> None:
        self.is_closed = True

    @property
    def only(self) -> SentRequest:
        """The one request that was sent."""
        (request,) = self.sent
        return request


def scripted(*responses: Response | ConnectError, **options: Any) -> tuple[ConnectClient, ScriptedTransport]:
    """Return a client, and the transport by which it is answered."""
    transport = ScriptedTransport(*responses)
    options.setdefault("accept_compression", ("gzip",))
    options.setdefault("compress_min_bytes", 0)
    return ConnectClient("http://unit.test", transport=transport, **options), transport


def unary_response(
    body: bytes | Body = b"", headers: HeadersInput = (), *, status: int = 200, codec: str = "proto"
) -> Response:
    return Response(
        status,
        Headers({"content-type": f"application/{codec}", **dict(headers)}),
        (body,) if isinstance(body, bytes) else body,
    )


def stream_response(
    *chunks: bytes, headers: HeadersInput = (), body: Body | None = None, codec: str = "proto"
) -> Response:
    return Response(
        200,
        Headers({"content-type": f"application/connect+{codec}", **dict(headers)}),
        chunks if body is None else body,
    )


OK_END = envelope(b"{}", END)
"""The end of a stream that succeeded."""


def web_response(
    *chunks: bytes,
    headers: HeadersInput = (),
    status: int = 200,
    body: Body | None = None,
    codec: str = "proto",
) -> Response:
    return Response(
        status,
        Headers({"content-type": f"application/grpc-web+{codec}", **dict(headers)}),
        chunks if body is None else body,
    )


def web_end(*lines: str) -> bytes:
    """Write the envelope that ends a response of gRPC-Web."""
    return envelope("".join(f"{line}\r\n" for line in lines).encode(), WEB_END)


OK_WEB_END = web_end("grpc-status: 0")
"""The end of a response of gRPC-Web that succeeded."""


def error_of(function: Callable[[], object]) -> ConnectError | None:
    """Call ``function``, and return the error that it raises, if it raises one."""
    try:
        function()
    except ConnectError as error:
        return error
    return None


# Interceptors


class Observer:
    """An interceptor that keeps what it is told of the beginnings and ends of calls."""

    def __init__(self) -> None:
        self.starts = 0
        self.errors: list[ConnectError | None] = []

    def on_start(self, ctx: RequestContext) -> int:
        self.starts += 1
        return self.starts

    def on_end(self, token: int, ctx: RequestContext, error: ConnectError | None) -> None:
        assert token == self.starts
        self.errors.append(error)

    @property
    def codes(self) -> list[Code | None]:
        """The codes of the ends; None for an end without an error."""
        return [None if error is None else error.code for error in self.errors]


class Relay:
    """An interceptor that is a generator, and hands every message on."""

    def intercept_server_stream(
        self, call_next: Callable[[Any, RequestContext], Iterator[Any]], request: Any, ctx: RequestContext
    ) -> Iterator[Message]:
        for message in call_next(request, ctx):  # noqa: UP028 - yield from would close it
            yield message


# Time


class Clock:
    """The clock that deadlines look at, stopped and set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("connect_sync.deadline.monotonic", lambda: self.now)

    def advance_ms(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


user: ContextVar[str] = ContextVar("user", default="nobody")


class ScopedObserver(Observer):
    """An observer that sets a context variable for the time of a call, in whose trailers it tells the end."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self._tokens: dict[int, Token[str]] = {}

    def on_start(self, ctx: RequestContext) -> int:
        token = super().on_start(ctx)
        self.threads.add(get_ident())
        self._tokens[token] = user.set("jane")
        return token

    def on_end(self, token: int, ctx: RequestContext, error: ConnectError | None) -> None:
        super().on_end(token, ctx, error)
        assert user.get() == "jane"
        user.reset(self._tokens.pop(token))  # raises in any other context
        self.threads.add(get_ident())
        ctx.response_trailers()["ended-with"] = "ok" if error is None else error.code.value
