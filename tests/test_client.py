"""The client: how it is built, and its unary calls."""

from __future__ import annotations

import gc
import gzip
import json
import socket
from typing import Any, cast

import pytest
import urllib3
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from connect_sync import (
    Cancellation,
    Code,
    ConnectClient,
    ConnectError,
    Headers,
    HeadersInput,
    Method,
    RequestContext,
    ResponseMetadata,
)
from connect_sync.compression import DEFAULT_COMPRESSIONS
from connect_sync.http import Response
from tests.support import (
    BIDI,
    READ,
    UNARY,
    Clock,
    ScriptedBody,
    ScriptedTransport,
    error_of,
    failing,
    in_memory,
    proto,
    scripted,
    serve,
    text,
    unary_response,
)


def call(response: Response, **options: Any) -> StringValue:
    """Call the unary method and answer with ``response``."""
    client, _ = scripted(response, **options)
    return client.call_unary(UNARY, text("a"))


def fail(response: Response, **options: Any) -> ConnectError:
    """Return the error of a unary call that is answered with ``response``."""
    with pytest.raises(ConnectError) as caught:
        call(response, **options)
    return caught.value


# How it is built


@pytest.mark.parametrize(
    "options",
    [
        {"read_max_bytes": 0},
        {"read_max_bytes": -1},
        {"timeout_ms": float("inf")},
        {"timeout_ms": float("nan")},
        {"timeout_ms": 10_000_000_000},
        {"send_compression": "unheard-of"},
        {"accept_compression": ["unheard-of"]},
        {"accept_compression": ["gzip", "gzip"]},
        {"compress_min_bytes": -1},
        {"pool_manager": urllib3.PoolManager()},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items())[:40],
)
def test_argument_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"_max_bytes|_min_bytes|timeout_ms|compression|pool_manager"):
        ConnectClient("http://unit.test", transport=ScriptedTransport(), **options)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "unit.test",
        "unit.test:80",
        "ftp://unit.test",
        "http://",
        "http:///path",
        "http://user@unit.test",
        "http://unit.test?a=b",
        "http://unit.test/#a",
        "http://unit.test:port",
    ],
)
def test_address_that_is_no_url_of_http_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"^address must "):
        ConnectClient(address)


@pytest.mark.parametrize("address", ["http://unit.test", "https://unit.test:8443/prefix/", "http://[::1]:80"])
def test_client_is_built_without_a_connection(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object, **kwargs: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)

    ConnectClient(address).close()


def test_closing_the_client_closes_its_transport() -> None:
    client, transport = scripted()
    client.close()

    assert transport.is_closed


def test_leaving_the_block_of_a_client_closes_its_transport() -> None:
    client, transport = scripted()
    with client as entered:
        assert entered is client
        assert not transport.is_closed

    assert transport.is_closed


# The request


def sent(*, headers: HeadersInput | None = None, **options: Any) -> Any:
    """Return the request of a unary call."""
    client, transport = scripted(
        unary_response(codec="json", body=b'""') if options.get("proto_json") else unary_response(), **options
    )
    client.call_unary(UNARY, text("a"), headers=headers)
    return transport.only


def test_request_is_a_post_of_the_bare_message() -> None:
    request = sent()

    assert (request.method, request.path, request.query) == ("POST", "/unit.v1.UnitService/Unary", "")
    assert (request.body, request.has_known_length) == (proto("a"), True)
    assert dict(request.headers) == {
        "connect-protocol-version": "1",
        "content-type": "application/proto",
        "accept-encoding": "gzip",
    }


def test_request_in_json_is_the_bare_json() -> None:
    request = sent(proto_json=True)

    assert (request.body, request.headers["content-type"]) == (b'"a"', "application/json")


def test_request_is_compressed_as_told() -> None:
    request = sent(send_compression="gzip")

    assert request.headers["content-encoding"] == "gzip"
    assert gzip.decompress(request.body) == proto("a")


@pytest.mark.parametrize(("min_bytes", "is_compressed"), [(2, True), (3, True), (4, False)])
def test_request_is_compressed_from_a_size_on(min_bytes: int, is_compressed: bool) -> None:
    request = sent(send_compression="gzip", compress_min_bytes=min_bytes)

    assert request.headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert (gzip.decompress(request.body) if is_compressed else request.body) == proto("a")


def test_client_accepts_every_compression_that_is_there_unless_told() -> None:
    transport = ScriptedTransport(unary_response())
    ConnectClient("http://unit.test", transport=transport).call_unary(UNARY, text())
    names = [compression.name for compression in DEFAULT_COMPRESSIONS]

    assert transport.only.headers["accept-encoding"].split(", ") == names


