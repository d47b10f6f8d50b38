"""GETs of methods without side effects, on the server."""

from __future__ import annotations

import gzip
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from connect_sync import (
    Code,
    ConnectError,
    Headers,
    IdempotencyLevel,
    Method,
    NotModified,
    RequestContext,
)
from connect_sync.http import Request
from tests.support import (
    READ,
    UNARY,
    Answer,
    Clock,
    Handler,
    ScriptedBody,
    ask,
    failing,
    in_memory,
    proto,
    serve,
    text,
)


def base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def get(
    query: str,
    headers: dict[str, str] | None = None,
    *,
    method: Method[Any, Any] = READ,
    handler: Handler | None = None,
    **options: Any,
) -> Answer:
    request = Request("GET", method.path, Headers(headers or {}), ScriptedBody(), query=query)
    return Answer(serve(method, handler, **options)(request))


def test_proto_message_is_answered() -> None:
    answer = get(f"connect=v1&base64=1&encoding=proto&message={base64(proto('a'))}")

    assert (answer.text, answer.headers["content-type"]) == ("a", "application/proto")


def test_json_message_is_answered() -> None:
    answer = get("connect=v1&encoding=json&message=" + quote('"é +&="'))

    assert answer.body.decode() == '"é +&="'
    assert answer.headers["content-type"] == "application/json"


def test_json_message_may_be_base64() -> None:
    message = b'"a"'

    assert get(f"base64=1&encoding=json&message={base64(message)}").body == message


def test_parameters_come_in_any_order_with_unknown_ones() -> None:
    assert get("x=1&message=%22a%22&base64=0&encoding=json&connect=v1&y").body == b'"a"'


def test_compressed_message_is_answered_in_the_same_compression() -> None:
    query = f"compression=gzip&base64=1&encoding=proto&message={base64(gzip.compress(proto('a')))}"
    answer = get(query)

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == proto("a")


def test_compressed_message_is_answered_as_the_client_accepts() -> None:
    query = f"compression=gzip&base64=1&encoding=proto&message={base64(gzip.compress(proto('a')))}"

    assert get(query, {"accept-encoding": "identity"}).text == "a"


def test_message_is_answered_in_a_compression_that_the_client_accepts() -> None:
    answer = get("encoding=json&message=%22a%22", {"accept-encoding": "gzip"})

    assert gzip.decompress(answer.body) == b'"a"'


def test_base64_other_than_1_is_ignored() -> None:
    assert get("encoding=json&base64=true&message=%22a%22").body == b'"a"'


def test_first_of_a_repeated_parameter_counts() -> None:
    assert get("encoding=json&encoding=xml&message=%22a%22&message=%22b%22").body == b'"a"'


def test_identity_is_no_compression() -> None:
    assert get("compression=identity&encoding=json&message=%22a%22").body == b'"a"'


def test_empty_message_is_never_decompressed() -> None:
    assert get("compression=gzip&base64=1&encoding=proto&message=").status == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("encoding=proto", "invalid_argument"),
        ("connect=v2&encoding=json&message=%22a%22", "invalid_argument"),
        ("base64=1&encoding=proto&message=*", "invalid_argument"),
        ("encoding=json&message={", "invalid_argument"),
        ("encoding=proto&message=%ff", "invalid_argument"),
        ("base64=1&compression=gzip&encoding=proto&message=YQ", "invalid_argument"),
        ("base64=1&compression=br&encoding=proto&message=YQ", "unimplemented"),
    ],
)
def test_query_that_cannot_be_read_is_an_error(query: str, code: str) -> None:
    assert get(query, handler=failing(AssertionError("called"))).code == code


@pytest.mark.parametrize(
    ("query", "got"),
    [
        ("encoding=xml&message=%22a%22", ", got 'xml'"),
        ("encoding=Proto&message=%22a%22", ", got 'Proto'"),
        ("encoding=xml&encoding=json&message=%22a%22", ", got 'xml'"),
        ("connect=v2&encoding=xml&base64=1&message=*", ", got 'xml'"),
        ("encoding=%E2%82%AC", ", got 'â\\x82¬'"),
        ("encoding=&message=%22a%22", ""),
        ("message=%22a%22", ""),
        ("", ""),
    ],
)
def test_unsupported_encoding_is_http_415_with_those_that_are_supported(query: str, got: str) -> None:
    answer = get(query, handler=failing(AssertionError("called")))

    assert (answer.status, answer.headers["content-type"]) == (415, "text/plain; charset=utf-8")
    assert answer.body.decode() == f"the query parameter 'encoding' must be one of proto, json{got}\n"


@pytest.mark.parametrize("headers", [{"connect-timeout-ms": "x"}, {"connect-protocol-version": "2"}])
def test_malformed_protocol_header_is_an_invalid_argument(headers: dict[str, str]) -> None:
    assert get("encoding=json&message=%22a%22", headers).code == "invalid_argument"


@pytest.mark.parametrize("level", [IdempotencyLevel.UNKNOWN, IdempotencyLevel.IDEMPOTENT])
def test_method_that_may_have_side_effects_takes_no_get(level: IdempotencyLevel) -> None:
    method = Method("unit.v1.UnitService", "Write", StringValue, StringValue, idempotency=level)

    assert get("encoding=json&message=%22a%22", method=method).status == 405


def test_handler_knows_that_it_is_a_get() -> None:
    seen = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        seen.append((ctx.http_method(), ctx.method(), ctx.request_headers().get("a")))
        return request

    get("encoding=json&message=%22a%22", {"a": "1"}, handler=handler)

    assert seen == [("GET", READ, "1")]


