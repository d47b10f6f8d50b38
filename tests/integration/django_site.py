"""A Django site for gunicorn: the service of `service` below its middleware, and beside the site.

The environment variable ``SITE_DATABASE`` names the file of the database, which is made when the site is
loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from threading import local

import django
from django.conf import settings
from django.core.signals import request_finished
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path
from echo.v1.echo_connect import EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import ConnectError, RequestContext
from tests.integration.service import Echo, Reporter, raise_as_asked
from wsgi_adapters.cors import ALLOW_HEADERS, ALLOW_METHODS, EXPOSE_HEADERS
from wsgi_adapters.router import Router

settings.configure(
    ALLOWED_HOSTS=["test", "127.0.0.1"],
    CORS_ALLOWED_ORIGINS=["https://example.com"],
    CORS_ALLOW_CREDENTIALS=True,
    CORS_ALLOW_HEADERS=ALLOW_HEADERS,
    CORS_ALLOW_METHODS=ALLOW_METHODS,
    CORS_EXPOSE_HEADERS=EXPOSE_HEADERS,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SITE_DATABASE"],
            "ATOMIC_REQUESTS": True,
        }
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=10,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "corsheaders",
    ],
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "corsheaders.middleware.CorsMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
    WSGI_APPLICATION=f"{__name__}.application",
)
django.setup()

from django.contrib.auth import login  # noqa: E402 - models take a site that is set up
from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import close_old_connections, connection  # noqa: E402

from wsgi_adapters.django import connect_path, current_request  # noqa: E402

_running = local()


class WritingEcho(Echo):
    def collect(self, request: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        """Write each payload when it comes."""
        return super().collect(map(self._write, request), ctx)

    @staticmethod
    def _write(message: EchoRequest) -> EchoRequest:
        Group.objects.create(name=message.payload.decode())
        if message.error == "missing":
            raise Http404("the secret of the handler")
        if message.error == "invalid":
            Group().full_clean()
        return message


class SiteEcho(WritingEcho):
    def echo(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        """Write the payload, and tell whose call it is."""
        raise_as_asked(self._write(request))
        return EchoResponse(payload=str(current_request().user).encode())

    def echo_safely(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        return EchoResponse(payload=str(current_request().user).encode())

    def repeat(self, request: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        """Tell whose call it is when it ends, and when Django has finished the request."""
        _running.reporter = reporter = Reporter(ctx)
        try:
            for number in count() if request.times < 0 else range(request.times):
                reporter.tell(f"asked for {number}")
                yield EchoResponse(payload=request.payload)
                reporter.wait()
        finally:
            reporter.tell(f"closed for {current_request().user}")


def tell_of_end(**_: object) -> None:
    reporter: Reporter | None = _running.__dict__.pop("reporter", None)
    if reporter is not None:
        with reporter:
            reporter.tell("finished")


request_finished.connect(tell_of_end)


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    login(request, User.objects.get_or_create(username=name)[0])
    return HttpResponse(f"Welcome, {name}.")


echo = EchoServiceWSGIApplication(SiteEcho())

urlpatterns = [
    path("log-in/<name>", log_in),
    connect_path(echo),
    path("api/", include([connect_path(echo)])),
]

application = get_wsgi_application()
call_command("migrate", verbosity=0)
connection.close()


class DatabaseConnections:
    """Looks after connections where Django does not, as docs/django.md says."""

    def on_start(self, ctx: RequestContext) -> None:
        close_old_connections()

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        close_old_connections()


beside = Router(
    [EchoServiceWSGIApplication(WritingEcho(), interceptors=[DatabaseConnections()])], fallback=application
)
