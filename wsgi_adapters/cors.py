"""Calls from pages of other origins: Cross-Origin Resource Sharing (CORS), a part of the Fetch standard.

Before a browser sends such a call, it asks for permission with a preflight, an OPTIONS request. It lets the
page read only those response headers that are exposed. The lists below are what browser clients need for the
protocols themselves; an application's own metadata comes on top.
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
"""The request headers of the protocols, except Accept-Encoding, which only the browser sets."""

EXPOSE_HEADERS = (
    "Connect-Content-Encoding",
    "Grpc-Encoding",
    # The end of a gRPC-Web call, which proxies may put in the headers if there is no message.
    "Grpc-Status",
    "Grpc-Message",
    "Grpc-Status-Details-Bin",
)
"""The response headers of the protocols, except Content-Type, which every page may read."""

# As browsers send it: in lower case and without a path. They send "null" for pages without an origin, such as
# sandboxed frames of any site.
_is_origin = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9_\-.:\[\]]+").fullmatch
# Browsers omit the scheme's default port.
_has_default_port = re.compile(r"http:.*:80|https:.*:443").fullmatch
_is_name = re.compile(r"[0-9A-Za-z_\-.]+").fullmatch


class CORSMiddleware:
    """A WSGI middleware that lets pages of other origins call the wrapped application.

    It answers preflights itself, with 204, and adds headers to other responses. It does not touch bodies, so
    messages of streams are not delayed. A page of an origin that is not allowed cannot read a response. This
    is enforced by the browser: CORS does not stop any other client from calling.
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
            application: One service, or a router with several.
            allow_origins: The origins whose pages may call, such as ``["https://example.com"]``, or ``"*"``
                for all.
            allow_credentials: Whether pages may send cookies and client certificates.
            allow_headers: Metadata that pages send besides ``ALLOW_HEADERS``, including Authorization.
            expose_headers: Metadata that pages read, leading or trailing, besides ``EXPOSE_HEADERS``. Each
                name is exposed as given and with Connect's prefix for trailing metadata.
            max_age_seconds: How long browsers may cache the answer to a preflight. Chromium caps it at two
                hours.

        Raises:
            TypeError: A single string is passed instead of several.
            ValueError: An origin or a name is invalid; credentials are allowed for all origins;
                ``max_age_seconds`` is negative.
        """
        if max_age_seconds < 0:
            raise ValueError(f"max_age_seconds must be 0 or more, got {max_age_seconds}")
        self._application = application
        self._is_open = allow_origins == "*"
        if self._is_open and allow_credentials:
            raise ValueError("allow_origins must list origins when allow_credentials is set, got '*'")
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
        """Answer one request (PEP 3333)."""
        method = environ["REQUEST_METHOD"]
        origin = environ.get("HTTP_ORIGIN")
        if origin is None and method != "GET":
            return self._application(environ, start_response)
        if method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            start_response("204 No Content", self._for_origin(origin, self._preflight_headers))
            return finish_response((), open_body(environ))
        # Even for a GET without an origin: a cache may store its response and use it for a page.
        added = self._for_origin(origin, self._response_headers)
        return self._application(environ, _adding(added, start_response))

    @property
    def application(self) -> WSGIApplication:
        """The wrapped application."""
        return self._application

    def _for_origin(self, origin: str | None, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the headers to add for ``origin``: its name and ``headers`` if it is allowed."""
        if self._is_open:
            return [("access-control-allow-origin", "*"), *headers]
        # Makes caches keep responses to different origins apart.
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
        raise TypeError(
            f"allow_origins must be a list, such as [{origins!r}], or '*' for all, got {origins!r}"
        )
    for origin in origins:
        if not _is_origin(origin) or _has_default_port(origin):
            raise ValueError(
                "allow_origins must be origins as browsers send them, such as https://example.com, "
                f"got {origin!r}"
            )
        yield origin


def _checked_names(argument: str, names: Iterable[str]) -> Iterator[str]:
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a list of names, such as [{names!r}], got {names!r}")
    for name in names:
        if not _is_name(name):
            raise ValueError(f"{argument} must be header names, of 0-9 A-Z a-z _ - . only, got {name!r}")
        yield name
