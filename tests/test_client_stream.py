"""The client's streaming calls."""

from __future__ import annotations

import gc
import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import (
    Cancellation,
    Code,
    ConnectClient,
    ConnectError,
    Headers,
    HeadersInput,
    RequestContext,
    ResponseMetadata,
)
from connect_sync.http import Request, Response
from tests.support import (
    CLIENT_STREAM,
    COMPRESSED,
    END,
    OK_END,
    SERVER_STREAM,
    UNARY,
    Clock,
    ScriptedBody,
    TextMethod,
    envelope,
    error_of,
    failing,
    in_memory,
    proto,
    scripted,
    serve,
    split,
    split_envelopes,
    stream_response,
    text,
)

METHODS = pytest.mark.parametrize("method", [CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)


def message(value: str) -> bytes:
    return envelope(proto(value))


def call(client: Any, method: TextMethod, value: str = "a", **options: Any) -> list[str]:
    """Call a streaming method to its end, and return the values of its responses."""
    if method is CLIENT_STREAM:
        return [client.call_client_stream(method, [text(value)], **options).value]
    return [response.value for response in client.call_server_stream(method, text(value), **options)]


def answer(method: TextMethod, response: Response, **options: Any) -> list[str]:
    """Call a streaming method and answer with ``response``."""
    client, _ = scripted(response, **options)
    return call(client, method)


def fail(method: TextMethod, response: Response, **options: Any) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        answer(method, response, **options)
    return caught.value


# The request


@METHODS
def test_request_is_a_post_of_envelopes(method: TextMethod) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END))
    call(client, method)
    request = transport.only

    assert (request.method, request.path, request.query) == ("POST", method.path, "")
    assert request.body == message("a")
    assert dict(request.headers) == {
        "connect-protocol-version": "1",
        "content-type": "application/connect+proto",
        "connect-accept-encoding": "gzip",
    }


@METHODS
def test_request_in_json_is_envelopes_of_json(method: TextMethod) -> None:
    client, transport = scripted(stream_response(envelope(b'"b"'), OK_END, codec="json"), proto_json=True)

    assert call(client, method) == ["b"]
    assert transport.only.body == envelope(b'"a"')
    assert transport.only.headers["content-type"] == "application/connect+json"


@METHODS
def test_messages_are_compressed_as_told(method: TextMethod) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END), send_compression="gzip")
    call(client, method)
    ((flags, payload),) = split_envelopes(transport.only.body)

    assert transport.only.headers["connect-content-encoding"] == "gzip"
    assert "content-encoding" not in transport.only.headers
    assert (flags, gzip.decompress(payload)) == (COMPRESSED, proto("a"))


@METHODS
@pytest.mark.parametrize(("min_bytes", "flags"), [(2, COMPRESSED), (3, COMPRESSED), (4, 0)])
def test_message_is_compressed_from_a_size_on(method: TextMethod, min_bytes: int, flags: int) -> None:
    response = stream_response(message("b"), OK_END)
    client, transport = scripted(response, send_compression="gzip", compress_min_bytes=min_bytes)
    call(client, method)
    ((sent, _),) = split_envelopes(transport.only.body)

    assert (sent, transport.only.headers["connect-content-encoding"]) == (flags, "gzip")


@METHODS
def test_empty_message_is_not_compressed(method: TextMethod) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END), send_compression="gzip")
    call(client, method, "")

    assert transport.only.body == envelope(b"")
    assert transport.only.headers["connect-content-encoding"] == "gzip"


@METHODS
def test_client_that_reads_no_compression_asks_for_none(method: TextMethod) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END), accept_compression=())
    call(client, method)

    assert transport.only.headers["connect-accept-encoding"] == "identity"


@METHODS
def test_client_that_reads_no_compression_may_send_one(method: TextMethod) -> None:
    client = in_memory(serve(method), send_compression="gzip", accept_compression=())

    assert call(client, method) == ["a"]


@METHODS
def test_metadata_is_sent_without_what_is_reserved(method: TextMethod) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END))
    headers: HeadersInput = [
        ("a", "1"),
        ("a", "2"),
        ("content-type", "mine"),
        ("connect-content-encoding", "mine"),
    ]
    call(client, method, headers=headers)

    assert transport.only.headers.get_all("a") == ["1", "2"]
    assert "mine" not in dict(transport.only.headers).values()


