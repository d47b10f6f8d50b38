"""What the banner of `connect-sync serve` says of an application, and where in it services are found."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flask
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.api_pb2 import Api
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from connect_sync import IdempotencyLevel, Method, StreamKind
from connect_sync.codec import JSON
from connect_sync.health import Health
from tests.support import BIDI, CLIENT_STREAM, READ, SERVER_STREAM, SERVICE, UNARY, TextMethod, decode
from wsgi_adapters import ConnectWSGIApplication, CORSMiddleware
from wsgi_adapters.banner import describe, find_services
from wsgi_adapters.flask import register_service
from wsgi_adapters.health import Healthz
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

URL = "http://localhost:8000"
HOME = f"{URL}/{SERVICE}"


def application_of(*methods: Method[Any, Any], service: str = SERVICE) -> ConnectWSGIApplication[Any]:
    """Return an application whose service has these methods, and handlers that are not called."""
    table = {method.name: method for method in methods}

    class Application(ConnectWSGIApplication[Any]):
        path = f"/{service}"
        methods = table

    return Application(SimpleNamespace(**dict.fromkeys(table, lambda request, ctx: request)))


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as what is no service does."""
    start_response("404 Not Found", [])
    return ()


# Methods


def test_method_of_each_kind() -> None:
    application = application_of(UNARY, READ, CLIENT_STREAM, SERVER_STREAM, BIDI)

    assert (
        describe(application, URL)
        == f"""
{SERVICE} at {HOME}
  Unary    unary
    curl --header 'Content-Type: application/json' --data '"string"' {HOME}/Unary
  Read     unary, without side effects
    curl --header 'Content-Type: application/json' --data '"string"' {HOME}/Read
    curl --get --data encoding=json --data-urlencode 'message="string"' {HOME}/Read
  Collect  client streaming
  Expand   server streaming
  Chat     bidirectional streaming: refused, since WSGI does not support it
"""
    )


def test_method_that_is_idempotent_is_no_get() -> None:
    method: TextMethod = Method(
        SERVICE, "Set", StringValue, StringValue, idempotency=IdempotencyLevel.IDEMPOTENT
    )

    assert len(list(commands(describe(application_of(method), URL)))) == 1


def test_streaming_method_without_side_effects_is_no_get() -> None:
    method: TextMethod = Method(
        SERVICE,
        "Expand",
        StringValue,
        StringValue,
        StreamKind.SERVER_STREAM,
        IdempotencyLevel.NO_SIDE_EFFECTS,
    )

    assert "server streaming, without side effects\n" in describe(application_of(method), URL)
    assert not list(commands(describe(application_of(method), URL)))


def test_service_without_methods() -> None:
    assert describe(application_of(), URL) == f"\n{SERVICE} at {HOME}\n"


def test_application_in_which_no_service_is_found() -> None:
    text = describe(site, URL)

    assert text.startswith("\nNo services found.")
    assert "made by a function, add ()" in text


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a banner as a shell parts them."""
    for line in text.splitlines():
        if line.lstrip().startswith("curl "):
            yield shlex.split(line)


@pytest.mark.parametrize("message_class", [AnyMessage, Api, Empty, StringValue, Struct, Timestamp])
def test_data_of_a_command_is_a_message(message_class: Any) -> None:
    method: Method[Any, Any] = Method(SERVICE, "Unary", message_class, message_class)
    ((*_, option, data, url),) = commands(describe(application_of(method), URL))

    assert (option, url) == ("--data", f"{HOME}/Unary")
    decode(JSON, data.encode(), message_class)


def test_long_message_is_shown_as_post_only() -> None:
    method: Method[Any, Any] = Method(SERVICE, "Read", Api, Api, idempotency=READ.idempotency)
    ((_, *options, data, url),) = commands(describe(application_of(method), URL))

    assert options == ["--header", "Content-Type: application/json", "--data"]
    assert json.loads(data)["methods"]
    assert url == f"{HOME}/Read"


def test_url_is_one_word_for_the_shell() -> None:
    mounted: Any = DispatcherMiddleware(site, {"/a b'c": application_of(UNARY)})
    ((*_, url),) = commands(describe(mounted, "http://[::1]:8000"))

    assert url == f"http://[::1]:8000/a%20b%27c/{SERVICE}/Unary"


# Where services are found


def found(application: Any) -> list[tuple[str, object]]:
    return [(service.path, service.application) for service in find_services(application)]


def test_service_itself_is_found() -> None:
    service = application_of(UNARY)

    assert found(service) == [(f"/{SERVICE}", service)]


def test_services_behind_a_router_are_found() -> None:
    one, other, third = application_of(), application_of(service="b.B"), application_of(service="c.C")

    assert found(Router([one, other])) == [(f"/{SERVICE}", one), ("/b.B", other)]
    assert found(Router([one], fallback=site)) == [(f"/{SERVICE}", one)]
    assert found(Router([one], prefix="api/v1", fallback=Router([other], fallback=third))) == [
        (f"/api/v1/{SERVICE}", one),
        ("/b.B", other),
        ("/c.C", third),
    ]


def test_service_behind_cors_is_found() -> None:
    service = application_of(UNARY)

    assert found(CORSMiddleware(Router([service]), allow_origins="*")) == [(f"/{SERVICE}", service)]


def test_services_behind_healthz_are_found() -> None:
    service = application_of(UNARY)

    assert found(Healthz(Health(), fallback=service)) == [(f"/{SERVICE}", service)]
    assert found(Healthz(Health())) == []


def test_mounted_services_are_found() -> None:
    one, other, third = application_of(), application_of(service="b.B"), application_of(service="c.C")
    mounts: Any = {one.path: one, "/api": other, "/deep": DispatcherMiddleware(site, {"/c": third})}

    assert found(DispatcherMiddleware(application_of(service="d.D"), mounts))[:3] == [
        (f"/{SERVICE}", one),
        ("/api/b.B", other),
        ("/deep/c/c.C", third),
    ]
    assert [path for path, _ in found(DispatcherMiddleware(third, mounts))][3:] == ["/c.C"]


def test_service_at_its_own_path_is_not_named_twice() -> None:
    service = application_of(UNARY)
    ((*_, url),) = commands(describe(DispatcherMiddleware(site, {service.path: service}), URL))

    assert url == f"{HOME}/Unary"


def test_services_that_are_views_of_flask_are_found() -> None:
    one, other, third = application_of(UNARY), application_of(service="b.B"), application_of(service="c.C")
    flask_site = flask.Flask("site")
    blueprint = flask.Blueprint("api", "site", url_prefix="/api")
    register_service(flask_site, one)
    register_service(blueprint, other)
    flask_site.register_blueprint(blueprint)
    wsgi_app: Any = DispatcherMiddleware(flask_site.wsgi_app, {"/c": third})
    flask_site.wsgi_app = wsgi_app  # type: ignore[method-assign]

    assert found(DispatcherMiddleware(site, {"/site": flask_site})) == [
        (f"/site/{SERVICE}", one),
        ("/site/api/b.B", other),
        ("/site/c/c.C", third),
    ]
