"""Many services as one WSGI application: each request goes to the service that its path names.

A path is ``/pkg.Service/Method``, below the place where the router is mounted and below the router's own
prefix. The first segment decides, by one look-up, and has to be the service's name to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from connect_sync.method import Method
from wsgi_adapters.application import ConnectWSGIApplication, copy_environ

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# What stands for itself in a path (RFC 3986, section 2.3). "." and ".." are taken out by clients and proxies.
_is_segment = re.compile(r"(?!\.{1,2}\Z)[0-9A-Za-z\-._~]+").fullmatch


class Router:
    """A WSGI application that serves several services, and hands everything else to another application.

    It reads and writes no body, so that streams stay live. A service that middleware is to wrap alone has a
    router of its own, which that middleware wraps, as the ``fallback`` of another router.
    """

    applications: tuple[ConnectWSGIApplication[Any], ...]
    """The applications of the services, in the order in which they were given."""
    fallback: WSGIApplication | None
    """The application that answers all other requests; None where these are answered with 404."""
    prefix: str
    """The path below which the services are, such as ``/api``; empty if there is none."""

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
            prefix: The path below which the services are, of one segment or several, such as ``/api`` or
                ``/api/v1``. Slashes at its ends make no difference.
            fallback: What answers requests that belong to no service. It gets their environs untouched.

        Raises:
            TypeError: An application is no ConnectWSGIApplication, or there is one instead of several;
                ``fallback`` is no application.
            ValueError: There is no application; two of them serve the same service; ``prefix`` is no path.
        """
        self.applications = _checked_applications(applications)
        if fallback is not None and not callable(fallback):
            raise TypeError(f"fallback is {fallback!r}: it takes a WSGI application")
        self.fallback = fallback
        self.prefix = checked_path("prefix", prefix)
        self._routes = {application.path: application for application in self.applications}
        self._otherwise = NotFoundApplication() if fallback is None else fallback

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 says."""
        path = environ.get("PATH_INFO", "")
        prefix = self.prefix
        if path.startswith(prefix):
            below = path[len(prefix) :]
            end = below.find("/", 1)
            application = self._routes.get(below if end < 0 else below[:end])
            if application is not None:
                if not prefix:
                    return application(environ, start_response)
                # In a copy: the server's access log has the whole path from the environ that is its own.
                script_name = environ.get("SCRIPT_NAME", "") + prefix
                inner = copy_environ(environ, SCRIPT_NAME=script_name, PATH_INFO=below)
                return application(inner, start_response)
        return self._otherwise(environ, start_response)


class NotFoundApplication(ConnectWSGIApplication[None]):
    """Answers every request as a service does that has no such method: with 404, its body dealt with.

    The text names what was asked for and not what there is, since anybody may ask.
    """

    path = ""
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {}

    def __init__(self) -> None:
        """Serve nothing."""
        super().__init__(None)


def checked_path(argument: str, path: str) -> str:
    """Return ``path`` with a slash at its beginning and none at its end; empty, if it is all slashes.

    Raises:
        ValueError: A segment of it would not stand for itself in an address. ``argument`` is named there.
    """
    segments = path.strip("/")
    if not segments:
        return ""
    if not all(map(_is_segment, segments.split("/"))):
        raise ValueError(f"{argument} is {path!r}: it takes a path of plain segments, such as /api/v1")
    return f"/{segments}"


def _checked_applications(
    applications: Iterable[ConnectWSGIApplication[Any]],
) -> tuple[ConnectWSGIApplication[Any], ...]:
    if isinstance(applications, ConnectWSGIApplication):
        raise TypeError("applications takes several, such as [application]")
    checked = tuple(applications)
    if not checked:
        raise ValueError("there is no application to route to")
    paths = set()
    for application in checked:
        if not isinstance(application, ConnectWSGIApplication):
            raise TypeError(
                f"{application!r} is no ConnectWSGIApplication: middleware goes around the router, "
                "and other applications into fallback"
            )
        if application.path in paths:
            raise ValueError(f"two applications serve {application.path}")
        paths.add(application.path)
    return checked