@METHODS
def test_header_cannot_be_injected(method: TextMethod) -> None:
    client, transport = scripted()

    with pytest.raises(ValueError, match="printable ASCII"):
        call(client, method, headers={"a": "1\r\nb: 2"})
    assert transport.sent == []


@METHODS
def test_timeout_is_sent(method: TextMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    client, transport = scripted(stream_response(message("b"), OK_END), timeout_ms=1500)
    call(client, method)

    assert transport.only.headers["connect-timeout-ms"] == "1500"


@METHODS
def test_timeout_out_of_range_is_refused(method: TextMethod) -> None:
    client, transport = scripted()

    with pytest.raises(ValueError, match="timeout_ms"):
        call(client, method, timeout_ms=float("inf"))
    assert transport.sent == []


@pytest.mark.parametrize(("method", "expected"), [(CLIENT_STREAM, False), (SERVER_STREAM, True)])
def test_length_of_a_request_is_known_where_it_is_one_message(method: TextMethod, expected: bool) -> None:
    client, transport = scripted(stream_response(message("b"), OK_END))
    call(client, method)

    assert transport.only.has_known_length is expected


@pytest.mark.parametrize("values", [[], ["a"], ["a", "", "b"]])
@pytest.mark.parametrize("make", [list, iter, tuple], ids=["list", "iterator", "tuple"])
def test_messages_of_a_client_stream_are_sent_in_order(values: list[str], make: Callable[[Any], Any]) -> None:
    client, transport = scripted(stream_response(message("done"), OK_END))
    client.call_client_stream(CLIENT_STREAM, make([text(value) for value in values]))

    assert transport.only.body == b"".join(map(message, values))


def test_message_of_a_client_stream_is_asked_for_when_it_is_sent() -> None:
    log = []

    def requests() -> Iterator[StringValue]:
        for value in ("a", "b"):
            log.append(f"asked for {value}")
            yield text(value)

    class Transport:
        def send(self, request: Request, lifetime: object) -> Response:
            log.append("called")
            for chunk in request.body:
                log.append(f"sent {len(chunk)} bytes")
            return stream_response(message("done"), OK_END)

        def close(self) -> None:
            """Do nothing."""

    ConnectClient("http://unit.test", transport=Transport()).call_client_stream(CLIENT_STREAM, requests())

    assert log == ["called", "asked for a", "sent 8 bytes", "asked for b", "sent 8 bytes"]


def test_what_the_requests_raise_is_raised() -> None:
    def requests() -> Iterator[StringValue]:
        yield text("a")
        raise KeyError("mine")

    client, _ = scripted(stream_response(message("done"), OK_END))

    with pytest.raises(KeyError, match="mine"):
        client.call_client_stream(CLIENT_STREAM, requests())


@pytest.mark.parametrize("value", [None, "a", StringValue], ids=["none", "text", "class"])
def test_request_of_another_type_is_refused_before_a_server_stream_is_sent(value: Any) -> None:
    client, transport = scripted()

    with pytest.raises(TypeError, match=r"expected a google\.protobuf\.StringValue, got"):
        client.call_server_stream(SERVER_STREAM, value)
    assert transport.sent == []


def test_request_of_another_type_ends_a_client_stream() -> None:
    requests: Any = [text("a"), "b"]
    client, _ = scripted(stream_response(message("done"), OK_END))

    with pytest.raises(TypeError, match=r"expected a google\.protobuf\.StringValue, got a str"):
        client.call_client_stream(CLIENT_STREAM, requests)


# The response


@pytest.mark.parametrize("values", [[], ["a"], ["a", "", "b"]])
def test_messages_of_a_server_stream_are_given_in_order(values: list[str]) -> None:
    assert answer(SERVER_STREAM, stream_response(*map(message, values), OK_END)) == values


def test_messages_of_one_chunk_are_told_apart() -> None:
    assert answer(SERVER_STREAM, stream_response(message("a") + message("b") + OK_END)) == ["a", "b"]


def test_message_is_given_when_it_has_arrived() -> None:
    body = ScriptedBody(message("a"), message("b"), OK_END)
    client, _ = scripted(stream_response(body=body))
    with client.call_server_stream(SERVER_STREAM, text()) as stream:
        assert next(stream).value == "a"
        assert body.remaining == [message("b"), OK_END]


def test_nothing_of_the_response_is_read_before_it_is_asked_for() -> None:
    body = ScriptedBody(message("a"), OK_END)
    client, _ = scripted(stream_response(body=body))
    client.call_server_stream(SERVER_STREAM, text()).close()

    assert body.sizes == []


def test_message_of_a_client_stream_is_returned() -> None:
    assert answer(CLIENT_STREAM, stream_response(message("b"), OK_END)) == ["b"]


@pytest.mark.parametrize(
    "chunks",
    [(OK_END,), (message("a"), message("b"), OK_END), (message(""), message(""), OK_END)],
    ids=["none", "two", "two empty ones"],
)
def test_response_of_a_client_stream_has_exactly_one_message(chunks: tuple[bytes, ...]) -> None:
    assert fail(CLIENT_STREAM, stream_response(*chunks)).code is Code.UNIMPLEMENTED


@METHODS
def test_empty_envelope_is_an_empty_message(method: TextMethod) -> None:
    assert answer(method, stream_response(envelope(b""), OK_END)) == [""]


@METHODS
def test_compressed_and_plain_envelopes_may_be_mixed(method: TextMethod) -> None:
    headers = {"connect-content-encoding": "gzip"}
    compressed = envelope(gzip.compress(proto("b")), COMPRESSED)

    for first in (compressed, message("b"), envelope(gzip.compress(proto("b")), COMPRESSED)):
        assert answer(method, stream_response(first, OK_END, headers=headers)) == ["b"]


@METHODS
def test_empty_compressed_envelope_is_never_decompressed(method: TextMethod) -> None:
    headers = {"connect-content-encoding": "gzip"}

    assert answer(method, stream_response(envelope(b"", COMPRESSED), OK_END, headers=headers)) == [""]


@METHODS
@pytest.mark.parametrize(
    "headers", [{}, {"connect-content-encoding": "identity"}, {"content-encoding": "gzip"}]
)
def test_compressed_envelope_needs_a_compression_in_the_headers(
    method: TextMethod, headers: dict[str, str]
) -> None:
    chunk = envelope(gzip.compress(proto("b")), COMPRESSED)

    assert fail(method, stream_response(chunk, OK_END, headers=headers)).code is Code.INTERNAL


@METHODS
def test_unknown_compression_is_an_internal_error(method: TextMethod) -> None:
    response = stream_response(message("b"), OK_END, headers={"connect-content-encoding": "foo"})

    assert fail(method, response).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize("flags", [0x04, 0x06, 0x08, 0x80, 0xFD])
def test_reserved_flags_are_an_internal_error(method: TextMethod, flags: int) -> None:
    assert fail(method, stream_response(envelope(b"", flags), OK_END)).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize(
    "chunks",
    [
        (envelope(b"\xff"), OK_END),
        (message("b")[:-1],),
        (b"\x00",),
        (envelope(b"damaged", COMPRESSED), OK_END),
        (envelope(gzip.compress(b"")[:-1], COMPRESSED), OK_END),
    ],
    ids=["no message", "cut off", "head cut off", "damaged", "compression cut off"],
)
def test_malformed_response_is_an_internal_error(method: TextMethod, chunks: tuple[bytes, ...]) -> None:
    error = fail(method, stream_response(*chunks, headers={"connect-content-encoding": "gzip"}))

    assert error.code is Code.INTERNAL
    assert error.message.startswith("the response is malformed: ")


@METHODS
def test_response_without_its_end_is_an_error(method: TextMethod) -> None:
    assert fail(method, stream_response(message("b"))).code is Code.INTERNAL


def test_empty_response_is_an_error() -> None:
    assert fail(SERVER_STREAM, stream_response()).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize(
    "chunks",
    [
        (OK_END, message("c")),
        (OK_END + message("c"),),
        (OK_END, OK_END),
        (OK_END + OK_END,),
        (OK_END, b"x"),
        (OK_END + b"x",),
    ],
    ids=["message", "message in its chunk", "end", "end in its chunk", "byte", "byte in its chunk"],
)
def test_response_that_goes_on_behind_its_end_is_an_error(
    method: TextMethod, chunks: tuple[bytes, ...]
) -> None:
    assert fail(method, stream_response(message("b"), *chunks)).code is Code.INTERNAL


@METHODS
@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("application/connect+json", Code.INTERNAL),
        ("application/proto", Code.UNKNOWN),
        ("text/html", Code.UNKNOWN),
        ("", Code.UNKNOWN),
    ],
)
def test_response_of_another_content_type_is_an_error(
    method: TextMethod, content_type: str, code: Code
) -> None:
    response = stream_response(message("b"), OK_END, headers={"content-type": content_type})

    assert fail(method, response).code is code


