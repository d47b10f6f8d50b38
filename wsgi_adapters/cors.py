"""Calls from pages of other origins: Cross-Origin Resource Sharing (CORS), a part of the Fetch standard.

Before a browser sends such a call, it asks by a preflight, an OPTIONS request, whether it may. From the
response it hands the page only the headers that are exposed to it. The lists below are what clients in
browsers need for the protocols themselves; metadata of an application's own comes on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from connect_sync.protocols.connect import TRAILER_PREFIX
from wsgi_adapters.application import finish_response
from wsgi_adapters.servers import open_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ALLOW_METHODS = ("GET", "POST")
"""The methods of calls: GET for methods without side effects, POST for all."""

ALLOW_HEADERS = (
    "Content-Type",
    "Content-Encoding",
    "Connect-Protocol-Version",
    "Connect-Timeout-Ms",
    "Connect-Content-Encoding",
    "Connect-Accept-Encoding",
    "Grpc-Timeout",
    "Grpc-Encoding",
    "Grpc-Accept-Encoding",
    "X-Grpc-Web",
    "X-User-Agent",
)
"""What the protocols have a page send. Accept-Encoding is missing: it is the browser's own."""

EXPOSE_HEADERS = (
    "Connect-Content-Encoding",
    "Grpc-Encoding",
    # The end of a gRPC-Web call, which proxies may put here where there is no message.
    "Grpc-Status",
    "Grpc-Message",
    "Grpc-Status-Details-Bin",
)
"""What the protocols have a page read. Content-Type is missing: every page may read it."""

# As browsers write it: in lower case and without a path. They write "null" for pages without an origin, such
# as sandboxed frames of anybody's.
_is_origin = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9_\-.:\[\]]+").fullmatch
# Browsers leave out the port that is the scheme's own.
_has_default_port = re.compile(r"http:.*:80|https:.*:443").fullmatch
_is_name = re.compile(r"[0-9A-Za-z_\-.]+").fullmatch


class CORSMiddleware:
    """A WSGI application that lets pages of other origins call the application within.

    It answers preflights itself, with 204, and adds headers to other responses. Nothing else is touched,
    so that streams stay live. A page of an origin that is not allowed learns nothing from a response. It is
    the browser that keeps to this: CORS keeps no other client from calling.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        allow_origins: Iterable[str] | Literal["*"],
        allow_credentials: bool = False,
        allow_headers: Iterable[str] = (),
        expose_headers: Iterable[str] = (),
        max_age_seconds: int = 7200,
    ) -> None:
        """Wrap ``application``.

        Args:
            application: One service, or several behind a router.
            allow_origins: The origins whose pages may call, such as ``["https://example.com"]``; ``"*"`` for
                all.
            allow_credentials: Whether pages may send cookies and client certificates along.
            allow_headers: Metadata that pages send, and Authorization if they do, besides ``ALLOW_HEADERS``.
            expose_headers: Metadata that pages read, leading or trailing, besides ``EXPOSE_HEADERS``. Each
                name is exposed as it is, and with the prefix that Connect gives to trailing metadata.
            max_age_seconds: For how long browsers may remember the answer to a preflight. Chromium caps
                it at two hours.

        Raises:
            TypeError: One string stands where several are wanted.
            ValueError: An origin or a name is none; credentials are allowed to all origins;
                ``max_age_seconds`` is negative.
        """
        if max_age_seconds < 0:
            raise ValueError(f"max_age_seconds is {max_age_seconds}: it takes 0 or more")
        self._application = application
        self._is_open = allow_origins == "*"
        if self._is_open and allow_credentials:
            raise ValueError("with credentials, origins have to be named: browsers refuse '*'")
        self._origins = frozenset(() if self._is_open else _checked_origins(allow_origins))
        credentials = [("access-control-allow-credentials", "true")] if allow_credentials else []

        allowed = [*ALLOW_HEADERS, *_checked_names("allow_headers", allow_headers)]
        self._preflight_headers = [
            *credentials,
            ("access-control-allow-methods", ", ".join(ALLOW_METHODS)),
            ("access-control-allow-headers", ", ".join(allowed)),
            ("access-control-max-age", str(max_age_seconds)),
        ]
        exposed = list(EXPOSE_HEADERS)
        for name in _checked_names("expose_headers", expose_headers):
            exposed += [name, TRAILER_PREFIX + name]
        self._response_headers = [*credentials, ("access-control-expose-headers", ", ".join(exposed))]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 says."""
        method = environ["REQUEST_METHOD"]
        origin = environ.get("HTTP_ORIGIN")
        if origin is None and method != "GET":
            return self._application(environ, start_response)
        if method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            start_response("204 No Content", self._for_origin(origin, self._preflight_headers))
            return finish_response((), open_body(environ))
        # A GET without an origin too: a cache may keep its response, and use it for a page.
        added = self._for_origin(origin, self._response_headers)
        return self._application(environ, _adding(added, start_response))

    @property
    def application(self) -> WSGIApplication:
        """The application within."""
        return self._application

    def _for_origin(self, origin: str | None, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return what a response to ``origin`` says: if it is allowed, its name and ``headers``."""
        if self._is_open:
            return [("access-control-allow-origin", "*"), *headers]
        # Caches keep responses to different origins apart.
        vary = ("vary", "Origin")
        if origin not in self._origins:
            return [vary]
        return [("access-control-allow-origin", origin), *headers, vary]


def _adding(added: list[tuple[str, str]], start_response: StartResponse) -> StartResponse:
    """Return a ``start_response`` that adds headers to the application's own."""

    def start_with_more(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *added], exc_info)

    return start_with_more


def _checked_origins(origins: Iterable[str]) -> Iterator[str]:
    if isinstance(origins, str):
        raise TypeError(f"allow_origins takes several, such as [{origins!r}], or '*' for all")
    for origin in origins:
        if not _is_origin(origin) or _has_default_port(origin):
            raise ValueError(f"{origin!r} is not an origin as browsers write it, such as https://example.com")
        yield origin


def _checked_names(argument: str, names: Iterable[str]) -> Iterator[str]:
    if isinstance(names, str):
        raise TypeError(f"{argument} takes several names, such as [{names!r}]")
    for name in names:
        if not _is_name(name):
            raise ValueError(f"{argument}: {name!r} is not a header name: 0-9 A-Z a-z _ - . are allowed")
        yield name
