"""A service that tells what it reads of a header named ``version``, as applications for gunicorn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from echo.v1.echo_connect import EchoService, EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Reader(EchoService):
    def echo(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        headers = ctx.request_headers()
        # The first two are read from the environ, the rest from what is then parsed of it.
        read = {
            "get": headers.get("version"),
            "get_many": headers.get_many(("version", "te", "version", "a")),
            "iteration": [value for name, value in headers.multi_items() if name == "version"],
            "in": "version" in headers,
            "get, parsed": headers.get("version"),
        }
        return EchoResponse(payload=json.dumps(read).encode())


application = EchoServiceWSGIApplication(Reader())


class _Input:
    """An input in place of the server's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        return data


def replaced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Call the application with an input that is not the server's."""
    environ["wsgi.input"] = _Input(environ["wsgi.input"])
    return application(environ, start_response)