@pytest.mark.parametrize("send_compression", [None, "gzip"])
def test_client_that_reads_no_compression_asks_for_none(send_compression: str | None) -> None:
    request = sent(send_compression=send_compression, accept_compression=())

    assert request.headers["accept-encoding"] == "identity"


def test_client_that_reads_no_compression_may_send_one() -> None:
    client = in_memory(serve(UNARY), send_compression="gzip", accept_compression=())

    assert client.call_unary(UNARY, text("a")).value == "a"


@pytest.mark.parametrize(
    "headers",
    [{"a": "1"}, [("a", "1")], Headers({"A": "1"})],
    ids=["mapping", "pairs", "headers"],
)
def test_metadata_is_sent(headers: HeadersInput) -> None:
    assert sent(headers=headers).headers["a"] == "1"


def test_values_of_a_name_are_sent_apart() -> None:
    assert sent(headers=[("a", "1"), ("a", "2")]).headers.get_all("a") == ["1", "2"]


def test_headers_of_the_caller_are_left_as_they_are() -> None:
    headers = Headers({"content-type": "mine", "a": "1"})
    sent(headers=headers)

    assert dict(headers) == {"content-type": "mine", "a": "1"}


@pytest.mark.parametrize(
    "name",
    [
        "Content-Type",
        "content-encoding",
        "accept-encoding",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "connect-timeout-ms",
        "Connect-Protocol-Version",
        "connect-anything",
        "grpc-timeout",
    ],
)
def test_reserved_header_of_the_caller_is_not_sent(name: str) -> None:
    assert "mine" not in dict(sent(headers={name: "mine"}).headers).values()


@pytest.mark.parametrize(("name", "value"), [("a", "1\r\nb: 2"), ("a\r\nb", "1"), ("", "1"), ("a", "é")])
def test_header_cannot_be_injected(name: str, value: str) -> None:
    client, transport = scripted(unary_response())

    with pytest.raises(ValueError, match="header"):
        client.call_unary(UNARY, text(), headers={name: value})
    assert transport.sent == []


# Timeouts


def timeout_sent(monkeypatch: pytest.MonkeyPatch, own: float | None, call_own: float | None) -> str | None:
    Clock(monkeypatch)
    client, transport = scripted(unary_response(), timeout_ms=own)
    client.call_unary(UNARY, text(), timeout_ms=call_own)
    value: str | None = transport.only.headers.get("connect-timeout-ms")
    return value


