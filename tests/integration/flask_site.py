"""A Flask site with the service on it, as an application for gunicorn and for Flask's own server.

The handlers tell what happens to them over a channel, as those of `service` do. An interceptor opens it
and keeps it in Flask's ``g``; what the site's teardown tells is the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from echo.v1.echo_connect import EchoService, EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from flask import Blueprint, Flask, abort, g, redirect, request

from connect_sync import ConnectError, RequestContext
from tests.integration.service import Reporter, raise_as_asked
from wsgi_adapters.flask import register_service


class OpenChannel:
    """An interceptor that leaves the handler's end of the channel in ``g``."""

    def on_start(self, ctx: RequestContext) -> None:
        g.reporter = Reporter(ctx)
        g.reporter.tell(f"called by {g.caller}")


class Echo(EchoService):
    def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        fail_as_asked(message)
        return EchoResponse(payload=message.payload)

    def echo_safely(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        return self.echo(message, ctx)

    def collect(self, messages: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        payloads = []
        try:
            for message in messages:
                g.reporter.tell(f"got {message.payload.decode('ascii')} from {g.caller}")
                fail_as_asked(message)
                payloads.append(message.payload)
                if message.is_last:
                    break
        except ConnectError as error:
            g.reporter.tell(error.code.value)
            raise
        return EchoResponse(payload=b"".join(payloads))

    def repeat(self, message: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        try:
            for number in count() if message.times < 0 else range(message.times):
                g.reporter.tell(f"asked for {number} by {g.caller}")
                yield EchoResponse(payload=message.payload)
                g.reporter.wait()
            fail_as_asked(message)
        finally:
            g.reporter.tell(f"closed at {request.path}")


def fail_as_asked(message: EchoRequest) -> None:
    if message.error == "abort":
        abort(403, "members only")
    if message.error == "redirect":
        abort(redirect("/the secret of the handler"))
    raise_as_asked(message)


application = Flask(__name__)
application.config["MAX_CONTENT_LENGTH"] = 10  # which is for forms, and for no call

service = EchoServiceWSGIApplication(Echo(), interceptors=[OpenChannel()])
register_service(application, service)

tenants = Blueprint("tenants", __name__, url_prefix="/tenants/<tenant>")
register_service(tenants, service)
application.register_blueprint(tenants)


@application.before_request
def name_caller() -> None:
    g.caller = request.headers.get("caller", "nobody")


@application.teardown_request
def end(error: BaseException | None) -> None:
    reporter: Reporter | None = g.pop("reporter", None)
    if reporter is not None:
        with reporter:
            reporter.tell(f"torn down for {g.caller}")
