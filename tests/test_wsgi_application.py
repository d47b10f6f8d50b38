"""The WSGI application, called as PEP 3333 says by a server that is not there.

Each call goes through the validator of the standard library, which raises for what PEP 3333 forbids.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar
from wsgiref.validate import validator

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, ConnectError, Method, RequestContext
from connect_sync.http import close_iterator
from tests.support import (
    BIDI,
    CLIENT_STREAM,
    END,
    OK_WEB_END,
    READ,
    SERVER_STREAM,
    UNARY,
    WEB_END,
    Observer,
    TextMethod,
    envelope,
    join,
    proto,
    split,
    split_envelopes,
    text,
)
from wsgi_adapters import ConnectWSGIApplication
from wsgi_adapters.application import EnvironHeaders

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment


class Unit:
    """Implements the service of these tests."""

    def __init__(self) -> None:
        self.contexts: list[RequestContext] = []
        self.events: list[str] = []

    def unary(self, request: StringValue, ctx: RequestContext) -> StringValue:
        self.contexts.append(ctx)
        if request.value in Code._value2member_map_:
            raise ConnectError(Code(request.value), "as told")
        ctx.response_headers()["greet-version"] = "v1"
        ctx.response_trailers()["greet-count"] = "1"
        return request

    def read(self, request: StringValue, ctx: RequestContext) -> StringValue:
        return request

    def collect(self, requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        return join(requests, ctx)

    def expand(self, request: StringValue, ctx: RequestContext) -> Iterator[StringValue]:
        self.events.append("begun")
        try:
            yield from split(request, ctx)
        finally:
            self.events.append("cleaned up")


class UnitApplication(ConnectWSGIApplication[Unit]):
    path = "/unit.v1.UnitService"
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {
        "unary": UNARY,
        "read": READ,
        "collect": CLIENT_STREAM,
        "expand": SERVER_STREAM,
        "chat": BIDI,
    }


class Input(io.BytesIO):
    """A request body that sees where it was read to, and that it is not read beyond its length."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        assert self.tell() + size <= len(self.getvalue()), "read beyond the end of the body"
        return super().read(size)


