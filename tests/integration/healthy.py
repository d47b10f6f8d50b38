"""A server that tells its health, as an application for gunicorn.

Its owner is the test, which sets statuses by requests. How a call of the health service ends is told over the
channel that the call's metadata names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from connect_sync import ConnectError, RequestContext
from connect_sync.health import Health, ServingStatus
from tests.integration.service import Reporter
from tests.integration.service import application as echo
from wsgi_adapters.health import HealthWSGIApplication, Healthz
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Ends:
    """An interceptor that tells how calls have ended."""

    def on_start(self, ctx: RequestContext) -> Reporter:
        return Reporter(ctx)

    def on_end(self, token: Reporter, ctx: RequestContext, error: ConnectError | None) -> None:
        with token:
            token.tell(error.code.value if isinstance(error, ConnectError) else "ended")


health = Health(max_watches=2)


def owner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Set the statuses that the query names."""
    for service, status in parse_qsl(environ["QUERY_STRING"], keep_blank_values=True):
        health.set_status(service, ServingStatus[status])
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"done"]


application = Router(
    [HealthWSGIApplication(health, interceptors=[Ends()]), echo], fallback=Healthz(health, fallback=owner)
)
