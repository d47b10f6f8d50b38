"""The health of a server over WSGI: as a service for gRPC's clients, and as a page for load balancers.

Both tell what the owner of a `connect_sync.health.Health` has set.
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
    """A WSGI application whose one page tells by its HTTP status whether a service can be called.

    It is 200 while the service is SERVING and 503 otherwise, with the name of the status for text. The page
    is also found where the application is mounted at its path. Everything else goes to the ``fallback``.
    """

    fallback: WSGIApplication | None
    """The application that answers all other requests; None where these are answered with 404."""

    def __init__(
        self,
        health: Health,
        *,
        path: str = "/healthz",
        service: str = "",
        fallback: WSGIApplication | None = None,
    ) -> None:
        """Tell what ``health`` says.

        Args:
            health: The statuses.
            path: Where the page is.
            service: Whose status it tells, by its full name; empty for that of the server as a whole.
            fallback: What answers all other requests. It gets their environs untouched. Without one, they
                are answered with 404.

        Raises:
            TypeError: ``health`` is no Health; ``service`` is no string; ``fallback`` is no application.
            ValueError: ``path`` is no path, or ``service`` is one.
        """
        if not isinstance(health, Health):
            raise TypeError(f"health is {health!r}: it takes a Health")
        if fallback is not None and not callable(fallback):
            raise TypeError(f"fallback is {fallback!r}: it takes a WSGI application")
        check_service_name(service)
        self._health = health
        self._path = checked_path("path", path)
        self._service = service
        self.fallback = fallback
        self._otherwise = NotFoundApplication() if fallback is None else fallback

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 says."""
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