def environ_of(
    path: str,
    body: bytes = b"",
    *,
    http_method: str = "POST",
    content_type: str | None = "application/proto",
    **variables: Any,
) -> WSGIEnvironment:
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": http_method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "unit.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Input(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if content_type is not None:
        environ["CONTENT_TYPE"] = content_type
    environ.update(variables)
    return environ


class Answer:
    """What a server gets to send."""

    def __init__(self, application: WSGIApplication, environ: WSGIEnvironment) -> None:
        self._heads: list[tuple[str, list[tuple[str, str]]]] = []
        self.chunks: Iterable[bytes] = validator(application)(environ, self._start_response)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Any:
        self._heads.append((status, headers))
        return lambda data: None

    def read(self) -> bytes:
        try:
            return b"".join(self.chunks)
        finally:
            close_iterator(self.chunks)

    @property
    def status(self) -> str:
        ((status, _),) = self._heads
        return status

    @property
    def headers(self) -> dict[str, str]:
        ((_, headers),) = self._heads
        return dict(headers)


def ask(
    environ: WSGIEnvironment, application: WSGIApplication | None = None
) -> tuple[str, dict[str, str], bytes]:
    """Answer a request, and return status, headers and body."""
    answer = Answer(application or UnitApplication(Unit()), environ)
    body = answer.read()
    return answer.status, answer.headers, body


def see(environ: WSGIEnvironment) -> RequestContext:
    """Return the context that the unary handler gets."""
    service = Unit()
    ask(environ, UnitApplication(service))
    return service.contexts[0]


# A request of each kind


def test_unary_call_is_answered() -> None:
    assert ask(environ_of(UNARY.path, proto("a"))) == (
        "200 OK",
        {
            "greet-version": "v1",
            "trailer-greet-count": "1",
            "content-type": "application/proto",
            "content-length": "3",
        },
        proto("a"),
    )


def test_get_is_answered() -> None:
    environ = environ_of(
        READ.path, http_method="GET", content_type=None, QUERY_STRING="encoding=json&message=%22%C3%A9%22"
    )
    del environ["CONTENT_LENGTH"]

    assert ask(environ)[2] == '"é"'.encode()


def test_client_stream_is_answered() -> None:
    body = envelope(proto("a")) + envelope(proto("b"))
    status, headers, answer = ask(
        environ_of(CLIENT_STREAM.path, body, content_type="application/connect+proto")
    )

    assert (status, headers) == (
        "200 OK",
        {"content-type": "application/connect+proto", "content-length": str(len(answer))},
    )
    assert split_envelopes(answer) == [(0, proto("a,b")), (END, b"{}")]


def test_server_stream_is_answered() -> None:
    body = envelope(proto("a,b"))
    status, headers, answer = ask(
        environ_of(SERVER_STREAM.path, body, content_type="application/connect+proto")
    )

    assert (status, headers) == ("200 OK", {"content-type": "application/connect+proto"})
    assert split_envelopes(answer) == [(0, proto("a")), (0, proto("b")), (END, b"{}")]


def test_bidirectional_method_is_refused_with_its_body_unread() -> None:
    environ = environ_of(BIDI.path, envelope(b""), content_type="application/connect+json")
    body = environ["wsgi.input"]
    status, _, answer = ask(environ)
    ((flags, end),) = split_envelopes(answer)

    assert (status, flags, json.loads(end)["error"]["code"]) == ("200 OK", END, "unimplemented")
    assert body.tell() == 0


def test_compression_goes_both_ways() -> None:
    environ = environ_of(
        UNARY.path, gzip.compress(proto("a")), HTTP_CONTENT_ENCODING="gzip", HTTP_ACCEPT_ENCODING="foo, gzip"
    )
    _, headers, body = ask(environ, UnitApplication(Unit(), compress_min_bytes=0))

    assert gzip.decompress(body) == proto("a")
    assert headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("canceled", "499 Client Closed Request"),
        ("unknown", "500 Internal Server Error"),
        ("invalid_argument", "400 Bad Request"),
        ("deadline_exceeded", "504 Gateway Timeout"),
        ("not_found", "404 Not Found"),
        ("already_exists", "409 Conflict"),
        ("permission_denied", "403 Forbidden"),
        ("resource_exhausted", "429 Too Many Requests"),
        ("unimplemented", "501 Not Implemented"),
        ("unavailable", "503 Service Unavailable"),
        ("unauthenticated", "401 Unauthorized"),
    ],
)
def test_error_has_its_status_line(code: str, status: str) -> None:
    answer = ask(environ_of(UNARY.path, proto(code)))

    assert answer[0] == status
    assert json.loads(answer[2]) == {"code": code, "message": "as told"}
    assert answer[1] == {"content-type": "application/json", "content-length": str(len(answer[2]))}


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_every_code_has_a_status_line(code: Code) -> None:
    status, _, _ = ask(environ_of(UNARY.path, proto(code.value)))

    assert status.startswith(f"{code.http_status} ")


@pytest.mark.parametrize(
    ("path", "variables", "status"),
    [
        ("/nowhere", {}, "404 Not Found"),
        (UNARY.path, {"http_method": "DELETE"}, "405 Method Not Allowed"),
        (UNARY.path, {"content_type": "text/html"}, "415 Unsupported Media Type"),
        (UNARY.path, {"content_type": None}, "415 Unsupported Media Type"),
    ],
    ids=["path", "method", "content type", "no content type"],
)
def test_request_that_is_no_call_has_an_answer_of_http(path: str, variables: Any, status: str) -> None:
    answer = ask(environ_of(path, **variables))

    assert (answer[0], answer[1]["content-type"]) == (status, "text/plain; charset=utf-8")
    assert answer[1]["content-length"] == str(len(answer[2]))


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/nowhere", "404 Not Found", "unknown method /nowhere\n"),
        (UNARY.path, "405 Method Not Allowed", "HEAD is not allowed here\n"),
        (READ.path, "405 Method Not Allowed", "HEAD is not allowed here\n"),
    ],
    ids=["path", "post", "get"],
)
def test_head_is_answered_with_the_length_of_a_text_that_is_not_sent(
    path: str, status: str, text: str
) -> None:
    answer = ask(environ_of(path, http_method="HEAD"))

    assert (answer[0], answer[1]["content-length"], answer[2]) == (status, str(len(text)), b"")


# Where it is mounted


