"""The client: one service at one address, its methods called by blocking functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from connect_sync.client.arguments import (
    check_protocol,
    check_timeout_ms,
    parse_address,
)
from connect_sync.client.call import ClientContext, ClientSettings, run
from connect_sync.client.lifetime import Cancellation, Lifetime
from connect_sync.client.metadata import collect
from connect_sync.client.stream import ResponseStream, StreamCaller, open_stream
from connect_sync.client.transport import Transport, Urllib3Transport
from connect_sync.client.unary import UnaryCaller
from connect_sync.codec import JSON, PROTO
from connect_sync.compression import (
    DEFAULT_COMPRESSIONS,
    Compression,
    Compressions,
    find_compression,
)
from connect_sync.deadline import Deadline
from connect_sync.endpoint import Endpoint, MessageOptions
from connect_sync.envelope import DEFAULT_COMPRESS_MIN_BYTES
from connect_sync.errors import bidi_unimplemented, describe
from connect_sync.headers import Headers, HeadersInput
from connect_sync.http import DEFAULT_READ_MAX_BYTES
from connect_sync.interceptor import Call, Interceptor, Interceptors
from connect_sync.method import IdempotencyLevel, InputT, Method, OutputT, StreamKind
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols import connect
from connect_sync.protocols.grpc_web import GRPC_WEB
from connect_sync.protocols.protocol import EndEnvelopeProtocol, metadata_of

if TYPE_CHECKING:
    import urllib3
    from urllib3.util.url import Url

_ClientT = TypeVar("_ClientT", bound="ConnectClient")

_ENVELOPED: dict[ProtocolType, EndEnvelopeProtocol] = {
    ProtocolType.CONNECT: connect.STREAM,
    ProtocolType.GRPC_WEB: GRPC_WEB,
}


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
        send_max_bytes: int | None = None,
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
            compress_min_bytes: The size in bytes from which requests are compressed.
            timeout_ms: How long a call may take, in milliseconds, where it does not say itself.
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            send_max_bytes: How large a sent message may be before it is compressed, in bytes; None for no
                limit.
            interceptors: What wraps each call, from the outside in.
            pool_manager: The connections to use: for TLS settings, client certificates and proxies. It
                stays the caller's to clear.
            transport: What to send requests by, in place of connections of urllib3.

        Raises:
            ValueError: An argument is out of its range, or both ``pool_manager`` and ``transport`` are given.
            TypeError: An argument is of another type, or an interceptor is invalid.
        """
        if transport is not None and pool_manager is not None:
            raise ValueError("pass pool_manager or transport, not both: a transport has its own connections")
        if timeout_ms is not None:
            check_timeout_ms(timeout_ms)
        self._timeout_ms = timeout_ms
        protocol = check_protocol(protocol)
        url = parse_address(address)
        prefix = (url.path or "").rstrip("/")
        self._enveloped = _ENVELOPED[protocol]
        self._transport = transport or Urllib3Transport(address, pool_manager)
        self._settings = ClientSettings(
            transport=self._transport,
            address=f"{url.scheme}://{url.netloc}{prefix}",
            prefix=prefix,
            peer=_peer(url),
            protocol_type=protocol,
            codec=JSON if proto_json else PROTO,
            options=MessageOptions(
                read_max_bytes=read_max_bytes,
                send_max_bytes=send_max_bytes,
                compressions=Compressions(accept_compression, "accept_compression"),
                compress_min_bytes=compress_min_bytes,
            ),
            send_compression=None
            if send_compression is None
            else find_compression(send_compression, "send_compression"),
        )
        self._interceptors = Interceptors(interceptors, ClientContext)
        # Weak, for callers that make a method for a call.
        self._endpoints: WeakKeyDictionary[Method[Any, Any], Endpoint] = WeakKeyDictionary()

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
            TypeError: ``request`` is not a request message of the method.
            ValueError: ``use_get`` for a method that is not declared free of side effects; a header
                that cannot be sent, or a timeout longer than ten digits.
        """
        if use_get and method.idempotency is not IdempotencyLevel.NO_SIDE_EFFECTS:
            raise ValueError(
                f"{method.full_name} is not declared NO_SIDE_EFFECTS: it cannot be called by GET"
            )
        ctx = self._begin(method, headers, timeout_ms, cancellation, use_get=use_get)
        try:
            return cast(OutputT, run(self._endpoint(method, StreamKind.UNARY), request, ctx))
        finally:
            collect(ctx)

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
            TypeError: One of ``requests`` is not a request message of the method.
            ValueError: A header that cannot be sent, or a timeout longer than ten digits.
        """
        ctx = self._begin(method, headers, timeout_ms, cancellation)
        try:
            return cast(OutputT, run(self._endpoint(method, StreamKind.CLIENT_STREAM), iter(requests), ctx))
        finally:
            collect(ctx)

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
            timeout_ms: How long the whole call may take, to the end of the stream, in milliseconds.
            cancellation: A handle to cancel the call by.

        Raises:
            ConnectError: The call failed before its first response, as in `call_unary`; later errors
                are raised by the stream.
            TypeError: ``request`` is not a request message of the method.
            ValueError: A header that cannot be sent, or a timeout longer than ten digits.
        """
        ctx = self._begin(method, headers, timeout_ms, cancellation)
        try:
            return open_stream(self._endpoint(method, StreamKind.SERVER_STREAM), request, ctx)
        finally:
            collect(ctx)

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
        *,
        use_get: bool = False,
    ) -> ClientContext:
        if cancellation is not None and not isinstance(cancellation, Cancellation):
            raise TypeError(f"cancellation must be a Cancellation, got {describe(cancellation)}")
        if timeout_ms is None:
            timeout_ms = self._timeout_ms
        else:
            check_timeout_ms(timeout_ms)
        deadline = None if timeout_ms is None else Deadline(timeout_ms)
        metadata = metadata_of(Headers(headers)) if headers else Headers()
        return ClientContext(
            method,
            metadata,
            Lifetime(deadline, cancellation),
            self._settings,
            use_get=use_get and self._enveloped is connect.STREAM,
        )

    def _endpoint(self, method: Method[Any, Any], kind: StreamKind) -> Endpoint:
        if method.kind is not kind:
            raise ValueError(f"{method.full_name} is {method.kind.value}, not {kind.value}")
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            endpoint = Endpoint(method, self._caller(method), self._interceptors)
            self._endpoints[method] = endpoint
        return endpoint

    def _caller(self, method: Method[Any, Any]) -> Call[Any, Any]:
        """Return what makes the calls of a method, as the innermost interceptor does."""
        if method.kind is StreamKind.UNARY and self._enveloped is connect.STREAM:
            return cast(Call[Any, Any], UnaryCaller(method, self._settings).call)
        caller = StreamCaller(method, self._settings, self._enveloped)
        calls = {
            StreamKind.UNARY: caller.call_unary,
            StreamKind.CLIENT_STREAM: caller.call_client_stream,
            StreamKind.SERVER_STREAM: caller.call_server_stream,
        }
        return cast(Call[Any, Any], calls[method.kind])


def _peer(url: Url) -> str:
    """Return the host and the port of an address; an IPv6 host is in brackets already."""
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
