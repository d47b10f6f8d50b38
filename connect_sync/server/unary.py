"""Connect's unary form: a bare message in, a bare message or an error with an HTTP status out."""

from __future__ import annotations

from connect_sync.code import Code
from connect_sync.codec import Codec, encode_message
from connect_sync.compression import Compression
from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline
from connect_sync.errors import ConnectError, message_too_large
from connect_sync.headers import Headers
from connect_sync.http import Request, Response, as_body, read_whole
from connect_sync.protocols import connect
from connect_sync.server.endpoint import Endpoint, leading_metadata


class UnaryHandler:
    """Answers calls of one method in one codec."""

    def __init__(self, endpoint: Endpoint, codec: Codec) -> None:
        """Serve ``endpoint`` in ``codec``."""
        self._endpoint = endpoint
        self._codec = codec
        self.content_type: str = connect.UNARY.content_types(codec)[0]

    def post(self, request: Request) -> Response:
        """Answer a POST: the message is the body."""
        endpoint = self._endpoint
        ctx = None
        try:
            deadline, received, accepted = connect.UNARY.read_request(request.headers, endpoint.compressions)
            body = as_body(request.body)
            ctx = RequestContext(endpoint.method, "POST", request.headers, deadline, request.peer, body)
            if deadline is not None:
                body.set_deadline(deadline)
            data = read_whole(body, endpoint.read_max_bytes)
            return self._answer(data, received, accepted, deadline, ctx)
        except Exception as error:
            return _error_response(endpoint.to_connect_error(error), ctx)

    def get(self, request: Request, query: connect.GetQuery) -> Response:
        """Answer a GET: the message is in the query."""
        endpoint = self._endpoint
        ctx = None
        try:
            deadline, _, accepted = connect.UNARY.read_request(request.headers, endpoint.compressions)
            body = as_body(request.body)
            ctx = RequestContext(endpoint.method, "GET", request.headers, deadline, request.peer, body)
            if deadline is not None:
                body.set_deadline(deadline)
            received = endpoint.compressions.find(query.compression)
            if connect.UNARY.accept_encoding not in request.headers:
                accepted = received
            if len(query.message) > endpoint.read_max_bytes:
                raise message_too_large(endpoint.read_max_bytes, len(query.message))
            return self._answer(query.message, received, accepted, deadline, ctx)
        except Exception as error:
            return _error_response(endpoint.to_connect_error(error), ctx)

    def _answer(
        self,
        data: bytes,
        received: Compression | None,
        accepted: Compression | None,
        deadline: Deadline | None,
        ctx: RequestContext,
    ) -> Response:
        endpoint = self._endpoint
        # Connect reference, "Unary-Request": no bytes are never decompressed.
        if received is not None and data:
            data = received.decompress(data, endpoint.read_max_bytes)
        message = endpoint.call(self._codec.decode(data, endpoint.method.input), ctx)
        if deadline is not None:
            deadline.check()
        payload = encode_message(self._codec, message, endpoint.method.output)
        headers = _metadata(ctx)
        headers["content-type"] = self.content_type
        if accepted is not None and payload and len(payload) >= endpoint.compress_min_bytes:
            payload = accepted.compress(payload)
            headers[connect.UNARY.content_encoding] = accepted.name
        return Response(200, headers, (payload,))


class GetHandler:
    """Answers GETs of one method, in the codec that each of them names."""

    def __init__(self, handlers: dict[str, UnaryHandler]) -> None:
        """Serve by ``handlers``, by the names of their codecs."""
        self._handlers = handlers

    def __call__(self, request: Request) -> Response:
        """Answer a GET."""
        response = self._answer(request)
        # A cache that answers in the server's place has to know what the answer depends on.
        response.headers.add("vary", connect.UNARY.accept_encoding)
        return response

    def _answer(self, request: Request) -> Response:
        try:
            query = connect.decode_get_query(request.query)
            handler = self._handlers.get(query.encoding)
            if handler is None:
                raise ConnectError(
                    Code.INVALID_ARGUMENT,
                    f"the query parameter 'encoding': {query.encoding!r} is none of "
                    + ", ".join(self._handlers),
                )
        except ConnectError as error:
            return _error_response(error, None)
        return handler.get(request, query)


def _error_response(error: ConnectError, ctx: RequestContext | None) -> Response:
    headers = Headers() if ctx is None else _metadata(ctx)
    headers["content-type"] = connect.ERROR_CONTENT_TYPE
    return Response(error.code.http_status, headers, (connect.encode_error(error),), error=error)


def _metadata(ctx: RequestContext) -> Headers:
    """Return what the handler wrote, the trailing metadata marked by its prefix."""
    headers = leading_metadata(ctx)
    _, trailers = ctx.response_metadata()
    if trailers is not None:
        for name, value in trailers.multi_items():
            headers.add(connect.TRAILER_PREFIX + name, value)
    return headers