@pytest.mark.parametrize(
    ("script_name", "path_info"),
    [
        ("", "/unit.v1.UnitService/Unary"),
        ("/api", "/unit.v1.UnitService/Unary"),
        ("/a/b", "/unit.v1.UnitService/Unary"),
        ("/unit.v1.UnitService", "/Unary"),
        ("/api/unit.v1.UnitService", "/Unary"),
    ],
)
def test_application_is_found_where_it_is_mounted(script_name: str, path_info: str) -> None:
    environ = environ_of(path_info, proto("a"), SCRIPT_NAME=script_name)

    assert ask(environ)[2] == proto("a")


@pytest.mark.parametrize(
    ("script_name", "path_info"),
    [
        ("", "/Unary"),
        ("/api", "/Unary"),
        ("/other.v1.UnitService", "/Unary"),
        ("/xunit.v1.UnitService", "/Unary"),
        ("/unit.v1.UnitService", "/unit.v1.UnitService/unary"),
        ("/unit.v1.UnitService", "/"),
        ("/unit.v1.UnitService", ""),
        ("/unit.v1.UnitService/Unary", ""),
        ("", "/api/unit.v1.UnitService/Unary"),
    ],
)
def test_other_places_are_not_found(script_name: str, path_info: str) -> None:
    assert ask(environ_of(path_info, SCRIPT_NAME=script_name))[0] == "404 Not Found"


def test_environ_without_a_script_name_is_one_at_the_root() -> None:
    environ = environ_of(UNARY.path, proto("a"))
    del environ["SCRIPT_NAME"]

    # The validator cannot do without one.
    assert list(UnitApplication(Unit())(environ, lambda *head: lambda data: None)) == [proto("a")]


def test_path_is_where_generated_code_says() -> None:
    assert UnitApplication(Unit()).path == "/unit.v1.UnitService"


# What a handler knows


