"""The application that Apache serves: the service under test, telling what it hears of credentials."""

from __future__ import annotations

from echo.v1.echo_connect import EchoServiceWSGIApplication

from connect_sync import RequestContext
from tests.integration.service import Echo


class Credentials:
    """Sends the credentials of a call back."""

    def on_start(self, ctx: RequestContext) -> None:
        ctx.response_headers()["credentials"] = ctx.request_headers().get("authorization", "none")


app = EchoServiceWSGIApplication(Echo(), interceptors=[Credentials()])