@pytest.mark.parametrize(
    ("own", "call_own", "expected"),
    [
        (None, None, None),
        (1500, None, "1500"),
        (None, 1500, "1500"),
        (1500, 200, "200"),
        (200, 1500, "1500"),
        (None, 0.5, "1"),
    ],
)
def test_timeout_is_that_of_the_call_or_of_the_client(
    own: float | None, call_own: float | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timeout_sent(monkeypatch, own, call_own) == expected


@pytest.mark.parametrize("timeout_ms", [float("inf"), float("nan"), 10_000_000_000])
def test_timeout_of_a_call_that_is_out_of_range_is_refused(timeout_ms: float) -> None:
    client, transport = scripted(unary_response())

    with pytest.raises(ValueError, match="timeout_ms"):
        client.call_unary(UNARY, text(), timeout_ms=timeout_ms)
    assert transport.sent == []


def test_longest_timeout_has_ten_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    header = timeout_sent(monkeypatch, None, 9_999_999_999)

    assert header is not None
    assert len(header) == 10


@pytest.mark.parametrize("timeout_ms", [0, -1])
def test_timeout_of_nothing_has_passed_at_once(timeout_ms: float) -> None:
    calls = []
    client = in_memory(serve(UNARY, lambda request, ctx: calls.append(ctx)))

    with pytest.raises(ConnectError) as caught:
        client.call_unary(UNARY, text(), timeout_ms=timeout_ms)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert calls == []


def test_transport_is_told_deadline_and_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    client, transport = scripted(unary_response())
    cancellation = Cancellation()
    client.call_unary(UNARY, text(), timeout_ms=1500, cancellation=cancellation)
    (lifetime,) = transport.lifetimes

    assert lifetime.cancellation is cancellation
    assert lifetime.remaining() == pytest.approx(1.5)


def test_transport_of_an_unbounded_call_is_told_nothing() -> None:
    client, transport = scripted(unary_response())
    client.call_unary(UNARY, text())

    assert not transport.lifetimes[0].is_bounded


# The response


def test_message_is_the_body() -> None:
    assert call(unary_response(proto("b"))).value == "b"


def test_message_in_json_is_the_body() -> None:
    assert call(unary_response(b'"b"', codec="json"), proto_json=True).value == "b"


def test_empty_body_is_an_empty_message() -> None:
    assert call(unary_response(b"")) == StringValue()


def test_compressed_message_is_read() -> None:
    assert call(unary_response(gzip.compress(proto("b")), {"content-encoding": "gzip"})).value == "b"


@pytest.mark.parametrize("encoding", ["identity", ""])
def test_identity_is_no_compression(encoding: str) -> None:
    assert call(unary_response(proto("b"), {"content-encoding": encoding})).value == "b"


def test_empty_body_is_never_decompressed() -> None:
    assert call(unary_response(b"", {"content-encoding": "gzip"})) == StringValue()


def test_unknown_compression_is_an_internal_error() -> None:
    assert fail(unary_response(proto("b"), {"content-encoding": "foo"})).code is Code.INTERNAL


def test_compression_that_was_not_accepted_is_an_internal_error() -> None:
    response = unary_response(gzip.compress(b""), {"content-encoding": "gzip"})

    assert fail(response, accept_compression=()).code is Code.INTERNAL


@pytest.mark.parametrize(
    "body",
    [b"a", gzip.compress(b"")[:-1], gzip.compress(b"") + b"a"],
    ids=["not gzip", "cut", "more behind it"],
)
def test_damaged_compression_is_an_internal_error(body: bytes) -> None:
    assert fail(unary_response(body, {"content-encoding": "gzip"})).code is Code.INTERNAL


@pytest.mark.parametrize(
    ("body", "proto_json"),
    [(b"\x0a\x05a", False), (b"\xff", False), (b"{", True), (b"", True), (b"\xff", True)],
)
def test_body_that_does_not_parse_is_an_internal_error(body: bytes, proto_json: bool) -> None:
    response = unary_response(body, codec="json" if proto_json else "proto")

    assert fail(response, proto_json=proto_json).code is Code.INTERNAL


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("image/jpeg", Code.UNKNOWN),
        ("text/html", Code.UNKNOWN),
        ("", Code.UNKNOWN),
        ("application/json", Code.INTERNAL),
        ("application/connect+proto", Code.INTERNAL),
    ],
)
def test_response_of_another_content_type_is_an_error(content_type: str, code: Code) -> None:
    assert fail(unary_response(proto("a"), {"content-type": content_type})).code is code


def test_response_without_a_content_type_is_unknown() -> None:
    assert fail(Response(200, Headers())).code is Code.UNKNOWN


# The limit

SIZE = 1000
EXACT = StringValue(value="x" * (SIZE - 3)).SerializeToString()
ABOVE = StringValue(value="x" * (SIZE - 2)).SerializeToString()


def test_sizes_of_these_tests_are_the_limit_and_one_more() -> None:
    assert (len(EXACT), len(ABOVE)) == (SIZE, SIZE + 1)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_message_of_exactly_the_limit_is_taken(encoding: str) -> None:
    body = gzip.compress(EXACT) if encoding == "gzip" else EXACT
    response = unary_response(body, {"content-encoding": encoding})

    assert len(call(response, read_max_bytes=SIZE).value) == SIZE - 3


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_message_past_the_limit_is_refused(encoding: str) -> None:
    body = gzip.compress(ABOVE) if encoding == "gzip" else ABOVE
    response = unary_response(body, {"content-encoding": encoding})

    error = fail(response, read_max_bytes=SIZE)
    assert (error.code, error.message[:26]) == (Code.RESOURCE_EXHAUSTED, "the response is too large:")


def test_bomb_is_refused() -> None:
    response = unary_response(gzip.compress(bytes(10_000_000)), {"content-encoding": "gzip"})

    error = fail(response, read_max_bytes=SIZE)
    assert (error.code, error.message[:26]) == (Code.RESOURCE_EXHAUSTED, "the response is too large:")


def test_message_announced_past_the_limit_is_refused_unread() -> None:
    body = ScriptedBody(ABOVE, length=len(ABOVE))

    assert fail(unary_response(body), read_max_bytes=SIZE).code is Code.RESOURCE_EXHAUSTED
    assert body.sizes == []


# Errors


def error_response(status: int, value: Any, headers: HeadersInput = ()) -> Response:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return unary_response(body, headers, status=status, codec="json")


