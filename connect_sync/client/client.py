"""The client: one service at one address, its methods called by blocking functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from google.protobuf.message import Message

from connect_sync.client.arguments import check_timeout_ms
from connect_sync.client.lifetime import Cancellation, Lifetime
from connect_sync.client.metadata import collect
from connect_sync.client.stream import ResponseStream
from connect_sync.client.transport import Transport, Urllib3Transport
from connect_sync.code import Code
from connect_sync.codec import JSON, PROTO, Codec, Decoder, Encoder, checked
from connect_sync.compression import (
    DEFAULT_COMPRESSIONS,
    IDENTITY,
    Compression,
    Compressions,
    find_compression,
)
from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline
from connect_sync.envelope import (
    DEFAULT_COMPRESS_MIN_BYTES,
    check_compress_min_bytes,
    open_payload,
    read_envelopes,
    wrap_message,
)
from connect_sync.errors import ConnectError, MalformedError, TooLargeError, bidi_unimplemented
from connect_sync.headers import Headers, HeadersInput
from connect_sync.http import (
    DEFAULT_READ_MAX_BYTES,
    Body,
    Request,
    Response,
    as_body,
    close_iterator,
    read_whole,
)
from connect_sync.interceptor import Interceptor, check_interceptors, intercept
from connect_sync.method import IdempotencyLevel, InputT, Method, OutputT, StreamKind
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols import connect
from connect_sync.protocols.grpc_web import GRPC_WEB
from connect_sync.protocols.protocol import (
    EndEnvelopeProtocol,
    WireProtocol,
    http_error,
    remove_reserved,
)

if TYPE_CHECKING:
    import urllib3

_ClientT = TypeVar("_ClientT", bound="ConnectClient")

_MAX_END_MS = 1000
"""How long to wait for the end of a response whose stream has ended, in milliseconds."""

_MAX_GET_TARGET = 4000
"""How long a GET's path and query may be, in bytes: gunicorn takes a request line of 4,094."""


_ENVELOPED: dict[ProtocolType, EndEnvelopeProtocol] = {
    ProtocolType.CONNECT: connect.STREAM,
    ProtocolType.GRPC_WEB: GRPC_WEB,
}


class _Endpoint:
    """What is decided of a method when it is called for the first time."""

    __slots__ = ("decode", "encode", "encode_deterministically", "path")

    def __init__(self, method: Method[Any, Any], codec: Codec) -> None:
        self.path = method.path
        self.encode: Encoder = checked(codec.encoder(method.input), method.input)
        # Equal messages have to make equal URLs, or no cache would find them.
        self.encode_deterministically: Encoder = checked(
            codec.encoder(method.input, deterministic=True), method.input
        )
        self.decode: Decoder = codec.decoder(method.output)


class _Call(RequestContext):
    """The context of a call that this side makes."""

    __slots__ = ("endpoint", "lifetime", "use_get")

    def __init__(
        self,
        method: Method[Any, Any],
        endpoint: _Endpoint,
        headers: Headers,
        lifetime: Lifetime,
        use_get: bool,
    ) -> None:
        request = Request("GET" if use_get else "POST", endpoint.path, headers)
        super().__init__(method, request, lifetime.deadline)
        self.endpoint = endpoint
        self.lifetime = lifetime
        self.use_get = use_get

    def to_request(self, method: str, body: Iterable[bytes], query: str = "") -> Request:
        """Return the request of one attempt; the context keeps neither it nor its body.

        Interceptors may call on again, or in several threads at once.
        """
        self._request.method = method
        return Request(method, self.endpoint.path, self._request.headers, body, query=query)

    def is_active(self) -> bool:
        """Tell whether the call may go on: its deadline has not passed, and nobody has canceled it."""
        try:
            self.lifetime.check()
        except ConnectError:
            return False
        return True

    def set_response_headers(self, headers: Headers) -> None:
        self._response_headers = headers

    def set_response_trailers(self, trailers: Headers) -> None:
        self._response_trailers = trailers


