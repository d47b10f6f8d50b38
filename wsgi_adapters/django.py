"""Connect services inside a Django site: as URL patterns, under Django's middleware.

A service beside Django, in ``wsgi.py``, needs nothing of this: see `wsgi_adapters.router`. Inside, its calls
are requests like others, with users, sessions and transactions. Django reads no body before a view or a
middleware asks for it, and sends what a `StreamingHttpResponse` yields as it comes. The application reads the
server's own ``wsgi.input``, so that streams are live both ways.
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
    """Return a URL pattern for ``urlpatterns`` that serves ``application`` and all that is below its path.

    It may be included below a prefix. Handlers and interceptors get at Django's request by `current_request`.

    Calls are exempt from Django's check against forged requests (CSRF): a service takes no POST that a
    browser would send for a page of another origin without asking first (Fetch standard, "CORS-safelisted
    request-header"). ``decorators=[csrf_protect]`` brings the check back.

    Where a database has ``ATOMIC_REQUESTS``, a unary or a client-streaming call is a transaction, which is
    rolled back if the call is answered with an error. A server-streaming call is none: it goes on when the
    view has returned.

    Unless the application was given ``errors``, its exceptions are mapped by `ERRORS` here.

    Args:
        application: The application of one service.
        decorators: Decorators of Django for the view, from the outside in, such as ``never_cache``, or
            ``transaction.non_atomic_requests`` for calls that are no transactions.

    Raises:
        TypeError: ``application`` is no ConnectWSGIApplication.
    """
    if not isinstance(application, ConnectWSGIApplication):
        raise TypeError(f"{application!r} is no ConnectWSGIApplication: a service has a pattern of its own")
    service_view = _ServiceView(application._with_default_errors(ERRORS))
    view: _View = service_view
    for decorator in reversed(tuple(decorators)):
        view = decorator(view)
    service_view.non_atomic = frozenset(getattr(view, "_non_atomic_requests", ()))
    # Django's own transaction would be around calls of every kind, and committed whatever the response says.
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    # With or without a slash behind the service's name, so that APPEND_SLASH finds nothing to mend.
    name = re.escape(application.path.removeprefix("/"))
    return re_path(rf"^({name}(?:/(?s:.*))?)\Z", csrf_exempt(view))


def current_request() -> HttpRequest:
    """Return Django's request that the running call came in.

    Handlers and interceptors may ask at any time of the call, also in a stream whose view has returned, and
    in its ``finally``. A thread that a handler starts has to be handed the request.

    Raises:
        RuntimeError: No call is running here that came in by `connect_path`.
    """
    request = _request.get(None)
    if request is None:
        raise RuntimeError(
            "there is no request of Django here: the call did not come in by a pattern of connect_path, "
            "or this is another thread than the handler's"
        )
    return request


class _ServiceView:
    """A view that answers by an application of WSGI."""

    def __init__(self, application: ConnectWSGIApplication[Any]) -> None:
        self._application = application
        self._kinds = {method.path: method.kind for method in application.methods.values()}
        self.non_atomic: frozenset[str] = frozenset()
        """The databases whose ``ATOMIC_REQUESTS`` does not hold here."""

    def __call__(self, request: HttpRequest, *captured: str, **_: object) -> HttpResponseBase:
        """Answer ``request``; the last of what its URL captured is the path from the service on."""
        if not isinstance(request, WSGIRequest):
            raise ImproperlyConfigured(
                f"{self._application.path} is served by WSGI alone: serve the site by get_wsgi_application()"
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
                # The response is there, and no exception will tell Django.
                for alias in databases:
                    transaction.set_rollback(True, using=alias)
        return _response(request, start, body)

    def _databases(self, path: str) -> list[str]:
        """Return the databases with ``ATOMIC_REQUESTS`` that it holds for in a call of ``path``."""
        if self._kinds.get(path, StreamKind.SERVER_STREAM) is StreamKind.SERVER_STREAM:
            return []
        return [
            alias
            for alias, settings in connections.settings.items()
            if settings["ATOMIC_REQUESTS"] and alias not in self.non_atomic
        ]


class _Start:
    """The ``start_response`` of a call, which keeps what it is told."""

    status = ""
    headers: Iterable[tuple[str, str]] = ()

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        self.status = status
        self.headers = headers
        return _refuse_write


def _refuse_write(data: bytes, /) -> None:
    raise NotImplementedError("the body of the response is what the application returns")


def _with_request(request: HttpRequest, function: Callable[..., Any], /, *arguments: Any) -> Any:
    """Return what ``function`` returns for ``arguments``, with ``request`` for `current_request`."""
    token = _request.set(request)
    try:
        return function(*arguments)
    finally:
        _request.reset(token)


class _RepeatedHeaders(HttpResponseBase):
    """A response of Django in which a header may come several times, as metadata does."""

    repeated: tuple[tuple[str, str], ...] = ()
    """What comes on top of ``headers``, which has one value for each name."""

    def items(self) -> Any:
        """Return all headers: the server gets what is returned here."""
        headers = [*super().items(), *self.repeated]
        if self.status_code == HTTPStatus.NOT_MODIFIED:
            # Django's CommonMiddleware says that it is 0, which is not the length of what has not changed
            # (RFC 9110, section 8.6).
            return [(name, value) for name, value in headers if name.lower() != "content-length"]
        return headers


class _WholeResponse(_RepeatedHeaders, HttpResponse):
    """A response that is there when the view returns."""


class _StreamResponse(_RepeatedHeaders, StreamingHttpResponse):
    """A response that is made while it is sent."""


def _environ(request: WSGIRequest, path: str) -> WSGIEnvironment:
    """Return the environ of ``request`` as an application gets it that is mounted where ``path`` begins."""
    prefix = request.path_info.removesuffix(path)
    environ = copy_environ(
        request.environ,
        SCRIPT_NAME=_as_wsgi(request.META["SCRIPT_NAME"] + prefix),
        PATH_INFO=_as_wsgi(path),
    )
    # Of a body without a length, Django reads nothing, whoever asks.
    if environ.get("CONTENT_LENGTH") and request._read_started:  # type: ignore[attr-defined]
        environ["wsgi.input"] = BytesIO(request.body)
    return environ


def _as_wsgi(path: str) -> str:
    """Return a path, which Django has decoded, as an environ has it (PEP 3333, "Unicode Issues")."""
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
        # Middleware that compresses goes by this one. It would hold messages back, which are compressed as
        # the protocol says in any case.
        request.META.pop("HTTP_ACCEPT_ENCODING", None)
    response.repeated = tuple(repeated)
    return response


def _close_with(request: HttpRequest, chunks: ClosingIterator[bytes]) -> None:
    """Let Django close ``chunks`` when it is done with ``request``.

    It closes the request with whatever response it has sent. That need not be the one of these chunks:
    a middleware may answer with another one, or fail.
    """
    close_request = request.close

    def close() -> None:
        try:
            chunks.close()
        finally:
            close_request()

    request.close = close  # type: ignore[method-assign]
