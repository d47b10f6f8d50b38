"""The service behind the proxies in `test_deployment`: that of the integration tests, telling what it gets.

For each call that has a name, a line goes to the file that RECORD names in the environment: the call's name,
the connection that it came by, for whom it was forwarded, and the subject of the client's certificate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from echo.v1.echo_connect import EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import RequestContext
from connect_sync.health import Health
from tests.integration.service import Echo
from wsgi_adapters.health import Healthz
from wsgi_adapters.router import Router


class RecordingEcho(Echo):
    def __init__(self) -> None:
        # What is appended is there, whole, however the process ends.
        self._record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def echo(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        self._write(ctx)
        if "slow" in ctx.request_headers():
            # As if it waited for a database, so that some calls are here when the host dies.
            time.sleep(0.005)
        return super().echo(request, ctx)

    def collect(self, request: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        self._write(ctx)
        return super().collect(request, ctx)

    def repeat(self, request: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        self._write(ctx)
        yield from super().repeat(request, ctx)

    def _write(self, ctx: RequestContext) -> None:
        headers = ctx.request_headers()
        if "call" in headers:
            client = headers.get("x-forwarded-for", "").replace(" ", "")
            line = f"{headers['call']} {ctx.peer()} {client} {headers.get('x-client-subject', '')}\n"
            os.write(self._record, line.encode())


application = Router([EchoServiceWSGIApplication(RecordingEcho())], fallback=Healthz(Health()))
