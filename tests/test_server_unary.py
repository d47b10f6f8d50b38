"""Connect's unary form, on the server."""

from __future__ import annotations

import gzip
import json
import logging
from random import Random
from typing import Any, cast

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from connect_sync import Code, ConnectError, Method, RequestContext
from tests.support import UNARY, Clock, ScriptedBody, ask, echo, failing, post, proto, serve, text


@pytest.mark.parametrize(("codec", "body"), [("proto", proto("a")), ("json", b'"a"')], ids=["proto", "json"])
def test_message_is_answered_in_its_codec(codec: str, body: bytes) -> None:
    answer = ask(serve(UNARY), UNARY, body, codec=codec)

    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == f"application/{codec}"


def test_content_type_is_answered_without_its_parameters() -> None:
    answer = ask(serve(UNARY), UNARY, b'"a"', {"content-type": "application/json; charset=utf-8"})

    assert answer.headers["content-type"] == "application/json"


def test_body_may_come_in_pieces() -> None:
    body = proto("hello")

    assert ask(serve(UNARY), UNARY, [body[:1], body[1:3], b"", body[3:]]).text == "hello"


def test_empty_body_is_an_empty_message() -> None:
    answer = ask(serve(UNARY), UNARY, b"")

    assert (answer.status, answer.body) == (200, b"")


def test_length_of_the_response_is_known() -> None:
    assert isinstance(post(serve(UNARY), UNARY, proto("a")).body, tuple)


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        ("proto", b"\x0a\x05a"),
        ("proto", b"\x0a\x01\xff"),
        ("json", b""),
        ("json", b"{"),
        ("json", b'"\xff"'),
        ("json", b"[" * 100_000),
    ],
)
def test_body_that_does_not_parse_is_an_invalid_argument(codec: str, body: bytes) -> None:
    answer = ask(serve(UNARY, failing(AssertionError("called"))), UNARY, body, codec=codec)

    assert (answer.status, answer.code) == (400, "invalid_argument")


def test_error_of_the_body_is_the_answer() -> None:
    class Broken(ScriptedBody):
        def read(self, size: int) -> bytes:
            raise ConnectError(Code.INVALID_ARGUMENT, "the client broke off")

    assert ask(serve(UNARY), UNARY, Broken()).error["message"] == "the client broke off"


# Compression


def test_compressed_message_is_read() -> None:
    answer = ask(serve(UNARY), UNARY, gzip.compress(proto("a")), {"content-encoding": "gzip"})

    assert StringValue.FromString(gzip.decompress(answer.body)).value == "a"


def test_identity_is_no_compression() -> None:
    assert ask(serve(UNARY), UNARY, proto("a"), {"content-encoding": "identity"}).text == "a"


def test_empty_body_is_never_decompressed() -> None:
    assert ask(serve(UNARY), UNARY, b"", {"content-encoding": "gzip"}).status == 200


def test_unknown_compression_is_unimplemented_and_those_known_are_listed() -> None:
    answer = ask(serve(UNARY), UNARY, proto("a"), {"content-encoding": "foo"})

    assert (answer.status, answer.code) == (501, "unimplemented")
    assert answer.error["message"].endswith("must be one of gzip, identity")


def test_compression_that_is_not_offered_is_unimplemented() -> None:
    service = serve(UNARY, compressions=())

    assert ask(service, UNARY, gzip.compress(b""), {"content-encoding": "gzip"}).code == "unimplemented"


@pytest.mark.parametrize(
    "body",
    [b"a", gzip.compress(b"")[:-1], gzip.compress(b"") + b"a"],
    ids=["not gzip", "cut", "more behind it"],
)
def test_damaged_compression_is_an_invalid_argument(body: bytes) -> None:
    assert ask(serve(UNARY), UNARY, body, {"content-encoding": "gzip"}).code == "invalid_argument"


@pytest.mark.parametrize("accept", ["gzip", "br, gzip;q=0.5", "GZIP"])
def test_response_is_compressed_as_the_client_accepts(accept: str) -> None:
    answer = ask(serve(UNARY), UNARY, proto("a"), {"accept-encoding": accept})

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == proto("a")


@pytest.mark.parametrize("accept", ["", "identity", "br", "gzip;q=0"])
def test_response_is_plain_for_a_client_that_does_not_accept_its_own_compression(accept: str) -> None:
    headers = {"content-encoding": "gzip", "accept-encoding": accept}
    answer = ask(serve(UNARY), UNARY, gzip.compress(proto("a")), headers)

    assert "content-encoding" not in answer.headers
    assert answer.text == "a"


