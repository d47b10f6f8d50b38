"""Connect's unary form: a bare message in, a bare message or an error with an HTTP status out."""

from __future__ import annotations

from connect_sync.codec import Codec, check_type
from connect_sync.context import RequestContext
from connect_sync.errors import ConnectError, TooLargeError
from connect_sync.headers import Headers
from connect_sync.http import Body, Fields, Request, Response, read_whole
from connect_sync.protocols import connect
from connect_sync.protocols.protocol import remove_reserved
from connect_sync.server.endpoint import Endpoint, response_headers
from connect_sync.server.plain import plain_response


class UnaryHandler:
    """Answers calls of one method in one codec."""

    def __init__(self, endpoint: Endpoint, codec: Codec) -> None:
        """Serve ``endpoint`` in ``codec``."""
        method = endpoint.method
        self._endpoint = endpoint
        self._method = method
        self._call = endpoint.call
        self._compressions = endpoint.compressions
        self._read_max_bytes = endpoint.read_max_bytes
        self._decode = codec.decoder(method.input)
        self._encode = codec.encoder(method.output)
        self._message_class = method.output
        self.content_type: str = connect.UNARY.content_types(codec)[0]
        self._fields: Fields = (("content-type", self.content_type),)

    def answer(self, request: Request, body: Body, query: connect.GetQuery | None = None) -> Response:
        """Answer a POST, whose body is the message, or a GET, which has it in its ``query``."""
        ctx = None
        try:
            deadline, received, accepted = connect.UNARY.read_request(request.headers, self._compressions)
            ctx = RequestContext(self._method, request, deadline)
            if deadline is not None:
                body.set_deadline(deadline)
            if query is None:
                data = read_whole(body, self._read_max_bytes)
            else:
                data = query.message
                if len(data) > self._read_max_bytes:
                    raise TooLargeError(self._read_max_bytes, len(data))
                received = self._compressions.find(query.compression)
                if connect.UNARY.accept_encoding not in request.headers:
                    accepted = received
            # Connect reference, "Unary-Request": no bytes are never decompressed.
            if received is not None and data:
                data = received.decompress(data, self._read_max_bytes)
            message = self._call(self._decode(data), ctx)
            if deadline is not None:
                deadline.check()
            check_type(message, self._message_class)
            payload = self._encode(message)
            fields = self._fields
            if accepted is not None and payload and len(payload) >= self._endpoint.compress_min_bytes:
                payload = accepted.compress(payload)
                fields = (*fields, (connect.UNARY.content_encoding, accepted.name))
            leading, trailing = ctx.response_metadata()
            if leading is None and trailing is None:
                return Response(200, fields, (payload,))
            return Response(200, _headers(leading, trailing, fields), (payload,))
        except Exception as error:
            return _error_response(self._endpoint.to_connect_error(error), ctx)


class GetHandler:
    """Answers GETs of one method, in the codec that each of them names."""

    def __init__(self, handlers: dict[str, UnaryHandler]) -> None:
        """Serve by ``handlers``, by the names of their codecs."""
        self._handlers = handlers

    def __call__(self, request: Request, body: Body) -> Response:
        """Answer a GET."""
        response = self._answer(request, body)
        # A cache that answers in the server's place has to know what the answer depends on.
        response.headers.add("vary", connect.UNARY.accept_encoding)
        return response

    def _answer(self, request: Request, body: Body) -> Response:
        parameters = connect.parse_get_query(request.query)
        encoding = parameters.get("encoding")
        handler = self._handlers.get(encoding or "")
        if handler is None:
            expected = f"the query parameter 'encoding' must be one of {', '.join(self._handlers)}"
            return plain_response(415, f"{expected}, got {encoding!r}" if encoding else expected)
        try:
            query = connect.decode_get_query(parameters)
        except ConnectError as error:
            return _error_response(error, None)
        return handler.answer(request, body, query)


def _error_response(error: ConnectError, ctx: RequestContext | None) -> Response:
    headers = _ERROR_FIELDS if ctx is None else _headers(*ctx.response_metadata(), _ERROR_FIELDS)
    return Response(error.code.http_status, headers, (connect.encode_error(error),), error=error)


_ERROR_FIELDS: Fields = (("content-type", connect.ERROR_CONTENT_TYPE),)


def _headers(leading: Headers | None, trailing: Headers | None, fields: Fields) -> Headers | Fields:
    """Return ``fields`` with the metadata that the handler wrote, the trailing one marked by its prefix."""
    if trailing is None:
        return response_headers(leading, fields)
    marked = Headers() if leading is None else leading.copy()
    trailing = trailing.copy()
    remove_reserved(trailing)
    for name, value in trailing.multi_items():
        marked.add(connect.TRAILER_PREFIX + name, value)
    return response_headers(marked, fields)