def test_error_of_the_server_is_raised() -> None:
    error = fail(
        error_response(
            404,
            {
                "code": "not_found",
                "message": "no such pet",
                "details": [{"type": "google.protobuf.Duration", "value": "CAE"}],
            },
        )
    )

    assert (error.code, error.message) == (Code.NOT_FOUND, "no such pet")
    assert error.details[0].value(Duration) == Duration(seconds=1)


def test_code_of_the_body_goes_before_the_status() -> None:
    assert fail(error_response(422, {"code": "out_of_range"})).code is Code.OUT_OF_RANGE


def test_compressed_error_is_read() -> None:
    body = gzip.compress(b'{"code":"out_of_range"}')

    assert fail(error_response(422, body, {"content-encoding": "gzip"})).code is Code.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b'{"code":"aborted"}', "br"), (b"damaged", "gzip"), (gzip.compress(b"{}")[:-1], "gzip")],
    ids=["unknown compression", "no gzip", "cut off"],
)
def test_error_that_cannot_be_decompressed_has_the_code_of_the_status(body: bytes, encoding: str) -> None:
    assert fail(error_response(503, body, {"content-encoding": encoding})).code is Code.UNAVAILABLE


@pytest.mark.parametrize("length", [None, 5000])
def test_error_past_the_limit_has_the_code_of_the_status(length: int | None) -> None:
    body = ScriptedBody(b'{"code":"aborted","message":"' + b"x" * 1000, b'"}', length=length)
    response = unary_response(body, status=404, codec="json")

    assert fail(response, read_max_bytes=100).code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELED, Code.DEADLINE_EXCEEDED])
def test_error_that_is_lost_on_its_way_ends_the_call_with_what_it_was_lost_by(code: Code) -> None:
    class Lost(ScriptedBody):
        def read(self, size: int) -> bytes:
            raise ConnectError(code, "lost")

    assert fail(unary_response(Lost(), status=401, codec="json")).code is code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (204, Code.UNKNOWN),
        (302, Code.UNKNOWN),
        (409, Code.UNKNOWN),
        (415, Code.UNKNOWN),
        (500, Code.UNKNOWN),
        (800, Code.UNKNOWN),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/html", "application/proto"])
def test_response_that_is_no_error_of_connect_has_the_code_of_its_status(
    status: int, code: Code, content_type: str
) -> None:
    error = fail(Response(status, Headers({"content-type": content_type}), (b"<html>",)))

    assert error.code is code
    assert str(status) in error.message


def test_error_is_read_only_from_json() -> None:
    response = Response(404, Headers({"content-type": "text/plain"}), (b'{"code":"aborted"}',))

    assert fail(response).code is Code.UNIMPLEMENTED


def test_error_of_the_transport_is_raised() -> None:
    client, _ = scripted(ConnectError(Code.UNAVAILABLE, "nobody is there"))

    with pytest.raises(ConnectError, match="unavailable: nobody is there"):
        client.call_unary(UNARY, text())


@pytest.mark.parametrize(
    "message",
    [None, "a", b"a", Duration(), StringValue],
    ids=["none", "text", "bytes", "other message", "class"],
)
@pytest.mark.parametrize("use_get", [False, True])
def test_request_of_another_type_is_refused_before_it_is_sent(message: Any, use_get: bool) -> None:
    client, transport = scripted(unary_response())

    with pytest.raises(TypeError, match=r"expected a google\.protobuf\.StringValue, got "):
        client.call_unary(READ, message, use_get=use_get)
    assert transport.sent == []


def test_message_that_cannot_be_written_is_not_sent() -> None:
    client, transport = scripted(unary_response(), proto_json=True)
    method: Method[AnyMessage, StringValue] = Method("unit.v1.UnitService", "Any", AnyMessage, StringValue)

    with pytest.raises(Exception, match=r"unheard\.of"):
        client.call_unary(method, AnyMessage(type_url="a/unheard.of.Message", value=b"a"))
    assert transport.sent == []


# The body is closed, whatever becomes of the call


@pytest.mark.parametrize(
    "make",
    [
        lambda body: unary_response(body),
        lambda body: unary_response(body, {"content-type": "text/html"}),
        lambda body: unary_response(body, {"content-encoding": "foo"}),
        lambda body: unary_response(body, status=503),
        lambda body: unary_response(body, status=404, codec="json"),
    ],
    ids=["success", "content type", "compression", "status", "error"],
)
def test_body_of_the_response_is_closed(make: Any) -> None:
    body = ScriptedBody(proto("a"))
    error_of(lambda: call(make(body)))

    assert body.close_count == 1