def test_error_and_metadata_go_out() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["a"] = "1"
        ctx.response_trailers()["b"] = "2"
        raise ConnectError(Code.NOT_FOUND)

    answer = get("encoding=json&message=%22a%22", handler=handler)

    assert (answer.status, answer.code) == (404, "not_found")
    assert (answer.headers["a"], answer.headers["trailer-b"]) == ("1", "2")


@pytest.mark.parametrize(
    "query", ["encoding=json&message=%22a%22", "encoding=json&message={", "", "encoding=xml&message="]
)
def test_answer_varies_by_what_the_client_accepts(query: str) -> None:
    assert get(query).headers["vary"] == "accept-encoding"


def test_answer_varies_by_what_the_handler_says_too() -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["vary"] = "cookie"
        return request

    answer = get("encoding=json&message=%22a%22", handler=handler)

    assert answer.headers.get_all("vary") == ["cookie", "accept-encoding"]


def test_answer_to_a_post_does_not_say_that_it_varies() -> None:
    headers = Headers({"content-type": "application/proto"})

    assert "vary" not in Answer(serve(READ)(Request("POST", READ.path, headers))).headers


def test_unexpected_exception_is_hidden() -> None:
    answer = get("encoding=json&message=%22a%22", handler=failing(KeyError("secret")))

    assert answer.error == {"code": "internal", "message": "internal error"}


def test_response_past_the_deadline_is_deadline_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        return request

    answer = get("encoding=json&message=%22a%22", {"connect-timeout-ms": "1000"}, handler=handler)

    assert answer.code == "deadline_exceeded"


def test_deadline_of_a_get_holds_for_the_sends_of_its_response() -> None:
    deadlines = []

    class Bounded(ScriptedBody):
        def set_deadline(self, deadline: Any) -> None:
            deadlines.append(deadline.remaining())

    headers = Headers({"connect-timeout-ms": "9999999999"})
    serve(READ)(Request("GET", READ.path, headers, Bounded(), query="encoding=json&message=%22a%22"))

    assert len(deadlines) == 1
    assert 0 < deadlines[0] <= 9_999_999.999


BYTES = Method(
    "unit.v1.UnitService", "Bytes", BytesValue, BytesValue, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)
SIZE = 1000


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize(("size", "code"), [(SIZE, None), (SIZE + 1, "resource_exhausted")])
def test_message_is_held_to_the_limit(compression: str, size: int, code: str | None) -> None:
    data = BytesValue(value=b"x" * (size - 3)).SerializeToString()
    assert len(data) == size
    message = base64(gzip.compress(data) if compression else data)
    query = f"compression={compression}&base64=1&encoding=proto&message={message}"

    assert get(query, method=BYTES, read_max_bytes=SIZE).code == code


def test_body_of_a_get_is_not_read() -> None:
    body = ScriptedBody(b"a")
    serve(READ)(Request("GET", READ.path, Headers(), body, query="encoding=json&message=%22a%22"))

    assert body.sizes == []


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_content_type_of_a_get_is_not_looked_at(content_type: str) -> None:
    assert get("encoding=json&message=%22a%22", {"content-type": content_type}).status == 200


def test_method_without_side_effects_takes_a_post_too() -> None:
    headers = Headers({"content-type": "application/proto"})

    assert Answer(serve(READ)(Request("POST", READ.path, headers, (proto("a"),)))).text == "a"


def test_query_of_a_post_is_not_looked_at() -> None:
    headers = Headers({"content-type": "application/proto"})
    request = Request("POST", UNARY.path, headers, (proto("a"),), query="encoding=json&message=%22b%22")

    assert Answer(serve(UNARY)(request)).text == "a"


# A result that has not changed


EMPTY = "connect=v1&encoding=proto&message="


def tagged(request: Any, ctx: RequestContext) -> Any:
    ctx.response_headers()["etag"] = '"1"'
    ctx.response_trailers()["spent"] = "5"
    if ctx.request_headers().get("if-none-match") == '"1"':
        raise NotModified
    return request


def test_result_that_has_not_changed_is_a_304_with_its_headers() -> None:
    answer = get(EMPTY, {"if-none-match": '"1"'}, handler=tagged)

    assert (answer.status, answer.body) == (304, b"")
    assert dict(answer.headers) == {"etag": '"1"', "trailer-spent": "5", "vary": "accept-encoding"}


def test_result_that_has_changed_is_whole() -> None:
    answer = get(EMPTY, {"if-none-match": '"0"'}, handler=tagged)

    assert (answer.status, answer.headers["etag"]) == (200, '"1"')


def test_not_modified_is_an_unknown_error_to_a_post() -> None:
    answer = ask(serve(READ, tagged), READ, headers={"if-none-match": '"1"'})

    assert (answer.status, answer.code) == (500, "unknown")


def test_client_is_told_that_a_result_has_not_changed() -> None:
    client = in_memory(serve(READ, tagged))
    with pytest.raises(NotModified) as raised:
        client.call_unary(READ, text(), use_get=True, headers={"if-none-match": '"1"'})

    assert raised.value.http_status == 304
    assert raised.value.metadata["etag"] == '"1"'


# The version of the protocol


def test_version_may_be_required() -> None:
    query = "encoding=proto&message="

    assert get(query).status == 200
    assert get(query, require_connect_protocol_version=True).code == "invalid_argument"
    assert get(f"connect=v1&{query}", require_connect_protocol_version=True).status == 200
