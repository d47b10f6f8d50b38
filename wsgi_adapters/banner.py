"""What `connect-sync serve` says when it has started: which services there are, and how to call them."""

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
"""Up to which size an example is shown as a GET, too: its URL is three times as long at worst."""


_NONE_FOUND = """\
No services are found in it. Within middleware that is not known here, they are served all the same.
A function that makes the application is named with (): module:name()
"""


class MountedService(NamedTuple):
    """A service, and where it is."""

    path: str
    """The path that the server has it at: ``/greet.v1.GreetService``, below all prefixes."""
    application: ConnectWSGIApplication[Any]
    """Its application."""


def find_services(application: WSGIApplication, prefix: str = "") -> Iterator[MountedService]:
    """Yield the services that an application serves below ``prefix``.

    It finds them within `Router`, `Healthz`, `CORSMiddleware`, werkzeug's `DispatcherMiddleware` and Flask,
    to any depth. What else an application is made of cannot be known.
    """
    flask: Any = sys.modules.get("flask")
    if isinstance(application, ConnectWSGIApplication):
        # At its own path it may be mounted, too: see ConnectWSGIApplication.
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
        # Where Flask's documentation has middleware put.
        yield from find_services(site.wsgi_app, prefix)


def _find_fallback(fallback: WSGIApplication | None, prefix: str) -> Iterator[MountedService]:
    if fallback is not None:
        yield from find_services(fallback, prefix)


def _find_views(site: Any, prefix: str) -> Iterator[MountedService]:
    """Yield the services that `wsgi_adapters.flask.register_service` has made views of."""
    for rule in site.url_map.iter_rules():
        view = site.view_functions.get(rule.endpoint)
        application = getattr(view, "connect_application", None)
        if application is not None:
            path, _, _ = rule.rule.rpartition("/")
            yield MountedService(prefix + path, application)


def describe(application: WSGIApplication, url: str) -> str:
    """Return the services of an application, their methods, and a curl line for each unary one, as text.

    Where none are found, it says so.

    Args:
        application: What is served.
        url: Where, without a slash at its end: ``http://localhost:8000``.
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
        return f"{kind}: refused, since WSGI has no such streams"
    return f"{kind}, without side effects" if _is_safe(method) else kind


def _is_safe(method: Method[Any, Any]) -> bool:
    return method.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS


def _commands(method: Method[Any, Any], url: str) -> Iterator[str]:
    """Yield calls of a unary method, each a line for a POSIX shell."""
    example = example_json(method.input)
    yield shlex.join(["curl", "--header", "Content-Type: application/json", "--data", example, url])
    if _is_safe(method) and len(example) <= _GET_MAX_CHARACTERS:
        query = ["--data", "encoding=json", "--data-urlencode", f"message={example}"]
        yield shlex.join(["curl", "--get", *query, url])