def test_body_is_closed_when_it_breaks_off() -> None:
    class Broken(ScriptedBody):
        def read(self, size: int) -> bytes:
            raise ConnectError(Code.UNAVAILABLE, "broken off")

    body = Broken()

    assert fail(unary_response(body)).message == "broken off"
    assert body.close_count == 1


# Metadata of the response


@pytest.mark.parametrize("status", [200, 404])
def test_metadata_of_the_response_is_parted(status: int) -> None:
    headers = [("a", "1"), ("trailer-b", "2"), ("Trailer-B", "3")]
    response = Response(status, Headers([("content-type", "application/proto"), *headers]))
    client, _ = scripted(response)
    with ResponseMetadata() as metadata:
        error = error_of(lambda: client.call_unary(UNARY, text()))

    assert (error is None) is (status == 200)
    assert metadata.headers()["a"] == "1"
    assert "trailer-b" not in metadata.headers()
    assert list(metadata.trailers().multi_items()) == [("b", "2"), ("b", "3")]


def test_binary_metadata_of_the_response_is_read() -> None:
    client, _ = scripted(unary_response(b"", {"a-bin": "AP8", "trailer-b-bin": "AP4="}))
    with ResponseMetadata() as metadata:
        client.call_unary(UNARY, text())

    assert metadata.headers().get_binary("a-bin") == [b"\x00\xff"]
    assert metadata.trailers().get_binary("b-bin") == [b"\x00\xfe"]


# Both sides


@pytest.mark.parametrize("proto_json", [False, True])
@pytest.mark.parametrize("send_compression", [None, "gzip"])
def test_any_message_comes_back(proto_json: bool, send_compression: str | None) -> None:
    method: Method[BytesValue, BytesValue] = Method("unit.v1.UnitService", "Bytes", BytesValue, BytesValue)
    client = in_memory(serve(method), proto_json=proto_json, send_compression=send_compression)
    for size in (0, 1, 100, 100_000):
        message = BytesValue(value=bytes(range(256)) * (size // 256) + bytes(size % 256))

        assert client.call_unary(method, message) == message


def test_error_with_details_comes_back() -> None:
    error = ConnectError(Code.FAILED_PRECONDITION, "é", [Duration(seconds=1), text("a")])
    client = in_memory(serve(UNARY, failing(error)))

    with pytest.raises(ConnectError) as caught:
        client.call_unary(UNARY, text())
    assert caught.value is not error
    assert (caught.value.code, caught.value.message, caught.value.details) == (error.code, "é", error.details)


def test_unknown_method_is_unimplemented() -> None:
    client = in_memory(serve(UNARY))
    unknown: Method[StringValue, StringValue] = Method(
        "unit.v1.UnitService", "Other", StringValue, StringValue
    )

    with pytest.raises(ConnectError) as caught:
        client.call_unary(unknown, text())
    assert caught.value.code is Code.UNIMPLEMENTED


def test_metadata_goes_both_ways() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["back"] = ctx.request_headers()["there"]
        ctx.response_trailers().add_binary("back-bin", ctx.request_headers().get_binary("there-bin")[0])
        return request

    headers = Headers({"there": "1"})
    headers.add_binary("there-bin", b"\x00\xff")
    with ResponseMetadata() as metadata:
        in_memory(serve(UNARY, handler)).call_unary(UNARY, text(), headers=headers)

    assert metadata.headers()["back"] == "1"
    assert metadata.trailers().get_binary("back-bin") == [b"\x00\xff"]


# Bidirectional methods


def test_bidirectional_call_is_refused_before_anything_is_sent() -> None:
    client, transport = scripted()

    with pytest.raises(ConnectError, match=r"unit\.v1\.UnitService\.Chat is bidirectional") as caught:
        client.call_bidi_stream(BIDI, iter([text()]))
    assert caught.value.code is Code.UNIMPLEMENTED
    assert transport.sent == []


def test_requests_of_a_bidirectional_call_are_not_asked_for() -> None:
    client, _ = scripted()

    with pytest.raises(ConnectError):
        client.call_bidi_stream(BIDI, cast(Any, None))


# What a client keeps


class Passing:
    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return call_next(request, ctx)


def test_client_keeps_no_method_that_its_caller_has_dropped() -> None:
    client = in_memory(serve(UNARY), interceptors=[Passing()])
    for _ in range(10):
        method = Method(UNARY.service, UNARY.name, UNARY.input, UNARY.output)
        client.call_unary(method, text())
    del method
    gc.collect()

    assert len(client._endpoints) == 0