@pytest.mark.parametrize(
    ("variables", "peer"),
    [
        ({}, None),
        ({"REMOTE_ADDR": ""}, None),
        ({"REMOTE_ADDR": "10.0.0.1"}, "10.0.0.1"),
        ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": ""}, "10.0.0.1"),
        ({"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "5000"}, "10.0.0.1:5000"),
        ({"REMOTE_ADDR": "::1", "REMOTE_PORT": "5000"}, "[::1]:5000"),
    ],
)
def test_peer_is_what_the_server_tells(variables: dict[str, str], peer: str | None) -> None:
    assert see(environ_of(UNARY.path) | variables).peer() == peer


def test_headers_are_those_of_the_environ() -> None:
    ctx = see(environ_of(UNARY.path, proto("a"), HTTP_X_GREETING="hello", HTTP_HOST="unit.test"))

    assert dict(ctx.request_headers()) == {
        "content-type": "application/proto",
        "content-length": "3",
        "x-greeting": "hello",
        "host": "unit.test",
    }


def test_timeout_is_that_of_the_request() -> None:
    timeout_ms = see(environ_of(UNARY.path, HTTP_CONNECT_TIMEOUT_MS="5000000")).timeout_ms()

    assert timeout_ms is not None
    assert 0 < timeout_ms <= 5_000_000


def test_binary_header_is_read() -> None:
    ctx = see(environ_of(UNARY.path, HTTP_TRACE_BIN="AP8,YQ=="))

    assert ctx.request_headers().get_binary("trace-bin") == [b"\x00\xff", b"a"]


def test_headers_of_an_environ_leave_empty_content_variables_out() -> None:
    headers = EnvironHeaders({"CONTENT_TYPE": "", "CONTENT_LENGTH": "", "HTTP_A": ""})

    assert dict(headers) == {"a": ""}


@pytest.mark.parametrize(
    "name",
    ["content-type", "Content-Type", "CONTENT-LENGTH", "a", "x-y", "X-Y", "x_y", "content_type", "path-info"],
)
@pytest.mark.parametrize("value", ["", "1"])
def test_header_of_an_environ_is_the_same_alone_and_among_all(name: str, value: str) -> None:
    environ = dict.fromkeys(["CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_A", "HTTP_X_Y", "PATH_INFO"], value)
    alone, parsed = EnvironHeaders(environ), EnvironHeaders(environ)
    len(parsed)

    assert alone.get(name, "default") == parsed.get(name, "default")


def test_headers_of_an_environ_may_be_changed_and_copied() -> None:
    headers = EnvironHeaders({"HTTP_A": "1"})
    headers.add("a", "2")
    headers["b"] = "3"

    assert headers.get_all("a") == ["1", "2"]
    assert (len(headers), headers["B"]) == (2, "3")


# The body of the response


def test_message_is_a_chunk_that_leaves_before_the_next_is_asked_for() -> None:
    service = Unit()
    environ = environ_of(SERVER_STREAM.path, envelope(proto("a,b")), content_type="application/connect+proto")
    answer = Answer(UnitApplication(service), environ)
    chunks = iter(answer.chunks)

    assert next(chunks) == envelope(proto("a"))
    assert service.events == ["begun"]
    close_iterator(answer.chunks)


@pytest.mark.parametrize("read_count", [0, 1])
def test_closing_the_response_closes_the_handler(read_count: int) -> None:
    service = Unit()
    environ = environ_of(SERVER_STREAM.path, envelope(proto("a,b")), content_type="application/connect+proto")
    answer = Answer(UnitApplication(service), environ)
    chunks = iter(answer.chunks)
    for _ in range(read_count):
        next(chunks)
    close_iterator(answer.chunks)

    assert service.events == ["begun", "cleaned up"]


def test_response_starts_once_its_first_message_is_there() -> None:
    started = []

    class Slow(Unit):
        def expand(self, request: StringValue, ctx: RequestContext) -> Iterator[StringValue]:
            started.append(bool(answers))
            ctx.response_headers()["a"] = "1"
            yield text()

    answers: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Any:
        answers.append(dict(headers)["a"])

    environ = environ_of(SERVER_STREAM.path, envelope(b""), content_type="application/connect+proto")
    close_iterator(UnitApplication(Slow())(environ, start_response))

    assert (started, answers) == ([False], ["1"])


def test_request_body_is_never_read_beyond_its_length() -> None:
    environ = environ_of(UNARY.path, proto("a"))
    body = environ["wsgi.input"]

    assert ask(environ)[0] == "200 OK"
    assert body.tell() == 3


@pytest.mark.parametrize("announced", ["10", "9" * 30, "9" * 5000])
def test_body_that_is_shorter_than_announced_is_an_error(announced: str) -> None:
    environ = environ_of(UNARY.path)
    environ["wsgi.input"] = io.BytesIO(b"abc")
    environ["CONTENT_LENGTH"] = announced
    body = b"".join(UnitApplication(Unit())(environ, lambda *args: lambda data: None))

    assert json.loads(body)["code"] in ("canceled", "resource_exhausted")


def test_body_past_the_limit_is_refused_by_its_announced_length() -> None:
    environ = environ_of(UNARY.path, proto("a" * 100))
    body = environ["wsgi.input"]
    status, _, _ = ask(environ, UnitApplication(Unit(), read_max_bytes=10))

    assert (status, body.tell()) == ("429 Too Many Requests", 0)


# Trailers

GUNICORN = "gunicorn.http2.send_trailers"
EXTENSION = "wsgi.ext.http.send_trailers"
EXTENSIONS = pytest.mark.parametrize("extension", [GUNICORN, EXTENSION])


class Http2Server:
    """Answers a request as a server with HTTP/2 does, and keeps what it gets to send, in order."""

    def __init__(self, extension: str, environ: WSGIEnvironment, service: Unit | None = None) -> None:
        self.sent: list[Any] = []
        environ["SERVER_PROTOCOL"] = "HTTP/2.0"
        environ[extension] = self.sent.append
        self.answer = Answer(UnitApplication(service or Unit()), environ)

    def send(self) -> None:
        """Send the response to its end."""
        try:
            self.sent.extend(self.answer.chunks)
        finally:
            close_iterator(self.answer.chunks)


def grpc_environ(method: TextMethod, value: str = "a", **variables: Any) -> WSGIEnvironment:
    variables.setdefault("content_type", "application/grpc+proto")
    return environ_of(method.path, envelope(proto(value)), **variables)


@EXTENSIONS
@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_grpc_call_is_answered_with_trailers(extension: str, method: TextMethod) -> None:
    server = Http2Server(extension, grpc_environ(method))
    server.send()
    *chunks, trailers = server.sent

    assert server.answer.status == "200 OK"
    assert server.answer.headers["content-type"] == "application/grpc+proto"
    assert chunks == [envelope(proto("a"))]
    assert trailers == ([("greet-count", "1")] if method is UNARY else []) + [("grpc-status", "0")]


@EXTENSIONS
def test_trailers_are_handed_over_behind_the_last_chunk_and_before_the_end(extension: str) -> None:
    server = Http2Server(extension, grpc_environ(SERVER_STREAM, "a,b"))
    for chunk in server.answer.chunks:
        server.sent.append(chunk)
    server.sent.append(b"ended")
    close_iterator(server.answer.chunks)

    assert server.sent == [
        envelope(proto("a")),
        envelope(proto("b")),
        [("grpc-status", "0")],
        b"ended",
    ]


@EXTENSIONS
@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_response_with_trailers_has_no_length(extension: str, method: TextMethod) -> None:
    server = Http2Server(extension, grpc_environ(method))
    server.send()

    assert "content-length" not in server.answer.headers


@EXTENSIONS
@pytest.mark.parametrize(
    ("method", "value", "variables", "number"),
    [
        (UNARY, "not_found", {}, "5"),
        (UNARY, "a", {"HTTP_GRPC_TIMEOUT": "x"}, "3"),
        (UNARY, "a", {"HTTP_GRPC_ENCODING": "foo"}, "12"),
        (BIDI, "a", {}, "12"),
    ],
    ids=["handler", "timeout", "compression", "bidirectional"],
)
def test_error_is_handed_over_as_trailers(
    extension: str, method: TextMethod, value: str, variables: Any, number: str
) -> None:
    server = Http2Server(extension, grpc_environ(method, value, **variables))
    server.send()
    *chunks, trailers = server.sent

    assert (server.answer.status, b"".join(chunks)) == ("200 OK", b"")
    assert dict(trailers)["grpc-status"] == number


@EXTENSIONS
@pytest.mark.parametrize("read_count", [0, 1, 2])
def test_response_that_is_given_up_has_no_trailers(extension: str, read_count: int) -> None:
    service = Unit()
    server = Http2Server(extension, grpc_environ(SERVER_STREAM, "a,b,c"), service)
    chunks = iter(server.answer.chunks)
    for _ in range(read_count):
        next(chunks)
    close_iterator(server.answer.chunks)

    assert server.sent == []
    assert service.events == ["begun", "cleaned up"]


@EXTENSIONS
@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        (UNARY, "application/proto"),
        (SERVER_STREAM, "application/connect+proto"),
        (UNARY, "application/grpc-web+proto"),
        (SERVER_STREAM, "application/grpc-web-text+proto"),
        (UNARY, "text/html"),
    ],
)
def test_response_of_another_protocol_has_no_trailers(
    extension: str, method: TextMethod, content_type: str
) -> None:
    server = Http2Server(extension, grpc_environ(method, content_type=content_type))
    server.send()

    assert all(isinstance(sent, bytes) for sent in server.sent)


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_trailers_of_http_1_are_none(protocol: str) -> None:
    sent: list[object] = []
    environ = grpc_environ(UNARY, SERVER_PROTOCOL=protocol)
    environ[EXTENSION] = sent.append

    assert ask(environ)[0] == "501 Not Implemented"
    assert sent == []


