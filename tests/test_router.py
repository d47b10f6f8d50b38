"""Requests to several services, and to none of them.

Each goes through the validator of the standard library.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from wsgiref.util import setup_testing_defaults

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, Method, RequestContext, StreamKind
from tests.support import END, envelope, proto, run_wsgi, split_envelopes, text
from wsgi_adapters import ConnectWSGIApplication, CORSMiddleware
from wsgi_adapters.application import ERROR_KEY
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Seen = list["WSGIEnvironment"]


class Implementation:
    """Answers with a name of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def say(self, request: StringValue, ctx: RequestContext) -> StringValue:
        return text(self._name)

    def repeat(self, request: StringValue, ctx: RequestContext) -> Iterator[StringValue]:
        yield text(self._name)
        yield text(self._name)


class NamedApplication(ConnectWSGIApplication[Implementation]):
    """Serves an implementation that answers with the last word of the service's name."""

    service_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(Implementation(self.service_name.rpartition(".")[2]))
        self.seen: Seen = []

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name = cls.service_name
        cls.path = f"/{name}"
        cls.methods = {
            "say": Method(name, "Say", StringValue, StringValue),
            "repeat": Method(name, "Repeat", StringValue, StringValue, StreamKind.SERVER_STREAM),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.seen.append(environ)
        return super().__call__(environ, start_response)


class Anna(NamedApplication):
    service_name = "unit.v1.Anna"


class AnnaAndMore(NamedApplication):
    service_name = "unit.v1.AnnaAndMore"


class OtherAnna(NamedApplication):
    service_name = "unit.v2.Anna"


class Site:
    """The application for everything else, which keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[WSGIEnvironment, StartResponse]] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls.append((environ, start_response))
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"site"]


def environ_of(path: str, script_name: str = "", body: bytes = b"", **variables: Any) -> WSGIEnvironment:
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/proto",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **variables,
    }
    setup_testing_defaults(environ)
    return environ


def ask(application: WSGIApplication, environ: WSGIEnvironment) -> tuple[str, Mapping[str, str], bytes]:
    """Answer a request, and return its status, its headers and its body."""
    status, headers, body = run_wsgi(application, environ)
    return status, dict(headers), body


def answer_to(application: WSGIApplication, path: str, script_name: str = "") -> str:
    """Return who has answered: the name that a service has said, or what else the body holds."""
    status, headers, body = ask(application, environ_of(path, script_name))
    if headers["content-type"] == "application/proto":
        return StringValue.FromString(body).value
    return f"{status}: {body.decode()}"


# Which service answers


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/unit.v1.Anna/Say", "Anna"),
        ("/unit.v1.AnnaAndMore/Say", "AnnaAndMore"),
    ],
)
def test_request_goes_to_the_service_that_its_path_names(path: str, name: str) -> None:
    assert answer_to(Router([Anna(), AnnaAndMore()]), path) == name


def test_services_of_one_name_in_two_packages_are_two() -> None:
    first, second = Anna(), OtherAnna()
    router = Router([first, second])

    ask(router, environ_of("/unit.v2.Anna/Say"))
    ask(router, environ_of("/unit.v1.Anna/Say"))
    assert [len(application.seen) for application in (first, second)] == [1, 1]
    assert second.seen[0]["PATH_INFO"] == "/unit.v2.Anna/Say"


def test_stream_goes_through() -> None:
    environ = environ_of("/unit.v1.Anna/Repeat", body=envelope(b""), CONTENT_TYPE="application/connect+proto")
    _, _, body = ask(Router([Anna()]), environ)

    assert split_envelopes(body) == [(0, proto("Anna")), (0, proto("Anna")), (END, b"{}")]


NO_SERVICE = [
    "",
    "/",
    "//",
    "/Say",
    "/unit.v1.Ann/Say",
    "/unit.v1.AnnaX/Say",
    "/unit.v1.anna/Say",
    "/unit.v1/Anna/Say",
    "/unit.v1.Anna%2FSay",
    "//unit.v1.Anna/Say",
    "/./unit.v1.Anna/Say",
    "/x/unit.v1.Anna/Say",
    "/index.html",
]


@pytest.mark.parametrize("path", NO_SERVICE)
def test_request_to_no_service_is_not_found(path: str) -> None:
    assert answer_to(Router([Anna()]), path) == f"404 Not Found: unknown method {path}\n"


@pytest.mark.parametrize("path", NO_SERVICE)
def test_request_to_no_service_goes_to_the_fallback(path: str) -> None:
    assert answer_to(Router([Anna()], fallback=Site()), path) == "200 OK: site"


@pytest.mark.parametrize(
    "path", ["/unit.v1.Anna", "/unit.v1.Anna/", "/unit.v1.Anna/Other", "/unit.v1.Anna/Say/more"]
)
def test_all_below_the_path_of_a_service_is_its_own(path: str) -> None:
    assert answer_to(Router([Anna()], fallback=Site()), path) == f"404 Not Found: unknown method {path}\n"


def test_not_found_is_plain_text_that_names_no_service() -> None:
    status, headers, body = ask(Router([Anna()], prefix="/api"), environ_of("/unit.v1.Berta/Say"))

    assert status == "404 Not Found"
    assert headers == {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    assert b"Anna" not in body
    assert b"api" not in body


# Below a prefix


@pytest.mark.parametrize("prefix", ["/api", "api", "/api/", "//api//"])
def test_services_are_below_the_prefix(prefix: str) -> None:
    router = Router([Anna(), AnnaAndMore()], prefix=prefix)

    assert answer_to(router, "/api/unit.v1.AnnaAndMore/Say") == "AnnaAndMore"


@pytest.mark.parametrize("prefix", ["", "/", "//"])
def test_prefix_without_a_segment_is_none(prefix: str) -> None:
    assert answer_to(Router([Anna()], prefix=prefix), "/unit.v1.Anna/Say") == "Anna"


def test_prefix_has_several_segments() -> None:
    assert answer_to(Router([Anna()], prefix="/api/v1"), "/api/v1/unit.v1.Anna/Say") == "Anna"


@pytest.mark.parametrize(
    "path",
    [
        "/unit.v1.Anna/Say",
        "/api",
        "/api/",
        "/apiunit.v1.Anna/Say",
        "/apix/unit.v1.Anna/Say",
        "/api//unit.v1.Anna/Say",
        "/API/unit.v1.Anna/Say",
        "/api/api/unit.v1.Anna/Say",
        "/x/api/unit.v1.Anna/Say",
        "//api/unit.v1.Anna/Say",
    ],
)
def test_what_is_not_below_the_prefix_goes_to_the_fallback(path: str) -> None:
    assert answer_to(Router([Anna()], prefix="/api", fallback=Site()), path) == "200 OK: site"


@pytest.mark.parametrize("script_name", ["", "/mounted", "/mounted/here"])
@pytest.mark.parametrize("prefix", ["", "/api", "/api/v1"])
def test_service_gets_the_prefix_as_a_part_of_the_script_name(prefix: str, script_name: str) -> None:
    anna = Anna()
    environ = environ_of(f"{prefix}/unit.v1.Anna/Say", script_name)
    ask(Router([anna], prefix=prefix), environ)

    (seen,) = anna.seen
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (script_name + prefix, "/unit.v1.Anna/Say")
    changed = ("SCRIPT_NAME", "PATH_INFO", "connect_sync.outer")
    assert {name: value for name, value in seen.items() if name not in changed} == {
        name: value for name, value in environ.items() if name not in changed
    }


def test_environ_of_the_server_keeps_the_whole_path() -> None:
    environ = environ_of("/api/unit.v1.Anna/Say", "/mounted")
    ask(Router([Anna()], prefix="/api"), environ)

    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/mounted", "/api/unit.v1.Anna/Say")


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_what_stands_around_learns_that_a_call_has_failed(prefix: str) -> None:
    environ = environ_of(f"{prefix}/unit.v1.Anna/Say", body=b"no message")
    ask(Router([Anna()], prefix=prefix), environ)

    assert environ[ERROR_KEY].code is Code.INVALID_ARGUMENT


def test_environ_without_a_script_name_is_one_at_the_root() -> None:
    anna = Anna()
    environ = environ_of("/api/unit.v1.Anna/Say")
    del environ["SCRIPT_NAME"]
    # The validator cannot do without one.
    Router([anna], prefix="/api")(environ, lambda *head: lambda data: None)

    assert anna.seen[0]["SCRIPT_NAME"] == "/api"


# The fallback


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_fallback_gets_the_request_untouched(prefix: str) -> None:
    site = Site()
    environ = environ_of("/api/index.html", "/mounted")
    before = dict(environ)

    def start_response(*head: Any) -> Callable[[bytes], object]:
        return lambda data: None

    assert list(Router([Anna()], prefix=prefix, fallback=site)(environ, start_response)) == [b"site"]
    ((seen, passed),) = site.calls
    assert seen is environ
    assert seen == before
    assert passed is start_response


def test_fallback_may_be_another_router() -> None:
    open_to_pages = CORSMiddleware(Router([OtherAnna()]), allow_origins="*")
    router = Router([AnnaAndMore()], prefix="/api", fallback=open_to_pages)

    _, headers, body = ask(router, environ_of("/unit.v2.Anna/Say", HTTP_ORIGIN="https://example.com"))
    assert (body, headers["access-control-allow-origin"]) == (proto("Anna"), "*")
    _, headers, body = ask(
        router, environ_of("/api/unit.v1.AnnaAndMore/Say", HTTP_ORIGIN="https://a.example")
    )
    assert (body, "access-control-allow-origin" in headers) == (proto("AnnaAndMore"), False)


# What a router is made of


def test_parts_of_a_router_can_be_found() -> None:
    applications = [Anna(), OtherAnna()]
    site = Site()
    router = Router(iter(applications), fallback=site)

    assert router.applications == tuple(applications)
    assert router.fallback is site
    assert Router(applications).fallback is None


def test_two_applications_of_one_service_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two applications serve /unit\.v1\.Anna$"):
        Router([Anna(), OtherAnna(), Anna()])


def test_router_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="applications must not be empty"):
        Router([], fallback=Site())


@pytest.mark.parametrize(
    "application",
    [Anna, Implementation("a"), CORSMiddleware(Anna(), allow_origins="*"), Site(), "/unit.v1.Anna", None],
    ids=["class", "implementation", "middleware", "site", "path", "none"],
)
def test_what_serves_no_service_is_refused(application: Any) -> None:
    with pytest.raises(TypeError, match=r"must be instances of ConnectWSGIApplication, got .*: wrap the"):
        Router([Anna(), application])


def test_one_application_is_not_taken_for_several() -> None:
    with pytest.raises(TypeError, match="must be an iterable"):
        Router(Anna())  # type: ignore[arg-type]


@pytest.mark.parametrize("fallback", ["site", b"", 0, [Site()]])
def test_fallback_that_is_no_application_is_refused(fallback: Any) -> None:
    with pytest.raises(TypeError, match="fallback must be a WSGI application, got "):
        Router([Anna()], fallback=fallback)


@pytest.mark.parametrize(
    "prefix",
    [
        "/a//b",
        "/a/../b",
        "..",
        "/.",
        "/a b",
        "/a?b",
        "/a#b",
        "/a%20b",
        "/a\n",
        "/é",
        "http://localhost/a",
    ],
)
def test_prefix_that_is_no_plain_path_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be a path of plain segments"):
        Router([Anna()], prefix=prefix)


@pytest.mark.parametrize("prefix", ["/...", "/.well-known", "/~anna/api_v1-2.0"])
def test_prefix_may_have_any_unreserved_character(prefix: str) -> None:
    assert answer_to(Router([Anna()], prefix=prefix), f"{prefix}/unit.v1.Anna/Say") == "Anna"
