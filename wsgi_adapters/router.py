"""Several services as one WSGI application: each request goes to the service named in its path.

A path is ``/pkg.Service/Method``, relative to where the router is mounted and to the router's own prefix. The
first segment has to match the service's name exactly, and is looked up in a dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from connect_sync.method import Method
from wsgi_adapters.application import ConnectWSGIApplication, copy_environ

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Unreserved characters (RFC 3986, section 2.3). Clients and proxies remove the segments "." and "..".
_is_segment = re.compile(r"(?!\.{1,2}\Z)[0-9A-Za-z\-._~]+").fullmatch


class Router:
    """A WSGI application that serves several services and passes other requests to another application.

    It does not touch bodies, so messages of streams are not delayed. To wrap only some services in
    middleware, put them in a router of their own, and pass the wrapped router as ``fallback`` of another one.
    """

    applications: tuple[ConnectWSGIApplication[Any], ...]
    """The applications of the services, in the order given."""
    fallback: WSGIApplication | None
    """The application that answers all other requests; None to answer them with 404."""
    prefix: str
    """The path under which the services are served, such as ``/api``; may be empty."""

    def __init__(
        self,
        applications: Iterable[ConnectWSGIApplication[Any]],
        *,
        prefix: str = "",
        fallback: WSGIApplication | None = None,
    ) -> None:
        """Serve ``applications``.

        Args:
            applications: One for each service, such as ``[GreetServiceWSGIApplication(Greeter())]``.
            prefix: The path under which the services are served, such as ``/api`` or ``/api/v1``. Leading
                and trailing slashes are ignored.
            fallback: The application that answers requests to no service. It gets their environs unchanged.

        Raises:
            TypeError: ``applications`` is a single application, or one of them is not a
                ConnectWSGIApplication; ``fallback`` is not callable.
            ValueError: ``applications`` is empty; two of them serve the same service; ``prefix`` is invalid.
        """
        self.applications = _checked_applications(applications)
        if fallback is not None and not callable(fallback):
            raise TypeError(f"fallback must be a WSGI application, got {fallback!r}")
        self.fallback = fallback
        self.prefix = checked_path("prefix", prefix)
        self._routes = {application.path: application for application in self.applications}
        self._otherwise = NotFoundApplication() if fallback is None else fallback

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        prefix = self.prefix
        if path.startswith(prefix):
            below = path[len(prefix) :]
            end = below.find("/", 1)
            application = self._routes.get(below if end < 0 else below[:end])
            if application is not None:
                if not prefix:
                    return application(environ, start_response)
                # Copied, since the server's access log takes the whole path from its own environ.
                script_name = environ.get("SCRIPT_NAME", "") + prefix
                inner = copy_environ(environ, SCRIPT_NAME=script_name, PATH_INFO=below)
                return application(inner, start_response)
        return self._otherwise(environ, start_response)


class NotFoundApplication(ConnectWSGIApplication[None]):
    """Answers every request with 404, as a service answers an unknown method, and handles the body.

    The text names the requested path, but not the existing services: anyone may send such a request.
    """

    path = ""
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {}

    def __init__(self) -> None:
        """Serve nothing."""
        super().__init__(None)


def checked_path(argument: str, path: str) -> str:
    """Return ``path`` with a leading and without a trailing slash; empty if it has only slashes.

    Raises:
        ValueError: A segment would need escaping in a URL. The message names ``argument``.
    """
    segments = path.strip("/")
    if not segments:
        return ""
    if not all(map(_is_segment, segments.split("/"))):
        raise ValueError(f"{argument} must be a path of plain segments, such as /api/v1, got {path!r}")
    return f"/{segments}"


def _checked_applications(
    applications: Iterable[ConnectWSGIApplication[Any]],
) -> tuple[ConnectWSGIApplication[Any], ...]:
    if isinstance(applications, ConnectWSGIApplication):
        raise TypeError("applications must be an iterable, such as [application], got a single application")
    checked = tuple(applications)
    if not checked:
        raise ValueError("applications must not be empty")
    paths = set()
    for application in checked:
        if not isinstance(application, ConnectWSGIApplication):
            raise TypeError(
                f"applications must be instances of ConnectWSGIApplication, got {application!r}: "
                "wrap the router in middleware, and pass other applications as fallback"
            )
        if application.path in paths:
            raise ValueError(f"two applications serve {application.path}")
        paths.add(application.path)
    return checked
