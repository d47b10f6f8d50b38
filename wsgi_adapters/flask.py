"""Connect services as views of a Flask site: its hooks, session and login apply to every call.

Flask routes a request, opens its context and session and runs the site's hooks; the service does the rest. It
reads the request body directly from the WSGI server, so Flask does not parse, limit or buffer it.

A response without a length is a stream, whose handler runs while the response is sent. The request context
stays open that long. It ends, and the site's teardown functions run, after the last message or when the
client disconnects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from connect_sync.http import close_iterator
from connect_sync.method import IdempotencyLevel, StreamKind
from wsgi_adapters.application import ConnectWSGIApplication, copy_environ
from wsgi_adapters.servers import open_body

try:
    from flask import Blueprint, Flask, Response, current_app, request, stream_with_context
except ImportError as _error:
    raise ImportError("Flask 3 is not installed: pip install 'connect-sync[flask]'") from _error

from wsgi_adapters.flask_errors import ERRORS

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["ERRORS", "register_service"]

# RFC 9110, section 9.3, and RFC 5789, except CONNECT, which has no path.
_HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

_UNSENT = "connect_sync.unsent"
"""The environ key of the service's response body, until the server is responsible for closing it."""


def register_service(site: Flask | Blueprint, application: ConnectWSGIApplication[Any]) -> None:
    """Serve a service as views of ``site``, under its URL prefix.

    Each method is a URL rule, ``/pkg.Service/Method``, with an endpoint of its own, ``pkg_Service_Method``.
    The service answers other paths under its own, at the endpoint ``pkg_Service``. OPTIONS is answered as by
    Flask itself, respecting ``PROVIDE_AUTOMATIC_OPTIONS``; Flask-CORS needs this.

    Unless the application has ``errors`` of its own, exceptions are mapped by `ERRORS`.

    Args:
        site: A Flask application or a blueprint. To serve a service twice, use two blueprints, or one
            registered under two names.
        application: The service, an instance of its generated class. It may be registered on several sites.

    Raises:
        TypeError: ``application`` is not a ConnectWSGIApplication.
        AssertionError: ``site`` already has that service (for a blueprint, raised when it is registered), or
            is already in use.
    """
    if not isinstance(application, ConnectWSGIApplication):
        raise TypeError(f"application must be an instance of ConnectWSGIApplication, got {application!r}")
    served = application._with_default_errors(ERRORS)
    name = application.path[1:].replace(".", "_")
    for method in application.methods.values():
        is_safe = method.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS
        allowed = ("GET", "POST") if is_safe and method.kind is StreamKind.UNARY else ("POST",)
        view = _method_view(served, method.path, (*allowed, "OPTIONS"))
        _add_rule(site, method.path, f"{name}_{method.name}", view, (*allowed, "OPTIONS"))
    # Also gets requests with an HTTP method that the rule of a Connect method does not allow.
    view = _service_view(served)
    # `connect-sync serve` finds the services of a site by this attribute.
    view.connect_application = application  # type: ignore[attr-defined]
    _add_rule(site, f"{application.path}/<path:unknown_method>", name, view, _HTTP_METHODS)
    site.teardown_request(_close_unsent)


_View = Callable[..., Response]


def _add_rule(
    site: Flask | Blueprint, rule: str, endpoint: str, view: _View, http_methods: tuple[str, ...]
) -> None:
    view.__name__ = endpoint  # extensions identify views by it
    site.add_url_rule(rule, endpoint, view, methods=http_methods, merge_slashes=False)


def _method_view(application: ConnectWSGIApplication[Any], path: str, allowed: tuple[str, ...]) -> _View:
    def view(**_: object) -> Response:
        if request.method == "OPTIONS" and current_app.config.get("PROVIDE_AUTOMATIC_OPTIONS", True):
            response = current_app.response_class()
            response.allow.update(allowed)
            # The request may have a body, which nothing else reads.
            response.call_on_close(open_body(request.environ).close)
            return response
        return _answer(application, len(request.environ["PATH_INFO"]) - len(path))

    return view


def _service_view(application: ConnectWSGIApplication[Any]) -> _View:
    def view(**_: object) -> Response:
        return _answer(application, request.environ["PATH_INFO"].rindex(f"{application.path}/"))

    return view


def _answer(application: ConnectWSGIApplication[Any], prefix_length: int) -> Response:
    """Let the service answer the request. The first ``prefix_length`` characters of its path are a prefix."""
    environ = request.environ
    path = environ["PATH_INFO"]
    mounted = copy_environ(
        environ,
        SCRIPT_NAME=environ.get("SCRIPT_NAME", "") + path[:prefix_length],
        PATH_INFO=path[prefix_length:],
    )
    # A body that a hook has read with ``get_data`` or ``get_json`` is available from their cache.
    data: bytes | None = getattr(request, "_cached_data", None)
    # They read nothing of a body whose end is unknown.
    if data is not None and (environ.get("CONTENT_LENGTH") or environ.get("wsgi.input_terminated")):
        mounted |= {"wsgi.input": BytesIO(data), "CONTENT_LENGTH": str(len(data))}
    heads = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        heads.append((status, headers))
        return _write

    chunks = environ[_UNSENT] = application(mounted, start_response)
    ((status, headers),) = heads
    has_length = any(name == "content-length" for name, _ in headers)
    site_class: Any = current_app.response_class
    response = _response_class(site_class)(
        chunks,
        status,
        headers,
        # Makes a hook that asks for the whole of a stream fail, rather than possibly wait forever.
        direct_passthrough=not has_length,
    )
    # A hook may replace the chunks.
    response.call_on_close(partial(close_iterator, chunks))
    return response


def _write(data: bytes) -> object:
    raise NotImplementedError("write() is not supported: the service returns its body")


class _ServiceResponse(Response):
    """A response that tracks whether it is the one that is sent.

    Flask drops the response of a view if a hook fails or returns another one.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        chunks = super().__call__(environ, start_response)
        if self.direct_passthrough:
            stream = stream_with_context(self._stream(chunks))
            # The first step keeps the context, which Flask is about to end.
            next(stream)
            chunks = stream
        environ.pop(_UNSENT, None)
        return chunks

    def _stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield b""
            yield from chunks
        finally:
            self.close()


@cache
def _response_class(site_class: type[Response]) -> type[Response]:
    """Return the site's response class, extended by `_ServiceResponse`."""
    return type("ServiceResponse", (_ServiceResponse, site_class), {})


def _close_unsent(error: BaseException | None) -> None:
    """Close the service's response body if it was not sent."""
    close_iterator(request.environ.pop(_UNSENT, None))