@METHODS
def test_response_of_another_status_has_its_code(method: TextMethod) -> None:
    response = Response(503, Headers({"content-type": "text/html"}), (b"<html>",))

    assert fail(method, response).code is Code.UNAVAILABLE


@METHODS
def test_response_of_another_status_may_hold_an_error(method: TextMethod) -> None:
    body = (b'{"code":"unauthenticated","message":"who are you"}',)
    response = Response(401, Headers({"content-type": "application/json"}), body)

    assert str(fail(method, response)) == "unauthenticated: who are you"


def test_call_that_fails_before_its_first_response_raises_at_once() -> None:
    client, _ = scripted(Response(503, Headers()))

    with pytest.raises(ConnectError, match="unavailable"):
        client.call_server_stream(SERVER_STREAM, text())


# The limit

SIZE = 1000
EXACT = StringValue(value="x" * (SIZE - 3)).SerializeToString()
ABOVE = StringValue(value="x" * (SIZE - 2)).SerializeToString()


@METHODS
@pytest.mark.parametrize("compressed", [False, True])
def test_limit_is_for_each_message(method: TextMethod, compressed: bool) -> None:
    def respond(data: bytes) -> Response:
        chunk = envelope(gzip.compress(data), COMPRESSED) if compressed else envelope(data)
        return stream_response(chunk, OK_END, headers={"connect-content-encoding": "gzip"})

    assert answer(method, respond(EXACT), read_max_bytes=SIZE) == ["x" * (SIZE - 3)]
    error = fail(method, respond(ABOVE), read_max_bytes=SIZE)
    assert (error.code, error.message[:26]) == (Code.RESOURCE_EXHAUSTED, "the response is too large:")


