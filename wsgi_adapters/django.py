"""Connect services inside a Django site: as URL patterns, under Django's middleware.

A service next to Django, in ``wsgi.py``, does not need this: see `wsgi_adapters.router`. Inside Django, calls
are ordinary requests, with users, sessions and transactions. Django does not read a body before a view or a
middleware asks for it, and sends each chunk of a `StreamingHttpResponse` as it is yielded. The application
reads the server's own ``wsgi.input``, so messages are not delayed in either direction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

try:
    from django.core.exceptions import ImproperlyConfigured
    from django.core.handlers.wsgi import WSGIRequest
    from django.db import connections, transaction
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.http.response import HttpResponseBase
    from django.urls import URLPattern, re_path
    from django.views.decorators.csrf import csrf_exempt
except ImportError as _error:
    raise ImportError("Django 5.2 or newer is not installed: pip install 'connect-sync[django]'") from _error

from connect_sync.http import ClosingIterator
from connect_sync.method import StreamKind
from wsgi_adapters.application import ERROR_KEY, ConnectWSGIApplication, copy_environ
from wsgi_adapters.django_errors import ERRORS

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["ERRORS", "connect_path", "current_request"]

_View: TypeAlias = Callable[..., HttpResponseBase]

_request: ContextVar[HttpRequest] = ContextVar("_request")


def connect_path(
    application: ConnectWSGIApplication[Any], *, decorators: Iterable[Callable[[_View], _View]] = ()
) -> URLPattern:
    """Return a URL pattern for ``urlpatterns`` that serves ``application`` and all paths under its own.

    It may be included under a prefix. Handlers and interceptors get Django's request by `current_request`.

    Calls are exempt from Django's CSRF check: a service accepts no POST that a browser would send across
    origins without a preflight (Fetch standard, "CORS-safelisted request-header"). To enable the check
    again, pass ``decorators=[csrf_protect]``.

    If a database has ``ATOMIC_REQUESTS``, a unary or client-streaming call runs in a transaction, which is
    rolled back if the call fails. A server-streaming call does not, since it outlives the view.

    Unless the application has ``errors`` of its own, exceptions are mapped by `ERRORS`.

    Args:
        application: The application of one service.
        decorators: Django decorators for the view, outermost first, such as ``never_cache``, or
            ``transaction.non_atomic_requests`` for calls outside a transaction.

    Raises:
        TypeError: ``application`` is not a ConnectWSGIApplication.
    """
    if not isinstance(application, ConnectWSGIApplication):
        raise TypeError(
            f"application must be an instance of ConnectWSGIApplication, got {application!r}: "
            "call connect_path once for each service"
        )
    service_view = _ServiceView(application._with_default_errors(ERRORS))
    view: _View = service_view
    for decorator in reversed(tuple(decorators)):
        view = decorator(view)
    service_view.non_atomic = frozenset(getattr(view, "_non_atomic_requests", ()))
    # Django's own transaction would wrap every kind of call, and commit even if the call failed.
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    # Matches with or without a slash after the service's name, so APPEND_SLASH never redirects.
    name = re.escape(application.path.removeprefix("/"))
    return re_path(rf"^({name}(?:/(?s:.*))?)\Z", csrf_exempt(view))


def current_request() -> HttpRequest:
    """Return Django's request of the current call.

    Handlers and interceptors may use it throughout the call, including in a stream whose view has returned,
    and in its ``finally``. Pass the request explicitly to threads that a handler starts.

    Raises:
        RuntimeError: This thread is not running a call routed by `connect_path`.
    """
    request = _request.get(None)
    if request is None:
        raise RuntimeError(
            "current_request() must be called during a call routed by connect_path, "
            "in the thread that runs its handler"
        )
    return request


class _ServiceView:
    """A view that delegates to a WSGI application."""

    def __init__(self, application: ConnectWSGIApplication[Any]) -> None:
        self._application = application
        self._kinds = {method.path: method.kind for method in application.methods.values()}
        self.non_atomic: frozenset[str] = frozenset()
        """The databases whose ``ATOMIC_REQUESTS`` is ignored here."""

    def __call__(self, request: HttpRequest, *captured: str, **_: object) -> HttpResponseBase:
        """Answer ``request``; the last captured group of its URL is the path starting at the service."""
        if not isinstance(request, WSGIRequest):
            raise ImproperlyConfigured(
                f"{self._application.path} requires WSGI: serve the site with get_wsgi_application()"
            )
        path = f"/{captured[-1]}"
        environ = _environ(request, path)
        start = _Start()
        with ExitStack() as stack:
            databases = self._databases(path)
            for alias in databases:
                stack.enter_context(transaction.atomic(using=alias))
            run = partial(_with_request, request)
            body = run(self._application, environ, start)
            if not isinstance(body, tuple):
                body = ClosingIterator(body, run=run, closes_at_end=False)
                _close_with(request, body)
            if ERROR_KEY in environ:
                # The call failed without an exception that Django would see.
                for alias in databases:
                    transaction.set_rollback(True, using=alias)
        return _response(request, start, body)

    def _databases(self, path: str) -> list[str]:
        """Return the databases whose ``ATOMIC_REQUESTS`` applies to a call of ``path``."""
        if self._kinds.get(path, StreamKind.SERVER_STREAM) is StreamKind.SERVER_STREAM:
            return []
        return [
            alias
            for alias, settings in connections.settings.items()
            if settings["ATOMIC_REQUESTS"] and alias not in self.non_atomic
        ]


class _Start:
    """The ``start_response`` of a call, which records its arguments."""

    status = ""
    headers: Iterable[tuple[str, str]] = ()

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        self.status = status
        self.headers = headers
        return _refuse_write


def _refuse_write(data: bytes, /) -> None:
    raise NotImplementedError("write() is not supported: the application returns its body")


def _with_request(request: HttpRequest, function: Callable[..., Any], /, *arguments: Any) -> Any:
    """Call ``function`` with ``arguments``, while `current_request` returns ``request``."""
    token = _request.set(request)
    try:
        return function(*arguments)
    finally:
        _request.reset(token)


class _RepeatedHeaders(HttpResponseBase):
    """A Django response in which a header may be repeated, as metadata may be."""

    repeated: tuple[tuple[str, str], ...] = ()
    """Further values of names that are in ``headers``, which holds one value per name."""

    def items(self) -> Any:
        """Return all headers, as they are passed to the server."""
        headers = [*super().items(), *self.repeated]
        if self.status_code == HTTPStatus.NOT_MODIFIED:
            # Django's CommonMiddleware says that it is 0, which is not the length of what has not changed
            # (RFC 9110, section 8.6).
            return [(name, value) for name, value in headers if name.lower() != "content-length"]
        return headers


class _WholeResponse(_RepeatedHeaders, HttpResponse):
    """A response that is complete when the view returns."""


class _StreamResponse(_RepeatedHeaders, StreamingHttpResponse):
    """A response that is generated while it is sent."""


def _environ(request: WSGIRequest, path: str) -> WSGIEnvironment:
    """Return the environ of ``request`` for an application mounted where ``path`` begins."""
    prefix = request.path_info.removesuffix(path)
    environ = copy_environ(
        request.environ,
        SCRIPT_NAME=_as_wsgi(request.META["SCRIPT_NAME"] + prefix),
        PATH_INFO=_as_wsgi(path),
    )
    # Django never reads a body without a length.
    if environ.get("CONTENT_LENGTH") and request._read_started:  # type: ignore[attr-defined]
        environ["wsgi.input"] = BytesIO(request.body)
    return environ


def _as_wsgi(path: str) -> str:
    """Encode a path, decoded by Django, the way an environ holds it (PEP 3333, "Unicode Issues")."""
    return path.encode().decode("latin-1")


def _response(
    request: HttpRequest, start: _Start, body: tuple[bytes, ...] | ClosingIterator[bytes]
) -> HttpResponseBase:
    status, _, reason = start.status.partition(" ")
    headers: dict[str, str] = {}
    repeated = []
    for name, value in start.headers:
        if name in headers:
            repeated.append((name, value))
        else:
            headers[name] = value
    response: _WholeResponse | _StreamResponse
    if isinstance(body, tuple):
        response = _WholeResponse(b"".join(body), status=int(status), reason=reason, headers=headers)
    else:
        response = _StreamResponse(body, status=int(status), reason=reason, headers=headers)
        # Compressing middleware checks this header. It would delay messages, which the protocol compresses
        # anyway.
        request.META.pop("HTTP_ACCEPT_ENCODING", None)
    response.repeated = tuple(repeated)
    return response


def _close_with(request: HttpRequest, chunks: ClosingIterator[bytes]) -> None:
    """Let Django close ``chunks`` when it is done with ``request``.

    Django closes the request with whatever response it sends. That may be a different response: a middleware
    may replace this one, or fail.
    """
    close_request = request.close

    def close() -> None:
        try:
            chunks.close()
        finally:
            close_request()

    request.close = close  # type: ignore[method-assign]
