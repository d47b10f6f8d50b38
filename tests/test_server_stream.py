"""The enveloped form, on the server."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from connect_sync import Code, ConnectError, Method, RequestContext, StreamKind
from connect_sync.http import close_iterator
from tests.support import (
    CLIENT_STREAM,
    COMPRESSED,
    END,
    SERVER_STREAM,
    Clock,
    Handler,
    Relay,
    ScriptedBody,
    TextMethod,
    ask,
    envelope,
    envelopes,
    failing,
    join,
    post,
    proto,
    serve,
    text,
    yielding,
)

METHODS = pytest.mark.parametrize("method", [CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)


# Messages in and out


@pytest.mark.parametrize("values", [(), ("a",), ("a", "", "b")])
def test_messages_of_a_client_stream_reach_the_handler_in_order(values: tuple[str, ...]) -> None:
    seen: list[str] = []

    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        seen.extend(request.value for request in requests)
        return text("done")

    assert ask(serve(CLIENT_STREAM, handler), CLIENT_STREAM, envelopes(*values)).texts == ["done"]
    assert seen == list(values)


@pytest.mark.parametrize("values", [(), ("a",), ("a", "", "b")])
def test_messages_of_a_server_stream_go_out_in_order_before_the_end(values: tuple[str, ...]) -> None:
    answer = ask(serve(SERVER_STREAM, yielding(*values)), SERVER_STREAM)

    assert answer.body == envelopes(*values) + envelope(b"{}", END)


@pytest.mark.parametrize("codec", ["proto", "json"])
@METHODS
def test_stream_is_answered_in_its_codec(method: TextMethod, codec: str) -> None:
    message = b'"a"' if codec == "json" else proto("a")
    answer = ask(serve(method), method, envelope(message), codec=codec)

    assert answer.headers["content-type"] == f"application/connect+{codec}"
    assert answer.envelopes == [(0, message), (END, b"{}")]


def test_requests_are_a_plain_iterator() -> None:
    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        assert iter(requests) is requests
        return text(next(requests).value + "|" + ",".join(request.value for request in requests))

    assert ask(serve(CLIENT_STREAM, handler), CLIENT_STREAM, envelopes("a", "b", "c")).texts == ["a|b,c"]


def test_request_reaches_the_handler_before_the_next_one_is_read() -> None:
    body = ScriptedBody(envelopes("a"), envelopes("b"))
    seen = []

    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        for request in requests:
            seen.append((request.value, list(body.remaining)))
        return text()

    ask(serve(CLIENT_STREAM, handler), CLIENT_STREAM, body)

    assert seen == [("a", [envelopes("b")]), ("b", [])]


def test_handler_of_a_client_stream_may_leave_requests_unread() -> None:
    body = ScriptedBody(envelopes("a"), envelopes("b"))
    answer = ask(serve(CLIENT_STREAM, lambda requests, ctx: next(requests)), CLIENT_STREAM, body)

    assert answer.texts == ["a"]
    assert body.remaining == [envelopes("b")]


def test_handler_of_a_client_stream_is_called_before_anything_is_read() -> None:
    body = ScriptedBody(envelopes("a"))
    ask(serve(CLIENT_STREAM, lambda requests, ctx: text()), CLIENT_STREAM, body)

    assert body.sizes == []


def test_message_leaves_before_the_next_one_is_asked_for() -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        for value in ("a", "b"):
            log.append(f"yields {value}")
            yield text(value)

    body = iter(post(serve(SERVER_STREAM, handler), SERVER_STREAM).body)
    for _ in range(2):
        next(body)
        log.append("sent")
    close_iterator(body)

    assert log == ["yields a", "sent", "yields b", "sent"]


def test_response_with_one_message_is_of_known_length() -> None:
    response = post(serve(CLIENT_STREAM), CLIENT_STREAM, envelopes("a"))

    assert response.body == (envelopes("a") + envelope(b"{}", END),)


def test_each_message_is_a_chunk() -> None:
    chunks = list(post(serve(SERVER_STREAM, yielding("a", "b")), SERVER_STREAM).body)

    assert chunks == [envelopes("a"), envelopes("b"), envelope(b"{}", END)]


@METHODS
@pytest.mark.parametrize("codec", ["proto", "json"])
def test_message_that_does_not_parse_is_an_invalid_argument(method: TextMethod, codec: str) -> None:
    handler: Handler = join if method is CLIENT_STREAM else failing(AssertionError("called"))
    answer = ask(serve(method, handler), method, envelope(b"{"), codec=codec)

    assert answer.code == "invalid_argument"


@METHODS
def test_body_that_ends_inside_an_envelope_is_an_invalid_argument(method: TextMethod) -> None:
    assert ask(serve(method), method, envelopes("a")[:-1]).code == "invalid_argument"


def test_server_stream_takes_a_message() -> None:
    answer = ask(serve(SERVER_STREAM, failing(AssertionError("called"))), SERVER_STREAM, b"")

    assert answer.code == "unimplemented"


@pytest.mark.parametrize("values", [("a", "b"), ("", ""), ("a", "b", "c")])
def test_server_stream_takes_no_more_than_one_message(values: tuple[str, ...]) -> None:
    service = serve(SERVER_STREAM, failing(AssertionError("called")))

    assert ask(service, SERVER_STREAM, envelopes(*values)).code == "unimplemented"


def test_empty_envelope_is_an_empty_message() -> None:
    assert ask(serve(SERVER_STREAM, lambda request, ctx: [request]), SERVER_STREAM, envelope(b"")).texts == [
        ""
    ]


# Flags and compression


@METHODS
@pytest.mark.parametrize("flags", [0x02, 0x04, 0x80, 0xFE])
def test_reserved_flags_are_an_error(method: TextMethod, flags: int) -> None:
    assert ask(serve(method), method, envelope(proto("a"), flags)).code == "internal"


@METHODS
@pytest.mark.parametrize(
    "encoding", [{}, {"connect-content-encoding": "identity"}, {"content-encoding": "gzip"}]
)
def test_compressed_envelope_needs_a_negotiated_compression(
    method: TextMethod, encoding: dict[str, str]
) -> None:
    body = envelope(gzip.compress(proto("a")), COMPRESSED)

    assert ask(serve(method), method, body, encoding).code == "internal"


@METHODS
def test_compressed_and_plain_envelopes_may_be_mixed(method: TextMethod) -> None:
    headers = {"connect-content-encoding": "gzip", "connect-accept-encoding": ""}
    compressed = envelope(gzip.compress(proto("a")), COMPRESSED)

    for body in (compressed, envelopes("a")):
        assert ask(serve(method), method, body, headers).texts == ["a"]


@METHODS
def test_empty_compressed_envelope_is_never_decompressed(method: TextMethod) -> None:
    headers = {"connect-content-encoding": "gzip", "connect-accept-encoding": ""}

    assert ask(serve(method), method, envelope(b"", COMPRESSED), headers).texts == [""]


@METHODS
def test_unknown_compression_is_unimplemented_and_those_known_are_listed(method: TextMethod) -> None:
    body = ScriptedBody(envelopes("a"))
    answer = ask(serve(method), method, body, {"connect-content-encoding": "foo"})

    assert answer.code == "unimplemented"
    assert answer.end["error"]["message"].endswith("must be one of gzip, identity")
    assert answer.headers["connect-accept-encoding"] == "gzip"
    assert body.sizes == []


@METHODS
@pytest.mark.parametrize(
    "payload",
    [b"a", gzip.compress(b"a")[:-1], gzip.compress(b"") + b"a"],
    ids=["not gzip", "cut", "more behind it"],
)
def test_damaged_compression_is_an_invalid_argument(method: TextMethod, payload: bytes) -> None:
    answer = ask(serve(method), method, envelope(payload, COMPRESSED), {"connect-content-encoding": "gzip"})

    assert answer.code == "invalid_argument"


@METHODS
@pytest.mark.parametrize(
    "headers",
    [{"connect-accept-encoding": "br, gzip"}, {"connect-content-encoding": "gzip"}],
    ids=["accept", "use"],
)
def test_response_is_compressed_as_the_client_accepts_or_uses(
    method: TextMethod, headers: dict[str, str]
) -> None:
    answer = ask(serve(method), method, envelopes("a"), headers)
    (flags, payload), end = answer.envelopes

    assert answer.headers["connect-content-encoding"] == "gzip"
    assert (flags, gzip.decompress(payload)) == (COMPRESSED, proto("a"))
    assert end == (END, b"{}")


@pytest.mark.parametrize("name", ["content-encoding", "accept-encoding"])
@METHODS
def test_compression_of_http_is_none_of_a_stream(method: TextMethod, name: str) -> None:
    answer = ask(serve(method), method, envelopes("a"), {name: "gzip"})

    assert answer.texts == ["a"]
    assert "content-encoding" not in answer.headers


@METHODS
@pytest.mark.parametrize(("min_bytes", "flags"), [(9, COMPRESSED), (10, COMPRESSED), (11, 0)])
def test_message_is_compressed_from_a_size_on(method: TextMethod, min_bytes: int, flags: int) -> None:
    service = serve(method, compress_min_bytes=min_bytes)
    answer = ask(service, method, envelopes("a" * 8), {"connect-accept-encoding": "gzip"})

    assert len(proto("a" * 8)) == 10
    assert answer.envelopes[0][0] == flags
    assert answer.headers["connect-content-encoding"] == "gzip"


def test_empty_message_is_not_compressed() -> None:
    answer = ask(
        serve(SERVER_STREAM, yielding("")), SERVER_STREAM, headers={"connect-accept-encoding": "gzip"}
    )

    assert answer.envelopes[0] == (0, b"")


def test_each_message_is_compressed_alone() -> None:
    service = serve(SERVER_STREAM, yielding("a" * 100, "a" * 100))
    first, second, _ = ask(service, SERVER_STREAM, headers={"connect-accept-encoding": "gzip"}).envelopes

    assert first == second


# The limit

SIZE = 1000
EXACT = BytesValue(value=b"x" * (SIZE - 3)).SerializeToString()
ABOVE = BytesValue(value=b"x" * (SIZE - 2)).SerializeToString()
BYTES_UP: Method[BytesValue, BytesValue] = Method(
    "unit.v1.UnitService", "Up", BytesValue, BytesValue, StreamKind.CLIENT_STREAM
)
BYTES_DOWN: Method[BytesValue, BytesValue] = Method(
    "unit.v1.UnitService", "Down", BytesValue, BytesValue, StreamKind.SERVER_STREAM
)
BYTES_METHODS = pytest.mark.parametrize("method", [BYTES_UP, BYTES_DOWN], ids=lambda method: method.name)
BytesMethod = Method[BytesValue, BytesValue]


def serve_bytes(method: BytesMethod) -> Any:
    def handler(request: Any, ctx: RequestContext) -> Any:
        if method is BYTES_UP:
            return [BytesValue(), *request][0]
        return [BytesValue()]

    return serve(method, handler, read_max_bytes=SIZE)


@BYTES_METHODS
def test_message_of_exactly_the_limit_is_taken(method: BytesMethod) -> None:
    assert ask(serve_bytes(method), method, envelope(EXACT)).code is None


@BYTES_METHODS
def test_message_announced_past_the_limit_is_refused_unread(method: BytesMethod) -> None:
    data = envelope(ABOVE)
    body = ScriptedBody(data[:5], data[5:])

    assert ask(serve_bytes(method), method, body).code == "resource_exhausted"
    assert body.remaining == [ABOVE]


def test_limit_is_for_each_message_of_a_stream() -> None:
    assert ask(serve_bytes(BYTES_UP), BYTES_UP, envelope(EXACT) * 3).code is None


@BYTES_METHODS
@pytest.mark.parametrize(
    ("data", "code"),
    [(EXACT, None), (ABOVE, "resource_exhausted"), (bytes(10_000_000), "resource_exhausted")],
    ids=["exact", "one byte more", "bomb"],
)
def test_limit_is_for_the_decompressed_message(method: BytesMethod, data: bytes, code: str | None) -> None:
    body = envelope(gzip.compress(data), COMPRESSED)
    headers = {"connect-content-encoding": "gzip"}

    assert ask(serve_bytes(method), method, body, headers).code == code


# Errors


@METHODS
@pytest.mark.parametrize("code", [Code.CANCELED, Code.NOT_FOUND, Code.INTERNAL, Code.UNAUTHENTICATED])
def test_error_of_the_handler_ends_a_response_of_status_200(method: TextMethod, code: Code) -> None:
    error = ConnectError(code, "no such pet", [Duration(seconds=1)])
    answer = ask(serve(method, failing(error)), method)
    detail = {"type": "google.protobuf.Duration", "value": "CAE", "debug": "1s"}

    assert answer.status == 200
    assert len(answer.envelopes) == 1
    assert answer.end == {"error": {"code": code.value, "message": "no such pet", "details": [detail]}}


def test_error_comes_after_the_messages_before_it() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("a")
        raise ConnectError(Code.ABORTED)

    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM)

    assert (answer.texts, answer.end) == (["a"], {"error": {"code": "aborted"}})


def after_one(error: Exception) -> Handler:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("a")
        raise error

    return handler


@pytest.mark.parametrize(
    ("method", "make"),
    [(CLIENT_STREAM, failing), (SERVER_STREAM, failing), (SERVER_STREAM, after_one)],
    ids=["client stream", "server stream", "after a message"],
)
def test_unexpected_exception_is_logged_and_hidden(
    method: TextMethod, make: Callable[[Exception], Handler], caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("secret")
    answer = ask(serve(method, make(error)), method)
    (record,) = caplog.records

    assert answer.end == {"error": {"code": "internal", "message": "internal error"}}
    assert (record.name, record.levelno) == ("connect_sync.server", logging.ERROR)
    assert record.getMessage() == f"{method.full_name} failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@METHODS
def test_connect_error_is_not_logged(method: TextMethod, caplog: pytest.LogCaptureFixture) -> None:
    ask(serve(method, failing(ConnectError(Code.INTERNAL))), method)

    assert caplog.records == []


@pytest.mark.parametrize(
    ("method", "result"),
    [
        (CLIENT_STREAM, None),
        (CLIENT_STREAM, "a"),
        (CLIENT_STREAM, [text("a")]),
        (CLIENT_STREAM, Duration()),
        (SERVER_STREAM, None),
        (SERVER_STREAM, 5),
        (SERVER_STREAM, text("a")),
        (SERVER_STREAM, ["a"]),
        (SERVER_STREAM, [Duration()]),
        (SERVER_STREAM, [None]),
    ],
)
def test_handler_that_returns_another_type_is_an_internal_error(method: TextMethod, result: Any) -> None:
    answer = ask(serve(method, lambda request, ctx: result), method)

    assert answer.end == {"error": {"code": "internal", "message": "internal error"}}


def test_messages_before_one_of_another_type_go_out() -> None:
    answer = ask(serve(SERVER_STREAM, lambda request, ctx: [text("a"), "b", text("c")]), SERVER_STREAM)

    assert (answer.texts, answer.code) == (["a"], "internal")


def test_error_of_the_request_passes_through_the_handler() -> None:
    answer = ask(serve(CLIENT_STREAM), CLIENT_STREAM, envelopes("a") + b"\x00")

    assert answer.end["error"]["message"] == "the body ends inside an envelope"


def test_handler_may_catch_the_error_of_the_request() -> None:
    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        seen = []
        try:
            for request in requests:
                seen.append(request.value)
        except ConnectError as error:
            seen.append(error.code.value)
        return text(",".join(seen))

    answer = ask(serve(CLIENT_STREAM, handler), CLIENT_STREAM, envelopes("a") + b"\x00")

    assert answer.texts == ["a,invalid_argument"]


# Metadata


def marking(handler: Handler) -> Handler:
    """Let a handler write metadata before it does its work."""

    def mark(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers().add("a", "1")
        ctx.response_headers().add("a", "2")
        ctx.response_trailers().add("b", "3")
        ctx.response_trailers().add("b", "4")
        return handler(request, ctx)

    return mark


@pytest.mark.parametrize(
    ("method", "handler"),
    [
        (CLIENT_STREAM, join),
        (CLIENT_STREAM, failing(ConnectError(Code.ABORTED))),
        (CLIENT_STREAM, failing(KeyError())),
        (SERVER_STREAM, yielding("a")),
        (SERVER_STREAM, yielding()),
        (SERVER_STREAM, failing(ConnectError(Code.ABORTED))),
        (SERVER_STREAM, after_one(ConnectError(Code.ABORTED))),
    ],
)
def test_metadata_goes_out_as_headers_and_at_the_end(method: TextMethod, handler: Handler) -> None:
    answer = ask(serve(method, marking(handler)), method)

    assert answer.headers.get_all("a") == ["1", "2"]
    assert answer.end["metadata"] == {"b": ["3", "4"]}


def test_headers_that_a_generator_writes_before_its_first_message_go_out() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        ctx.response_headers()["a"] = "1"
        yield text()

    response = post(serve(SERVER_STREAM, handler), SERVER_STREAM)
    close_iterator(response.body)

    assert response.headers["a"] == "1"


def test_headers_that_a_generator_writes_without_any_message_go_out() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        ctx.response_headers()["a"] = "1"
        yield from ()

    assert ask(serve(SERVER_STREAM, handler), SERVER_STREAM).headers["a"] == "1"


def test_trailers_may_be_written_to_the_last() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            yield text()
            ctx.response_trailers()["a"] = "1"
        finally:
            ctx.response_trailers()["b"] = "2"

    assert ask(serve(SERVER_STREAM, handler), SERVER_STREAM).end == {"metadata": {"a": ["1"], "b": ["2"]}}


def test_binary_trailers_are_unpadded_base64() -> None:
    def handler(request: Any, ctx: RequestContext) -> list[StringValue]:
        ctx.response_trailers().add_binary("a-bin", b"\x00\xff")
        return []

    assert ask(serve(SERVER_STREAM, handler), SERVER_STREAM).end == {"metadata": {"a-bin": ["AP8"]}}


@METHODS
@pytest.mark.parametrize("fails", [False, True], ids=["success", "error"])
def test_reserved_trailer_of_a_handler_does_not_go_out(method: TextMethod, fails: bool) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_trailers()["grpc-status"] = "mine"
        ctx.response_trailers()["a"] = "1"
        if fails:
            raise ConnectError(Code.ABORTED)
        return text() if method is CLIENT_STREAM else [text()]

    assert ask(serve(method, handler), method).end["metadata"] == {"a": ["1"]}


@METHODS
@pytest.mark.parametrize(
    "name", ["content-type", "Content-Encoding", "content-length", "connect-content-encoding"]
)
def test_reserved_header_of_a_handler_does_not_go_out(method: TextMethod, name: str) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()[name] = "mine"
        return text() if method is CLIENT_STREAM else [text()]

    assert "mine" not in dict(ask(serve(method, handler), method).headers).values()


@pytest.mark.parametrize("where", ["response_headers", "response_trailers"])
@pytest.mark.parametrize(
    ("name", "value"), [("a", "1\r\nset-cookie: b"), ("a\r\nset-cookie: b", "1"), ("a", "\x00")]
)
def test_header_cannot_be_injected(where: str, name: str, value: str) -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        getattr(ctx, where)()[name] = value
        yield text()

    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM)

    assert list(answer.headers) == ["content-type"]
    assert answer.end == {"error": {"code": "internal", "message": "internal error"}}


# Timeouts


@METHODS
@pytest.mark.parametrize("headers", [{"connect-timeout-ms": "1.5"}, {"connect-protocol-version": "2"}])
def test_malformed_protocol_header_is_an_invalid_argument(
    method: TextMethod, headers: dict[str, str]
) -> None:
    body = ScriptedBody(envelopes("a"))
    answer = ask(serve(method), method, body, headers)

    assert answer.code == "invalid_argument"
    assert body.sizes == []


def test_server_stream_stops_at_its_first_message_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("in time")
        clock.advance_ms(1001)
        yield text("late")
        raise AssertionError("asked for more")

    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM, headers={"connect-timeout-ms": "1000"})

    assert (answer.texts, answer.code) == (["in time"], "deadline_exceeded")


@METHODS
def test_deadline_that_passes_in_the_handler_leaves_no_message(
    method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        return text() if method is CLIENT_STREAM else [text()]

    answer = ask(serve(method, handler), method, headers={"connect-timeout-ms": "1000"})

    assert (answer.texts, answer.code) == ([], "deadline_exceeded")


def test_deadline_that_passes_behind_the_last_message_fails_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("a")
        clock.advance_ms(1001)

    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM, headers={"connect-timeout-ms": "1000"})

    assert (answer.texts, answer.code) == (["a"], "deadline_exceeded")


def test_handler_is_cleaned_up_when_the_deadline_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            clock.advance_ms(1001)
            yield text("late")
        finally:
            log.append("cleaned up")

    ask(serve(SERVER_STREAM, handler), SERVER_STREAM, headers={"connect-timeout-ms": "1000"})

    assert log == ["cleaned up"]


@METHODS
def test_body_is_read_within_the_deadline(method: TextMethod) -> None:
    deadlines = []

    class Bounded(ScriptedBody):
        def set_deadline(self, deadline: Any) -> None:
            deadlines.append(deadline.remaining())

    ask(serve(method), method, Bounded(envelopes("a")), {"connect-timeout-ms": "9999999999"})

    assert len(deadlines) == 1
    assert 0 < deadlines[0] <= 9_999_999.999


# The end of the handler's generator


class Cleanup:
    """A handler that streams, and keeps whether its cleanup has run."""

    def __init__(self, *values: str, error: Exception | None = None) -> None:
        self._values = values
        self._error = error
        self.events: list[str] = []

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        self.events.append("begun")
        try:
            for value in self._values:
                yield text(value)
            if self._error is not None:
                raise self._error
        finally:
            self.events.append("cleaned up")


@pytest.mark.parametrize("read_count", [0, 1, 2])
def test_handler_is_cleaned_up_when_the_client_leaves(read_count: int) -> None:
    handler = Cleanup("a", "b", "c")
    body = iter(post(serve(SERVER_STREAM, handler), SERVER_STREAM).body)
    for _ in range(read_count):
        next(body)
    close_iterator(body)

    assert handler.events == ["begun", "cleaned up"]


@pytest.mark.parametrize("read_count", [0, 1])
def test_handler_behind_a_generator_is_cleaned_up_when_the_client_leaves(read_count: int) -> None:
    handler = Cleanup("a", "b")
    body = iter(post(serve(SERVER_STREAM, handler, interceptors=[Relay()]), SERVER_STREAM).body)
    for _ in range(read_count):
        next(body)
    close_iterator(body)

    assert handler.events == ["begun", "cleaned up"]


@pytest.mark.parametrize(
    "error", [None, ConnectError(Code.ABORTED), KeyError()], ids=["success", "own", "unexpected"]
)
def test_handler_is_cleaned_up_when_it_ends(error: ConnectError | None) -> None:
    handler = Cleanup("a", error=error)
    ask(serve(SERVER_STREAM, handler), SERVER_STREAM)

    assert handler.events == ["begun", "cleaned up"]


def test_handler_is_cleaned_up_when_a_message_of_its_cannot_be_sent() -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[Any]:
        try:
            yield "no message"
        finally:
            log.append("cleaned up")

    ask(serve(SERVER_STREAM, handler), SERVER_STREAM)

    assert log == ["cleaned up"]


def test_generator_of_an_iterable_handler_is_cleaned_up_when_the_client_leaves() -> None:
    log = []

    class Responses:
        def __iter__(self) -> Iterator[StringValue]:
            try:
                yield text("a")
                yield text("b")
            finally:
                log.append("cleaned up")

    body = iter(post(serve(SERVER_STREAM, lambda request, ctx: Responses()), SERVER_STREAM).body)
    next(body)
    close_iterator(body)

    assert log == ["cleaned up"]


def test_abandoned_stream_gives_nothing_more() -> None:
    body = iter(post(serve(SERVER_STREAM, yielding("a", "b")), SERVER_STREAM).body)
    next(body)
    close_iterator(body)

    assert list(body) == []


class Stubborn:
    """Cleans up badly when it is left early."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            yield text("a")
            yield text("b")
        except GeneratorExit:
            if self._how == "goes on":
                yield text("c")
            raise KeyError("in the cleanup") from None


