"""The text that `connect-sync serve` prints at startup: the services, and how to call them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from werkzeug.middleware.dispatcher import DispatcherMiddleware

from connect_sync.method import IdempotencyLevel, Method, StreamKind
from wsgi_adapters.application import ConnectWSGIApplication
from wsgi_adapters.cors import CORSMiddleware
from wsgi_adapters.example import example_json
from wsgi_adapters.health import Healthz
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_GET_MAX_CHARACTERS = 200
"""The largest example also shown as a GET. Its URL can be up to three times as long."""


_NONE_FOUND = """\
No services found. Services inside middleware that connect-sync does not know are served all the same.
If the application is made by a function, add (): module:name()
"""


class MountedService(NamedTuple):
    """A service and its path."""

    path: str
    """The full path of the service on the server, including all prefixes."""
    application: ConnectWSGIApplication[Any]
    """Its application."""


def find_services(application: WSGIApplication, prefix: str = "") -> Iterator[MountedService]:
    """Yield the services that an application serves under ``prefix``.

    It finds them inside `Router`, `Healthz`, `CORSMiddleware`, werkzeug's `DispatcherMiddleware` and Flask,
    to any depth. It cannot look inside other applications.
    """
    flask: Any = sys.modules.get("flask")
    if isinstance(application, ConnectWSGIApplication):
        # It may be mounted at its own path: see ConnectWSGIApplication.
        path = prefix if prefix.endswith(application.path) else prefix + application.path
        yield MountedService(path, application)
    elif isinstance(application, Router):
        for routed in application.applications:
            yield from find_services(routed, prefix + application.prefix)
        yield from _find_fallback(application.fallback, prefix)
    elif isinstance(application, Healthz):
        yield from _find_fallback(application.fallback, prefix)
    elif isinstance(application, CORSMiddleware):
        yield from find_services(application.application, prefix)
    elif isinstance(application, DispatcherMiddleware):
        for path, mounted in application.mounts.items():
            yield from find_services(mounted, prefix + path)
        yield from find_services(application.app, prefix)
    elif flask is not None and isinstance(application, flask.Flask):
        site: Any = application
        yield from _find_views(site, prefix)
        # Where middleware goes according to Flask's documentation.
        yield from find_services(site.wsgi_app, prefix)


def _find_fallback(fallback: WSGIApplication | None, prefix: str) -> Iterator[MountedService]:
    if fallback is not None:
        yield from find_services(fallback, prefix)


def _find_views(site: Any, prefix: str) -> Iterator[MountedService]:
    """Yield the services registered with `wsgi_adapters.flask.register_service`."""
    for rule in site.url_map.iter_rules():
        view = site.view_functions.get(rule.endpoint)
        application = getattr(view, "connect_application", None)
        if application is not None:
            path, _, _ = rule.rule.rpartition("/")
            yield MountedService(prefix + path, application)


def describe(application: WSGIApplication, url: str) -> str:
    """Return the services of an application, their methods, and a curl line for each unary one, as text.

    If none are found, the text says so.

    Args:
        application: The application.
        url: Its URL, without a trailing slash: ``http://localhost:8000``.
    """
    described = "".join(f"\n{_describe_service(service, url)}" for service in find_services(application))
    return described or f"\n{_NONE_FOUND}"


def _describe_service(service: MountedService, url: str) -> str:
    service_url = url + quote(service.path)
    methods = service.application.methods.values()
    name = service.application.path.removeprefix("/")
    lines = [f"{name} at {service_url}"]
    width = max((len(method.name) for method in methods), default=0)
    for method in methods:
        lines.append(f"  {method.name:{width}}  {_kind(method)}")
        if method.kind is StreamKind.UNARY:
            lines += [f"    {command}" for command in _commands(method, f"{service_url}/{method.name}")]
    return "".join(f"{line}\n" for line in lines)


def _kind(method: Method[Any, Any]) -> str:
    kind = method.kind.value
    if method.kind is StreamKind.BIDI_STREAM:
        return f"{kind}: refused, since WSGI does not support it"
    return f"{kind}, without side effects" if _is_safe(method) else kind


def _is_safe(method: Method[Any, Any]) -> bool:
    return method.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS


def _commands(method: Method[Any, Any], url: str) -> Iterator[str]:
    """Yield calls of a unary method, each as a command line for a POSIX shell."""
    example = example_json(method.input)
    yield shlex.join(["curl", "--header", "Content-Type: application/json", "--data", example, url])
    if _is_safe(method) and len(example) <= _GET_MAX_CHARACTERS:
        query = ["--data", "encoding=json", "--data-urlencode", f"message={example}"]
        yield shlex.join(["curl", "--get", *query, url])