@METHODS
def test_message_announced_past_the_limit_is_refused_unread(method: TextMethod) -> None:
    body = ScriptedBody(envelope(ABOVE)[:5], ABOVE)

    assert fail(method, stream_response(body=body), read_max_bytes=SIZE).code is Code.RESOURCE_EXHAUSTED
    assert body.remaining == [ABOVE]


# The end


def end(value: Any) -> bytes:
    return envelope(json.dumps(value).encode(), END)


@METHODS
def test_error_at_the_end_is_raised(method: TextMethod) -> None:
    error = fail(method, stream_response(end({"error": {"code": "not_found", "message": "no such pet"}})))

    assert str(error) == "not_found: no such pet"


def test_messages_before_the_error_are_given() -> None:
    client, _ = scripted(stream_response(message("a"), message("b"), end({"error": {"code": "aborted"}})))
    stream = client.call_server_stream(SERVER_STREAM, text())

    assert [next(stream).value, next(stream).value] == ["a", "b"]
    with pytest.raises(ConnectError, match="aborted"):
        next(stream)


def test_error_goes_before_the_message_of_a_client_stream() -> None:
    response = stream_response(message("b"), end({"error": {"code": "aborted"}}))

    assert fail(CLIENT_STREAM, response).code is Code.ABORTED


@METHODS
def test_end_may_be_compressed(method: TextMethod) -> None:
    chunk = envelope(gzip.compress(b'{"error":{"code":"aborted"}}'), END | COMPRESSED)
    response = stream_response(chunk, headers={"connect-content-encoding": "gzip"})

    assert fail(method, response).code is Code.ABORTED


