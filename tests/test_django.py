"""Services as URL patterns of a Django site, by Django's own test client.

The site is this module: its settings, its middleware and its URLs. Its database is in memory.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from http.cookies import SimpleCookie
from io import BytesIO
from typing import Any
from urllib.parse import quote

import django
import pytest
from django.conf import settings
from django.core.exceptions import (
    NON_FIELD_ERRORS,
    BadRequest,
    DisallowedHost,
    ImproperlyConfigured,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    ValidationError,
)
from django.core.signals import request_finished
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import RawPostDataException
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import clear_url_caches, include, path, re_path
from django.utils.translation import gettext_lazy
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from connect_sync import Code, ConnectError, ErrorMapping, Method, RequestContext
from connect_sync.headers import decode_base64
from connect_sync.interceptor import Interceptor
from tests.support import (
    BIDI,
    CLIENT_STREAM,
    END,
    READ,
    SERVER_STREAM,
    SERVICE,
    UNARY,
    WEB_END,
    Handler,
    ask,
    envelope,
    envelopes,
    proto,
    split_envelopes,
    text,
    trailer_lines,
)
from wsgi_adapters import ConnectWSGIApplication

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
)
django.setup()

from django.contrib.auth.decorators import login_not_required  # noqa: E402 - a site that is set up
from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, connections, transaction  # noqa: E402
from django.test import AsyncRequestFactory, Client, RequestFactory, override_settings  # noqa: E402
from django.views.decorators.cache import never_cache  # noqa: E402
from django.views.decorators.csrf import csrf_protect  # noqa: E402
from rest_framework import exceptions, serializers  # type: ignore[import-untyped]  # noqa: E402

from wsgi_adapters.django import ERRORS, connect_path, current_request  # noqa: E402

urlpatterns: list[Any] = []

PROTO = "application/proto"
STREAM = "application/connect+proto"
WEB = "application/grpc-web+proto"

SESSIONS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
COMMON = "django.middleware.common.CommonMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"

METHODS = {"unary": UNARY, "read": READ, "collect": CLIENT_STREAM, "expand": SERVER_STREAM, "chat": BIDI}


def application(
    *interceptors: Interceptor, errors: ErrorMapping | None = None, **handlers: Handler
) -> ConnectWSGIApplication[Any]:
    """Return the application of a service that has just these handlers."""
    chosen: dict[str, Method[Any, Any]] = {name: METHODS[name] for name in handlers}

    class Application(ConnectWSGIApplication[Any]):
        path = f"/{SERVICE}"
        methods = chosen

    service = type("Service", (), {name: staticmethod(handler) for name, handler in handlers.items()})
    return Application(service(), interceptors=interceptors, errors=errors)


def serve(*patterns: Any) -> None:
    """Make ``patterns`` the URLs of the site."""
    urlpatterns[:] = patterns
    clear_url_caches()


def serve_handlers(
    *interceptors: Interceptor, errors: ErrorMapping | None = None, **handlers: Handler
) -> None:
    serve(connect_path(application(*interceptors, errors=errors, **handlers)))


def post(
    method: Method[Any, Any], body: bytes, content_type: str, *, client: Client | None = None, **headers: str
) -> Any:
    """Return the response to a POST. Of a header's name, underscores stand for hyphens."""
    # Without a body, the test client leaves the content type out, unless it is told so.
    extra: Any = {"CONTENT_TYPE": content_type}
    return (client or Client()).generic("POST", method.path, body, content_type, headers=headers, **extra)


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield
    connections.close_all()


@pytest.fixture(autouse=True)
def clean_site(database: None) -> Iterator[None]:
    yield
    urlpatterns.clear()
    Group.objects.all().delete()
    User.objects.all().delete()


def with_middleware(*names: str) -> Any:
    return override_settings(MIDDLEWARE=names)


# Calls


def test_unary_call_is_answered() -> None:
    serve_handlers(unary=lambda request, ctx: text(request.value * 2))

    response = post(UNARY, proto("ab"), PROTO)

    assert (response.status_code, response.headers["content-type"]) == (200, PROTO)
    assert response.content == proto("abab")
    assert response.headers["content-length"] == str(len(proto("abab")))


def test_error_of_a_unary_call_is_answered() -> None:
    serve_handlers(unary=failing(Code.CANCELED))

    response = post(UNARY, b'""', "application/json")

    assert (response.status_code, response.reason_phrase) == (499, "Client Closed Request")
    assert response.json() == {"code": "canceled", "message": "as asked"}


def test_get_is_answered() -> None:
    serve_handlers(read=lambda request, ctx: request)

    response = Client().get(READ.path, {"encoding": "json", "message": '"ab"', "connect": "v1"})

    assert (response.status_code, response.json()) == (200, "ab")


