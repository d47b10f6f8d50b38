"""The health of a server over WSGI: as a service for gRPC clients, and as a page for load balancers.

Both report the statuses set in a `connect_sync.health.Health`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from connect_sync.health import CHECK, SERVICE, WATCH, Health, ServingStatus, check_service_name
from connect_sync.method import Method
from wsgi_adapters.application import ConnectWSGIApplication, finish_response
from wsgi_adapters.router import NotFoundApplication, checked_path
from wsgi_adapters.servers import open_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class HealthWSGIApplication(ConnectWSGIApplication[Health]):
    """The WSGI application that serves grpc.health.v1.Health: ``HealthWSGIApplication(health)``."""

    path = f"/{SERVICE}"
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {"check": CHECK, "watch": WATCH}


class Healthz:
    """A WSGI application with one page, whose HTTP status tells whether a service can be called.

    It is 200 while the service is SERVING and 503 otherwise; the text is the name of the status. The
    application may also be mounted at the page's path. Everything else goes to the ``fallback``.
    """

    fallback: WSGIApplication | None
    """The application that answers all other requests; None to answer them with 404."""

    def __init__(
        self,
        health: Health,
        *,
        path: str = "/healthz",
        service: str = "",
        fallback: WSGIApplication | None = None,
    ) -> None:
        """Report the status of a service.

        Args:
            health: The statuses.
            path: The path of the page.
            service: The full name of the service to report; empty for the server as a whole.
            fallback: The application that answers all other requests. It gets their environs unchanged.
                Without one, they are answered with 404.

        Raises:
            TypeError: ``health`` is not a Health; ``service`` is not a string; ``fallback`` is not callable.
            ValueError: ``path`` is invalid, or ``service`` is a path.
        """
        if not isinstance(health, Health):
            raise TypeError(f"health must be a Health, got {health!r}")
        if fallback is not None and not callable(fallback):
            raise TypeError(f"fallback must be a WSGI application, got {fallback!r}")
        check_service_name(service)
        self._health = health
        self._path = checked_path("path", path)
        self._service = service
        self.fallback = fallback
        self._otherwise = NotFoundApplication() if fallback is None else fallback

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        is_mounted_here = path in ("", "/") and environ.get("SCRIPT_NAME", "").endswith(self._path)
        if path != self._path and not is_mounted_here:
            return self._otherwise(environ, start_response)
        method = environ["REQUEST_METHOD"]
        headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
        if method not in ("GET", "HEAD"):
            line = "405 Method Not Allowed"
            text = f"{method} is not allowed here"
            headers.append(("allow", "GET, HEAD"))
        else:
            status = self._health.get_status(self._service)
            line = "200 OK" if status is ServingStatus.SERVING else "503 Service Unavailable"
            text = status.name
        body = f"{text}\n".encode()
        request_body = open_body(environ)
        if request_body.is_framed:
            headers.append(("content-length", str(len(body))))
        start_response(line, headers)
        return finish_response(() if method == "HEAD" else (body,), request_body)