@METHODS
@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b'{"error": 1}'])
def test_malformed_end_is_an_internal_error(method: TextMethod, payload: bytes) -> None:
    assert fail(method, stream_response(message("b"), envelope(payload, END))).code is Code.INTERNAL


# Metadata


def test_metadata_is_that_of_headers_and_end() -> None:
    response = stream_response(
        message("a"), end({"metadata": {"b": ["2", "3"], "C-Bin": ["AP8"]}}), headers={"a": "1"}
    )
    client, _ = scripted(response)
    with client.call_server_stream(SERVER_STREAM, text()) as stream:
        assert stream.response_headers()["a"] == "1"
        assert len(stream.response_trailers()) == 0
        list(stream)

    assert stream.response_trailers().get_all("b") == ["2", "3"]
    assert stream.response_trailers().get_binary("c-bin") == [b"\x00\xff"]


def test_metadata_is_there_when_the_stream_has_failed() -> None:
    response = stream_response(
        end({"error": {"code": "aborted"}, "metadata": {"b": ["2"]}}), headers={"a": "1"}
    )
    client, _ = scripted(response)
    stream = client.call_server_stream(SERVER_STREAM, text())
    with pytest.raises(ConnectError):
        next(stream)

    assert (stream.response_headers()["a"], stream.response_trailers()["b"]) == ("1", "2")


def test_header_with_the_prefix_of_trailers_is_leading_metadata_of_a_stream() -> None:
    client, _ = scripted(stream_response(OK_END, headers={"trailer-a": "1"}))
    stream = client.call_server_stream(SERVER_STREAM, text())
    list(stream)

    assert stream.response_headers()["trailer-a"] == "1"
    assert len(stream.response_trailers()) == 0


# The body is closed, whatever becomes of the call


@METHODS
@pytest.mark.parametrize(
    "make",
    [
        lambda body: stream_response(body=body),
        lambda body: stream_response(body=body, headers={"content-type": "text/html"}),
        lambda body: stream_response(body=body, headers={"connect-content-encoding": "foo"}),
        lambda body: Response(503, Headers(), body),
    ],
    ids=["success", "content type", "compression", "status"],
)
def test_body_of_the_response_is_closed(method: TextMethod, make: Callable[[ScriptedBody], Response]) -> None:
    body = ScriptedBody(message("b"), OK_END)
    error_of(lambda: answer(method, make(body)))

    assert body.close_count >= 1


@pytest.mark.parametrize(
    "chunks",
    [
        (message("a"), message("b"), OK_END),
        (b"\xff",),
        (message("a"),),
        (end({"error": {"code": "aborted"}}),),
    ],
    ids=["several", "malformed", "without end", "error"],
)
def test_body_is_closed_when_a_client_stream_fails(chunks: tuple[bytes, ...]) -> None:
    body = ScriptedBody(*chunks)
    fail(CLIENT_STREAM, stream_response(body=body))

    assert body.close_count >= 1


def test_body_is_closed_when_the_stream_has_ended() -> None:
    body = ScriptedBody(message("a"), OK_END)
    client, _ = scripted(stream_response(body=body))
    stream = client.call_server_stream(SERVER_STREAM, text())
    next(stream)
    assert body.close_count == 0
    assert list(stream) == []

    assert body.close_count >= 1


# Deadline and cancellation


def test_deadline_ends_a_stream_between_two_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    body = ScriptedBody(message("a"), message("b"), OK_END)
    client, _ = scripted(stream_response(body=body))
    stream = client.call_server_stream(SERVER_STREAM, text(), timeout_ms=1500)
    assert next(stream).value == "a"
    clock.advance_ms(1501)

    with pytest.raises(ConnectError) as caught:
        next(stream)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert body.remaining == [message("b"), OK_END]
    assert body.close_count >= 1


