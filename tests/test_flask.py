"""Services as views of a Flask site, called by Flask's test client.

What is about sockets, live messages among it, is in `integration/test_flask.py`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, ClassVar

import flask_login  # type: ignore[import-untyped]
import pytest
from echo.v1.echo_connect import EchoService, EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    has_request_context,
    make_response,
    redirect,
    request,
    session,
    url_for,
)
from flask.testing import FlaskClient
from flask_cors import CORS
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import (
    HTTPException,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    default_exceptions,
)
from werkzeug.routing import RequestRedirect
from werkzeug.test import TestResponse

from connect_sync import Code, ConnectError, ErrorMapping, Method, RequestContext
from connect_sync.headers import decode_base64
from tests.support import END, UNARY, WEB_END, ask, envelope, split_envelopes
from wsgi_adapters import ConnectWSGIApplication
from wsgi_adapters.cors import ALLOW_HEADERS, ALLOW_METHODS, EXPOSE_HEADERS
from wsgi_adapters.flask import ERRORS, register_service

PATH = "/echo.v1.EchoService"
PROTO = "application/proto"
STREAM = "application/connect+proto"


class Echo(EchoService):
    """Answers by what the test has it do, and keeps what happens."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        self._events.append("handler")
        if message.error == "bug":
            raise RuntimeError("the secret of the handler")
        if message.error:
            raise ConnectError(Code(message.error), "as asked")
        return EchoResponse(payload=message.payload)

    def echo_safely(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        return self.echo(message, ctx)

    def collect(self, messages: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        return EchoResponse(payload=b"".join(message.payload for message in messages))

    def repeat(self, message: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        try:
            for number in range(message.times):
                self._events.append(f"step {number} at {request.path}")
                yield EchoResponse(payload=message.payload)
        finally:
            self._events.append(f"cleanup at {request.path}")


class Site:
    """A Flask site with the service on it, and what has happened on it."""

    def __init__(
        self,
        handlers: EchoService | None = None,
        *,
        interceptors: tuple[Any, ...] = (),
        errors: ErrorMapping | None = None,
    ) -> None:
        self.events: list[str] = []
        self.app = Flask("site", root_path=".")
        self.app.config.update(SECRET_KEY="secret", TESTING=True)
        self.application = EchoServiceWSGIApplication(
            handlers or Echo(self.events), interceptors=interceptors, errors=errors
        )

    def register(self) -> Site:
        register_service(self.app, self.application)
        return self

    def client(self) -> FlaskClient:
        return self.app.test_client()

    def call(self, message: EchoRequest | None = None, *, prefix: str = "", **options: Any) -> TestResponse:
        data = (message or EchoRequest()).SerializeToString()
        return self.client().post(f"{prefix}{PATH}/Echo", data=data, content_type=PROTO, **options)

    def stream(self, times: int, **options: Any) -> TestResponse:
        """Call the method that gives a stream; the response is still to be read, or to be closed."""
        data = envelope(EchoRequest(payload=b"x", times=times).SerializeToString())
        return self.client().post(f"{PATH}/Repeat", data=data, content_type=STREAM, **options)


@pytest.fixture
def site() -> Site:
    return Site()


# Calls


def test_unary_call(site: Site) -> None:
    response = site.register().call(EchoRequest(payload=b"hello"))

    assert response.status == "200 OK"
    assert EchoResponse.FromString(response.data).payload == b"hello"
    assert response.content_length == len(response.data)


def test_unary_call_by_get(site: Site) -> None:
    query = {"connect": "v1", "encoding": "json", "message": '{"payload": "aGk="}'}
    response = site.register().client().get(f"{PATH}/EchoSafely", query_string=query)

    assert (response.status_code, response.get_json()) == (200, {"payload": "aGk="})


def test_client_stream(site: Site) -> None:
    data = b"".join(envelope(EchoRequest(payload=part).SerializeToString()) for part in (b"a", b"b", b"c"))
    response = site.register().client().post(f"{PATH}/Collect", data=data, content_type=STREAM)

    assert split_envelopes(response.data) == [
        (0, EchoResponse(payload=b"abc").SerializeToString()),
        (END, b"{}"),
    ]


def test_server_stream(site: Site) -> None:
    response = site.register().stream(2)
    message = EchoResponse(payload=b"x").SerializeToString()

    assert split_envelopes(response.data) == [(0, message), (0, message), (END, b"{}")]
    assert response.content_length is None


@pytest.mark.parametrize("method", ["Echo", "Repeat"])
def test_grpc_web_call(site: Site, method: str) -> None:
    data = envelope(EchoRequest(payload=b"x", times=1).SerializeToString())
    response = (
        site.register()
        .client()
        .post(f"{PATH}/{method}", data=data, content_type="application/grpc-web+proto")
    )

    assert split_envelopes(response.data) == [
        (0, EchoResponse(payload=b"x").SerializeToString()),
        (WEB_END, b"grpc-status: 0\r\n"),
    ]


@pytest.mark.parametrize("method", ["Echo", "Repeat"])
def test_trailers_of_a_grpc_call_are_the_servers_when_its_body_has_ended(site: Site, method: str) -> None:
    trailers: list[tuple[str, str]] = []
    response = (
        site.register()
        .client()
        .post(
            f"{PATH}/{method}",
            data=envelope(EchoRequest(payload=b"x", times=1).SerializeToString()),
            content_type="application/grpc",
            environ_overrides={"gunicorn.http2.send_trailers": trailers.extend},
        )
    )

    assert not trailers
    assert split_envelopes(response.data) == [(0, EchoResponse(payload=b"x").SerializeToString())]
    assert ("grpc-status", "0") in trailers


def test_bidirectional_method_is_refused_by_the_service(site: Site) -> None:
    response = site.register().client().post(f"{PATH}/Converse", data=b"", content_type=STREAM)

    ((flags, end),) = split_envelopes(response.data)
    assert flags == END
    assert b'"unimplemented"' in end


def test_body_may_be_larger_than_what_the_site_lets_forms_have(site: Site) -> None:
    site.app.config["MAX_CONTENT_LENGTH"] = 10
    response = site.register().call(EchoRequest(payload=bytes(1000)))

    assert EchoResponse.FromString(response.data).payload == bytes(1000)


def test_body_that_a_hook_has_read_is_there_for_the_handler(site: Site) -> None:
    site.app.before_request(lambda: site.events.append(repr(request.get_data())))
    response = site.register().call(EchoRequest(payload=b"hi"))

    assert site.events[0] == repr(EchoRequest(payload=b"hi").SerializeToString())
    assert EchoResponse.FromString(response.data).payload == b"hi"


# Routes


def test_each_method_is_a_rule_with_an_endpoint_of_its_own(site: Site) -> None:
    site.register()

    rules = {
        rule.rule: (rule.endpoint, rule.methods)
        for rule in site.app.url_map.iter_rules()
        if rule.rule.startswith(PATH) and "<" not in rule.rule
    }
    assert rules == {
        f"{PATH}/{name}": (f"echo_v1_EchoService_{name}", methods)
        for name, methods in {
            "Echo": {"POST", "OPTIONS"},
            "EchoSafely": {"GET", "HEAD", "POST", "OPTIONS"},
            "Collect": {"POST", "OPTIONS"},
            "Repeat": {"POST", "OPTIONS"},
            "Converse": {"POST", "OPTIONS"},
        }.items()
    }


def test_view_has_the_name_of_its_endpoint(site: Site) -> None:
    views = site.register().app.view_functions

    assert views["echo_v1_EchoService_Echo"].__name__ == "echo_v1_EchoService_Echo"


@pytest.mark.parametrize(
    ("http_method", "path", "status", "allow"),
    [
        ("POST", "/Nothing", 404, set()),
        ("GET", "/Nothing", 404, set()),
        ("OPTIONS", "/Nothing", 404, set()),
        ("POST", "/Echo/", 404, set()),
        ("POST", "/Echo/more", 404, set()),
        ("GET", "/Echo", 405, {"POST"}),
        ("HEAD", "/Echo", 405, {"POST"}),
        ("DELETE", "/Echo", 405, {"POST"}),
        ("HEAD", "/EchoSafely", 405, {"GET", "POST"}),
        ("PUT", "/EchoSafely", 405, {"GET", "POST"}),
    ],
)
def test_what_is_no_call_is_answered_by_the_service(
    site: Site, http_method: str, path: str, status: int, allow: set[str]
) -> None:
    response = site.register().client().open(f"{PATH}{path}", method=http_method)

    assert (response.status_code, response.mimetype) == (status, "text/plain")
    assert set(response.allow) == allow


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_path_in_an_answer_begins_with_the_service(site: Site, prefix: str) -> None:
    blueprint = Blueprint("api", __name__, url_prefix="/api")
    register_service(blueprint, site.application)
    site.app.register_blueprint(blueprint)
    response = site.register().client().post(f"{prefix}{PATH}/Nothing")

    assert response.text == f"unknown method {PATH}/Nothing\n"


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", f"{PATH}//Echo"])
def test_nothing_is_redirected(site: Site, path: str) -> None:
    assert site.register().client().post(path, content_type=PROTO).status_code == 404


@pytest.mark.parametrize(("method", "allow"), [("Echo", {"POST"}), ("EchoSafely", {"GET", "POST"})])
def test_options_are_answered_as_flask_does(site: Site, method: str, allow: set[str]) -> None:
    response = site.register().client().options(f"{PATH}/{method}")

    assert (response.status_code, response.data) == (200, b"")
    assert set(response.allow) == {*allow, "OPTIONS"}


def test_options_are_not_answered_on_a_site_that_wants_none(site: Site) -> None:
    site.app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    response = site.register().client().options(f"{PATH}/Echo")

    assert (response.status_code, set(response.allow)) == (405, {"POST"})


@pytest.mark.parametrize("where", ["", "/deeper"])
def test_service_is_below_the_prefix_of_its_blueprint(site: Site, where: str) -> None:
    blueprint = Blueprint("api", __name__, url_prefix="/api")
    register_service(blueprint, site.application)
    if where:
        outer = Blueprint("outer", __name__, url_prefix=where)
        outer.register_blueprint(blueprint)
        site.app.register_blueprint(outer)
    else:
        site.app.register_blueprint(blueprint)

    assert site.call(prefix=f"{where}/api").status_code == 200
    assert site.call().status_code == 404


def test_prefix_may_have_variables() -> None:
    class Tenants(EchoService):
        def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
            assert request.view_args is not None
            return EchoResponse(payload=request.view_args["tenant"].encode())

    site = Site(Tenants())
    blueprint = Blueprint("api", __name__, url_prefix="/tenants/<tenant>")
    register_service(blueprint, site.application)
    site.app.register_blueprint(blueprint)

    # In the environ the last letter is two characters.
    response = site.call(prefix="/tenants/caf%C3%A9")
    assert EchoResponse.FromString(response.data).payload == "café".encode()


def test_service_is_served_twice_by_a_blueprint_of_two_names(site: Site) -> None:
    blueprint = Blueprint("v1", __name__, url_prefix="/v1")
    register_service(blueprint, site.application)
    site.app.register_blueprint(blueprint)
    site.app.register_blueprint(blueprint, name="latest", url_prefix="/latest")

    assert [site.call(prefix=prefix).status_code for prefix in ("/v1", "/latest")] == [200, 200]
    with site.app.test_request_context():
        assert url_for("v1.echo_v1_EchoService_Echo") == f"/v1{PATH}/Echo"
        assert url_for("latest.echo_v1_EchoService_Echo") == f"/latest{PATH}/Echo"


class UnitApplication(ConnectWSGIApplication[object]):
    path = "/unit.v1.UnitService"
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {"unary": UNARY}


class Unit:
    def unary(self, message: Any, ctx: RequestContext) -> Any:
        return message


def test_several_services_on_one_site(site: Site) -> None:
    register_service(site.app, UnitApplication(Unit()))
    client = site.register().client()

    assert client.post("/unit.v1.UnitService/Unary", data=b"", content_type=PROTO).status_code == 200
    assert site.call().status_code == 200


def test_service_that_a_site_has_already_is_refused(site: Site) -> None:
    site.register()
    with pytest.raises(AssertionError, match="echo_v1_EchoService_Echo"):
        register_service(site.app, site.application)


@pytest.mark.parametrize("other", [Echo([]), EchoServiceWSGIApplication], ids=["a service", "a class"])
def test_what_is_no_application_is_refused(site: Site, other: Any) -> None:
    with pytest.raises(TypeError, match="must be an instance of ConnectWSGIApplication"):
        register_service(site.app, other)


def test_without_flask_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask", None)
    monkeypatch.delitem(sys.modules, "wsgi_adapters.flask")
    with pytest.raises(ImportError, match=r"pip install 'connect-sync\[flask\]'"):
        importlib.import_module("wsgi_adapters.flask")


# Hooks


def watch_hooks(site: Site) -> None:
    """Have the site's hooks keep that they were called."""

    @site.app.before_request
    def before() -> None:
        site.events.append("before")

    @site.app.after_request
    def after(response: Response) -> Response:
        site.events.append(f"after {response.status_code}")
        return response

    @site.app.teardown_request
    def teardown(error: BaseException | None) -> None:
        site.events.append(f"teardown {error!r}")

    @site.app.teardown_appcontext
    def teardown_application(error: BaseException | None) -> None:
        site.events.append("end")


def test_hooks_are_around_a_unary_call(site: Site) -> None:
    watch_hooks(site)
    site.register().call()

    assert site.events == ["before", "handler", "after 200", "teardown None", "end"]


def test_hooks_are_around_a_call_that_fails(site: Site) -> None:
    watch_hooks(site)
    response = site.register().call(EchoRequest(error="not_found"))

    assert site.events == ["before", "handler", "after 404", "teardown None", "end"]
    assert response.get_json() == {"code": "not_found", "message": "as asked"}


def test_hooks_are_around_every_step_of_a_stream(site: Site) -> None:
    watch_hooks(site)
    response = site.register().stream(2)
    response.get_data()

    assert site.events == [
        "before",
        f"step 0 at {PATH}/Repeat",
        "after 200",
        f"step 1 at {PATH}/Repeat",
        f"cleanup at {PATH}/Repeat",
        "teardown None",
        "end",
    ]
    assert not has_request_context()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_stream_that_is_closed_early_ends_before_its_request_does(site: Site, steps: int) -> None:
    watch_hooks(site)
    response = site.register().stream(5)
    chunks = response.iter_encoded()
    for _ in range(steps):
        next(chunks)
    del site.events[:]
    response.close()

    assert site.events == [f"cleanup at {PATH}/Repeat", "teardown GeneratorExit()", "end"]
    assert not has_request_context()


def test_hooks_of_a_blueprint_are_around_its_services_alone(site: Site) -> None:
    blueprint = Blueprint("api", __name__, url_prefix="/api")
    register_service(blueprint, site.application)
    blueprint.before_request(lambda: site.events.append("before"))
    blueprint.teardown_request(lambda error: site.events.append("teardown"))
    site.app.register_blueprint(blueprint)
    site.register()

    site.call(prefix="/api")
    site.call()
    assert site.events == ["before", "handler", "teardown", "handler"]


def test_hook_adds_headers_and_cookies(site: Site) -> None:
    @site.app.after_request
    def after(response: Response) -> Response:
        response.headers["site"] = "mine"
        response.set_cookie("seen", "1")
        return response

    site.register()
    for response in site.call(), site.stream(1):
        assert response.headers["site"] == "mine"
        assert "seen=1" in response.headers["set-cookie"]
        response.close()


def test_hook_answers_instead_of_the_handler(site: Site) -> None:
    @site.app.before_request
    def refuse() -> None:
        abort(401)

    @site.app.errorhandler(401)
    def explain(error: HTTPException) -> tuple[str, int]:
        return "log in first", 401

    response = site.register().call()
    assert (response.status_code, response.text, site.events) == (401, "log in first", [])


@pytest.mark.parametrize("error", ["bug", "unavailable"])
def test_errors_of_handlers_are_none_of_the_sites(site: Site, error: str) -> None:
    @site.app.errorhandler(Exception)
    def explain(error: Exception) -> str:
        pytest.fail("the error has left the service")

    response = site.register().call(EchoRequest(error=error))
    assert response.get_json()["code"] == {"bug": "internal"}.get(error, error)
    assert "secret" not in response.text


def test_hook_reads_a_unary_response(site: Site) -> None:
    @site.app.after_request
    def after(response: Response) -> Response:
        site.events.append(repr(response.get_data()))
        return response

    response = site.register().call(EchoRequest(payload=bytes(100_000)))
    assert site.events[1] == repr(response.data)


def test_hook_learns_that_a_call_has_failed(site: Site) -> None:
    @site.app.after_request
    def after(response: Response) -> Response:
        site.events.append(str(request.environ.get("connect_sync.error")))
        return response

    site.register().call(EchoRequest(error="not_found"))
    site.call()
    assert site.events == ["handler", "not_found: as asked", "handler", "None"]


def test_hook_that_reads_a_stream_fails_before_it_waits_for_all_of_it(site: Site) -> None:
    watch_hooks(site)
    site.app.testing = False

    @site.app.after_request
    def after(response: Response) -> Response:
        if response.status_code == 200:
            response.get_data()
        return response

    response = site.register().stream(1000)
    assert response.status_code == 500
    begin, step, after_error, cleanup, teardown, end = site.events
    assert (begin, step, after_error) == ("before", f"step 0 at {PATH}/Repeat", "after 500")
    assert (cleanup, end) == (f"cleanup at {PATH}/Repeat", "end")
    assert teardown.startswith("teardown RuntimeError")


def test_stream_is_closed_where_a_hook_fails(site: Site) -> None:
    watch_hooks(site)

    @site.app.after_request
    def after(response: Response) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        site.register().stream(5)
    assert site.events == [
        "before",
        f"step 0 at {PATH}/Repeat",
        f"cleanup at {PATH}/Repeat",
        "teardown ZeroDivisionError()",
        "end",
    ]
    assert not has_request_context()


def test_stream_is_closed_where_a_hook_answers_something_else(site: Site) -> None:
    watch_hooks(site)
    site.app.after_request(lambda response: Response("something else"))
    response = site.register().stream(5)

    assert response.text == "something else"
    assert f"cleanup at {PATH}/Repeat" in site.events
    assert site.events[-2:] == ["teardown None", "end"]


def test_hook_wraps_a_stream(site: Site) -> None:
    @site.app.after_request
    def after(response: Response) -> Response:
        chunks: Any = response.response

        def wrapped() -> Iterator[bytes]:
            for chunk in chunks:  # which does not close them
                site.events.append("chunk")
                yield chunk

        response.response = wrapped()
        return response

    response = site.register().stream(5)
    next(response.iter_encoded())
    response.close()
    assert site.events == [f"step 0 at {PATH}/Repeat", "chunk", f"cleanup at {PATH}/Repeat"]


def test_response_has_the_class_of_the_sites(site: Site) -> None:
    class SiteResponse(Response):
        pass

    @site.app.after_request
    def after(response: Response) -> Response:
        site.events.append(str(isinstance(response, SiteResponse)))
        return response

    site.app.response_class = SiteResponse
    site.register().call()
    assert site.events == ["handler", "True"]


def test_functions_to_call_on_close_are_called_when_a_stream_has_ended(site: Site) -> None:
    @site.app.after_request
    def after(response: Response) -> Response:
        response.call_on_close(lambda: site.events.append("closed"))
        return response

    site.register().stream(1).get_data()
    assert site.events == [f"step 0 at {PATH}/Repeat", f"cleanup at {PATH}/Repeat", "closed"]


# Exceptions of werkzeug

SECRET = "the secret of the handler"


class Aborting(EchoService):
    """Fails by what a function raises."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self._fail = fail

    def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        self._fail()
        raise AssertionError

    def collect(self, messages: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        for _ in messages:
            self._fail()
        raise AssertionError

    def repeat(self, message: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        for _ in range(message.times):
            yield EchoResponse()
        self._fail()


def failure(fail: Callable[[], object], errors: ErrorMapping | None = None) -> Any:
    """Return the error of a call whose handler fails, as JSON."""
    response = Site(Aborting(fail), errors=errors).register().call()
    assert SECRET not in response.text
    return response.get_json()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_argument"),
        (401, "unauthenticated"),
        (403, "permission_denied"),
        (404, "not_found"),
        (405, "unimplemented"),
        (406, "invalid_argument"),
        (408, "deadline_exceeded"),
        (409, "aborted"),
        (410, "not_found"),
        (413, "resource_exhausted"),
        (415, "invalid_argument"),
        (416, "out_of_range"),
        (422, "invalid_argument"),
        (429, "resource_exhausted"),
        *((status, "failed_precondition") for status in (411, 412, 414, 417, 418, 421, 423, 424, 428, 431)),
    ],
)
def test_abort_with_a_status_of_the_clients_tells_its_code_and_description(
    status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert failure(lambda: abort(status, description="as it is")) == {"code": code, "message": "as it is"}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (501, "unimplemented", "not implemented"),
        (502, "unavailable", "bad gateway"),
        (503, "unavailable", "service unavailable"),
        (504, "deadline_exceeded", "gateway timeout"),
    ],
)
def test_abort_with_a_status_of_the_servers_tells_no_description(
    status: int, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert failure(lambda: abort(status, description=SECRET)) == {"code": code, "message": message}
    assert caplog.records == []


class SoldOut(HTTPException):
    code = 409
    description = "sold out"


class ClosedRequest(HTTPException):
    code = 499


@pytest.mark.parametrize(
    ("fail", "code", "message"),
    [
        (lambda: abort(404), "not_found", "not found"),
        (lambda: abort(410), "not_found", "gone"),
        (lambda: MultiDict[str, str]()["name"], "invalid_argument", "bad request"),
        (lambda: abort(404, ""), "not_found", "not found"),
        (lambda: abort(404, "a < b\nand <b>"), "not_found", "a < b\nand <b>"),
        (lambda: abort(404, Markup("<p>a &lt; b</p>")), "not_found", "a < b"),
        (lambda: abort(make_response(SECRET, 403)), "permission_denied", "forbidden"),
        (lambda: raise_(NotFound(SECRET, make_response(SECRET, 410))), "not_found", "gone"),
        (lambda: raise_(SoldOut()), "aborted", "sold out"),
        (lambda: raise_(ClosedRequest()), "canceled", "canceled"),
    ],
    ids=[
        "no description",
        "no description, of a status that shares its code",
        "key that a form lacks",
        "empty description",
        "plain text",
        "markup",
        "response",
        "response beside a description",
        "description of a class",
        "status without a name",
    ],
)
def test_message_is_a_text_for_clients(fail: Callable[[], object], code: str, message: str) -> None:
    assert failure(fail) == {"code": code, "message": message}


def test_descriptions_of_werkzeug_itself_are_for_pages() -> None:
    """Compares with the defaults of the werkzeug that is installed."""
    for status, error_class in default_exceptions.items():
        if status < 500:
            assert failure(partial(abort, status))["message"] != error_class.description


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        RequestRedirect("/elsewhere"),
        HTTPException(SECRET),
        HTTPException(response=Response(SECRET, 200)),
        default_exceptions[500](SECRET),
        default_exceptions[505](SECRET),
        RuntimeError(SECRET),
    ],
    ids=["redirect", "no status", "success", "500", "505", "another exception"],
)
def test_what_no_code_stands_for_is_internal_and_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert failure(lambda: raise_(error)) == {"code": "internal", "message": "internal error"}
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_abort_with_a_redirect_is_internal() -> None:
    assert failure(lambda: abort(redirect("/login")))["code"] == "internal"


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOON = datetime(2040, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("error_class", [TooManyRequests, ServiceUnavailable])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(30, 30), (NOON, None), (NOON.replace(tzinfo=None), None), (NOON - timedelta(days=36_500), 0)],
    ids=["seconds", "time", "time of UTC", "time that has passed"],
)
def test_client_is_told_when_to_try_again(
    in_tokyo: None, error_class: Any, retry_after: int | datetime, seconds: int | None
) -> None:
    if seconds is None:
        seconds = round((NOON - datetime.now(timezone.utc)).total_seconds())
    answered = failure(lambda: raise_(error_class(retry_after=retry_after)))

    (detail,) = answered["details"]
    assert detail["type"] == "google.rpc.RetryInfo"
    delay = RetryInfo.FromString(decode_base64(detail["value"])).retry_delay
    assert delay.ToSeconds() == pytest.approx(seconds, abs=60)


def test_mapping_of_an_application_is_used_as_given() -> None:
    errors: ErrorMapping = {**ERRORS, LookupError: Code.OUT_OF_RANGE}

    assert failure(lambda: abort(404), {})["code"] == "internal"
    assert failure(lambda: abort(404), errors)["code"] == "not_found"
    assert failure(lambda: dict[str, str]()["key"], errors)["code"] == "out_of_range"
    # It is a KeyError, too, but first of all an exception of werkzeug.
    assert failure(lambda: MultiDict[str, str]()["key"], errors)["code"] == "invalid_argument"


def test_application_may_be_served_elsewhere_without_the_mapping() -> None:
    site = Site(Aborting(lambda: abort(404))).register()

    assert site.call().get_json()["code"] == "not_found"
    assert ask(site.application.service, EchoServiceWSGIApplication.methods["echo"]).code == "internal"


@pytest.mark.parametrize("times", [0, 2], ids=["before the first message", "after it"])
def test_stream_may_be_aborted(times: int) -> None:
    response = Site(Aborting(lambda: abort(403, "no more"))).register().stream(times)

    *messages, (flags, end) = split_envelopes(response.data)
    assert messages == [(0, b"")] * times
    assert flags == END
    assert json.loads(end) == {"error": {"code": "permission_denied", "message": "no more"}}


def test_hook_learns_which_exception_was_mapped() -> None:
    site = Site(Aborting(lambda: abort(404)))

    @site.app.after_request
    def after(response: Response) -> Response:
        error = request.environ["connect_sync.error"]
        site.events.append(f"{error.code.value} {type(error.__cause__).__name__}")
        return response

    site.register().call()
    assert site.events == ["not_found NotFound"]


# What handlers and interceptors know of the site


class Member(EchoService):
    """Answers with what Flask knows."""

    def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
        session["visits"] = session.get("visits", 0) + 1
        return EchoResponse(payload=self._describe())

    def collect(self, messages: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        return EchoResponse(payload=b"; ".join(self._describe() for _ in messages))

    def repeat(self, message: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        for _ in range(message.times):
            yield EchoResponse(payload=self._describe())

    def _describe(self) -> bytes:
        return f"{g.caller}, {current_app.name}, {session.get('visits')}, {request.endpoint}".encode()


class Caller:
    """An interceptor that reads the session."""

    def on_start(self, ctx: RequestContext) -> None:
        if "name" not in session:
            raise ConnectError(Code.UNAUTHENTICATED, "log in first")
        g.caller = session["name"].title()


@pytest.fixture
def member() -> FlaskClient:
    """Return a client with a session."""
    client = Site(Member(), interceptors=(Caller(),)).register().client()
    with client.session_transaction() as content:
        content["name"] = "jane"
    return client


def test_session_and_g_are_there_in_a_unary_call(member: FlaskClient) -> None:
    payloads = [
        EchoResponse.FromString(member.post(f"{PATH}/Echo", content_type=PROTO).data).payload
        for _ in range(2)
    ]
    assert payloads == [
        b"Jane, site, 1, echo_v1_EchoService_Echo",
        b"Jane, site, 2, echo_v1_EchoService_Echo",
    ]


@pytest.mark.parametrize(("method", "count"), [("Collect", 1), ("Repeat", 3)])
def test_session_and_g_are_there_in_streams(member: FlaskClient, method: str, count: int) -> None:
    data = envelope(EchoRequest(times=count).SerializeToString())
    response = member.post(f"{PATH}/{method}", data=data, content_type=STREAM)

    *messages, end = split_envelopes(response.data)
    payload = f"Jane, site, None, echo_v1_EchoService_{method}".encode()
    assert messages == [(0, EchoResponse(payload=payload).SerializeToString())] * count
    assert end == (END, b"{}")


def test_interceptor_refuses_who_has_no_session() -> None:
    response = Site(Member(), interceptors=(Caller(),)).register().call()

    assert response.status_code == 401
    assert response.get_json() == {"code": "unauthenticated", "message": "log in first"}


def test_flask_login_knows_the_user_in_every_step() -> None:
    class Users(EchoService):
        def echo(self, message: EchoRequest, ctx: RequestContext) -> EchoResponse:
            flask_login.login_user(User(message.payload.decode()))
            return EchoResponse()

        def repeat(self, message: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
            for _ in range(2):
                yield EchoResponse(payload=flask_login.current_user.get_id().encode())

    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.id = name

    site = Site(Users()).register()
    flask_login.LoginManager(site.app).user_loader(User)
    client = site.client()
    login = EchoRequest(payload=b"jane").SerializeToString()
    client.post(f"{PATH}/Echo", data=login, content_type=PROTO)
    data = envelope(EchoRequest().SerializeToString())
    response = client.post(f"{PATH}/Repeat", data=data, content_type=STREAM)

    message = EchoResponse(payload=b"jane").SerializeToString()
    assert split_envelopes(response.data) == [(0, message), (0, message), (END, b"{}")]


# Flask-CORS

PAGE = "https://example.com"


def test_flask_cors_lets_pages_call(site: Site) -> None:
    CORS(
        site.app,
        resources=rf"{PATH}/.*",
        origins=[PAGE],
        methods=list(ALLOW_METHODS),
        allow_headers=list(ALLOW_HEADERS),
        expose_headers=list(EXPOSE_HEADERS),
    )
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "connect-protocol-version, content-type",
    }
    preflight = site.register().client().options(f"{PATH}/Echo", headers=asked)
    call = site.call(headers={"Origin": PAGE})

    assert preflight.status_code == 200
    assert preflight.access_control_allow_origin == PAGE
    assert set(preflight.headers["access-control-allow-methods"].split(", ")) == set(ALLOW_METHODS)
    assert preflight.headers["access-control-allow-headers"] == "connect-protocol-version, content-type"
    assert call.status_code == 200
    assert call.access_control_allow_origin == PAGE
    assert set(call.headers["access-control-expose-headers"].split(", ")) == set(EXPOSE_HEADERS)


def test_flask_cors_tells_other_pages_nothing(site: Site) -> None:
    CORS(site.app, resources=rf"{PATH}/.*", origins=[PAGE])
    preflight = (
        site.register()
        .client()
        .options(
            f"{PATH}/Echo",
            headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"},
        )
    )

    assert preflight.access_control_allow_origin is None
