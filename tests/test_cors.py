"""What pages of other origins are told, as the Fetch standard says.

All but what is about objects goes through the validator of the standard library, once on each side of the
middleware.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from tests.support import run_wsgi
from wsgi_adapters import CORSMiddleware
from wsgi_adapters.cors import ALLOW_HEADERS, ALLOW_METHODS, EXPOSE_HEADERS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PAGE = "https://example.com"
OTHER_PAGE = "https://example.net"
STRANGER = "https://example.org"
OPEN = "access-control-allow-origin"


class Application:
    """Answers every request alike, and keeps what it was asked."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self._headers = [("content-type", "text/plain"), *headers]
        self.methods: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.methods.append(environ["REQUEST_METHOD"])
        start_response("200 OK", list(self._headers))
        return (b"hello",)


def middleware(
    application: Any = None, *, origins: Any = (PAGE, OTHER_PAGE), **options: Any
) -> CORSMiddleware:
    return CORSMiddleware(validator(application or Application()), allow_origins=origins, **options)


def environ_of(method: str, origin: str | None = PAGE, **variables: str) -> WSGIEnvironment:
    environ: WSGIEnvironment = {"REQUEST_METHOD": method, "QUERY_STRING": "", **variables}
    if origin is not None:
        environ["HTTP_ORIGIN"] = origin
    setup_testing_defaults(environ)
    return environ


class Answer:
    """A response, and its headers by name; of a name that comes twice, its values."""

    def __init__(self, application: CORSMiddleware, environ: WSGIEnvironment) -> None:
        self.status, self._headers, self.body = run_wsgi(application, environ)

    def __getitem__(self, name: str) -> list[str]:
        return [value for key, value in self._headers if key == name]

    def list(self, name: str) -> list[str]:
        """Return the members of a header that is a list."""
        return [member for value in self[name] for member in value.split(", ")]

    @property
    def names(self) -> set[str]:
        """The names of what is said of origins."""
        return {name for name, _ in self._headers if name.startswith("access-control-")}