@pytest.mark.parametrize("protocol", ["HTTP/2", "HTTP/2.0", "HTTP/3"])
def test_trailers_of_later_http_are_used(protocol: str) -> None:
    sent: list[object] = []
    environ = grpc_environ(UNARY, SERVER_PROTOCOL=protocol)
    environ[EXTENSION] = sent.append

    assert ask(environ)[0] == "200 OK"
    assert sent == [[("greet-count", "1"), ("grpc-status", "0")]]


def test_grpc_on_a_server_without_trailers_is_refused() -> None:
    status, headers, body = ask(grpc_environ(UNARY))

    assert (status, headers["content-type"]) == ("501 Not Implemented", "text/plain; charset=utf-8")
    assert headers["content-length"] == str(len(body))


# gRPC-Web


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM], ids=lambda method: method.name)
def test_grpc_web_response_with_one_message_has_a_length(method: TextMethod) -> None:
    status, headers, body = ask(grpc_environ(method, content_type="application/grpc-web"))
    (message, (flags, _)) = split_envelopes(body)

    assert (status, headers["content-length"]) == ("200 OK", str(len(body)))
    assert (message, flags) == ((0, proto("a")), WEB_END)


def test_grpc_web_stream_is_answered_in_chunks() -> None:
    environ = grpc_environ(SERVER_STREAM, "a,b", content_type="application/grpc-web")
    answer = Answer(UnitApplication(Unit()), environ)
    chunks = list(answer.chunks)
    close_iterator(answer.chunks)

    assert chunks == [envelope(proto("a")), envelope(proto("b")), OK_WEB_END]
    assert "content-length" not in answer.headers