@pytest.mark.parametrize("how", ["raises", "goes on"])
@pytest.mark.parametrize("read_count", [0, 1])
def test_cleanup_that_fails_when_the_client_leaves_is_logged(
    how: str, read_count: int, caplog: pytest.LogCaptureFixture
) -> None:
    body = iter(post(serve(SERVER_STREAM, Stubborn(how)), SERVER_STREAM).body)
    for _ in range(read_count):
        next(body)
    close_iterator(body)

    assert [record.getMessage() for record in caplog.records] == [f"{SERVER_STREAM.full_name} failed"]


def test_cleanup_that_fails_at_the_end_fails_the_stream() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            yield text("a")
        finally:
            raise ConnectError(Code.DATA_LOSS, "in the cleanup")

    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM)

    assert (answer.texts, answer.code) == (["a"], "data_loss")


# The shape of every response


@pytest.mark.parametrize(
    ("body", "handler"),
    [
        (envelopes("a"), yielding("a", "b")),
        (envelopes("a"), yielding()),
        (envelopes("a"), after_one(KeyError())),
        (b"", yielding("a")),
        (b"\xff", yielding("a")),
        (envelopes("a", "b"), yielding("a")),
    ],
)
def test_end_comes_once_and_last(body: bytes, handler: Handler) -> None:
    answer = ask(serve(SERVER_STREAM, handler), SERVER_STREAM, body)
    flags = [flags for flags, _ in answer.envelopes]

    assert flags.count(END) == 1
    assert flags[-1] == END
    assert isinstance(json.loads(answer.envelopes[-1][1]), dict)


def test_any_chunks_of_a_request_are_the_same_request() -> None:
    data = envelopes("a", "", "hello", "b" * 300)
    expected = ask(serve(CLIENT_STREAM), CLIENT_STREAM, data).body
    pieces: Iterable[int] = range(1, 40)

    for size in pieces:
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        assert ask(serve(CLIENT_STREAM), CLIENT_STREAM, chunks).body == expected
