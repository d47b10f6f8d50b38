"""Connect's unary form: a bare message out, a bare message or an error with an HTTP status in."""

from __future__ import annotations

from typing import Any

from connect_sync.client.call import ClientContext, ClientSettings, add_response, decode
from connect_sync.codec import checked
from connect_sync.errors import ConnectError
from connect_sync.http import Response, as_body
from connect_sync.method import Method
from connect_sync.protocols import connect

_MAX_GET_TARGET = 4000
"""How long a GET's path and query may be, in bytes: gunicorn takes a request line of 4,094."""


class UnaryCaller:
    """Makes calls of one method."""

    def __init__(self, method: Method[Any, Any], settings: ClientSettings) -> None:
        """Call ``method`` as ``settings`` say."""
        codec = settings.codec
        encode = codec.encoder(method.input)
        # Equal messages have to make equal URLs, or no cache would find them.
        encode_for_url = codec.encoder(method.input, deterministic=True)
        self._settings = settings
        self._encode = settings.options.limit(checked(encode, method.input))
        self._encode_for_url = settings.options.limit(checked(encode_for_url, method.input))
        self._decode = codec.decoder(method.output)
        self._content_type = connect.UNARY.content_types(codec)[0]
        self._path = method.path
        self._target_size = len(settings.prefix) + len(method.path)

    def call(self, request: Any, ctx: ClientContext) -> Any:
        """Send a request, and return its response. Raises ConnectError."""
        response = self._get(request, ctx) if ctx.use_get else None
        if response is None:
            response = self._post(request, ctx)
        body = as_body(response.body)
        leading, trailing = connect.split_trailers(response.headers)
        ctx.set_response(response.status, leading, trailing)
        try:
            self._settings.check_head(response, body, connect.UNARY, ctx)
            return decode(self._decode, self._settings.read_body(leading, body))
        except ConnectError as error:
            add_response(error, response, leading, trailing)
            raise
        finally:
            body.close()

    def _post(self, request: Any, ctx: ClientContext) -> Response:
        settings = self._settings
        data = self._encode(request)
        headers = settings.attempt(ctx, connect.UNARY)
        headers["content-type"] = self._content_type
        compression = settings.compression_for(data)
        if compression is not None:
            headers[connect.UNARY.content_encoding] = compression.name
            data = compression.compress(data)
        return settings.send(ctx, self._path, headers, (data,))

    def _get(self, request: Any, ctx: ClientContext) -> Response | None:
        """Send the request as a GET; return None if it would be too long for one."""
        settings = self._settings
        data = self._encode_for_url(request)
        compression = settings.compression_for(data)
        if compression is not None:
            data = compression.compress(data)
        query = connect.encode_get_query(settings.codec, compression, data)
        if self._target_size + len(query) > _MAX_GET_TARGET:
            return None
        return settings.send(ctx, self._path, settings.attempt(ctx, connect.UNARY), (), query)