@pytest.mark.parametrize(("min_bytes", "is_compressed"), [(9, True), (10, True), (11, False)])
def test_message_is_compressed_from_a_size_on(min_bytes: int, is_compressed: bool) -> None:
    service = serve(UNARY, compress_min_bytes=min_bytes)
    answer = ask(service, UNARY, proto("a" * 8), {"accept-encoding": "gzip"})

    assert len(proto("a" * 8)) == 10
    assert answer.headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert (gzip.decompress(answer.body) if is_compressed else answer.body) == proto("a" * 8)


def test_empty_message_is_not_compressed() -> None:
    answer = ask(serve(UNARY), UNARY, b"", {"accept-encoding": "gzip"})

    assert (answer.body, "content-encoding" in answer.headers) == (b"", False)


def test_error_is_not_compressed() -> None:
    service = serve(UNARY, failing(ConnectError(Code.ABORTED)))
    answer = ask(service, UNARY, headers={"accept-encoding": "gzip"})

    assert (answer.body, "content-encoding" in answer.headers) == (b'{"code":"aborted"}', False)


# The limit

SIZE = 1000
EXACT = BytesValue(value=b"x" * (SIZE - 3)).SerializeToString()
ABOVE = BytesValue(value=b"x" * (SIZE - 2)).SerializeToString()
BYTES: Method[BytesValue, BytesValue] = Method("unit.v1.UnitService", "Bytes", BytesValue, BytesValue)


def test_sizes_of_these_tests_are_the_limit_and_one_more() -> None:
    assert (len(EXACT), len(ABOVE)) == (SIZE, SIZE + 1)


def test_message_of_exactly_the_limit_is_taken() -> None:
    assert ask(serve(BYTES, read_max_bytes=SIZE), BYTES, EXACT).status == 200


@pytest.mark.parametrize("announced", [True, False])
def test_message_past_the_limit_is_refused(announced: bool) -> None:
    body = ScriptedBody(ABOVE, length=len(ABOVE) if announced else None)
    answer = ask(serve(BYTES, read_max_bytes=SIZE), BYTES, body)

    assert (answer.status, answer.code) == (429, "resource_exhausted")


def test_message_announced_past_the_limit_is_refused_unread() -> None:
    body = ScriptedBody(ABOVE, length=len(ABOVE))
    ask(serve(BYTES, read_max_bytes=SIZE), BYTES, body)

    assert body.sizes == []


def test_decompressed_message_of_exactly_the_limit_is_taken() -> None:
    service = serve(BYTES, read_max_bytes=SIZE)

    assert ask(service, BYTES, gzip.compress(EXACT), {"content-encoding": "gzip"}).status == 200


@pytest.mark.parametrize("body", [ABOVE, bytes(10_000_000)], ids=["one byte", "bomb"])
def test_decompressed_message_past_the_limit_is_refused(body: bytes) -> None:
    service = serve(BYTES, read_max_bytes=SIZE)

    assert ask(service, BYTES, gzip.compress(body), {"content-encoding": "gzip"}).code == "resource_exhausted"


def test_limit_is_not_for_what_the_handler_returns() -> None:
    service = serve(BYTES, lambda request, ctx: BytesValue(value=bytes(10 * SIZE)), read_max_bytes=SIZE)

    assert ask(service, BYTES, b"").status == 200


# Errors


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_error_of_the_handler_goes_out_with_its_status(code: Code) -> None:
    answer = ask(serve(UNARY, failing(ConnectError(code, "no such pet"))), UNARY)

    assert answer.status == code.http_status
    assert answer.error == {"code": code.value, "message": "no such pet"}


def test_error_is_json_whatever_the_codec() -> None:
    answer = ask(serve(UNARY, failing(ConnectError(Code.ABORTED))), UNARY, codec="proto")

    assert answer.headers["content-type"] == "application/json"


def test_details_of_an_error_go_out() -> None:
    error = ConnectError(Code.ABORTED, "", [Duration(seconds=1), text("a")])
    answer = ask(serve(UNARY, failing(error)), UNARY)

    assert answer.error["details"] == [
        {"type": "google.protobuf.Duration", "value": "CAE", "debug": "1s"},
        {"type": "google.protobuf.StringValue", "value": "CgFh", "debug": "a"},
    ]


@pytest.mark.parametrize(
    "error", [KeyError("secret"), ValueError("secret"), NotImplementedError(), StopIteration()]
)
def test_unexpected_exception_is_an_internal_error_without_its_text(error: Exception) -> None:
    answer = ask(serve(UNARY, failing(error)), UNARY)

    assert answer.status == 500
    assert answer.error == {"code": "internal", "message": "internal error"}