def test_grpc_web_text_is_answered_in_base64() -> None:
    body = b64encode(envelope(proto("a")))
    environ = environ_of(CLIENT_STREAM.path, body, content_type="application/grpc-web-text")
    _, headers, answer = ask(environ)

    assert b64decode(answer, validate=True) == envelope(proto("a")) + OK_WEB_END
    assert headers["content-length"] == str(len(answer))


# How it is built


def test_interceptors_are_passed_on() -> None:
    observer = Observer()
    ask(environ_of(UNARY.path), UnitApplication(Unit(), interceptors=[observer]))

    assert (observer.starts, observer.errors) == (1, [None])


def test_compressions_are_passed_on() -> None:
    environ = environ_of(UNARY.path, proto("a"), HTTP_ACCEPT_ENCODING="gzip")

    assert ask(environ, UnitApplication(Unit(), compressions=()))[2] == proto("a")


@pytest.mark.parametrize(
    ("options", "size", "is_compressed"),
    [
        ({}, 1023, False),
        ({}, 1024, True),
        ({"compress_min_bytes": 10}, 9, False),
        ({"compress_min_bytes": 10}, 10, True),
    ],
)
def test_messages_are_compressed_from_a_size_on(
    options: dict[str, Any], size: int, is_compressed: bool
) -> None:
    message = (b'"%b"' % (b"a" * (size - 2)))[:size]
    environ = environ_of(UNARY.path, message, content_type="application/json", HTTP_ACCEPT_ENCODING="gzip")
    _, headers, body = ask(environ, UnitApplication(Unit(), **options))

    assert headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert (gzip.decompress(body) if is_compressed else body) == message


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"interceptors": [object()]}, TypeError),
        ({"read_max_bytes": 0}, ValueError),
        ({"compressions": ["unheard-of"]}, ValueError),
        ({"compress_min_bytes": -1}, ValueError),
    ],
)
def test_wrong_argument_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        UnitApplication(Unit(), **options)


def test_service_without_a_handler_is_refused() -> None:
    service: Any = object()

    with pytest.raises(TypeError, match="has no method 'unary'"):
        UnitApplication(service)


@pytest.mark.parametrize("method", [UNARY, READ], ids=lambda method: method.name)
def test_application_may_be_called_again_and_again(method: TextMethod) -> None:
    application = UnitApplication(Unit())

    assert [ask(environ_of(method.path, proto(value)), application)[2] for value in "ab"] == [
        proto("a"),
        proto("b"),
    ]


# Whatever the environ holds


def test_random_requests_are_answered_as_pep_3333_says() -> None:
    random = Random(17)
    application = UnitApplication(Unit(), read_max_bytes=50)
    paths = [method.path for method in UnitApplication.methods.values()]
    types = [
        "application/proto",
        "application/json",
        "application/connect+proto",
        "application/connect+json",
        "application/grpc-web",
        "application/grpc-web+json",
        "application/grpc-web-text",
        "application/grpc",
        "",
    ]
    for _ in range(800):
        body = random.choice([b"", proto("a"), envelope(proto("a")), random.randbytes(random.randrange(70))])
        http_method = random.choice(["POST", "POST", "POST", "GET", "HEAD"])
        environ = environ_of(
            random.choice([*paths, "", "/", "/\xff", "/Unary"]),
            body,
            http_method=http_method,
            content_type=random.choice([*types, "\xff\x01"]),
            QUERY_STRING=random.choice(["", "encoding=json&message=%22a%22", "\xff=%", "&&"]),
            HTTP_ACCEPT_ENCODING=random.choice(["", "gzip", "\xff"]),
            HTTP_CONNECT_TIMEOUT_MS=random.choice(["1000000", "", "\xff"]),
            HTTP_GRPC_TIMEOUT=random.choice(["1000000m", "", "\xff"]),
            SCRIPT_NAME=random.choice(["", "/api", UnitApplication.path]),
        )
        status, headers, answer = ask(environ, application)

        assert int(status[:3]) in {200, 400, 404, 405, 415, 429, 500, 501}
        assert b"internal error" not in answer
        if http_method == "HEAD":
            assert answer == b""
        else:
            assert headers.get("content-length", str(len(answer))) == str(len(answer))
