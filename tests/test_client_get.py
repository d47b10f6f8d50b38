"""GETs of methods without side effects, on the client."""

from __future__ import annotations

import gzip
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import parse_qsl

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue

from connect_sync import (
    Call,
    ConnectClient,
    ConnectError,
    IdempotencyLevel,
    Method,
    RequestContext,
    ResponseMetadata,
)
from connect_sync.http import Response
from tests.support import (
    READ,
    UNARY,
    Clock,
    ScriptedTransport,
    echo,
    in_memory,
    proto,
    scripted,
    serve,
    text,
    unary_response,
)

BYTES: Method[BytesValue, BytesValue] = Method(
    "unit.v1.UnitService", "Bytes", BytesValue, BytesValue, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)
STRUCT: Method[Struct, Struct] = Method(
    "unit.v1.UnitService", "Struct", Struct, Struct, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)


class Repeating:
    """An interceptor that calls once with each of some texts."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def intercept_unary(self, call_next: Call[Any, Message], request: Any, ctx: RequestContext) -> Message:
        *_, response = [call_next(text(value), ctx) for value in self._texts]
        return response


def json_response() -> Response:
    return unary_response(b'""', codec="json")


def test_get_has_its_message_in_the_query_and_no_body() -> None:
    client, transport = scripted(unary_response(proto("b")))

    assert client.call_unary(READ, text("a"), use_get=True).value == "b"
    request = transport.only
    assert (request.method, request.path) == ("GET", "/unit.v1.UnitService/Read")
    assert request.query == "connect=v1&base64=1&encoding=proto&message=CgFh"
    assert (request.body, request.has_known_length) == (b"", True)


def test_get_has_no_content_type() -> None:
    client, transport = scripted(unary_response())
    client.call_unary(READ, text("a"), use_get=True, headers={"content-type": "mine"})

    assert "content-type" not in transport.only.headers


def test_get_in_json_is_percent_encoded() -> None:
    client, transport = scripted(json_response(), proto_json=True)
    client.call_unary(READ, text("a b"), use_get=True)

    assert transport.only.query == "connect=v1&encoding=json&message=%22a%20b%22"


def test_get_is_compressed_as_told() -> None:
    client, transport = scripted(unary_response(), send_compression="gzip")
    client.call_unary(READ, text("a"), use_get=True)
    request = transport.only
    parameters = dict(parse_qsl(request.query))
    message = parameters.pop("message")

    assert parameters == {"connect": "v1", "base64": "1", "compression": "gzip", "encoding": "proto"}
    assert gzip.decompress(urlsafe_b64decode(message + "=" * (-len(message) % 4))) == proto("a")
    assert "content-encoding" not in request.headers


@pytest.mark.parametrize(("min_bytes", "compression"), [(2, "gzip"), (3, "gzip"), (4, None)])
def test_get_is_compressed_from_a_size_on(min_bytes: int, compression: str | None) -> None:
    client, transport = scripted(unary_response(), send_compression="gzip", compress_min_bytes=min_bytes)
    client.call_unary(READ, text("a"), use_get=True)

    assert dict(parse_qsl(transport.only.query)).get("compression") == compression


def test_get_carries_timeout_metadata_and_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    client, transport = scripted(unary_response())
    client.call_unary(READ, text("a"), use_get=True, headers={"a": "1"}, timeout_ms=1500)
    headers = transport.only.headers

    assert (headers["connect-timeout-ms"], headers["a"], headers["accept-encoding"]) == ("1500", "1", "gzip")


@pytest.mark.parametrize("level", [IdempotencyLevel.UNKNOWN, IdempotencyLevel.IDEMPOTENT])
def test_method_that_may_have_side_effects_is_not_called_by_get(level: IdempotencyLevel) -> None:
    client, transport = scripted()
    method = Method(UNARY.service, UNARY.name, UNARY.input, UNARY.output, idempotency=level)

    with pytest.raises(ValueError, match=r"unit\.v1\.UnitService\.Unary is not declared NO_SIDE_EFFECTS"):
        client.call_unary(method, text(), use_get=True)
    assert transport.sent == []


def test_method_without_side_effects_is_called_by_post_unless_told() -> None:
    client, transport = scripted(unary_response())
    client.call_unary(READ, text("a"))

    assert (transport.only.method, transport.only.body) == ("POST", proto("a"))


# Equal messages, equal URLs


@pytest.mark.parametrize("proto_json", [False, True])
@pytest.mark.parametrize("send_compression", [None, "gzip"])
def test_equal_messages_make_equal_urls(proto_json: bool, send_compression: str | None) -> None:
    names = [f"name-{number}" for number in range(40)]
    queries = set()
    for order in (names, names[::-1]):
        message = Struct()
        for name in order:
            message[name] = name
        response = unary_response(b"{}" if proto_json else b"", codec="json" if proto_json else "proto")
        client, transport = scripted(response, proto_json=proto_json, send_compression=send_compression)
        client.call_unary(STRUCT, message, use_get=True)
        queries.add(transport.only.query)

    assert len(queries) == 1


# Messages too long for a URL

LONGEST = 4000
"""How long path and query of a GET may be."""


def target_of(size: int) -> str:
    """Return path and query of a GET with ``size`` bytes as message."""
    message = urlsafe_b64encode(BytesValue(value=bytes(size)).SerializeToString()).decode().rstrip("=")
    return f"{BYTES.path}connect=v1&base64=1&encoding=proto&message={message}"


LONGEST_GET = max(size for size in range(2900, 3000) if len(target_of(size)) <= LONGEST)


@pytest.mark.parametrize(("size", "http_method"), [(LONGEST_GET, "GET"), (LONGEST_GET + 1, "POST")])
def test_message_too_long_for_a_url_goes_as_a_post(size: int, http_method: str) -> None:
    client, transport = scripted(unary_response())
    client.call_unary(BYTES, BytesValue(value=bytes(size)), use_get=True)

    assert transport.only.method == http_method


def test_path_of_the_address_counts_for_the_length_of_a_url() -> None:
    transport = ScriptedTransport(unary_response())
    client = ConnectClient("http://test/" + "p" * 100, transport=transport)
    client.call_unary(BYTES, BytesValue(value=bytes(LONGEST_GET)), use_get=True)

    assert transport.only.method == "POST"


def test_message_that_goes_as_a_post_is_a_whole_post() -> None:
    message = BytesValue(value=bytes(5000))
    client, transport = scripted(unary_response(), send_compression=None)
    client.call_unary(BYTES, message, use_get=True)
    request = transport.only

    assert (request.method, request.query) == ("POST", "")
    assert request.headers["content-type"] == "application/proto"
    assert BytesValue.FromString(request.body) == message


def test_message_that_compression_makes_short_enough_goes_as_a_get() -> None:
    client, transport = scripted(unary_response(), send_compression="gzip")
    client.call_unary(BYTES, BytesValue(value=bytes(50_000)), use_get=True)

    assert transport.only.method == "GET"


@pytest.mark.parametrize(("size", "http_method"), [(10, "GET"), (5000, "POST")])
def test_interceptor_sees_how_the_call_was_sent(size: int, http_method: str) -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            """Do nothing."""

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append(ctx.http_method())

    client, _ = scripted(unary_response(), interceptors=[Looking()])
    client.call_unary(BYTES, BytesValue(value=bytes(size)), use_get=True)

    assert seen == [http_method]


@pytest.mark.parametrize("use_get", [True, False])
def test_interceptor_sees_how_the_call_is_to_be_sent(use_get: bool) -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append(ctx.http_method())

    client, _ = scripted(unary_response(), interceptors=[Looking()])
    client.call_unary(READ, text("a"), use_get=use_get)

    assert seen == ["GET" if use_get else "POST"]


# Both sides


@pytest.mark.parametrize("proto_json", [False, True])
@pytest.mark.parametrize("send_compression", [None, "gzip"])
@pytest.mark.parametrize("size", [0, 1, 100, 10_000])
def test_any_message_comes_back(proto_json: bool, send_compression: str | None, size: int) -> None:
    client = in_memory(serve(BYTES, echo), proto_json=proto_json, send_compression=send_compression)
    message = BytesValue(value=bytes(number % 251 for number in range(size)))

    assert client.call_unary(BYTES, message, use_get=True) == message


def test_handler_sees_a_get_and_its_metadata() -> None:
    def handler(request: object, ctx: RequestContext) -> object:
        ctx.response_headers()["seen"] = f"{ctx.http_method()} {ctx.request_headers()['a']}"
        return request

    with ResponseMetadata() as metadata:
        in_memory(serve(READ, handler)).call_unary(READ, text("a"), use_get=True, headers={"a": "1"})

    assert metadata.headers()["seen"] == "GET 1"


def test_server_that_knows_no_get_of_the_method_answers_so() -> None:
    client = in_memory(serve(UNARY))
    declared_otherwise = Method(
        UNARY.service, UNARY.name, UNARY.input, UNARY.output, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
    )

    with pytest.raises(
        ConnectError,
        match=r"^unknown: http://unit\.test/unit\.v1\.UnitService/Unary was answered with HTTP 405",
    ):
        client.call_unary(declared_otherwise, text("a"), use_get=True)


def test_each_attempt_is_a_request_of_its_own() -> None:
    long = "x" * 20_000
    client, transport = scripted(*[unary_response()] * 3, interceptors=[Repeating(long, "a", long)])
    client.call_unary(READ, text(), use_get=True)

    assert [(sent.method, bool(sent.query), bool(sent.body)) for sent in transport.sent] == [
        ("POST", False, True),
        ("GET", True, False),
        ("POST", False, True),
    ]