def test_unexpected_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("secret")
    ask(serve(UNARY, failing(error)), UNARY)
    (record,) = caplog.records

    assert (record.name, record.levelno) == ("connect_sync.server", logging.ERROR)
    assert record.getMessage() == "unit.v1.UnitService.Unary failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_connect_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    ask(serve(UNARY, failing(ConnectError(Code.INTERNAL))), UNARY)

    assert caplog.records == []


def test_error_made_of_wrong_types_is_an_internal_error() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        raise ConnectError(Code.ABORTED, cast(str, ValueError("not a text")))

    assert ask(serve(UNARY, handler), UNARY).code == "internal"


@pytest.mark.parametrize(
    "result",
    [None, "a", b"a", 5, Duration(), StringValue, [text("a")]],
    ids=["none", "text", "bytes", "number", "other message", "class", "list"],
)
def test_handler_that_returns_another_type_is_an_internal_error(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(serve(UNARY, lambda request, ctx: result), UNARY)

    assert answer.error == {"code": "internal", "message": "internal error"}
    assert "expected a google.protobuf.StringValue, got" in caplog.text


def test_handler_that_returns_a_generator_where_one_message_belongs_is_an_internal_error() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        return (message for message in [request])

    assert ask(serve(UNARY, handler), UNARY).code == "internal"


def test_message_of_the_same_name_from_another_pool_is_taken() -> None:
    file = FileDescriptorProto(name="a.proto", package="google.protobuf", syntax="proto3")
    message = DescriptorProto(name="StringValue")
    message.field.add(name="value", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    file.message_type.append(message)
    pool = DescriptorPool()
    pool.Add(file)
    other = GetMessageClass(pool.FindMessageTypeByName("google.protobuf.StringValue"))
    assert other is not StringValue

    assert ask(serve(UNARY, lambda request, ctx: other(value="a")), UNARY).text == "a"


def test_message_that_has_no_json_is_an_internal_error() -> None:
    method: Method[StringValue, AnyMessage] = Method("unit.v1.UnitService", "Any", StringValue, AnyMessage)
    service = serve(method, lambda request, ctx: AnyMessage(type_url="a/unheard.of.Message", value=b"a"))

    assert ask(service, method, b'""', codec="json").code == "internal"


# Metadata


def test_metadata_goes_out_as_headers_and_prefixed_headers() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["greet-version"] = "v1"
        ctx.response_trailers()["greet-count"] = "5"
        return request

    answer = ask(serve(UNARY, handler), UNARY)

    assert set(answer.headers.multi_items()) == {
        ("content-type", "application/proto"),
        ("greet-version", "v1"),
        ("trailer-greet-count", "5"),
    }


def test_values_of_a_name_go_out_apart_and_in_order() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        for value in ("1", "2", "1"):
            ctx.response_headers().add("a", value)
            ctx.response_trailers().add("b", value)
        return request

    answer = ask(serve(UNARY, handler), UNARY)

    assert answer.headers.get_all("a") == ["1", "2", "1"]
    assert answer.headers.get_all("trailer-b") == ["1", "2", "1"]


def test_binary_metadata_goes_out_as_unpadded_base64() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers().add_binary("a-bin", b"\x00\xff")
        ctx.response_trailers().add_binary("b-bin", b"\x00\xfe")
        return request

    answer = ask(serve(UNARY, handler), UNARY)

    assert (answer.headers["a-bin"], answer.headers["trailer-b-bin"]) == ("AP8", "AP4")


@pytest.mark.parametrize("error", [ConnectError(Code.ABORTED), KeyError()], ids=["own", "unexpected"])
def test_metadata_goes_out_with_errors_too(error: Exception) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["a"] = "1"
        ctx.response_trailers()["b"] = "2"
        raise error

    answer = ask(serve(UNARY, handler), UNARY)

    assert answer.status == (409 if isinstance(error, ConnectError) else 500)
    assert (answer.headers["a"], answer.headers["trailer-b"]) == ("1", "2")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "name",
    ["content-type", "Content-Encoding", "content-length", "transfer-encoding", "connection", "connect-a"],
)
def test_reserved_header_of_a_handler_does_not_go_out(name: str, fails: bool) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()[name] = "mine"
        if fails:
            raise ConnectError(Code.ABORTED)
        return request

    assert "mine" not in dict(ask(serve(UNARY, handler), UNARY).headers).values()


@pytest.mark.parametrize("name", ["content-type", "Connect-A", "grpc-status", "trailer", "te"])
@pytest.mark.parametrize("fails", [False, True], ids=["success", "error"])
def test_reserved_trailer_of_a_handler_does_not_go_out(name: str, fails: bool) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_trailers()[name] = "mine"
        ctx.response_trailers()["a"] = "1"
        if fails:
            raise ConnectError(Code.ABORTED)
        return request

    headers = dict(ask(serve(UNARY, handler), UNARY).headers)

    assert "mine" not in headers.values()
    assert headers["trailer-a"] == "1"


@pytest.mark.parametrize("where", ["response_headers", "response_trailers"])
@pytest.mark.parametrize(
    ("name", "value"), [("a", "1\r\nset-cookie: b"), ("a\r\nset-cookie: b", "1"), ("a", "é")]
)
def test_header_cannot_be_injected(where: str, name: str, value: str) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        getattr(ctx, where)()[name] = value
        return request

    answer = ask(serve(UNARY, handler), UNARY)

    assert (answer.code, list(answer.headers)) == ("internal", ["content-type"])


# Timeouts


@pytest.mark.parametrize("value", ["a", "-1", "1.5", "10000000000"])
def test_malformed_timeout_is_an_invalid_argument(value: str) -> None:
    body = ScriptedBody(b"")
    answer = ask(serve(UNARY), UNARY, body, {"connect-timeout-ms": value})

    assert (answer.status, answer.code) == (400, "invalid_argument")
    assert body.sizes == []


def test_unknown_version_is_an_invalid_argument() -> None:
    assert ask(serve(UNARY), UNARY, headers={"connect-protocol-version": "2"}).code == "invalid_argument"


def test_response_past_the_deadline_is_deadline_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        return request

    answer = ask(serve(UNARY, handler), UNARY, headers={"connect-timeout-ms": "1000"})

    assert (answer.status, answer.code) == (504, "deadline_exceeded")


def test_response_before_the_deadline_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(999)
        return request

    assert ask(serve(UNARY, handler), UNARY, headers={"connect-timeout-ms": "1000"}).status == 200


def test_error_of_the_handler_goes_out_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        raise ConnectError(Code.NOT_FOUND)

    answer = ask(serve(UNARY, handler), UNARY, headers={"connect-timeout-ms": "1000"})

    assert answer.code == "not_found"


def test_metadata_goes_out_with_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_trailers()["a"] = "1"
        clock.advance_ms(1001)
        return request

    answer = ask(serve(UNARY, handler), UNARY, headers={"connect-timeout-ms": "1000"})

    assert answer.headers["trailer-a"] == "1"


def test_body_is_read_within_the_deadline() -> None:
    deadlines = []

    class Bounded(ScriptedBody):
        def set_deadline(self, deadline: Any) -> None:
            deadlines.append(deadline.remaining())

    ask(serve(UNARY), UNARY, Bounded(), {"connect-timeout-ms": "9999999999"})

    assert len(deadlines) == 1
    assert 0 < deadlines[0] <= 9_999_999.999


def test_body_of_a_call_without_timeout_has_no_deadline() -> None:
    class Unbounded(ScriptedBody):
        def set_deadline(self, deadline: Any) -> None:
            raise AssertionError("bounded")

    assert ask(serve(UNARY), UNARY, Unbounded()).status == 200


# JSON on the wire


def test_json_is_one_line() -> None:
    method: Method[Struct, Struct] = Method("unit.v1.UnitService", "Struct", Struct, Struct)
    answer = ask(serve(method), method, b'{\n "a": "x\\ny",\n "b": [1, null]}', codec="json")

    assert json.loads(answer.body) == {"a": "x\ny", "b": [1, None]}
    assert b"\n" not in answer.body
    assert b" " not in answer.body


def test_any_bytes_come_back_in_any_codec_and_compression() -> None:
    random = Random(11)
    for size in range(40):
        message = BytesValue(value=random.randbytes(size))
        body = gzip.compress(message.SerializeToString())
        answer = ask(
            serve(BYTES, echo), BYTES, body, {"content-encoding": "gzip", "accept-encoding": "identity"}
        )

        assert BytesValue.FromString(answer.body) == message


def test_headers_of_the_response_are_none_of_the_metadata_that_the_handler_wrote() -> None:
    contexts = []

    def handler(request: StringValue, ctx: RequestContext) -> StringValue:
        ctx.response_headers()["a"] = "1"
        ctx.response_trailers()["b"] = "2"
        contexts.append(ctx)
        return request

    answer = ask(serve(UNARY, handler), UNARY)
    assert set(answer.headers) >= {"a", "trailer-b", "content-type"}
    assert contexts[0].response_headers().multi_items() == [("a", "1")]
