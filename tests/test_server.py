"""The service as a whole: how it is built, and which request goes where."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Headers, Method, RequestContext
from connect_sync.http import DEFAULT_READ_MAX_BYTES, Request
from connect_sync.server import Service
from tests.support import (
    BIDI,
    CLIENT_STREAM,
    READ,
    SERVER_STREAM,
    UNARY,
    WEB_END,
    Answer,
    Observer,
    ScriptedBody,
    TextMethod,
    ask,
    echo,
    envelope,
    proto,
    serve,
    split_envelopes,
    trailer_lines,
)

ALL = [UNARY, READ, CLIENT_STREAM, SERVER_STREAM, BIDI]
EVERY_METHOD = pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)


def send(
    service: Service, http_method: str, path: str, content_type: str | None = "application/proto"
) -> Answer:
    headers = Headers() if content_type is None else Headers({"content-type": content_type})
    return Answer(service(Request(http_method, path, headers)))


# How it is built


def test_handlers_are_checked_when_the_service_is_built() -> None:
    async def handle(request: Any, ctx: RequestContext) -> Any: ...

    with pytest.raises(TypeError, match="is async"):
        serve(UNARY, handle)


def test_bidirectional_method_needs_no_handler() -> None:
    Service(object(), {"chat": BIDI}, compressions=())


@pytest.mark.parametrize("read_max_bytes", [0, -1])
def test_limit_has_to_be_positive(read_max_bytes: int) -> None:
    with pytest.raises(ValueError, match="read_max_bytes"):
        serve(UNARY, read_max_bytes=read_max_bytes)


def test_limit_is_four_mebibytes_by_default() -> None:
    assert DEFAULT_READ_MAX_BYTES == 4 * 1024 * 1024


def test_size_from_which_on_messages_are_compressed_may_not_be_negative() -> None:
    with pytest.raises(ValueError, match="compress_min_bytes must be 0 or more bytes, got -1"):
        serve(UNARY, compress_min_bytes=-1)


@pytest.mark.parametrize("compressions", [["gzip", "gzip"], ["unheard-of"]])
def test_compressions_are_checked_when_the_service_is_built(compressions: list[str]) -> None:
    with pytest.raises(ValueError, match="compression"):
        serve(UNARY, compressions=compressions)


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_implementation_is_called_by_the_names_of_the_handlers(method: TextMethod) -> None:
    class Implementation:
        def first(self, request: Any, ctx: RequestContext) -> Any:
            return [StringValue(value="first")] if method is SERVER_STREAM else StringValue(value="first")

        def second(self, request: Any, ctx: RequestContext) -> Any:
            raise AssertionError("called")

    other = Method("unit.v1.UnitService", "Second", StringValue, StringValue)
    service = Service(Implementation(), {"first": method, "second": other}, compressions=())
    answer = ask(service, method)

    assert (answer.text if method is UNARY else answer.texts[0]) == "first"


# Which request goes where


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/unit.v1.UnitService",
        "/unit.v1.UnitService/",
        "/unit.v1.UnitService/Other",
        "/unit.v1.UnitService/unary",
        "/Unit.v1.UnitService/Unary",
        "/unit.v1.UnitService/Unary/",
        "/prefix/unit.v1.UnitService/Unary",
        "unit.v1.UnitService/Unary",
        "/\xff\u20ac\ud800",
    ],
)
@pytest.mark.parametrize("http_method", ["POST", "GET"])
def test_unknown_path_is_not_found(http_method: str, path: str) -> None:
    answer = send(serve(UNARY), http_method, path)

    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "http_method", "allow"),
    [
        (UNARY, "GET", "POST"),
        (UNARY, "DELETE", "POST"),
        (UNARY, "OPTIONS", "POST"),
        (UNARY, "HEAD", "POST"),
        (UNARY, "post", "POST"),
        (READ, "PUT", "GET, POST"),
        (CLIENT_STREAM, "GET", "POST"),
        (SERVER_STREAM, "PATCH", "POST"),
        (BIDI, "GET", "POST"),
    ],
)
def test_other_http_method_is_refused_with_those_that_are_allowed(
    method: TextMethod, http_method: str, allow: str
) -> None:
    answer = send(serve(method), http_method, method.path)

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        (UNARY, "application/connect+proto"),
        (UNARY, "application/grpc+xml"),
        (UNARY, "application/grpc-web-text2"),
        (UNARY, "application/grpcx"),
        (UNARY, "application/foo"),
        (UNARY, "image/jpeg"),
        (UNARY, "proto"),
        (UNARY, ""),
        (UNARY, "application/json; charset=latin-1"),
        (UNARY, "application/json; charset = latin-1"),
        (UNARY, 'application/json;v=1; Charset="UTF-16"'),
        (UNARY, "application/json; charset=utf-8; charset=latin-1"),
        (UNARY, "application/json; charset="),
        (UNARY, "application/proto; charset=latin-1"),
        (UNARY, "application/grpc-web; charset=latin-1"),
        (UNARY, "application/json, application/json"),
        (READ, "application/connect+json"),
        (CLIENT_STREAM, "application/proto"),
        (SERVER_STREAM, "application/json"),
        (SERVER_STREAM, "application/connect+xml"),
        (BIDI, "application/proto"),
    ],
)
def test_unknown_content_type_is_refused(method: TextMethod, content_type: str) -> None:
    answer = send(serve(method), "POST", method.path, content_type)

    assert answer.status == 415
    assert answer.headers["content-type"].startswith("text/plain")


def test_refusal_of_a_content_type_says_what_it_has_to_be() -> None:
    answer = send(serve(UNARY), "POST", UNARY.path, "text/html")

    assert answer.body.startswith(b"the content type must be one of application/proto, application/json, ")
    assert answer.body.endswith(b", got 'text/html'\n")


@pytest.mark.parametrize("method", [CLIENT_STREAM, SERVER_STREAM, BIDI])
def test_bare_json_for_a_stream_is_answered_with_what_a_stream_takes(method: TextMethod) -> None:
    answer = send(serve(method), "POST", method.path, "application/json")

    assert answer.body.decode().endswith(
        f"; {method.full_name} is {method.kind.value}, "
        "which takes messages in envelopes, as application/connect+json\n"
    )


def test_absent_content_type_is_refused() -> None:
    assert send(serve(UNARY), "POST", UNARY.path, None).status == 415


@pytest.mark.parametrize(
    ("method", "own"),
    [
        (UNARY, ["application/proto", "application/json"]),
        (READ, ["application/proto", "application/json"]),
        (CLIENT_STREAM, ["application/connect+proto", "application/connect+json"]),
        (SERVER_STREAM, ["application/connect+proto", "application/connect+json"]),
        (BIDI, ["application/connect+proto", "application/connect+json"]),
    ],
)
def test_refusal_of_a_content_type_lists_those_that_there_are(method: TextMethod, own: list[str]) -> None:
    answer = send(serve(method), "POST", method.path, "text/html")

    assert answer.headers["accept-post"].split(", ") == own + [
        f"application/{family}{codec}"
        for family in ("grpc-web", "grpc-web-text", "grpc")
        for codec in ("+proto", "", "+json")
    ]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json; charset=utf8",
        'application/json; Charset = "UTF8"',
        "application/json;v=1;charset=utf-8 ; profile=https://example.com/a",
        'application/json; a="; charset=latin-1"; b="\\"; charset=latin-1"',
        "application/json; boundary=x",
        "application/json; boundary",
        "application/json; not-a-charset=latin-1",
        "Application/JSON",
        "application/json;",
        " application/json ",
    ],
)
def test_content_type_is_known_in_every_spelling(content_type: str) -> None:
    request = Request("POST", UNARY.path, Headers({"content-type": content_type}), (b'"a"',))

    assert Answer(serve(UNARY)(request)).body == b'"a"'


@pytest.mark.parametrize(
    "content_type",
    [
        "application/grpc-web+proto; charset=utf-8",
        'application/grpc-web+proto;charset="UTF-8"',
        "application/grpc-web+proto; charset=utf8; boundary=x",
        "Application/GRPC-Web+Proto",
        " application/grpc-web+proto ;",
    ],
)
def test_content_type_is_answered_without_its_parameters(content_type: str) -> None:
    request = Request("POST", UNARY.path, Headers({"content-type": content_type}), (envelope(b""),))

    assert serve(UNARY)(request).headers["content-type"] == "application/grpc-web+proto"


@EVERY_METHOD
@pytest.mark.parametrize(
    ("http_method", "path", "content_type"),
    [("DELETE", None, "application/proto"), ("POST", "/nowhere", "application/proto"), ("POST", None, "a/b")],
    ids=["method", "path", "content type"],
)
def test_refused_request_is_not_read(
    method: TextMethod, http_method: str, path: str | None, content_type: str
) -> None:
    body = ScriptedBody(envelope(b""))
    headers = Headers({"content-type": content_type})
    serve(method)(Request(http_method, path or method.path, headers, body))

    assert body.sizes == []


# gRPC, where the server has no trailers

GRPC_TYPES = pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc+json"]
)


@EVERY_METHOD
@GRPC_TYPES
def test_grpc_without_trailers_is_refused_in_plain_words(method: TextMethod, content_type: str) -> None:
    answer = send(serve(method), "POST", method.path, content_type)

    assert answer.status == 501
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.startswith(b"gRPC needs HTTP trailers, and this server offers none for this request")


@EVERY_METHOD
def test_grpc_without_trailers_is_refused_with_nothing_read(method: TextMethod) -> None:
    body = ScriptedBody(envelope(b""))
    serve(method)(Request("POST", method.path, Headers({"content-type": "application/grpc"}), body))

    assert body.sizes == []


def test_grpc_without_trailers_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    send(serve(UNARY), "POST", UNARY.path, "application/grpc")
    (record,) = caplog.records

    assert (record.name, record.levelno) == ("connect_sync.server", logging.WARNING)
    assert record.getMessage().startswith(f"a gRPC request to {UNARY.path} was refused: gRPC needs HTTP")


@pytest.mark.parametrize("content_type", ["application/grpc-web", "application/grpc-web-text"])
def test_grpc_web_needs_no_trailers(content_type: str) -> None:
    assert send(serve(UNARY), "POST", UNARY.path, content_type).status == 200


@EVERY_METHOD
@GRPC_TYPES
def test_grpc_where_the_server_has_trailers_is_answered(method: TextMethod, content_type: str) -> None:
    headers = Headers({"content-type": content_type})
    answer = Answer(serve(method)(Request("POST", method.path, headers, accepts_trailers=True)))

    assert (answer.status, answer.headers["content-type"]) == (200, content_type)


# Bidirectional methods


@pytest.mark.parametrize("codec", ["proto", "json"])
def test_bidirectional_method_is_unimplemented_in_the_form_that_was_asked_in(codec: str) -> None:
    answer = ask(serve(BIDI), BIDI, codec=codec)

    assert answer.headers["content-type"] == f"application/connect+{codec}"
    assert answer.end["error"]["code"] == "unimplemented"


def test_refusal_of_a_bidirectional_method_names_it() -> None:
    message = ask(serve(BIDI), BIDI).end["error"]["message"]

    assert message.startswith("unit.v1.UnitService.Chat is bidirectional streaming")


def test_bidirectional_method_is_refused_with_nothing_of_its_body_read() -> None:
    body = ScriptedBody(envelope(proto("a")))
    ask(serve(BIDI), BIDI, body)

    assert body.sizes == []


def test_bidirectional_method_is_refused_whatever_implements_it() -> None:
    assert ask(serve(BIDI, echo), BIDI).code == "unimplemented"


def test_rest_of_a_service_with_a_bidirectional_method_works() -> None:
    service = Service(SimpleNamespace(unary=echo), {"unary": UNARY, "chat": BIDI}, compressions=())

    assert ask(service, UNARY, proto("a")).text == "a"


# What a handler knows of its call


def see(method: TextMethod, request: Request) -> RequestContext:
    """Return the context that the handler of ``method`` gets."""
    seen: list[RequestContext] = []

    def handler(message: Any, ctx: RequestContext) -> Any:
        seen.append(ctx)
        return iter([StringValue()]) if method is SERVER_STREAM else StringValue()

    Answer(serve(method, handler)(request))
    return seen[0]


def request_of(method: TextMethod, **headers: str) -> Request:
    is_unary = method in (UNARY, READ)
    content_type = "application/proto" if is_unary else "application/connect+proto"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = (b"" if is_unary else envelope(b""),)
    return Request(
        "POST", method.path, Headers({"content-type": content_type, **names}), body, peer="10.0.0.1:5"
    )


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_handler_knows_method_peer_and_headers(method: TextMethod) -> None:
    ctx = see(method, request_of(method, greet_version="v1"))

    assert (ctx.method(), ctx.http_method(), ctx.peer()) == (method, "POST", "10.0.0.1:5")
    assert ctx.request_headers()["greet-version"] == "v1"


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_handler_knows_how_much_time_remains(method: TextMethod) -> None:
    timeout_ms = see(method, request_of(method, connect_timeout_ms="9999999999")).timeout_ms()

    assert timeout_ms is not None
    assert 0 < timeout_ms <= 9_999_999_999


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
def test_handler_of_a_call_without_timeout_has_no_deadline(method: TextMethod) -> None:
    assert see(method, request_of(method)).timeout_ms() is None


def test_handler_reads_binary_metadata() -> None:
    ctx = see(UNARY, request_of(UNARY, trace_bin="AP8, YQ=="))

    assert ctx.request_headers().get_binary("trace-bin") == [b"\x00\xff", b"a"]


def test_calls_share_nothing() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers().add("seen", "1")
        return request

    service = serve(UNARY, handler, interceptors=[Observer()])
    answers = [ask(service, UNARY), ask(service, UNARY)]

    assert [answer.headers.get_all("seen") for answer in answers] == [["1"], ["1"]]


def test_methods_of_any_callable_may_be_handlers() -> None:
    class Handler:
        def __call__(self, request: Any, ctx: RequestContext) -> Any:
            return request

    assert ask(serve(UNARY, Handler()), UNARY, proto("a")).text == "a"


def test_handler_of_a_stream_may_return_any_iterable() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[Any] | list[Any]:
        return [StringValue(value="a"), StringValue(value="b")]

    assert ask(serve(SERVER_STREAM, handler), SERVER_STREAM).texts == ["a", "b"]


# The version of the protocol


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM, BIDI])
def test_version_of_connect_may_be_required(method: TextMethod) -> None:
    service = serve(method, require_connect_protocol_version=True)

    assert ask(service, method).code == "invalid_argument"
    expected = "unimplemented" if method is BIDI else None
    assert ask(service, method, headers={"connect-protocol-version": "1"}).code == expected


# Unknown methods


@pytest.mark.parametrize("path", ["/unit.v1.UnitService/Absent", "/absent.v1.Service/Unary"])
@pytest.mark.parametrize("subtype", ["grpc-web", "grpc-web+proto", "grpc-web+json", "grpc-web+thrift"])
def test_unknown_method_has_a_status_of_grpc_web(path: str, subtype: str) -> None:
    answer = send(serve(UNARY), "POST", path, f"application/{subtype}")
    ((flags, end),) = answer.envelopes

    known = "application/grpc-web" if subtype.endswith("thrift") else f"application/{subtype}"
    assert (answer.status, answer.headers["content-type"]) == (200, known)
    assert (flags, dict(trailer_lines(end))) == (
        WEB_END,
        {"grpc-status": "12", "grpc-message": f"unknown method {path}"},
    )


def test_unknown_method_has_a_status_of_grpc_web_text() -> None:
    answer = send(serve(UNARY), "POST", "/a.B/C", "application/grpc-web-text")
    ((_, end),) = split_envelopes(b64decode(answer.body))

    assert dict(trailer_lines(end))["grpc-status"] == "12"


def test_unknown_method_has_a_status_of_grpc_where_there_are_trailers() -> None:
    headers = Headers({"content-type": "application/grpc"})
    service = serve(UNARY)
    answer = Answer(service(Request("POST", "/a.B/C", headers, accepts_trailers=True)))

    assert (answer.status, answer.body) == (200, b"")
    assert answer.trailers is not None
    assert answer.trailers["grpc-status"] == "12"
    assert service(Request("POST", "/a.B/C", headers)).status == 404


@pytest.mark.parametrize(
    "content_type",
    ["application/proto", "application/connect+json", "text/html", "application/grpcevil", None],
)
def test_unknown_method_is_a_page_of_http_to_others(content_type: str | None) -> None:
    assert send(serve(UNARY), "POST", "/a.B/C", content_type).status == 404
