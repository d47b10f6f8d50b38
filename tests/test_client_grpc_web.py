"""The client, where it speaks gRPC-Web."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import (
    Cancellation,
    Code,
    ConnectError,
    ErrorDetail,
    HeadersInput,
    ProtocolType,
    RequestContext,
    ResponseMetadata,
)
from connect_sync.http import Response
from connect_sync.version import VERSION
from tests import support
from tests.support import (
    BIDI,
    CLIENT_STREAM,
    COMPRESSED,
    END,
    OK_WEB_END,
    READ,
    SERVER_STREAM,
    UNARY,
    WEB_END,
    Clock,
    Handler,
    Observer,
    ScriptedBody,
    TextMethod,
    envelope,
    error_of,
    failing,
    proto,
    rpc_status,
    serve,
    split_envelopes,
    text,
    web_end,
    web_response,
)

METHODS = pytest.mark.parametrize(
    "method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name
)
USER_AGENT = f"grpc-python-connect-sync/{VERSION}"

ONE_RESPONSE = pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM], ids=lambda method: method.name)


def scripted(*responses: Response | ConnectError, **options: Any) -> Any:
    """Return a client of gRPC-Web, and the transport by which it is answered."""
    return support.scripted(*responses, protocol=ProtocolType.GRPC_WEB, **options)


def in_memory(method: TextMethod, handler: Handler | None = None, **options: Any) -> Any:
    """Return a client of gRPC-Web that calls ``handler``."""
    return support.in_memory(serve(method, handler), protocol=ProtocolType.GRPC_WEB, **options)


def message(value: str) -> bytes:
    return envelope(proto(value))


def call(client: Any, method: TextMethod, value: str = "a", **options: Any) -> list[str]:
    """Call a method to its end, and return the values of its responses."""
    if method is SERVER_STREAM:
        return [response.value for response in client.call_server_stream(method, text(value), **options)]
    if method is CLIENT_STREAM:
        return [client.call_client_stream(method, [text(value)], **options).value]
    return [client.call_unary(method, text(value), **options).value]


def answer(method: TextMethod, response: Response, **options: Any) -> list[str]:
    """Call a method and answer with ``response``."""
    client, _ = scripted(response, **options)
    return call(client, method)


def fail(method: TextMethod, response: Response, **options: Any) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        answer(method, response, **options)
    return caught.value


def ok_response() -> Response:
    return web_response(message("b"), OK_WEB_END)


# The request


@METHODS
def test_request_is_a_post_of_envelopes(method: TextMethod) -> None:
    client, transport = scripted(ok_response())
    call(client, method)
    request = transport.only

    assert (request.method, request.path, request.query) == ("POST", method.path, "")
    assert request.body == message("a")
    assert dict(request.headers) == {
        "x-grpc-web": "1",
        "x-user-agent": USER_AGENT,
        "content-type": "application/grpc-web+proto",
        "grpc-accept-encoding": "gzip",
    }


@METHODS
def test_request_in_json_is_envelopes_of_json(method: TextMethod) -> None:
    client, transport = scripted(web_response(envelope(b'"b"'), OK_WEB_END, codec="json"), proto_json=True)

    assert call(client, method) == ["b"]
    assert transport.only.body == envelope(b'"a"')
    assert transport.only.headers["content-type"] == "application/grpc-web+json"


@METHODS
@pytest.mark.parametrize(("timeout_ms", "written"), [(1500, "1500m"), (100_000_000, "100000S")])
def test_timeout_is_sent(
    method: TextMethod, timeout_ms: float, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    client, transport = scripted(ok_response())
    call(client, method, timeout_ms=timeout_ms)

    assert transport.only.headers["grpc-timeout"] == written


@METHODS
def test_messages_are_compressed_as_told(method: TextMethod) -> None:
    client, transport = scripted(ok_response(), send_compression="gzip")
    call(client, method)
    ((flags, payload),) = split_envelopes(transport.only.body)

    assert transport.only.headers["grpc-encoding"] == "gzip"
    assert (flags, gzip.decompress(payload)) == (COMPRESSED, proto("a"))


@METHODS
@pytest.mark.parametrize(("min_bytes", "flags"), [(0, 1), (2, 1), (3, 1), (4, 0), (1 << 40, 0)])
def test_message_is_compressed_from_a_size_on(method: TextMethod, min_bytes: int, flags: int) -> None:
    client, transport = scripted(ok_response(), send_compression="gzip", compress_min_bytes=min_bytes)
    call(client, method)
    ((sent, _),) = split_envelopes(transport.only.body)

    assert len(proto("a")) == 3
    assert (sent, transport.only.headers["grpc-encoding"]) == (flags, "gzip")


@METHODS
def test_empty_message_is_never_compressed(method: TextMethod) -> None:
    client, transport = scripted(ok_response(), send_compression="gzip")
    call(client, method, "")

    assert transport.only.body == envelope(b"")


@METHODS
def test_client_that_reads_no_compression_asks_for_none(method: TextMethod) -> None:
    client, transport = scripted(ok_response(), accept_compression=())
    call(client, method)

    assert transport.only.headers["grpc-accept-encoding"] == "identity"


@METHODS
def test_metadata_is_sent_without_what_is_reserved(method: TextMethod) -> None:
    client, transport = scripted(ok_response())
    reserved = [
        *("content-type", "te", "x-grpc-web", "grpc-timeout", "grpc-encoding", "Grpc-Accept-Encoding"),
        *("grpc-status", "content-encoding", "connect-timeout-ms", "connect-protocol-version"),
    ]
    headers: HeadersInput = [("a", "1"), ("a", "2"), *((name, "mine") for name in reserved)]
    call(client, method, headers=headers)

    assert list(transport.only.headers.multi_items()) == [
        ("a", "1"),
        ("a", "2"),
        ("x-grpc-web", "1"),
        ("x-user-agent", USER_AGENT),
        ("grpc-accept-encoding", "gzip"),
        ("content-type", "application/grpc-web+proto"),
    ]


@pytest.mark.parametrize(
    ("method", "expected"), [(UNARY, True), (CLIENT_STREAM, False), (SERVER_STREAM, True)]
)
def test_length_of_a_request_is_known_where_it_is_one_message(method: TextMethod, expected: bool) -> None:
    client, transport = scripted(ok_response())
    call(client, method)

    assert transport.only.has_known_length is expected


@pytest.mark.parametrize("values", [[], ["a"], ["a", "", "b"]])
def test_messages_of_a_client_stream_are_sent_in_order(values: list[str]) -> None:
    client, transport = scripted(ok_response())
    client.call_client_stream(CLIENT_STREAM, map(text, values))

    assert transport.only.body == b"".join(map(message, values))


def test_request_of_another_type_is_refused_before_it_is_sent() -> None:
    client, transport = scripted()

    for method in (UNARY, SERVER_STREAM):
        with pytest.raises(TypeError, match=r"expected a google\.protobuf\.StringValue, got a str"):
            (client.call_unary if method is UNARY else client.call_server_stream)(method, "a")
    assert transport.sent == []


def test_bidirectional_method_is_refused_before_anything_is_sent() -> None:
    client, transport = scripted()

    with pytest.raises(ConnectError, match="is bidirectional streaming"):
        client.call_bidi_stream(BIDI, [])
    assert transport.sent == []


# GET, which gRPC-Web has not


def test_call_by_get_goes_as_a_post() -> None:
    client, transport = scripted(ok_response())

    assert client.call_unary(READ, text("a"), use_get=True).value == "b"
    assert (transport.only.method, transport.only.query) == ("POST", "")
    assert transport.only.body == message("a")


def test_interceptor_of_a_call_by_get_sees_a_post() -> None:
    seen = []

    class Recorder:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append(ctx.http_method())

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append(ctx.http_method())

    client, _ = scripted(ok_response(), interceptors=[Recorder()])
    client.call_unary(READ, text("a"), use_get=True)

    assert seen == ["POST", "POST"]


def test_method_that_may_have_side_effects_is_not_called_by_get() -> None:
    client, transport = scripted()

    with pytest.raises(ValueError, match="is not declared NO_SIDE_EFFECTS"):
        client.call_unary(UNARY, text("a"), use_get=True)
    assert transport.sent == []


# The response


@METHODS
def test_message_is_given(method: TextMethod) -> None:
    assert answer(method, ok_response()) == ["b"]


@METHODS
def test_response_in_one_chunk_is_told_apart(method: TextMethod) -> None:
    assert answer(method, web_response(message("b") + OK_WEB_END)) == ["b"]


@METHODS
@pytest.mark.parametrize("content_type", ["application/grpc-web", "application/grpc-web+proto;charset=utf-8"])
def test_content_type_may_be_spelt_otherwise(method: TextMethod, content_type: str) -> None:
    response = web_response(message("b"), OK_WEB_END, headers={"content-type": content_type})

    assert answer(method, response) == ["b"]


@pytest.mark.parametrize("values", [[], ["a"], ["a", "", "b"]])
def test_messages_of_a_server_stream_are_given_in_order(values: list[str]) -> None:
    assert answer(SERVER_STREAM, web_response(*map(message, values), OK_WEB_END)) == values


def test_message_is_given_when_it_has_arrived() -> None:
    body = ScriptedBody(message("a"), message("b"), OK_WEB_END)
    client, _ = scripted(web_response(body=body))
    with client.call_server_stream(SERVER_STREAM, text()) as stream:
        assert next(stream).value == "a"
        assert body.remaining == [message("b"), OK_WEB_END]


@ONE_RESPONSE
@pytest.mark.parametrize(
    "chunks",
    [(OK_WEB_END,), (message("a"), message("b"), OK_WEB_END), (message(""), message(""), OK_WEB_END)],
    ids=["none", "two", "two empty ones"],
)
def test_response_that_is_no_stream_has_exactly_one_message(
    method: TextMethod, chunks: tuple[bytes, ...]
) -> None:
    assert fail(method, web_response(*chunks)).code is Code.UNIMPLEMENTED


@METHODS
def test_empty_envelope_is_an_empty_message(method: TextMethod) -> None:
    assert answer(method, web_response(envelope(b""), OK_WEB_END)) == [""]


@METHODS
@pytest.mark.parametrize(
    "chunk", [message("b"), envelope(gzip.compress(proto("b")), COMPRESSED)], ids=["plain", "compressed"]
)
def test_messages_may_be_compressed(method: TextMethod, chunk: bytes) -> None:
    response = web_response(chunk, OK_WEB_END, headers={"grpc-encoding": "gzip"})

    assert answer(method, response) == ["b"]


@METHODS
@pytest.mark.parametrize("headers", [{}, {"grpc-encoding": "identity"}, {"content-encoding": "gzip"}])
@pytest.mark.parametrize("flags", [COMPRESSED, COMPRESSED | WEB_END])
def test_compressed_envelope_needs_a_compression_in_the_headers(
    method: TextMethod, headers: dict[str, str], flags: int
) -> None:
    chunk = envelope(gzip.compress(b""), flags)

    assert fail(method, web_response(chunk, OK_WEB_END, headers=headers)).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize("name", ["foo", "br", "gzip, gzip"])
def test_unknown_compression_is_an_internal_error(method: TextMethod, name: str) -> None:
    response = web_response(message("b"), OK_WEB_END, headers={"grpc-encoding": name})

    assert fail(method, response).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize("flags", [0x02, 0x03, 0x04, 0x40, 0x82, 0xFF])
def test_reserved_flags_are_an_internal_error(method: TextMethod, flags: int) -> None:
    response = web_response(envelope(b"", flags), OK_WEB_END, headers={"grpc-encoding": "gzip"})

    assert fail(method, response).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize(
    "chunks",
    [
        (envelope(b"\xff"), OK_WEB_END),
        (message("b")[:-1],),
        (b"\x00",),
        (OK_WEB_END[:-1],),
        (OK_WEB_END[:3],),
        (envelope(b"damaged", COMPRESSED), OK_WEB_END),
        (envelope(b"damaged", COMPRESSED | WEB_END),),
    ],
    ids=[
        *("no message", "cut off", "head cut off", "end cut off", "head of the end cut off"),
        *("damaged", "end damaged"),
    ],
)
def test_malformed_response_is_an_internal_error(method: TextMethod, chunks: tuple[bytes, ...]) -> None:
    error = fail(method, web_response(*chunks, headers={"grpc-encoding": "gzip"}))

    assert error.code is Code.INTERNAL
    assert error.message.startswith("the response is malformed: ")


@METHODS
@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("application/grpc-web+json", Code.INTERNAL),
        ("application/grpc-web-text", Code.UNKNOWN),
        ("application/grpc-web-text+proto", Code.UNKNOWN),
        ("application/grpc+proto", Code.UNKNOWN),
        ("application/connect+proto", Code.UNKNOWN),
        ("application/proto", Code.UNKNOWN),
        ("text/html", Code.UNKNOWN),
        ("", Code.UNKNOWN),
    ],
)
def test_response_of_another_content_type_is_an_error(
    method: TextMethod, content_type: str, code: Code
) -> None:
    response = web_response(message("b"), OK_WEB_END, headers={"content-type": content_type})

    assert fail(method, response).code is code


@METHODS
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (415, Code.UNKNOWN),
        (429, Code.UNAVAILABLE),
        (501, Code.UNKNOWN),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (204, Code.UNKNOWN),
    ],
)
def test_response_of_another_status_has_its_code(method: TextMethod, status: int, code: Code) -> None:
    error = fail(method, web_response(message("b"), OK_WEB_END, status=status))

    assert error.code is code
    assert error.message.startswith(f"http://unit.test{method.path} was answered with HTTP {status}")


@METHODS
def test_body_of_a_response_of_another_status_is_not_an_error_of_the_protocol(method: TextMethod) -> None:
    body = ScriptedBody(b'{"code":"aborted","message":"no upstream"}')
    error = fail(method, web_response(headers={"content-type": "application/json"}, status=503, body=body))

    assert error.code is Code.UNAVAILABLE
    assert "no upstream" in error.message


@METHODS
def test_status_of_grpc_in_a_response_of_another_status_is_the_error(method: TextMethod) -> None:
    error = fail(method, web_response(headers={"grpc-status": "5", "grpc-message": "m"}, status=503))

    assert (error.code, error.message) == (Code.NOT_FOUND, "m")


@METHODS
def test_status_of_grpc_that_tells_of_no_error_is_none(method: TextMethod) -> None:
    error = fail(method, web_response(headers={"grpc-status": "0"}, status=503))

    assert error.code is Code.UNAVAILABLE


# The end


@METHODS
def test_error_at_the_end_is_raised_with_all_that_it_has(method: TextMethod) -> None:
    details = b64encode(rpc_status(5, "caf\u00e9", ("type.googleapis.com/a.B", b"\xff"))).decode()
    end = web_end("grpc-status: 5", "grpc-message: caf%C3%A9", f"grpc-status-details-bin: {details}")
    error = fail(method, web_response(end))

    assert (error.code, error.message) == (Code.NOT_FOUND, "caf\u00e9")
    assert error.details == (ErrorDetail("a.B", b"\xff"),)


def test_messages_before_the_error_are_given() -> None:
    client, _ = scripted(web_response(message("a"), message("b"), web_end("grpc-status: 10")))
    stream = client.call_server_stream(SERVER_STREAM, text())

    assert [next(stream).value, next(stream).value] == ["a", "b"]
    with pytest.raises(ConnectError, match="aborted"):
        next(stream)


@ONE_RESPONSE
def test_error_goes_before_the_message(method: TextMethod) -> None:
    assert fail(method, web_response(message("b"), web_end("grpc-status: 10"))).code is Code.ABORTED


@METHODS
@pytest.mark.parametrize(("number", "code"), [(0, None), (10, Code.ABORTED)])
def test_end_may_be_compressed(method: TextMethod, number: int, code: Code | None) -> None:
    end = envelope(gzip.compress(f"grpc-status: {number}\r\n".encode()), COMPRESSED | WEB_END)
    response = web_response(message("b"), end, headers={"grpc-encoding": "gzip"})
    error = error_of(lambda: answer(method, response))

    assert (error and error.code) is code


@METHODS
def test_response_without_its_end_is_an_internal_error(method: TextMethod) -> None:
    error = fail(method, web_response(message("b")))

    assert (error.code, error.message) == (Code.INTERNAL, "the response is missing its end-of-stream message")


@METHODS
@pytest.mark.parametrize("chunk", [b"", envelope(b"{}", END)], ids=["nothing", "the end of Connect"])
def test_response_without_anything_of_grpc_web_is_an_internal_error(method: TextMethod, chunk: bytes) -> None:
    assert fail(method, web_response(chunk)).code is Code.INTERNAL


@METHODS
def test_end_that_is_no_header_lines_is_an_internal_error(method: TextMethod) -> None:
    assert fail(method, web_response(message("b"), web_end("{}"))).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize("lines", [(), ("a: 1",), ("grpc-status: x",)])
def test_end_without_a_status_is_an_unknown_error(method: TextMethod, lines: tuple[str, ...]) -> None:
    assert fail(method, web_response(message("b"), web_end(*lines))).code is Code.UNKNOWN


@METHODS
@pytest.mark.parametrize(
    "chunks",
    [
        (OK_WEB_END, message("c")),
        (OK_WEB_END + message("c"),),
        (OK_WEB_END, OK_WEB_END),
        (OK_WEB_END, b"x"),
        (OK_WEB_END + b"x",),
    ],
    ids=["message", "message in its chunk", "end", "byte", "byte in its chunk"],
)
def test_response_that_goes_on_behind_its_end_is_an_internal_error(
    method: TextMethod, chunks: tuple[bytes, ...]
) -> None:
    assert fail(method, web_response(message("b"), *chunks)).code is Code.INTERNAL


@METHODS
def test_limit_is_for_messages_and_end(method: TextMethod) -> None:
    exact = web_end("grpc-status: 0", f"a: {'x' * 79}")
    assert len(exact) == 5 + 100
    above = web_end("grpc-status: 0", f"a: {'x' * 80}")

    assert answer(method, web_response(message("b"), exact), read_max_bytes=100) == ["b"]
    for response in (web_response(message("b"), above), web_response(message("b" * 99), OK_WEB_END)):
        assert fail(method, response, read_max_bytes=100).code is Code.RESOURCE_EXHAUSTED


# A response without a body


@METHODS
def test_status_of_a_response_without_a_body_is_among_its_headers(method: TextMethod) -> None:
    details = b64encode(rpc_status(5, "no such pet", ("a.B", b"a"))).decode()
    headers = {"grpc-status": "5", "grpc-message": "m", "grpc-status-details-bin": details}
    error = fail(method, web_response(headers=headers))

    assert (error.code, error.message) == (Code.NOT_FOUND, "no such pet")
    assert error.details == (ErrorDetail("a.B", b"a"),)


def test_stream_without_a_body_may_have_succeeded() -> None:
    assert answer(SERVER_STREAM, web_response(headers={"grpc-status": "0"})) == []


@ONE_RESPONSE
def test_success_without_a_body_has_no_message(method: TextMethod) -> None:
    assert fail(method, web_response(headers={"grpc-status": "0"})).code is Code.UNIMPLEMENTED


@METHODS
@pytest.mark.parametrize("value", ["", "x", "0, 0"])
def test_malformed_status_among_the_headers_is_an_unknown_error(method: TextMethod, value: str) -> None:
    assert fail(method, web_response(headers={"grpc-status": value})).code is Code.UNKNOWN


@METHODS
def test_status_among_the_headers_of_a_response_with_a_body_is_none(method: TextMethod) -> None:
    headers = {"grpc-status": "5", "grpc-message": "m"}

    assert answer(method, web_response(message("b"), OK_WEB_END, headers=headers)) == ["b"]


@METHODS
@pytest.mark.parametrize("chunks", [(message("b"),), (b"\x00",)], ids=["message", "part of one"])
def test_status_among_the_headers_is_no_end_of_a_body(method: TextMethod, chunks: tuple[bytes, ...]) -> None:
    assert fail(method, web_response(*chunks, headers={"grpc-status": "0"})).code is Code.INTERNAL


def test_headers_of_a_response_without_a_body_are_metadata_of_both_kinds() -> None:
    client, _ = scripted(web_response(headers={"grpc-status": "10", "a": "1"}))
    with ResponseMetadata() as metadata, pytest.raises(ConnectError):
        client.call_unary(UNARY, text())

    assert metadata.headers()["a"] == "1"
    assert dict(metadata.trailers()) == {"a": "1"}


# Metadata


@METHODS
@pytest.mark.parametrize("number", [0, 10])
def test_metadata_is_collected(method: TextMethod, number: int) -> None:
    end = web_end(f"grpc-status: {number}", "B: 2", "b: 3", "c-bin: AP8")
    client, _ = scripted(web_response(message("x"), end, headers={"a": "1"}))
    with ResponseMetadata() as metadata:
        error_of(lambda: call(client, method))

    assert metadata.headers()["a"] == "1"
    assert list(metadata.trailers().multi_items()) == [("b", "2"), ("b", "3"), ("c-bin", "AP8")]


def test_trailers_of_a_stream_are_there_at_its_end() -> None:
    client, _ = scripted(
        web_response(message("a"), web_end("grpc-status: 0", "b: 2"), headers={"a": "1", "trailer-c": "3"})
    )
    with client.call_server_stream(SERVER_STREAM, text()) as stream:
        next(stream)
        assert (stream.response_headers()["a"], dict(stream.response_trailers())) == ("1", {})
        list(stream)

    assert dict(stream.response_trailers()) == {"b": "2"}


# Interceptors


@METHODS
@pytest.mark.parametrize(("number", "code"), [(0, None), (10, Code.ABORTED)])
def test_interceptor_hears_how_a_call_ended(method: TextMethod, number: int, code: Code | None) -> None:
    observer = Observer()
    client, _ = scripted(
        web_response(message("b"), web_end(f"grpc-status: {number}")), interceptors=[observer]
    )
    error_of(lambda: call(client, method))

    assert (observer.starts, observer.codes) == (1, [code])


# The body is closed, whatever becomes of the call


@METHODS
@pytest.mark.parametrize(
    "make",
    [
        lambda body: web_response(body=body),
        lambda body: web_response(body=body, headers={"content-type": "text/html"}),
        lambda body: web_response(body=body, headers={"grpc-encoding": "foo"}),
        lambda body: web_response(body=body, status=503),
    ],
    ids=["success", "content type", "compression", "status"],
)
def test_body_of_the_response_is_closed(method: TextMethod, make: Callable[[ScriptedBody], Response]) -> None:
    body = ScriptedBody(message("b"), OK_WEB_END)
    error_of(lambda: answer(method, make(body)))

    assert body.close_count >= 1


@ONE_RESPONSE
@pytest.mark.parametrize(
    "chunks",
    [
        (message("a"), message("b"), OK_WEB_END),
        (b"\xff",),
        (message("a"),),
        (web_end("grpc-status: 10"),),
        (),
    ],
    ids=["several", "malformed", "without end", "error", "empty"],
)
def test_body_is_closed_when_a_call_fails(method: TextMethod, chunks: tuple[bytes, ...]) -> None:
    body = ScriptedBody(*chunks)
    fail(method, web_response(body=body))

    assert body.close_count >= 1


# Deadline and cancellation


@METHODS
def test_deadline_goes_before_a_message_that_has_arrived_too_late(
    method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    class Slow(ScriptedBody):
        def read(self, size: int) -> bytes:
            clock.advance_ms(1501)
            return super().read(size)

    response = web_response(body=Slow(message("a"), OK_WEB_END))

    assert fail(method, response, timeout_ms=1500).code is Code.DEADLINE_EXCEEDED


def test_cancellation_ends_a_stream_between_two_messages() -> None:
    body = ScriptedBody(message("a"), message("b"), OK_WEB_END)
    client, _ = scripted(web_response(body=body))
    cancellation = Cancellation()
    stream = client.call_server_stream(SERVER_STREAM, text(), cancellation=cancellation)
    assert next(stream).value == "a"
    cancellation.cancel()

    with pytest.raises(ConnectError) as caught:
        next(stream)
    assert caught.value.code is Code.CANCELED
    assert body.remaining == [message("b"), OK_WEB_END]


# Both sides


@METHODS
@pytest.mark.parametrize("proto_json", [False, True])
@pytest.mark.parametrize("send_compression", [None, "gzip"])
@pytest.mark.parametrize("accept_compression", [(), ("gzip",)])
def test_any_message_comes_back(
    method: TextMethod, proto_json: bool, send_compression: str | None, accept_compression: tuple[str, ...]
) -> None:
    client = in_memory(
        method,
        proto_json=proto_json,
        send_compression=send_compression,
        accept_compression=accept_compression,
    )

    for value in ("", "a", "\u00e9" * 1000):
        assert call(client, method, value) == [value]


@METHODS
def test_error_comes_back_with_its_details_and_metadata(method: TextMethod) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["b"] = "2"
        ctx.response_trailers()["a"] = ctx.request_headers()["a"]
        raise ConnectError(Code.FAILED_PRECONDITION, " \u00e9 % \n", [text("detail")])

    with ResponseMetadata() as metadata, pytest.raises(ConnectError) as caught:
        call(in_memory(method, handler), method, headers={"a": "1"})

    assert (caught.value.code, caught.value.message) == (Code.FAILED_PRECONDITION, " \u00e9 % \n")
    assert caught.value.details[0].value(StringValue) == text("detail")
    assert (metadata.headers()["b"], metadata.trailers()["a"]) == ("2", "1")


@METHODS
@pytest.mark.parametrize("message", ["", " ", " padded ", "100%", "a\r\nb"])
def test_message_of_an_error_without_details_comes_back(method: TextMethod, message: str) -> None:
    error = error_of(lambda: call(in_memory(method, failing(ConnectError(Code.ABORTED, message))), method))

    assert error is not None
    assert error.message == message


@METHODS
def test_handler_that_fails_unexpectedly_is_an_internal_error(method: TextMethod) -> None:
    with pytest.raises(ConnectError, match=r"^internal: internal error$"):
        call(in_memory(method, failing(KeyError("secret"))), method)


@METHODS
def test_deadline_of_the_caller_is_that_of_the_handler(
    method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    seen = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        seen.append(ctx.timeout_ms())
        return [text()] if method is SERVER_STREAM else text()

    call(in_memory(method, handler), method, timeout_ms=1500)

    assert seen == [pytest.approx(1500)]


def test_server_is_asked_for_a_message_when_the_client_wants_it() -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        for value in ("a", "b"):
            log.append(f"yields {value}")
            yield text(value)

    with in_memory(SERVER_STREAM, handler).call_server_stream(SERVER_STREAM, text()) as stream:
        for response in stream:
            log.append(f"got {response.value}")

    assert log == ["yields a", "got a", "yields b", "got b"]


def test_stream_that_is_given_up_closes_the_handler() -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            yield text("a")
            yield text("b")
        finally:
            log.append("cleaned up")

    with in_memory(SERVER_STREAM, handler).call_server_stream(SERVER_STREAM, text()) as stream:
        next(stream)

    assert log == ["cleaned up"]


# How it is built


def test_protocol_is_connect_unless_told() -> None:
    client, transport = support.scripted(support.unary_response())
    client.call_unary(UNARY, text())

    assert transport.only.headers["content-type"] == "application/proto"


@pytest.mark.parametrize(
    ("name", "protocol"), [("connect", ProtocolType.CONNECT), ("grpc-web", ProtocolType.GRPC_WEB)]
)
def test_protocol_has_a_name(name: str, protocol: ProtocolType) -> None:
    assert ProtocolType(name) is protocol


def test_size_from_which_on_requests_are_compressed_may_not_be_negative() -> None:
    with pytest.raises(ValueError, match="compress_min_bytes must be 0 or more bytes, got -1"):
        scripted(compress_min_bytes=-1)
