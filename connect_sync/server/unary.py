"""Connect's unary form: a bare message in, a bare message or an error with an HTTP status out."""

from __future__ import annotations

from collections.abc import Mapping

from connect_sync.codec import Codec, check_type
from connect_sync.context import response_metadata
from connect_sync.deadline import client_disconnected
from connect_sync.errors import ConnectError, NotModified, TooLargeError
from connect_sync.headers import Headers
from connect_sync.http import Body, Fields, Request, Response, read_whole
from connect_sync.interceptor import CallHooks
from connect_sync.protocols import connect
from connect_sync.protocols.protocol import metadata_of
from connect_sync.server.context import ServerContext
from connect_sync.server.endpoint import ServerEndpoint, response_headers
from connect_sync.server.plain import plain_response


class UnaryHandler:
    """Answers calls of one method in one codec."""

    def __init__(self, endpoint: ServerEndpoint, codec: Codec) -> None:
        """Serve ``endpoint`` in ``codec``."""
        method = endpoint.method
        options = endpoint.options
        self._endpoint = endpoint
        self._method = method
        self._call = endpoint.call
        self._hooks = endpoint.hooks
        self._protocol_type = connect.UNARY.type
        self._requires_version = endpoint.requires_version
        self._compressions = options.compressions
        self._compress_min_bytes = options.compress_min_bytes
        self._read_max_bytes = options.read_max_bytes
        self._decode = codec.decoder(method.input)
        self._encode = options.limit(codec.encoder(method.output))
        self._message_class = method.output
        self.content_type: str = connect.UNARY.content_types(codec)[0]
        self._fields: Fields = (("content-type", self.content_type),)

    def answer(self, request: Request, body: Body, query: Mapping[str, str] | None = None) -> Response:
        """Answer a POST, whose body is the message, or a GET, which has it among its ``query`` parameters."""
        try:
            deadline, received, accepted = connect.UNARY.read_request(
                request.headers, self._compressions, self._requires_version and query is None
            )
        except ConnectError as problem:
            return self._refuse(request, problem)
        endpoint = self._endpoint
        ctx = ServerContext(self._method, request, deadline, self._protocol_type)
        hooks = None
        try:
            if self._hooks is not None:
                hooks = CallHooks(self._hooks, ctx, endpoint.to_connect_error)
                hooks.start()
            if deadline is not None:
                body.set_deadline(deadline)
            if query is None:
                data = read_whole(body, self._read_max_bytes)
            else:
                compression, data = connect.decode_get_query(query, self._requires_version)
                if len(data) > self._read_max_bytes:
                    raise TooLargeError(self._read_max_bytes, len(data))
                received = self._compressions.find(compression)
                if request.headers.get(connect.UNARY.accept_encoding) is None:
                    accepted = received
            # Connect reference, "Unary-Request": no bytes are never decompressed.
            if received is not None and data:
                data = received.decompress(data, self._read_max_bytes)
            message = self._decode(data)
            message = self._call(message, ctx) if hooks is None else hooks.run(self._call, message, ctx)
            if deadline is not None:
                deadline.check()
            try:
                if type(message) is not self._message_class:
                    check_type(message, self._message_class)
                payload = self._encode(message)
                fields = self._fields
                if accepted is not None and payload and len(payload) >= self._compress_min_bytes:
                    payload = accepted.compress(payload)
                    fields = (*fields, (connect.UNARY.content_encoding, accepted.name))
            except Exception as error:
                endpoint.refuse_response(error)
            if hooks is not None and body.is_disconnected():
                raise client_disconnected(deadline)
        except BaseException as raised:
            return _error_response(endpoint.fail(request, hooks, raised), ctx)
        if hooks is not None:
            failure = endpoint.succeed(request, hooks)
            if failure is not None:
                return _error_response(failure, ctx)
        leading, trailing = response_metadata(ctx)
        if leading is None and trailing is None:
            return Response(200, fields, (payload,))
        return Response(200, _headers(leading, trailing, fields), (payload,))

    def _refuse(self, request: Request, problem: ConnectError) -> Response:
        """Answer a request whose head is malformed. Interceptors see it like any other call."""
        ctx = ServerContext(self._method, request, None, self._protocol_type)
        return _error_response(self._endpoint.refuse(request, ctx, problem), ctx)


class GetHandler:
    """Answers GETs of one method, in the codec that each of them names."""

    def __init__(self, handlers: dict[str, UnaryHandler]) -> None:
        """Serve by ``handlers``, by the names of their codecs."""
        self._handlers = handlers

    def __call__(self, request: Request, body: Body) -> Response:
        """Answer a GET."""
        query = connect.parse_get_query(request.query)
        encoding = query.get("encoding")
        handler = self._handlers.get(encoding or "")
        if handler is None:
            expected = f"the query parameter 'encoding' must be one of {', '.join(self._handlers)}"
            response = plain_response(415, f"{expected}, got {encoding!r}" if encoding else expected)
        else:
            response = handler.answer(request, body, query)
        # A cache that answers in place of the server has to know what the answer depends on.
        response.headers.add("vary", connect.UNARY.accept_encoding)
        return response


def _error_response(error: ConnectError, ctx: ServerContext) -> Response:
    metadata = response_metadata(ctx)
    if isinstance(error, NotModified) and ctx.http_method() == "GET":
        return Response(304, _headers(*metadata, ()))
    return Response(
        error.code.http_status, _headers(*metadata, _ERROR_FIELDS), (connect.encode_error(error),)
    )


_ERROR_FIELDS: Fields = (("content-type", connect.ERROR_CONTENT_TYPE),)


def _headers(leading: Headers | None, trailing: Headers | None, fields: Fields) -> Headers | Fields:
    """Return ``fields`` with the metadata that the handler wrote, the trailing one marked by its prefix."""
    if trailing is None:
        return response_headers(leading, fields)
    marked = Headers() if leading is None else leading.copy()
    for name, value in metadata_of(trailing).multi_items():
        marked.add(connect.TRAILER_PREFIX + name, value)
    return response_headers(marked, fields)