@pytest.mark.parametrize("content_type", [STREAM, WEB])
def test_client_stream_is_answered(content_type: str) -> None:
    serve_handlers(collect=join)

    response = post(CLIENT_STREAM, envelopes("a", "b"), content_type)

    assert_outcome(response, content_type, ["a,b"])


@pytest.mark.parametrize("content_type", [STREAM, WEB])
def test_server_stream_is_answered(content_type: str) -> None:
    serve_handlers(expand=split)

    response = post(SERVER_STREAM, envelopes("a,b"), content_type)

    assert_outcome(response, content_type, ["a", "b"])


def test_grpc_is_refused_without_trailers() -> None:
    serve_handlers(unary=failing(Code.INTERNAL))

    response = post(UNARY, envelopes("a"), "application/grpc")

    assert response.status_code == 501


def test_bidirectional_call_is_refused() -> None:
    serve_handlers(chat=join, unary=failing(Code.INTERNAL))

    assert_outcome(post(BIDI, envelopes("a"), STREAM), STREAM, [], "unimplemented")


# Paths


@pytest.mark.parametrize("below", ["", "/", "/Nothing", "/Unary/", "/Unary/more", "/Größe", "/a\nb", "//"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_method_is_answered_as_by_the_service_alone(below: str, method: str) -> None:
    alone = application(unary=join)
    serve(connect_path(alone))
    url = quote(f"/{SERVICE}{below}")
    request = RequestFactory().generic(method, url)
    statuses: list[str] = []
    # Django has put the path, decoded, into the environ.
    environ = {**request.environ, "PATH_INFO": f"/{SERVICE}{below}".encode().decode("latin-1")}

    chunks: Any = alone(environ, lambda status, headers, exc_info=None: statuses.append(status))  # type: ignore[arg-type]
    with with_middleware(COMMON):
        response = Client().generic(method, url)

    assert f"{response.status_code} {response.reason_phrase}" == statuses[0] == "404 Not Found"
    assert response.getvalue() == b"".join(chunks)


@pytest.mark.parametrize("url", [f"/{SERVICE}s/Unary", f"/{SERVICE.replace('.', '-')}/Unary", "/"])
def test_other_paths_are_not_the_services(url: str) -> None:
    serve(connect_path(application(unary=join)), re_path("", lambda request: HttpResponse("the site")))

    assert Client().get(url).content == b"the site"


def test_error_that_is_a_404_is_not_redirected_to_a_path_with_a_slash() -> None:
    serve_handlers(unary=failing(Code.NOT_FOUND))

    with with_middleware(COMMON):
        response = post(UNARY, proto("a"), PROTO)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "prefix",
    ["api/", "<slug:tenant>/", f"{SERVICE}/", "größe/"],
)
def test_service_is_served_below_a_prefix(prefix: str) -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        return text(current_request().path)

    serve(path(prefix, include([connect_path(application(unary=handle))])))
    url = f"/{prefix.replace('<slug:tenant>', SERVICE.partition('.')[0])}{SERVICE}/Unary"

    response = Client().generic("POST", url, proto("a"), PROTO)

    assert response.content == proto(url)


def test_what_a_prefix_captures_is_in_the_request() -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        match = current_request().resolver_match
        assert match is not None
        return text(match.kwargs["tenant"])

    serve(path("<tenant>/", include([connect_path(application(unary=handle))])))

    assert Client().generic("POST", f"/acme{UNARY.path}", proto("a"), PROTO).content == proto("acme")


def test_pattern_is_of_one_service() -> None:
    with pytest.raises(
        TypeError, match=r"instance of ConnectWSGIApplication, .*: call connect_path once for each"
    ):
        connect_path([application(unary=join)])  # type: ignore[arg-type]


def test_site_without_wsgi_is_refused() -> None:
    pattern = connect_path(application(unary=join))
    request = AsyncRequestFactory().post(UNARY.path)

    with pytest.raises(ImproperlyConfigured, match=f"/{SERVICE} requires WSGI"):
        pattern.callback(request, UNARY.path[1:])


# Metadata


def test_header_that_comes_twice_is_sent_twice() -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        for value in ("a", "b"):
            ctx.response_headers().add("tag", value)
            ctx.response_headers().add("set-cookie", f"{value}=1")
        current_request().session["seen"] = True
        return request

    serve_handlers(unary=handle)

    with with_middleware(*SESSIONS):
        headers = sent_headers(post(UNARY, proto(), PROTO))

    assert [value for name, value in headers if name == "tag"] == ["a", "b"]
    cookies = [SimpleCookie(value) for name, value in headers if name.lower() == "set-cookie"]
    assert [name for cookie in cookies for name in cookie] == ["a", "b", "sessionid"]


# The request's body


@pytest.mark.parametrize("content_type", [PROTO, WEB])
def test_limit_of_django_on_uploads_is_not_the_services(content_type: str) -> None:
    serve_handlers(unary=lambda request, ctx: text(str(len(request.value))))
    body = proto("a" * 100) if content_type == PROTO else envelopes("a" * 100)

    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        response = post(UNARY, body, content_type)

    assert proto("100") in response.getvalue()


def body_reader(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that reads the body as Django means it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        assert request.body
        return get_response(request)

    return middleware


def stream_reader(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that takes the body away."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.read()
        return get_response(request)

    return middleware


def test_body_that_a_middleware_has_read_is_there() -> None:
    serve_handlers(unary=lambda request, ctx: request)

    with with_middleware(f"{__name__}.body_reader"):
        assert post(UNARY, proto("a"), PROTO).content == proto("a")


def test_body_that_a_middleware_has_taken_away_is_an_error_of_the_site() -> None:
    serve_handlers(unary=lambda request, ctx: request)

    with (
        with_middleware(f"{__name__}.stream_reader"),
        pytest.raises(RawPostDataException, match="after reading"),
    ):
        post(UNARY, proto("a"), PROTO)


def test_body_without_a_length_stays_the_services() -> None:
    serve_handlers(collect=join)
    body: Any = {
        "CONTENT_TYPE": STREAM,
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input": BytesIO(envelopes("a", "b")),
        "wsgi.input_terminated": True,
    }

    with with_middleware(f"{__name__}.stream_reader"):
        response = Client().generic("POST", CLIENT_STREAM.path, **body)

    assert_outcome(response, STREAM, ["a,b"])


# The request


def test_handler_gets_the_user_and_the_session() -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        session = current_request().session
        session["calls"] = session.get("calls", 0) + 1
        return text(f"{current_request().user} {session['calls']}")

    serve_handlers(unary=handle)
    client = Client()
    client.force_login(User.objects.create_user("jane"))

    with with_middleware(*SESSIONS):
        assert post(UNARY, proto(), PROTO, client=client).content == proto("jane 1")
        assert post(UNARY, proto(), PROTO, client=client).content == proto("jane 2")
        assert post(UNARY, proto(), PROTO).content == proto("AnonymousUser 1")


def test_session_is_saved_by_a_handler_that_streams() -> None:
    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        session = current_request().session
        session["sent"] = 1
        yield text("a")
        session["sent"] = 2
        session.save()

    serve_handlers(expand=handle)
    client = Client()
    client.force_login(User.objects.create_user("jane"))

    with with_middleware(*SESSIONS):
        post(SERVER_STREAM, envelopes("a"), STREAM, client=client).getvalue()

    assert client.session["sent"] == 2


class Recorder:
    """An interceptor that notes the paths of the requests that a call begins and ends with."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, event: str) -> None:
        self.seen.append(f"{event} {current_request().headers['name']}")

    def on_start(self, ctx: RequestContext) -> None:
        self.note("start")

    def on_end(self, token: object, ctx: RequestContext, error: ConnectError | None) -> None:
        self.note("end")


def test_interceptor_gets_the_request() -> None:
    recorder = Recorder()
    serve_handlers(recorder, unary=lambda request, ctx: request)

    post(UNARY, proto(), PROTO, name="a")

    assert recorder.seen == ["start a", "end a"]


def noting(recorder: Recorder) -> Handler:
    """Return a handler that streams, and notes which request it is in."""

    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        try:
            for part in request.value.split(","):
                recorder.note("yield")
                yield text(part)
        finally:
            recorder.note("finally")

    return handle


def test_streams_on_one_thread_keep_their_requests_apart() -> None:
    recorder = Recorder()
    serve_handlers(recorder, expand=noting(recorder))

    responses = [post(SERVER_STREAM, envelopes("1,2"), STREAM, name=name) for name in ("a", "b")]
    assert recorder.seen == ["start a", "yield a", "start b", "yield b"]
    first, second = (iter(response) for response in responses)
    recorder.seen.clear()

    next(second)
    next(first)
    next(second)
    assert recorder.seen == ["yield b"]
    next(first)
    assert recorder.seen == ["yield b", "yield a"]
    recorder.seen.clear()
    list(first)
    responses[1].close()
    assert recorder.seen == ["finally a", "end a", "finally b", "end b"]


def test_request_within_a_request_does_not_replace_it() -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        if request.value:
            post(UNARY, proto(), PROTO, name="inner")
        return text(current_request().headers["name"])

    serve_handlers(unary=handle)

    assert post(UNARY, proto("outer"), PROTO, name="outer").content == proto("outer")


def test_there_is_no_request_outside_of_calls() -> None:
    recorder = Recorder()
    serve_handlers(expand=noting(recorder))
    response = post(SERVER_STREAM, envelopes("a,b"), STREAM, name="a")
    next(iter(response))

    with pytest.raises(RuntimeError, match="must be called during a call routed by connect_path"):
        current_request()
    response.close()
    with pytest.raises(RuntimeError, match="must be called during a call routed by connect_path"):
        current_request()


# Streams


def test_message_is_not_asked_for_before_the_last_is_taken() -> None:
    seen: list[str] = []

    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        for part in "abc":
            seen.append(part)
            yield text(part)

    serve_handlers(expand=handle)
    with with_middleware(COMMON, *SESSIONS, CSRF, GZIP, "django.middleware.http.ConditionalGetMiddleware"):
        response = post(SERVER_STREAM, envelopes("x"), STREAM, accept_encoding="gzip")

    for number, chunk in zip(range(3), response, strict=False):
        assert (chunk, seen) == (envelopes("abc"[number]), list("abc"[: number + 1]))
    assert "content-encoding" not in response.headers
    response.close()


def failing_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], None]:
    """A middleware that fails when the view has returned."""

    def middleware(request: HttpRequest) -> None:
        get_response(request)
        raise RuntimeError("the middleware's own")

    return middleware


def replacing_middleware(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that answers with a response of its own."""
    kept: list[HttpResponse] = []  # so that no garbage collection closes it

    def middleware(request: HttpRequest) -> HttpResponse:
        kept.append(get_response(request))
        return HttpResponse("replaced")

    return middleware


@pytest.mark.parametrize("middleware", [None, "failing_middleware", "replacing_middleware"])
def test_generator_is_closed_and_the_request_finished_whatever_the_response_becomes(
    middleware: str | None,
) -> None:
    recorder = Recorder()
    serve_handlers(expand=noting(recorder))
    client = Client(raise_request_exception=False)

    def on_finished(**_: object) -> None:
        recorder.seen.append("finished")

    request_finished.connect(on_finished)
    try:
        with with_middleware(*([f"{__name__}.{middleware}"] if middleware else [])):
            response = post(SERVER_STREAM, envelopes("1,2"), STREAM, client=client, name="a")
        if middleware is None:
            assert recorder.seen == ["yield a"]
        response.close()
    finally:
        request_finished.disconnect(on_finished)
    assert recorder.seen[:3] == ["yield a", "finally a", "finished"]


# Middleware that changes responses


def test_compression_of_django_is_what_a_client_of_unary_calls_accepts() -> None:
    serve_handlers(unary=lambda request, ctx: request)

    with with_middleware(GZIP):
        response = post(UNARY, proto("a" * 500), PROTO, accept_encoding="gzip")

    assert response.headers["content-encoding"] == "gzip"


def test_get_is_answered_conditionally() -> None:
    serve_handlers(read=lambda request, ctx: request)
    query = {"encoding": "json", "message": '"ab"'}

    with with_middleware("django.middleware.http.ConditionalGetMiddleware"):
        etag = Client().get(READ.path, query).headers["etag"]
        again = Client().get(READ.path, query, headers={"if-none-match": etag})

    assert (again.status_code, again.content) == (304, b"")


def test_get_is_cached_by_the_site() -> None:
    calls: list[str] = []

    def handle(request: Any, ctx: RequestContext) -> Any:
        calls.append(request.value)
        ctx.response_headers().add("tag", "a")
        ctx.response_headers().add("tag", "b")
        return request

    serve_handlers(read=handle)
    query = {"encoding": "json", "message": '"ab"'}
    names = ["UpdateCacheMiddleware", "FetchFromCacheMiddleware"]

    with with_middleware(*(f"django.middleware.cache.{name}" for name in names)):
        responses = [Client().get(READ.path, query) for _ in range(2)]

    assert [response.content for response in responses] == [b'"ab"', b'"ab"']
    assert calls == ["ab"]
    assert [value for name, value in sent_headers(responses[1]) if name == "tag"] == ["a", "b"]


# Decorators and CSRF


def test_calls_are_exempt_from_the_check_against_forged_requests() -> None:
    serve_handlers(unary=lambda request, ctx: request)

    with with_middleware(CSRF):
        response = post(UNARY, proto("a"), PROTO, client=Client(enforce_csrf_checks=True))

    assert response.content == proto("a")


def test_check_against_forged_requests_comes_back_by_its_decorator() -> None:
    serve(connect_path(application(unary=lambda request, ctx: request), decorators=[csrf_protect]))
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = token = "a" * 32

    with with_middleware(CSRF):
        refused = post(UNARY, proto("a"), PROTO, client=client)
        allowed = post(UNARY, proto("a"), PROTO, client=client, x_csrftoken=token)

    assert (refused.status_code, allowed.status_code) == (403, 200)


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "text/plain", ""]
)
def test_what_a_browser_sends_without_asking_first_is_no_call(content_type: str) -> None:
    serve_handlers(unary=failing(Code.INTERNAL), collect=failing(Code.INTERNAL))

    assert post(UNARY, proto("a"), content_type).status_code == 415
    assert post(CLIENT_STREAM, envelopes("a"), content_type).status_code == 415


def test_decorators_are_applied_from_the_outside_in() -> None:
    order: list[str] = []

    def naming(name: str) -> Any:
        def decorate(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
            def decorated(*args: Any, **kwargs: Any) -> HttpResponseBase:
                order.append(name)
                return view(*args, **kwargs)

            return decorated

        return decorate

    app = application(unary=lambda request, ctx: request)
    serve(connect_path(app, decorators=[never_cache, naming("outer"), naming("inner")]))

    response = post(UNARY, proto("a"), PROTO)

    assert order == ["outer", "inner"]
    assert "no-cache" in response.headers["cache-control"]


@pytest.mark.parametrize("decorators", [[], [login_not_required]], ids=["asked", "not asked"])
def test_site_that_asks_for_a_login_does_so_for_calls_too(decorators: list[Any]) -> None:
    app = application(unary=lambda request, ctx: request)
    serve(connect_path(app, decorators=decorators))

    with with_middleware(*SESSIONS, "django.contrib.auth.middleware.LoginRequiredMiddleware"):
        response = post(UNARY, proto("a"), PROTO)

    assert response.status_code == (200 if decorators else 302)


# Errors

SECRET = "the secret of the handler"


def raised_by(error: BaseException | Callable[[], object]) -> Handler:
    """Return a handler that raises ``error``, or calls it and so fails."""

    def handle(request: Any, ctx: RequestContext) -> Any:
        if isinstance(error, BaseException):
            raise error
        return error()

    return handle


def answer(error: BaseException | Callable[[], object], errors: ErrorMapping | None = None) -> dict[str, Any]:
    """Return the error of a call whose handler raises ``error``, as JSON."""
    serve_handlers(errors=errors, unary=raised_by(error))
    content: dict[str, Any] = post(UNARY, b'""', "application/json").json()
    assert SECRET not in str(content)
    return content


def details(answer: dict[str, Any]) -> list[Any]:
    """Return the details of an error, as messages of the official classes."""
    messages = []
    for detail in answer.get("details", []):
        message_class = getattr(error_details_pb2, detail["type"].removeprefix("google.rpc."))
        messages.append(message_class.FromString(decode_base64(detail["value"])))
    return messages


def violations(answer: dict[str, Any]) -> list[tuple[str, str]]:
    (bad_request,) = details(answer)
    return [(violation.field, violation.description) for violation in bad_request.field_violations]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Http404(SECRET), "not_found", "not found"),
        (lambda: get_object_or_404(User, username=SECRET), "not_found", "not found"),
        (lambda: User.objects.get(username=SECRET), "not_found", "not found"),
        (PermissionDenied(SECRET), "permission_denied", "permission denied"),
        (BadRequest(SECRET), "invalid_argument", "invalid argument"),
        (SuspiciousOperation(SECRET), "invalid_argument", "invalid argument"),
        (RequestDataTooBig(SECRET), "invalid_argument", "invalid argument"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exception_of_django_has_its_code_and_no_text_of_its_own(
    error: BaseException, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(error) == {"code": code, "message": message}
    assert "connect_sync.server" not in [record.name for record in caplog.records]


def test_suspicious_operation_is_logged_as_in_a_view(caplog: pytest.LogCaptureFixture) -> None:
    error = DisallowedHost(SECRET)
    answer(error)

    (record,) = (record for record in caplog.records if record.name.startswith("django.security"))
    assert (record.name, record.levelno) == ("django.security.DisallowedHost", logging.ERROR)
    assert record.getMessage() == SECRET
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    "error",
    [User.MultipleObjectsReturned(SECRET), IntegrityError(SECRET), RuntimeError(SECRET)],
    ids=lambda error: type(error).__name__,
)
def test_fault_of_the_service_is_internal_and_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(error) == {"code": "internal", "message": "internal error"}
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


@pytest.mark.parametrize(
    ("error", "message", "expected"),
    [
        (ValidationError("too long"), "too long", [("", "too long")]),
        (
            ValidationError(gettext_lazy("at most %(most)s"), params={"most": 3}),
            "at most 3",
            [("", "at most 3")],
        ),
        (
            ValidationError(["too long", ValidationError(["too wide", "too high"])]),
            "too long; too wide; too high",
            [("", "too long"), ("", "too wide"), ("", "too high")],
        ),
        (
            ValidationError({"name": ["is taken", "is short"], NON_FIELD_ERRORS: "do not match"}),
            "name: is taken; name: is short; do not match",
            [("name", "is taken"), ("name", "is short"), ("", "do not match")],
        ),
        (
            ValidationError({"name": ValidationError([ValidationError("at least %(n)d", params={"n": 2})])}),
            "name: at least 2",
            [("name", "at least 2")],
        ),
        (ValidationError([]), "bad request", []),
    ],
    ids=["one", "lazy, with parameters", "list", "fields", "field of nested errors", "none"],
)
def test_messages_of_a_validation_error_are_told_by_field(
    error: ValidationError, message: str, expected: list[tuple[str, str]]
) -> None:
    answered = answer(error)

    assert (answered["code"], answered["message"]) == ("invalid_argument", message)
    assert violations(answered) == expected


def test_model_that_is_invalid_is_told_by_field(caplog: pytest.LogCaptureFixture) -> None:
    answered = answer(lambda: User(username="a b", email="a").full_clean())

    assert [field for field, _ in violations(answered)] == ["password", "username", "email"]
    assert "Enter a valid email address." in answered["message"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (exceptions.ParseError("no JSON"), "invalid_argument", "no JSON"),
        (exceptions.NotAuthenticated(), "unauthenticated", "Authentication credentials were not provided."),
        (exceptions.AuthenticationFailed("expired"), "unauthenticated", "expired"),
        (
            exceptions.AuthenticationFailed({"detail": "expired", "code": "token"}),
            "unauthenticated",
            "expired",
        ),
        (exceptions.PermissionDenied("staff only"), "permission_denied", "staff only"),
        (
            exceptions.PermissionDenied(["staff only", "at night"]),
            "permission_denied",
            "staff only; at night",
        ),
        (exceptions.NotFound("no pet"), "not_found", "no pet"),
        (exceptions.MethodNotAllowed("PUT"), "unimplemented", 'Method "PUT" not allowed.'),
        (exceptions.NotAcceptable("no XML"), "invalid_argument", "no XML"),
        (exceptions.UnsupportedMediaType("a/b", "no a/b"), "invalid_argument", "no a/b"),
        (exceptions.Throttled(detail="slow down"), "resource_exhausted", "slow down"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exception_of_rest_framework_has_the_code_of_its_status_and_its_detail(
    error: Exception, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(error) == {"code": code, "message": message}
    assert "connect_sync.server" not in [record.name for record in caplog.records]


def api_exception(status: int, detail: Any = SECRET) -> Exception:
    error: Exception = exceptions.APIException(detail)
    error.status_code = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (501, "unimplemented", "not implemented"),
        (503, "unavailable", "service unavailable"),
        (504, "deadline_exceeded", "gateway timeout"),
    ],
)
def test_detail_of_a_fault_of_rest_framework_is_not_told(status: int, code: str, message: str) -> None:
    assert answer(api_exception(status)) == {"code": code, "message": message}


@pytest.mark.parametrize("status", [200, 302, 500, 507])
def test_exception_of_rest_framework_that_no_code_stands_for_is_internal_and_logged(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    error = api_exception(status)

    assert answer(error) == {"code": "internal", "message": "internal error"}
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


def test_throttled_client_is_told_when_to_try_again() -> None:
    (retry_info,) = details(answer(exceptions.Throttled(wait=2.5)))

    assert retry_info.retry_delay.ToMilliseconds() == 3000


class Address(serializers.Serializer):  # type: ignore[misc]
    city = serializers.CharField()

    def validate(self, attrs: Any) -> Any:
        if attrs["city"] == "nowhere":
            raise serializers.ValidationError("does not exist")
        return attrs


class Person(serializers.Serializer):  # type: ignore[misc]
    name = serializers.CharField()
    home = Address()
    others = Address(many=True)
    tags = serializers.ListField(child=serializers.IntegerField(max_value=9))

    def validate(self, attrs: Any) -> Any:
        raise serializers.ValidationError("is unknown")


def validating(data: Any, **options: Any) -> Callable[[], object]:
    return lambda: Person(data=data, **options).is_valid(raise_exception=True)


def test_fields_of_a_serializer_have_paths() -> None:
    data = {"home": {}, "others": [{"city": "a"}, {}, {"city": "nowhere"}], "tags": [1, 10]}
    answered = answer(validating(data))

    assert answered["code"] == "invalid_argument"
    assert answered["message"].startswith("name: This field is required.; home.city: This field is required.")
    assert violations(answered) == [
        ("name", "This field is required."),
        ("home.city", "This field is required."),
        ("others[1].city", "This field is required."),
        ("others[2]", "does not exist"),
        ("tags[1]", "Ensure this value is less than or equal to 9."),
    ]


@pytest.mark.parametrize("key", ["non_field_errors", "errors"])
def test_error_of_no_field_has_the_path_of_what_is_around_it(key: str) -> None:
    data = {"name": "a", "home": {"city": "a"}, "others": [], "tags": []}
    with override_settings(REST_FRAMEWORK={"NON_FIELD_ERRORS_KEY": key}):
        assert violations(answer(validating(data))) == [("", "is unknown")]
        assert violations(answer(validating([data], many=True))) == [("[0]", "is unknown")]


def test_site_needs_no_rest_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rest_framework.exceptions", None)
    monkeypatch.delitem(sys.modules, "wsgi_adapters.django_errors")

    errors = importlib.import_module("wsgi_adapters.django_errors").ERRORS

    assert set(ERRORS) - set(errors) == {exceptions.APIException}


def test_mapping_of_an_application_is_used_as_given() -> None:
    errors: ErrorMapping = {**ERRORS, KeyError: Code.ABORTED}

    assert answer(Http404(), errors={})["code"] == "internal"
    assert [answer(error, errors=errors)["code"] for error in (Http404(), KeyError())] == [
        "not_found",
        "aborted",
    ]


def test_application_may_be_served_elsewhere_without_the_mapping() -> None:
    app = application(unary=raised_by(Http404()))
    connect_path(app)

    assert ask(app.service, UNARY).code == "internal"


@pytest.mark.parametrize("values", [[], ["a"]], ids=["before the first message", "after it"])
def test_stream_may_fail_by_an_exception_of_django(values: list[str]) -> None:
    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield from map(text, values)
        raise Http404

    serve_handlers(expand=handle)

    assert_outcome(post(SERVER_STREAM, envelopes("x"), STREAM), STREAM, values, "not_found")


def error_keeper(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """A middleware that puts the class of what failed into a header."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        error: ConnectError = request.environ["connect_sync.error"]  # type: ignore[attr-defined]
        response.headers["failure"] = f"{error.code.value} {type(error.__cause__).__name__}"
        return response

    return middleware


def test_middleware_learns_what_a_call_has_failed_by() -> None:
    serve_handlers(unary=raised_by(Http404()))

    with with_middleware(f"{__name__}.error_keeper"):
        response = post(UNARY, envelopes("a"), WEB)

    assert response.headers["failure"] == "not_found Http404"


# Transactions


@pytest.fixture
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


def groups() -> list[str]:
    return sorted(Group.objects.values_list("name", flat=True))


def writing(error: Exception | None = None, result: object = None) -> Handler:
    """Return a handler that writes what it is sent, one message or several, and may then fail."""

    def handle(request: Any, ctx: RequestContext) -> Any:
        assert connection.in_atomic_block
        for message in request if isinstance(request, Iterable) else [request]:
            Group.objects.create(name=message.value)
        if error is not None:
            raise error
        return result if result is not None else text("done")

    return handle


CALLS = [
    pytest.param(UNARY, proto("a"), PROTO, id="unary, Connect"),
    pytest.param(UNARY, envelopes("a"), WEB, id="unary, gRPC-Web"),
    pytest.param(CLIENT_STREAM, envelopes("a", "b"), STREAM, id="client stream, Connect"),
    pytest.param(CLIENT_STREAM, envelopes("a", "b"), WEB, id="client stream, gRPC-Web"),
    pytest.param(CLIENT_STREAM, b"AAAAAAMKAWE=", "application/grpc-web-text+proto", id="client stream, text"),
]

all_transactions = pytest.mark.parametrize(("method", "body", "content_type"), CALLS)


@all_transactions
def test_call_that_succeeds_is_committed(
    atomic_requests: None, method: Method[Any, Any], body: bytes, content_type: str
) -> None:
    serve_handlers(unary=writing(), collect=writing())

    post(method, body, content_type)

    assert not connection.in_atomic_block
    assert "a" in groups()


@all_transactions
@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(writing(ConnectError(Code.ABORTED, "as asked")), id="error"),
        pytest.param(writing(RuntimeError("a bug")), id="exception"),
        pytest.param(writing(Http404()), id="exception that is mapped"),
        pytest.param(writing(result=b"no message"), id="response of a wrong type"),
    ],
)
def test_call_that_fails_is_rolled_back(
    atomic_requests: None, method: Method[Any, Any], body: bytes, content_type: str, handler: Handler
) -> None:
    serve_handlers(unary=handler, collect=handler)

    post(method, body, content_type)

    assert not connection.in_atomic_block
    assert groups() == []


def test_call_past_its_deadline_is_rolled_back(atomic_requests: None) -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        Group.objects.create(name=request.value)
        while ctx.timeout_ms():
            pass
        return request

    serve_handlers(unary=handle)

    response = post(UNARY, proto("a"), PROTO, connect_timeout_ms="50")

    assert response.json()["code"] == "deadline_exceeded"
    assert groups() == []


def test_stream_that_breaks_off_is_rolled_back(atomic_requests: None) -> None:
    serve_handlers(collect=writing())

    post(CLIENT_STREAM, envelopes("a") + b"\0\0", STREAM)

    assert groups() == []


def test_call_is_rolled_back_to_where_a_transaction_around_it_was(atomic_requests: None) -> None:
    """As in Django's TestCase, which keeps a transaction around each test."""
    serve_handlers(unary=writing(ConnectError(Code.ABORTED, "as asked")))

    with transaction.atomic():
        Group.objects.create(name="before")
        post(UNARY, proto("a"), PROTO)
        assert groups() == ["before"]
    assert groups() == ["before"]


def test_call_that_cannot_be_committed_is_an_error_of_the_site(atomic_requests: None) -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        # SQLite checks this at the commit.
        User.groups.through.objects.create(user_id=1000, group_id=1000)
        return request

    serve_handlers(unary=handle)

    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        post(UNARY, proto("a"), PROTO)
    response = post(UNARY, proto("a"), PROTO, client=Client(raise_request_exception=False))
    assert response.status_code == 500


def test_databases_without_the_setting_have_no_transactions() -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        assert not connection.in_atomic_block
        Group.objects.create(name=request.value)
        raise ConnectError(Code.ABORTED, "as asked")

    serve_handlers(unary=handle)

    post(UNARY, proto("a"), PROTO)

    assert groups() == ["a"]


def test_calls_without_transactions_are_marked_by_djangos_decorator(atomic_requests: None) -> None:
    def handle(request: Any, ctx: RequestContext) -> Any:
        return text(str(connection.in_atomic_block))

    serve(connect_path(application(unary=handle), decorators=[transaction.non_atomic_requests]))

    assert post(UNARY, proto("a"), PROTO).content == proto("False")


def test_server_stream_is_no_transaction_but_may_have_its_own(atomic_requests: None) -> None:
    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        for name in request.value.split(","):
            assert not connection.in_atomic_block
            with transaction.atomic():
                Group.objects.create(name=name)
                if name == "b":
                    raise ConnectError(Code.ABORTED, "as asked")
            yield text(name)

    serve_handlers(expand=handle)

    response = post(SERVER_STREAM, envelopes("a,b,c"), STREAM)

    assert_outcome(response, STREAM, ["a"], "aborted")
    assert groups() == ["a"]


def test_transaction_that_a_client_leaves_in_is_rolled_back(atomic_requests: None) -> None:
    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        with transaction.atomic():
            for name in request.value.split(","):
                Group.objects.create(name=name)
                yield text(name)

    serve_handlers(expand=handle)
    response = post(SERVER_STREAM, envelopes("a,b"), STREAM)
    next(iter(response))
    response.close()

    assert not connection.in_atomic_block
    assert groups() == []


# What the tests share


def failing(code: Code) -> Handler:
    def handle(request: Any, ctx: RequestContext) -> Any:
        raise ConnectError(code, "as asked")

    return handle


def join(request: Iterable[Any], ctx: RequestContext) -> Any:
    return text(",".join(message.value for message in request))


def split(request: Any, ctx: RequestContext) -> Iterator[Any]:
    return map(text, request.value.split(","))


def assert_outcome(response: Any, content_type: str, values: list[str], code: str | None = None) -> None:
    assert (response.status_code, response.headers["content-type"]) == (200, content_type)
    *messages, (flags, end) = split_envelopes(response.getvalue())
    assert b"".join(envelope(payload, flags) for flags, payload in messages) == envelopes(*values)
    if content_type == STREAM:
        assert flags == END
        assert json.loads(end).get("error", {}).get("code") == code
    else:
        assert flags == WEB_END
        assert ("grpc-status", "0") in trailer_lines(end)


def sent_headers(response: Any) -> list[tuple[str, str]]:
    """Return the headers as `WSGIHandler` hands them to the server."""
    cookies = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return [*response.items(), *cookies]