def test_deadline_goes_before_a_message_that_has_arrived_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Slow(ScriptedBody):
        def read(self, size: int) -> bytes:
            clock.advance_ms(1501)
            return super().read(size)

    client, _ = scripted(stream_response(body=Slow(message("a"), OK_END)))

    with pytest.raises(ConnectError) as caught:
        next(client.call_server_stream(SERVER_STREAM, text(), timeout_ms=1500))
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_cancellation_ends_a_stream_between_two_messages() -> None:
    body = ScriptedBody(message("a"), message("b"), OK_END)
    client, _ = scripted(stream_response(body=body))
    cancellation = Cancellation()
    stream = client.call_server_stream(SERVER_STREAM, text(), cancellation=cancellation)
    assert next(stream).value == "a"
    cancellation.cancel()

    with pytest.raises(ConnectError) as caught:
        next(stream)
    assert caught.value.code is Code.CANCELED
    assert body.remaining == [message("b"), OK_END]
    assert body.close_count >= 1


def test_cancellation_by_the_requests_ends_a_client_stream() -> None:
    cancellation = Cancellation()

    def requests() -> Iterator[StringValue]:
        yield text("a")
        cancellation.cancel()

    client, _ = scripted(stream_response(message("b"), OK_END))

    with pytest.raises(ConnectError) as caught:
        client.call_client_stream(CLIENT_STREAM, requests(), cancellation=cancellation)
    assert caught.value.code is Code.CANCELED


# Both sides


@METHODS
@pytest.mark.parametrize("proto_json", [False, True])
@pytest.mark.parametrize("send_compression", [None, "gzip"])
@pytest.mark.parametrize("accept_compression", [(), ("gzip",)])
def test_any_messages_come_back(
    method: TextMethod, proto_json: bool, send_compression: str | None, accept_compression: tuple[str, ...]
) -> None:
    client = in_memory(
        serve(method),
        proto_json=proto_json,
        send_compression=send_compression,
        accept_compression=accept_compression,
    )
    values = ["", "a", "é" * 1000]

    if method is CLIENT_STREAM:
        response = client.call_client_stream(method, map(text, values))
        assert response.value == ",".join(values)
    else:
        responses = client.call_server_stream(method, text(",".join(values)))
        assert [response.value for response in responses] == values


@METHODS
def test_error_comes_back_with_its_metadata(method: TextMethod) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_trailers()["a"] = ctx.request_headers()["a"]
        raise ConnectError(Code.FAILED_PRECONDITION, "é", [text("detail")])

    with pytest.raises(ConnectError) as caught:
        call(in_memory(serve(method, handler)), method, headers={"a": "1"})
    assert (caught.value.code, caught.value.message) == (Code.FAILED_PRECONDITION, "é")
    assert caught.value.details[0].value(StringValue) == text("detail")


@METHODS
def test_handler_that_fails_unexpectedly_is_an_internal_error(method: TextMethod) -> None:
    with pytest.raises(ConnectError, match=r"^internal: internal error$"):
        call(in_memory(serve(method, failing(KeyError("secret")))), method)


def test_server_is_asked_for_a_message_when_the_client_wants_it() -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        for response in split(request, ctx):
            log.append(f"yields {response.value}")
            yield response

    with in_memory(serve(SERVER_STREAM, handler)).call_server_stream(SERVER_STREAM, text("a,b,c")) as stream:
        for response in stream:
            log.append(f"got {response.value}")

    assert log == ["yields a", "got a", "yields b", "got b", "yields c", "got c"]


def test_requests_are_let_go_of_when_an_early_answer_ends_the_call() -> None:
    closed = []

    def requests() -> Iterator[StringValue]:
        try:
            while True:
                yield text("a")
        finally:
            closed.append(True)

    client = in_memory(serve(CLIENT_STREAM, lambda received, ctx: next(received)))
    gc.disable()
    try:
        client.call_client_stream(CLIENT_STREAM, requests())
        assert closed
    finally:
        gc.enable()


def test_context_that_is_kept_keeps_no_message() -> None:
    client = in_memory(serve(UNARY))
    with ResponseMetadata() as metadata:
        client.call_unary(UNARY, text("x" * 100_000))

    ctx = metadata._ctx
    assert ctx is not None
    assert not any(isinstance(value, StringValue) for value in gc.get_referents(ctx))
