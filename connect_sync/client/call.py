"""What the calls of a client share: their context, and what is done with a request and a response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from connect_sync.client.foreign import foreign_response_error
from connect_sync.client.lifetime import Lifetime
from connect_sync.client.transport import Transport
from connect_sync.code import Code
from connect_sync.codec import Codec, Decoder
from connect_sync.compression import IDENTITY, Compression
from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline
from connect_sync.endpoint import Endpoint, MessageOptions
from connect_sync.errors import ConnectError, MalformedError, NotModified, TooLargeError
from connect_sync.headers import Headers
from connect_sync.http import Body, Request, Response, read_whole
from connect_sync.interceptor import CallHooks
from connect_sync.method import Method
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols import connect
from connect_sync.protocols.protocol import WireProtocol, metadata_of

_MAX_END_MS = 1000
"""How long to wait for what does not change the result of a call, in milliseconds."""
_MAX_FOREIGN_BYTES = 16 * 1024
"""How much to read of a response that is not of the protocol."""


class ClientContext(RequestContext):
    """The context of a call that this side makes."""

    __slots__ = ("http_status", "lifetime", "use_get")

    http_status: int | None
    """The HTTP status of the last response; None before there is one."""
    use_get: bool
    """Whether to send requests as GETs, where they are short enough."""

    def __init__(
        self,
        method: Method[Any, Any],
        headers: Headers,
        lifetime: Lifetime,
        settings: ClientSettings,
        *,
        use_get: bool,
    ) -> None:
        """Make the context of a call of ``method``, which lives for ``lifetime``."""
        # Without ``super().__init__()``, which would check the headers again.
        self._method = method
        self._request_headers = headers
        self._deadline = lifetime.deadline
        self._http_method = "GET" if use_get else "POST"
        self._protocol = settings.protocol_type
        self._peer = settings.peer
        self._response_headers = None
        self._response_trailers = None
        self.http_status = None
        self.use_get = use_get
        self.lifetime: Lifetime = lifetime

    def is_active(self) -> bool:
        """Tell whether the call may go on: its deadline has not passed, and it was not canceled."""
        try:
            self.lifetime.check()
        except ConnectError:
            return False
        return True

    def set_response(self, status: int, headers: Headers, trailers: Headers | None = None) -> None:
        """Take the head of a response, in place of one that an attempt before this had."""
        self.http_status = status
        self._response_headers = headers
        self._response_trailers = trailers

    def set_trailers(self, trailers: Headers) -> None:
        """Take the trailing metadata of the response."""
        self._response_trailers = trailers


class ClientSettings(NamedTuple):
    """What holds for all calls of a client."""

    transport: Transport
    address: str
    """The address as it is shown in errors, without a slash at its end."""
    prefix: str
    """The path of the address, which stands before that of each method."""
    peer: str
    """The host and the port of the address."""
    protocol_type: ProtocolType
    codec: Codec
    options: MessageOptions
    send_compression: Compression | None

    def compression_for(self, data: bytes) -> Compression | None:
        """Return what to compress a serialized message with, None for nothing."""
        return self.send_compression if len(data) >= self.options.compress_min_bytes else None

    def attempt(self, ctx: ClientContext, protocol: WireProtocol) -> Headers:
        """Return the headers of one request: the call's metadata, and what the protocol adds.

        They are made anew for each, so that interceptors may call on again, or in several threads at once.
        """
        headers = metadata_of(ctx.request_headers())
        protocol.write_request(headers, ctx.timeout_ms())
        # Without a list, the server would be free to answer with what the request used.
        headers[protocol.accept_encoding] = self.options.compressions.names or IDENTITY
        return headers

    def send(
        self, ctx: ClientContext, path: str, headers: Headers, body: Iterable[bytes], query: str | None = None
    ) -> Response:
        """Send a request, and return the response when its head has arrived: a GET if it has a ``query``.

        Raises:
            ConnectError: No response has arrived.
        """
        if query is None:
            ctx._http_method = "POST"
            request = Request("POST", path, headers, body)
        else:
            ctx._http_method = "GET"
            request = Request("GET", path, headers, body, query=query)
        return self.transport.send(request, ctx.lifetime)

    def check_head(self, response: Response, body: Body, protocol: WireProtocol, ctx: ClientContext) -> None:
        """Do nothing for a response that is what was asked for.

        Raises:
            ConnectError: The response failed, or is not of the protocol.
        """
        content_type = response.headers.get("content-type", "")
        if response.status == 200:
            try:
                protocol.check_content_type(self.codec, content_type)
            except ConnectError as error:
                raise self._foreign(response, body, ctx, error.code) from None
            return
        if response.status == 304 and ctx.http_method() == "GET":
            raise NotModified
        # Not from a variable: the frame would keep the error, whose traceback keeps the frame.
        raise self._failure(response, body, protocol, ctx)

    def _failure(
        self, response: Response, body: Body, protocol: WireProtocol, ctx: ClientContext
    ) -> ConnectError:
        """Return the error of a response that failed. Raises ConnectError if the call has ended meanwhile."""
        content_type = response.headers.get("content-type", "")
        if protocol.is_error_content_type(content_type):
            try:
                data = self.read_body(response.headers, body)
            except ConnectError as error:
                # What cannot be read holds no error: the status speaks. A call that has ended meanwhile,
                # or lost its server, ends with that.
                if error.code in (Code.INTERNAL, Code.RESOURCE_EXHAUSTED):
                    raise self._foreign(response, body, ctx) from error
                raise
            failure = connect.decode_error(response.status, data)
            if failure is None:
                url = self.address + ctx.method().path
                return foreign_response_error(url, response.status, response.headers, data)
            return failure
        # gRPC, "HTTP to gRPC Status Code Mapping": the HTTP status speaks where there is no other.
        failure, trailers = protocol.trailers_only_end(response.headers) or (None, None)
        if failure is None or trailers is None:
            return self._foreign(response, body, ctx)
        ctx.set_trailers(trailers)
        return add_response(failure, response, response.headers, trailers)

    def read_body(self, headers: Headers, body: Body) -> bytes:
        """Read a bare message, or a bare error. Raises ConnectError."""
        compression = self.find_compression(headers.get(connect.UNARY.content_encoding))
        max_bytes = self.options.read_max_bytes
        try:
            data = read_whole(body, max_bytes)
            if compression is None or not data:
                return data
            return compression.decompress(data, max_bytes)
        except (MalformedError, TooLargeError) as error:
            raise response_error(error) from error

    def find_compression(self, name: str | None) -> Compression | None:
        """Return the compression that a response uses. Raises ConnectError for one that was not offered."""
        try:
            return self.options.compressions.find(name)
        except ConnectError as error:
            raise ConnectError(
                Code.INTERNAL, f"the response uses compression {name!r}, which was not offered"
            ) from error

    def _foreign(
        self, response: Response, body: Body, ctx: ClientContext, code: Code | None = None
    ) -> ConnectError:
        """Return the error of a response that is not of the protocol, with what its body says."""
        data = b""
        with suppress(ConnectError):  # what has arrived of a page that breaks off is shown
            body.set_deadline(end_deadline(ctx))
            while len(data) < _MAX_FOREIGN_BYTES and (chunk := body.read(_MAX_FOREIGN_BYTES)):
                data += chunk
        text = b""
        with suppress(ConnectError):  # compressed data that cannot be read is not
            compression = self.options.compressions.find(response.headers.get(connect.UNARY.content_encoding))
            max_bytes = _MAX_FOREIGN_BYTES
            text = data if compression is None or not data else compression.decompress(data, max_bytes)
        url = self.address + ctx.method().path
        return foreign_response_error(url, response.status, response.headers, text, code)


def add_response(
    error: ConnectError, response: Response, headers: Headers, trailers: Headers | None = None
) -> ConnectError:
    """Return ``error`` with the status and the metadata of the response that it came with.

    They are those of one attempt, which need not be the last one that its call has made.
    """
    if error.http_status is None:
        error.http_status = response.status
        pairs = headers.multi_items()
        if trailers is not None:
            pairs += trailers.multi_items()
        error.metadata = Headers.from_wire(pairs)
    return error


def end_deadline(ctx: ClientContext) -> Deadline:
    """Return the deadline for reading what does not change the result of a call."""
    remaining = ctx.timeout_ms()
    return Deadline(_MAX_END_MS if remaining is None else min(remaining, _MAX_END_MS))


def decode(decoder: Decoder, data: bytes) -> Any:
    """Return the message of a response. Raises ConnectError."""
    try:
        return decoder(data)
    except MalformedError as error:
        raise response_error(error) from error


def response_error(error: MalformedError | TooLargeError) -> ConnectError:
    """Return the error of a response that this side cannot take, which says that it is the response."""
    if isinstance(error, TooLargeError):
        return ConnectError(error.code, f"the response is too large: {error.message}")
    return ConnectError(Code.INTERNAL, f"the response is malformed: {error.message}")


def call_error(raised: BaseException) -> ConnectError:
    """Return the error that stands for what ended a call on this side.

    Whatever is not a ConnectError came from the caller's code or an interceptor's: to the server, the call
    was given up.
    """
    if isinstance(raised, ConnectError):
        return raised
    error = ConnectError(Code.CANCELED, f"the call was given up: {type(raised).__name__}")
    error.__cause__ = raised
    return error


def run(endpoint: Endpoint, request: Any, ctx: ClientContext) -> Any:
    """Make a call that returns one message, and return it."""
    if endpoint.hooks is None:
        return endpoint.call(request, ctx)
    hooks = CallHooks(endpoint.hooks, ctx, call_error)
    with ending(hooks):
        hooks.start()
        response = hooks.run(endpoint.call, request, ctx)
    succeed(hooks)
    return response


@contextmanager
def ending(hooks: CallHooks) -> Iterator[None]:
    """End the call with the exception that leaves the block, if any."""
    try:
        yield
    except BaseException as raised:
        hooks.fail(raised)
        if hooks.raised is raised:
            raise
        raise hooks.raised or raised  # noqa: B904


def succeed(hooks: CallHooks) -> None:
    """End a call that has succeeded. Raises what an ``on_end`` raises."""
    hooks.succeed()
    if hooks.raised is not None:
        raise hooks.raised