class ConnectClient:
    """Calls the methods of services at one address. Threads may share it.

    Generated code declares a subclass for each service, with a method for each of the service's. A client
    is closed by ``close``, or by leaving its ``with`` block.
    """

    def __init__(
        self,
        address: str,
        *,
        proto_json: bool = False,
        protocol: ProtocolType = ProtocolType.CONNECT,
        send_compression: Compression | str | None = None,
        accept_compression: Iterable[Compression | str] = DEFAULT_COMPRESSIONS,
        compress_min_bytes: int = DEFAULT_COMPRESS_MIN_BYTES,
        timeout_ms: float | None = None,
        read_max_bytes: int = DEFAULT_READ_MAX_BYTES,
        interceptors: Iterable[Interceptor] = (),
        pool_manager: urllib3.PoolManager | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Make a client. Nothing is sent before the first call.

        Args:
            address: Where the services are: ``http://`` or ``https://``, a host, perhaps a port and a
                path that stands before that of each method.
            proto_json: Send and receive JSON instead of Protobuf's binary format.
            protocol: What to speak: Connect, or gRPC-Web for a server that knows that alone.
            send_compression: What to compress requests with, or its name; None for nothing.
            accept_compression: What responses may be compressed with, in order of preference.
            compress_min_bytes: From which size on requests are compressed, in bytes.
            timeout_ms: How long a call may take, in milliseconds, where it does not say itself.
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            interceptors: What wraps each call, from the outside in.
            pool_manager: The connections to use: for TLS settings, client certificates and proxies. It
                stays the caller's to clear.
            transport: What to send requests by, in place of connections of urllib3.

        Raises:
            ValueError: An argument is out of its range, or ``pool_manager`` and ``transport`` are both
                there.
            TypeError: An interceptor is none.
        """
        if read_max_bytes <= 0:
            raise ValueError(f"read_max_bytes is {read_max_bytes}: it takes a positive number of bytes")
        if transport is not None and pool_manager is not None:
            raise ValueError("pool_manager belongs to the transport of urllib3: give one of the two")
        self._codec = JSON if proto_json else PROTO
        # Weak, for callers that make a method for a call.
        self._endpoints: WeakKeyDictionary[Method[Any, Any], _Endpoint] = WeakKeyDictionary()
        self._send_compression = None if send_compression is None else find_compression(send_compression)
        self._compressions = Compressions(accept_compression)
        self._compress_min_bytes = check_compress_min_bytes(compress_min_bytes)
        if timeout_ms is not None:
            check_timeout_ms(timeout_ms)
        self._timeout_ms = timeout_ms
        self._read_max_bytes = read_max_bytes
        self._prefix_size = len(urlsplit(address).path)
        self._transport = transport or Urllib3Transport(address, pool_manager)
        wrappers = check_interceptors(interceptors)
        self._protocol = _ENVELOPED[ProtocolType(protocol)]
        self._has_get = self._protocol is connect.STREAM
        send_unary = self._send_unary if self._has_get else self._send_enveloped_unary
        self._unary = intercept(send_unary, StreamKind.UNARY, wrappers)
        self._client_stream = intercept(self._send_client_stream, StreamKind.CLIENT_STREAM, wrappers)
        self._server_stream = intercept(self._send_server_stream, StreamKind.SERVER_STREAM, wrappers)

    def call_unary(
        self,
        method: Method[InputT, OutputT],
        request: InputT,
        *,
        headers: HeadersInput | None = None,
        timeout_ms: float | None = None,
        cancellation: Cancellation | None = None,
        use_get: bool = False,
    ) -> OutputT:
        """Call a unary method and return its response.

        Args:
            method: The method.
            request: The message to send.
            headers: Metadata to send. What HTTP and the protocol frame the call with is not metadata:
                such headers are left out.
            timeout_ms: How long the whole call may take, in milliseconds; the client's own if None.
            cancellation: A handle to cancel the call by.
            use_get: Send a GET, which caches can answer. A message too long for a URL goes as a POST, and
                so does every one in gRPC-Web, which has no GET.

        Raises:
            ConnectError: The call failed: with what the server answered, or with ``unavailable``,
                ``deadline_exceeded``, ``canceled``, ``resource_exhausted``, ``internal`` or ``unknown``.
            TypeError: ``request`` is no request message of the method.
            ValueError: ``use_get`` for a method that is not declared free of side effects; a header
                that cannot be sent, or a timeout longer than ten digits.
        """
        if use_get and method.idempotency is not IdempotencyLevel.NO_SIDE_EFFECTS:
            raise ValueError(
                f"{method.full_name} is not declared NO_SIDE_EFFECTS: it cannot be called by GET"
            )
        call = self._begin(method, headers, timeout_ms, cancellation, use_get and self._has_get)
        try:
            return cast(OutputT, self._unary(request, call))
        finally:
            collect(call)

    def call_client_stream(
        self,
        method: Method[InputT, OutputT],
        requests: Iterable[InputT],
        *,
        headers: HeadersInput | None = None,
        timeout_ms: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> OutputT:
        """Call a client-streaming method and return its response.

        Each message is sent when ``requests`` yields it. A server that answers earlier is heard at the
        next message; those that are left are then not asked for.

        Args:
            method: The method.
            requests: The messages to send. What it raises ends the call and is raised from here.
            headers: Metadata to send, as in `call_unary`.
            timeout_ms: How long the whole call may take, in milliseconds; the client's own if None.
            cancellation: A handle to cancel the call by.

        Raises:
            ConnectError: The call failed, as in `call_unary`; or ``unimplemented``, if the response has
                not exactly one message.
            TypeError: One of ``requests`` is no request message of the method.
            ValueError: A header that cannot be sent, or a timeout longer than ten digits.
        """
        call = self._begin(method, headers, timeout_ms, cancellation)
        try:
            return cast(OutputT, self._client_stream(iter(requests), call))
        finally:
            collect(call)

    def call_server_stream(
        self,
        method: Method[InputT, OutputT],
        request: InputT,
        *,
        headers: HeadersInput | None = None,
        timeout_ms: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> ResponseStream[OutputT]:
        """Call a server-streaming method and return its responses, as a stream that they arrive on.

        Args:
            method: The method.
            request: The message to send.
            headers: Metadata to send, as in `call_unary`.
            timeout_ms: How long the whole call may take, till the stream's end, in milliseconds.
            cancellation: A handle to cancel the call by.

        Raises:
            ConnectError: The call failed before its first response, as in `call_unary`; later errors
                are raised by the stream.
            TypeError: ``request`` is no request message of the method.
            ValueError: A header that cannot be sent, or a timeout longer than ten digits.
        """
        call = self._begin(method, headers, timeout_ms, cancellation)
        try:
            return ResponseStream(call, iter(self._server_stream(request, call)))
        finally:
            collect(call)

    def call_bidi_stream(
        self,
        method: Method[InputT, OutputT],
        requests: Iterable[InputT],
        *,
        headers: HeadersInput | None = None,
        timeout_ms: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> ResponseStream[OutputT]:
        """Refuse to call a bidirectional method, before anything is sent.

        Raises:
            ConnectError: ``unimplemented``, always: HTTP/1.1 carries one direction at a time.
        """
        raise bidi_unimplemented(method.full_name)

    def close(self) -> None:
        """Close the connections that the client made. Calls in flight are not ended."""
        self._transport.close()

    def __enter__(self: _ClientT) -> _ClientT:
        """Return the client."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the client."""
        self.close()

    def _begin(
        self,
        method: Method[Any, Any],
        headers: HeadersInput | None,
        timeout_ms: float | None,
        cancellation: Cancellation | None,
        use_get: bool = False,
    ) -> _Call:
        if timeout_ms is None:
            timeout_ms = self._timeout_ms
        else:
            check_timeout_ms(timeout_ms)
        deadline = None if timeout_ms is None else Deadline(timeout_ms)
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            endpoint = self._endpoints[method] = _Endpoint(method, self._codec)
        return _Call(method, endpoint, Headers(headers or ()), Lifetime(deadline, cancellation), use_get)

    # One call of each kind, as the innermost interceptor makes it.

    def _send_unary(self, request: Message, ctx: RequestContext) -> Message:
        call = cast(_Call, ctx)
        http_request = self._unary_get(request, call) if call.use_get else None
        if http_request is None:
            data = call.endpoint.encode(request)
            headers = self._write_head(call, connect.UNARY)
            headers["content-type"] = connect.UNARY.content_types(self._codec)[0]
            compression = self._compression_for(data)
            if compression is not None:
                headers[connect.UNARY.content_encoding] = compression.name
                data = compression.compress(data)
            http_request = call.to_request("POST", (data,))
        response = self._transport.send(http_request, call.lifetime)
        body = as_body(response.body)
        try:
            return self._read_unary(response, body, call)
        finally:
            body.close()

    def _unary_get(self, request: Message, call: _Call) -> Request | None:
        """Return the request as a GET; None where it would be too long for one."""
        data = call.endpoint.encode_deterministically(request)
        compression = self._compression_for(data)
        if compression is not None:
            data = compression.compress(data)
        query = connect.encode_get_query(self._codec, compression, data)
        if self._prefix_size + len(call.endpoint.path) + len(query) > _MAX_GET_TARGET:
            return None
        self._write_head(call, connect.UNARY)
        return call.to_request("GET", (), query)

    def _compression_for(self, data: bytes) -> Compression | None:
        return self._send_compression if len(data) >= self._compress_min_bytes else None

    def _read_unary(self, response: Response, body: Body, call: _Call) -> Message:
        leading, trailing = connect.split_trailers(response.headers)
        call.set_response_headers(leading)
        call.set_response_trailers(trailing)
        self._check_head(response, body, connect.UNARY, call)
        data = self._read_body(leading, body)
        return _decode(data, call)

    def _send_enveloped_unary(self, request: Message, ctx: RequestContext) -> Message:
        call = cast(_Call, ctx)
        return self._only_response(tuple(self._wrap((request,), call)), call)

    def _send_client_stream(self, requests: Iterator[Any], ctx: RequestContext) -> Message:
        call = cast(_Call, ctx)
        return self._only_response(self._wrap(requests, call), call)

    def _only_response(self, body: Iterable[bytes], call: _Call) -> Message:
        with closing(self._stream(body, call)) as responses:
            message = next(responses, None)
            if message is None:
                raise ConnectError(Code.UNIMPLEMENTED, "the response has no message: it takes exactly one")
            if next(responses, None) is not None:
                raise ConnectError(
                    Code.UNIMPLEMENTED, "the response has several messages: it takes exactly one"
                )
            return message

    def _send_server_stream(self, request: Message, ctx: RequestContext) -> Iterator[Message]:
        call = cast(_Call, ctx)
        return self._stream(tuple(self._wrap((request,), call)), call)

    def _stream(self, body: Iterable[bytes], call: _Call) -> _Responses:
        """Send an enveloped request, and return the messages of its response as they arrive."""
        protocol = self._protocol
        headers = self._write_head(call, protocol)
        headers["content-type"] = protocol.content_types(self._codec)[0]
        if self._send_compression is not None:
            headers[protocol.content_encoding] = self._send_compression.name
        response = self._transport.send(call.to_request("POST", body), call.lifetime)
        response_body = as_body(response.body)
        try:
            call.set_response_headers(response.headers)
            self._check_head(response, response_body, protocol, call)
            compression = self._find_compression(response.headers.get(protocol.content_encoding))
        except BaseException:
            response_body.close()
            raise
        return _Responses(self._read_stream(response_body, compression, call), response_body)

    def _wrap(self, messages: Iterable[Message], call: _Call) -> Iterator[bytes]:
        """Yield the envelope of each message."""
        encode = call.endpoint.encode
        compression = self._send_compression
        min_bytes = self._compress_min_bytes
        for message in messages:
            yield wrap_message(encode(message), compression, min_bytes)

    def _read_stream(self, body: Body, compression: Compression | None, call: _Call) -> Iterator[Message]:
        protocol = self._protocol
        check = call.lifetime.check
        max_bytes = self._read_max_bytes
        end_flag = protocol.end_flag
        envelopes = read_envelopes(body, max_bytes)
        is_empty = True
        end = None
        try:
            for flags, payload in envelopes:
                check()
                is_empty = False
                message = open_payload(flags & ~end_flag, payload, compression, max_bytes)
                if flags & end_flag:
                    end = protocol.decode_end(message)
                    break
                yield _decode(message, call)
                check()
        except (MalformedError, TooLargeError) as fault:
            raise response_error(fault) from fault
        if is_empty:
            end = protocol.trailers_only_end(call.response_headers())
        if end is None:
            raise ConnectError(Code.INTERNAL, "the response has no end of its stream")
        error, trailers = end
        call.set_response_trailers(trailers)
        if _drain_after_end(envelopes, body, call):
            raise ConnectError(Code.INTERNAL, "the response goes on behind its end")
        if error is not None:
            raise error

    def _write_head(self, call: _Call, protocol: WireProtocol) -> Headers:
        """Add the headers of the protocol to the call's metadata, and return both."""
        headers = call.request_headers()
        remove_reserved(headers)
        protocol.write_request(headers, call.timeout_ms())
        # Without a list, the server would be free to answer with what the request used.
        headers[protocol.accept_encoding] = self._compressions.names or IDENTITY
        return headers

    def _check_head(self, response: Response, body: Body, protocol: WireProtocol, call: _Call) -> None:
        """Raise the error of a response that failed, or that is not what was asked for."""
        content_type = response.headers.get("content-type", "")
        if response.status == 200:
            protocol.check_content_type(self._codec, content_type)
            return
        path = call.endpoint.path
        if protocol.is_error_content_type(content_type):
            try:
                data = self._read_body(response.headers, body)
            except ConnectError as error:
                # What cannot be read holds no error: the status speaks. A call that has ended meanwhile,
                # or lost its server, ends with that.
                if error.code in (Code.INTERNAL, Code.RESOURCE_EXHAUSTED):
                    raise http_error(response.status, path) from error
                raise
            raise connect.decode_error(response.status, data, path)
        # gRPC, "HTTP to gRPC Status Code Mapping": the HTTP status speaks where there is no other.
        failure, trailers = protocol.trailers_only_end(response.headers) or (None, None)
        if failure is None or trailers is None:
            raise http_error(response.status, path)
        call.set_response_trailers(trailers)
        raise failure

    def _read_body(self, headers: Headers, body: Body) -> bytes:
        """Read a bare message, or a bare error."""
        compression = self._find_compression(headers.get(connect.UNARY.content_encoding))
        try:
            data = read_whole(body, self._read_max_bytes)
            if compression is None or not data:
                return data
            return compression.decompress(data, self._read_max_bytes)
        except (MalformedError, TooLargeError) as error:
            raise response_error(error) from error

    def _find_compression(self, name: str | None) -> Compression | None:
        try:
            return self._compressions.find(name)
        except ConnectError as error:
            raise ConnectError(Code.INTERNAL, f"the response is compressed, unasked, by {name!r}") from error


def _decode(data: bytes, call: _Call) -> Message:
    try:
        return cast(Message, call.endpoint.decode(data))
    except MalformedError as error:
        raise response_error(error) from error


def _drain_after_end(envelopes: Iterator[tuple[int, bytes]], body: Body, call: _Call) -> bool:
    """Read to the end of a body whose stream has ended, so that its connection can be used again.

    The result of the call is there: that the connection is lost, or slow to end, does not change it.
    """
    remaining = call.timeout_ms()
    body.set_deadline(Deadline(_MAX_END_MS if remaining is None else min(remaining, _MAX_END_MS)))
    try:
        return next(envelopes, None) is not None
    except MalformedError:
        return True
    except ConnectError:
        return False


class _Responses(Iterator[Message]):
    """The messages of a response, and its body, which is closed with them, be they read or not."""

    __slots__ = ("_body", "_messages")

    def __init__(self, messages: Iterator[Message], body: Body) -> None:
        self._messages = messages
        self._body = body

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except BaseException:
            self._body.close()
            raise

    def close(self) -> None:
        self._body.close()
        close_iterator(self._messages)


def response_error(error: MalformedError | TooLargeError) -> ConnectError:
    """Return the error of a response that this side cannot take, which says that it is the response."""
    if isinstance(error, TooLargeError):
        return ConnectError(error.code, f"the response is too large: {error.message}")
    return ConnectError(Code.INTERNAL, f"the response is malformed: {error.message}")