def preflight(application: CORSMiddleware, origin: str | None = PAGE) -> Answer:
    environ = environ_of("OPTIONS", origin, HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST")
    return Answer(application, environ)


def call(application: CORSMiddleware, origin: str | None = PAGE, method: str = "POST") -> Answer:
    return Answer(application, environ_of(method, origin))


def test_application_within_can_be_found() -> None:
    application = Application()

    assert CORSMiddleware(application, allow_origins=[PAGE]).application is application


# Preflights


def test_preflight_is_answered_without_the_application() -> None:
    application = Application()
    answer = preflight(middleware(application))

    assert (answer.status, answer.body, application.methods) == ("204 No Content", b"", [])


def test_preflight_tells_what_a_page_may_send() -> None:
    answer = preflight(middleware())

    assert answer.names == {
        OPEN,
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-max-age",
    }
    assert answer[OPEN] == [PAGE]
    assert answer.list("access-control-allow-methods") == list(ALLOW_METHODS)
    assert answer.list("access-control-allow-headers") == list(ALLOW_HEADERS)
    assert answer["access-control-max-age"] == ["7200"]
    assert answer["vary"] == ["Origin"]


def test_preflight_allows_headers_of_the_applications_own() -> None:
    answer = preflight(middleware(allow_headers=["Authorization", "tenant"]))

    assert answer.list("access-control-allow-headers") == [*ALLOW_HEADERS, "Authorization", "tenant"]


def test_age_of_a_preflight_is_as_told() -> None:
    assert preflight(middleware(max_age_seconds=0))["access-control-max-age"] == ["0"]


@pytest.mark.parametrize(
    "origin",
    [
        STRANGER,
        "null",
        "*",
        "",
        "http://example.com",
        f"{PAGE}:8443",
        f"{PAGE}/",
        f"{PAGE}.example.org",
        "https://www.example.com",
        "HTTPS://EXAMPLE.COM",
    ],
)
def test_other_origins_are_told_nothing(origin: str) -> None:
    answers = [preflight(middleware(), origin), call(middleware(), origin), call(middleware(), origin, "GET")]

    assert [answer.names for answer in answers] == [set()] * 3
    assert [answer["vary"] for answer in answers] == [["Origin"]] * 3


def test_preflight_of_another_origin_does_not_reach_the_application() -> None:
    application = Application()

    assert preflight(middleware(application), STRANGER).status == "204 No Content"
    assert application.methods == []


@pytest.mark.parametrize(
    "environ",
    [environ_of("OPTIONS"), environ_of("OPTIONS", None, HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST")],
    ids=["no method", "no origin"],
)
def test_other_options_requests_reach_the_application(environ: WSGIEnvironment) -> None:
    application = Application()

    assert Answer(middleware(application), environ).status == "200 OK"
    assert application.methods == ["OPTIONS"]


# The lists of Connect's documentation ("CORS").


@pytest.mark.parametrize(
    ("names", "documented"),
    [
        (ALLOW_METHODS, "GET POST"),
        (
            ALLOW_HEADERS,
            "Content-Type Connect-Protocol-Version Connect-Timeout-Ms Grpc-Timeout X-Grpc-Web X-User-Agent",
        ),
        (EXPOSE_HEADERS, "Grpc-Status Grpc-Message Grpc-Status-Details-Bin"),
    ],
    ids=["methods", "request", "response"],
)
def test_lists_have_what_the_protocols_ask_for(names: tuple[str, ...], documented: str) -> None:
    assert set(names) >= set(documented.split())
    assert len(set(names)) == len(names)


# Calls


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", [PAGE, OTHER_PAGE])
def test_response_tells_what_a_page_may_read(method: str, origin: str) -> None:
    answer = call(middleware(), origin, method)

    assert (answer.status, answer.body, answer["content-type"]) == ("200 OK", b"hello", ["text/plain"])
    assert answer.names == {OPEN, "access-control-expose-headers"}
    assert answer[OPEN] == [origin]
    assert answer.list("access-control-expose-headers") == list(EXPOSE_HEADERS)
    assert answer["vary"] == ["Origin"]


def test_response_exposes_metadata_as_leading_and_as_trailing() -> None:
    answer = call(middleware(expose_headers=["greet-version", "greet-count-bin"]))

    assert answer.list("access-control-expose-headers") == [
        *EXPOSE_HEADERS,
        "greet-version",
        "trailer-greet-version",
        "greet-count-bin",
        "trailer-greet-count-bin",
    ]


def test_vary_is_added_to_that_of_the_application() -> None:
    application = Application(("vary", "Accept-Encoding"))

    assert call(middleware(application))["vary"] == ["Accept-Encoding", "Origin"]


def test_call_of_another_origin_reaches_the_application() -> None:
    application = Application()

    assert call(middleware(application), STRANGER).body == b"hello"
    assert application.methods == ["POST"]


def test_call_without_an_origin_passes_untouched() -> None:
    calls: list[tuple[Any, Any]] = []
    body = (b"hello",)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        calls.append((environ, start_response))
        return body

    environ = environ_of("POST", None)

    def start_response(*args: Any) -> Callable[[bytes], object]:
        raise AssertionError("the application has not called this")

    assert CORSMiddleware(application, allow_origins=[PAGE])(environ, start_response) is body
    ((passed_environ, passed_start_response),) = calls
    assert passed_environ is environ
    assert passed_start_response is start_response


def test_get_without_an_origin_is_kept_apart_by_caches() -> None:
    answer = call(middleware(), None, "GET")

    assert (answer.names, answer["vary"]) == (set(), ["Origin"])


def test_body_is_the_applications_own() -> None:
    body = iter([b"a", b"b"])

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    wrapped = CORSMiddleware(application, allow_origins=[PAGE])

    assert wrapped(environ_of("POST"), lambda *head: lambda data: None) is body


def test_error_of_the_application_is_passed_on() -> None:
    starts: list[tuple[Any, ...]] = []

    def write(data: bytes) -> None:
        raise AssertionError("nothing is written")

    def start_response(*args: Any) -> Callable[[bytes], object]:
        starts.append(args)
        return write

    returned = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            raise ValueError("told")
        except ValueError:
            returned.append(start_response("500 Internal Server Error", [], sys.exc_info()))
        return ()

    CORSMiddleware(application, allow_origins=[PAGE])(environ_of("POST"), start_response)

    ((status, headers, exc_info),) = starts
    assert status == "500 Internal Server Error"
    assert (OPEN, PAGE) in headers
    assert str(exc_info[1]) == "told"
    assert returned == [write]


# All origins


@pytest.mark.parametrize("origin", [PAGE, STRANGER, "null"])
def test_all_origins_are_answered_alike(origin: str) -> None:
    application = middleware(origins="*", expose_headers=["greet-version"])
    answers = [preflight(application, origin), call(application, origin), call(application, origin, "GET")]

    assert [answer[OPEN] for answer in answers] == [["*"]] * 3
    assert [answer["vary"] for answer in answers] == [[]] * 3
    assert "trailer-greet-version" in answers[1].list("access-control-expose-headers")


def test_get_without_an_origin_may_be_cached_for_all() -> None:
    answer = call(middleware(origins="*"), None, "GET")

    assert (answer[OPEN], answer["vary"]) == (["*"], [])


# Credentials


def test_credentials_are_allowed_to_the_origins_alone() -> None:
    application = middleware(allow_credentials=True)
    credentials = "access-control-allow-credentials"

    assert preflight(application)[credentials] == ["true"]
    assert call(application)[credentials] == ["true"]
    assert preflight(application, STRANGER).names == set()
    assert call(application, STRANGER).names == set()


def test_credentials_are_not_allowed_to_all_origins() -> None:
    with pytest.raises(ValueError, match="credentials"):
        middleware(origins="*", allow_credentials=True)


# Mistakes


@pytest.mark.parametrize(
    "origin",
    [
        f"{PAGE}/",
        f"{PAGE}/path",
        "https://EXAMPLE.com",
        "https://*.example.com",
        "https://example.com:443",
        "http://example.com:80",
        "https://me@example.com",
        "https://a.example, https://b.example",
        "https://",
        "example.com",
        "null",
        "*",
        "",
        f"{PAGE}\r\nset-cookie: a=b",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="must be origins as browsers send them"):
        middleware(origins=[PAGE, origin])


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "http://[::1]:8000", "chrome-extension://abcdef"]
)
def test_origins_of_all_kinds_are_taken(origin: str) -> None:
    assert call(middleware(origins=[origin]), origin)[OPEN] == [origin]


@pytest.mark.parametrize("argument", ["allow_headers", "expose_headers"])
@pytest.mark.parametrize("name", ["", "*", "a,b", "a b", "a\r\nb"])
def test_what_is_no_header_name_is_refused(argument: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be header names, .*, got "):
        middleware(**{argument: ["a", name]})


@pytest.mark.parametrize("argument", ["origins", "allow_headers", "expose_headers"])
def test_one_string_is_not_taken_for_several(argument: str) -> None:
    with pytest.raises(TypeError, match="must be a list"):
        middleware(**{argument: PAGE})


def test_negative_age_is_refused() -> None:
    with pytest.raises(ValueError, match="max_age_seconds must be 0 or more, got -1"):
        middleware(max_age_seconds=-1)
