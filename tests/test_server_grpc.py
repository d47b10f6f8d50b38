"""gRPC on the server, in its three forms: with HTTP trailers, as gRPC-Web, and as gRPC-Web in base64."""

from __future__ import annotations

import gzip
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, ConnectError, Headers, HeadersInput, Method, RequestContext, StreamKind
from connect_sync.http import Request, Response, close_iterator
from connect_sync.server import Service
from connect_sync.server.text import TextBody
from tests.support import (
    BIDI,
    CLIENT_STREAM,
    COMPRESSED,
    SERVER_STREAM,
    UNARY,
    WEB_END,
    Clock,
    ExactBody,
    Handler,
    Observer,
    Relay,
    ScriptedBody,
    TextMethod,
    envelope,
    envelopes,
    failing,
    proto,
    rpc_status,
    serve,
    split_envelopes,
    text,
    trailer_lines,
    yielding,
)

FORM = pytest.mark.parametrize("form", ["grpc", "grpc-web", "grpc-web-text"])
METHODS = pytest.mark.parametrize(
    "method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name
)
ONE_REQUEST = pytest.mark.parametrize("method", [UNARY, SERVER_STREAM], ids=lambda method: method.name)


class Answer:
    """A response in one of the forms, read to its end."""

    def __init__(self, form: str, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self.chunks = list(response.body)
        # Each chunk has to be base64 by itself: a client reads it when it has arrived.
        decode = partial(b64decode, validate=True) if form == "grpc-web-text" else bytes
        self.envelopes = split_envelopes(b"".join(map(decode, self.chunks)))
        if form == "grpc":
            assert response.trailers is not None
            pairs = list(response.trailers.multi_items())
        else:
            assert response.trailers is None
            flags, payload = self.envelopes.pop()
            assert flags == WEB_END
            pairs = trailer_lines(payload)
        self.trailers = Headers(pairs)

    @property
    def texts(self) -> list[str]:
        """The messages, which have to be uncompressed and in the proto codec."""
        assert all(flags == 0 for flags, _ in self.envelopes)
        return [StringValue.FromString(payload).value for _, payload in self.envelopes]

    @property
    def code(self) -> int:
        """How the call ended: gRPC's number, 0 for success."""
        return int(self.trailers["grpc-status"])


def post(
    form: str,
    service: Service,
    method: Method[Any, Any],
    body: bytes | Iterable[bytes] | None = None,
    headers: HeadersInput = (),
    *,
    codec: str = "+proto",
) -> Response:
    """Post a request in one of the forms; without a body, with one empty message."""
    if body is None:
        body = envelope(b"")
    if isinstance(body, bytes):
        body = (b64encode(body) if form == "grpc-web-text" else body,)
    return service(
        Request(
            "POST",
            method.path,
            Headers({"content-type": f"application/{form}{codec}", **dict(headers)}),
            body,
            accepts_trailers=form == "grpc",
        )
    )


def ask(
    form: str,
    service: Service,
    method: Method[Any, Any],
    body: bytes | Iterable[bytes] | None = None,
    headers: HeadersInput = (),
    *,
    codec: str = "+proto",
) -> Answer:
    """Post a request and read the response to its end."""
    return Answer(form, post(form, service, method, body, headers, codec=codec))


# Messages in and out


@FORM
@METHODS
@pytest.mark.parametrize("codec", ["", "+proto", "+json"])
def test_call_is_answered_in_its_form_and_codec(form: str, method: TextMethod, codec: str) -> None:
    message = b'"a"' if codec == "+json" else proto("a")
    answer = ask(form, serve(method), method, envelope(message), codec=codec)

    assert (answer.status, answer.headers["content-type"]) == (200, f"application/{form}{codec}")
    assert (answer.envelopes, dict(answer.trailers)) == ([(0, message)], {"grpc-status": "0"})


@FORM
def test_messages_of_a_client_stream_reach_the_handler_in_order(form: str) -> None:
    assert ask(form, serve(CLIENT_STREAM), CLIENT_STREAM, envelopes("a", "", "b")).texts == ["a,,b"]


@FORM
def test_client_stream_may_be_empty(form: str) -> None:
    answer = ask(form, serve(CLIENT_STREAM), CLIENT_STREAM, b"")

    assert (answer.texts, answer.code) == ([""], 0)


@FORM
@pytest.mark.parametrize("values", [(), ("a",), ("a", "", "b")])
def test_messages_of_a_server_stream_go_out_in_order(form: str, values: tuple[str, ...]) -> None:
    answer = ask(form, serve(SERVER_STREAM, yielding(*values)), SERVER_STREAM)

    assert (answer.texts, answer.code) == (list(values), 0)


@FORM
def test_request_reaches_the_handler_before_the_next_one_is_read(form: str) -> None:
    pieces = [envelopes("a"), envelopes("b")]
    body = ScriptedBody(*(map(b64encode, pieces) if form == "grpc-web-text" else pieces))
    seen = []

    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        for request in requests:
            seen.append((request.value, len(body.remaining)))
        return text()

    ask(form, serve(CLIENT_STREAM, handler), CLIENT_STREAM, body)

    assert seen == [("a", 1), ("b", 0)]


@FORM
def test_message_leaves_before_the_next_one_is_asked_for(form: str) -> None:
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        for value in ("a", "b"):
            log.append(f"yields {value}")
            yield text(value)

    body = post(form, serve(SERVER_STREAM, handler), SERVER_STREAM).body
    chunks = iter(body)
    for _ in range(2):
        next(chunks)
        log.append("sent")
    close_iterator(body)

    assert log == ["yields a", "sent", "yields b", "sent"]


@FORM
def test_each_message_of_a_stream_is_a_chunk_and_so_is_the_last_envelope(form: str) -> None:
    answer = ask(form, serve(SERVER_STREAM, yielding("a", "b")), SERVER_STREAM)

    assert len(answer.chunks) == (2 if form == "grpc" else 3)


@FORM
@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM], ids=lambda method: method.name)
def test_response_with_one_message_is_of_known_length(form: str, method: TextMethod) -> None:
    assert isinstance(post(form, serve(method), method).body, tuple)


@FORM
@ONE_REQUEST
@pytest.mark.parametrize("values", [(), ("a", "b"), ("", ""), ("a", "b", "c")])
def test_method_that_takes_one_message_takes_no_other_number(
    form: str, method: TextMethod, values: tuple[str, ...]
) -> None:
    service = serve(method, failing(AssertionError("called")))

    assert ask(form, service, method, envelopes(*values)).code == Code.UNIMPLEMENTED.number


@FORM
@METHODS
def test_body_that_ends_inside_an_envelope_is_an_invalid_argument(form: str, method: TextMethod) -> None:
    assert ask(form, serve(method), method, envelopes("a")[:-1]).code == Code.INVALID_ARGUMENT.number


@FORM
@METHODS
@pytest.mark.parametrize("codec", ["+proto", "+json"])
def test_message_that_does_not_parse_is_an_invalid_argument(
    form: str, method: TextMethod, codec: str
) -> None:
    answer = ask(form, serve(method), method, envelope(b"{"), codec=codec)

    assert (answer.code, answer.envelopes) == (Code.INVALID_ARGUMENT.number, [])


@FORM
@METHODS
@pytest.mark.parametrize("flags", [0x02, 0x80, 0x81, 0xFE])
def test_reserved_flags_are_an_internal_error(form: str, method: TextMethod, flags: int) -> None:
    assert ask(form, serve(method), method, envelope(proto("a"), flags)).code == Code.INTERNAL.number


@FORM
@METHODS
def test_message_past_the_limit_is_refused(form: str, method: TextMethod) -> None:
    service = serve(method, read_max_bytes=10)

    assert ask(form, service, method, envelopes("a" * 8)).code == 0
    assert ask(form, service, method, envelopes("a" * 9)).code == Code.RESOURCE_EXHAUSTED.number


# Bidirectional methods


@FORM
@pytest.mark.parametrize("codec", ["", "+proto", "+json"])
def test_bidirectional_method_is_refused_in_the_form_that_was_asked_in(form: str, codec: str) -> None:
    body = ScriptedBody(envelopes("a"))
    answer = ask(form, serve(BIDI), BIDI, body, codec=codec)

    assert (answer.status, answer.headers["content-type"]) == (200, f"application/{form}{codec}")
    assert (answer.code, answer.envelopes) == (Code.UNIMPLEMENTED.number, [])
    assert answer.trailers["grpc-message"].startswith("unit.v1.UnitService.Chat is bidirectional streaming")
    assert body.sizes == []


# When the trailers are there


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM], ids=lambda method: method.name)
def test_trailers_of_one_message_are_there_with_it(method: TextMethod) -> None:
    trailers = post("grpc", serve(method), method).trailers

    assert trailers is not None
    assert dict(trailers) == {"grpc-status": "0"}


def test_trailers_of_a_stream_are_filled_when_its_body_has_ended() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        ctx.response_trailers()["a"] = "1"
        try:
            yield text("a")
        finally:
            ctx.response_trailers()["b"] = "2"

    response = post("grpc", serve(SERVER_STREAM, handler), SERVER_STREAM)
    chunks = iter(response.body)

    assert response.trailers is not None
    assert (next(chunks), dict(response.trailers)) == (envelopes("a"), {})
    assert list(chunks) == []
    assert dict(response.trailers) == {"a": "1", "b": "2", "grpc-status": "0"}


def test_trailers_of_a_stream_that_is_given_up_stay_empty() -> None:
    response = post("grpc", serve(SERVER_STREAM, yielding("a", "b")), SERVER_STREAM)
    next(iter(response.body))
    close_iterator(response.body)

    assert response.trailers is not None
    assert dict(response.trailers) == {}


# Errors


@FORM
@METHODS
@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_error_of_the_handler_is_the_status(form: str, method: TextMethod, code: Code) -> None:
    answer = ask(form, serve(method, failing(ConnectError(code, "no such caf\u00e9"))), method)

    assert (answer.status, answer.envelopes) == (200, [])
    assert dict(answer.trailers) == {"grpc-status": str(code.number), "grpc-message": "no such caf%C3%A9"}


@FORM
@METHODS
def test_details_of_an_error_go_out_with_the_status(form: str, method: TextMethod) -> None:
    error = ConnectError(Code.NOT_FOUND, "m", [Duration(seconds=1)])
    answer = ask(form, serve(method, failing(error)), method)
    written = answer.trailers["grpc-status-details-bin"]
    detail = ("type.googleapis.com/google.protobuf.Duration", b"\x08\x01")

    assert b64decode(written + "=" * (-len(written) % 4)) == rpc_status(5, "m", detail)


def after_one(error: Exception) -> Handler:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("a")
        raise error

    return handler


@FORM
def test_error_comes_after_the_messages_before_it(form: str) -> None:
    answer = ask(form, serve(SERVER_STREAM, after_one(ConnectError(Code.ABORTED, "m"))), SERVER_STREAM)

    assert (answer.texts, answer.code, answer.trailers["grpc-message"]) == (["a"], 10, "m")


@FORM
@pytest.mark.parametrize(
    ("method", "make"),
    [(UNARY, failing), (CLIENT_STREAM, failing), (SERVER_STREAM, failing), (SERVER_STREAM, after_one)],
    ids=["unary", "client stream", "server stream", "after a message"],
)
def test_unexpected_exception_is_logged_and_hidden(
    form: str,
    method: TextMethod,
    make: Callable[[Exception], Handler],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = ask(form, serve(method, make(KeyError("secret"))), method)
    (record,) = caplog.records

    assert dict(answer.trailers) == {"grpc-status": "13", "grpc-message": "internal error"}
    assert (record.name, record.levelno) == ("connect_sync.server", logging.ERROR)
    assert record.getMessage() == f"{method.full_name} failed"


@FORM
@METHODS
def test_handler_that_returns_another_type_is_an_internal_error(form: str, method: TextMethod) -> None:
    answer = ask(form, serve(method, lambda request, ctx: 5), method)

    assert (answer.code, answer.envelopes) == (Code.INTERNAL.number, [])


# Metadata


@FORM
@METHODS
@pytest.mark.parametrize("fails", [False, True])
def test_metadata_goes_out_as_headers_and_trailers(form: str, method: TextMethod, fails: bool) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers().add("a", "1")
        ctx.response_headers().add("a", "2")
        ctx.response_trailers().add("b", "3")
        ctx.response_trailers().add("b", "4")
        ctx.response_trailers().add_binary("c-bin", b"\x00\xff")
        if fails:
            raise ConnectError(Code.ABORTED)
        return [text()] if method is SERVER_STREAM else text()

    answer = ask(form, serve(method, handler), method)

    assert answer.headers.get_all("a") == ["1", "2"]
    assert list(answer.trailers.multi_items()) == [
        ("b", "3"),
        ("b", "4"),
        ("c-bin", "AP8"),
        ("grpc-status", "10" if fails else "0"),
    ]


@FORM
@METHODS
@pytest.mark.parametrize("where", ["response_headers", "response_trailers"])
@pytest.mark.parametrize("name", ["grpc-status", "grpc-message", "grpc-encoding", "content-type", "te"])
def test_reserved_header_of_a_handler_does_not_go_out(
    form: str, method: TextMethod, where: str, name: str
) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        getattr(ctx, where)()[name] = "99"
        return [text()] if method is SERVER_STREAM else text()

    answer = ask(form, serve(method, handler), method)

    assert list(answer.headers.multi_items()) == [("content-type", f"application/{form}+proto")]
    assert list(answer.trailers.multi_items()) == [("grpc-status", "0")]


@FORM
@METHODS
def test_metadata_of_the_request_reaches_the_handler(form: str, method: TextMethod) -> None:
    seen = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        seen.append((ctx.request_headers()["a"], ctx.request_headers().get_binary("b-bin")))
        return [text()] if method is SERVER_STREAM else text()

    ask(form, serve(method, handler), method, headers={"a": "1", "b-bin": "AP8"})

    assert seen == [("1", [b"\x00\xff"])]


# Deadlines


@FORM
@METHODS
@pytest.mark.parametrize("timeout", ["1", "1.5S", "100000000m", "5s"])
def test_malformed_timeout_is_refused_with_nothing_read(form: str, method: TextMethod, timeout: str) -> None:
    body = ScriptedBody(envelopes("a"))
    answer = ask(form, serve(method), method, body, {"grpc-timeout": timeout})

    assert (answer.code, answer.envelopes) == (Code.INVALID_ARGUMENT.number, [])
    assert answer.headers["content-type"] == f"application/{form}+proto"
    assert body.sizes == []


@FORM
@METHODS
def test_handler_knows_how_much_time_remains(
    form: str, method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    seen = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(500)
        seen.append(ctx.timeout_ms())
        return [text()] if method is SERVER_STREAM else text()

    ask(form, serve(method, handler), method, headers={"grpc-timeout": "2S"})

    assert seen == [pytest.approx(1500)]


@FORM
@METHODS
def test_deadline_that_passes_in_the_handler_leaves_no_message(
    form: str, method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        return [text()] if method is SERVER_STREAM else text()

    answer = ask(form, serve(method, handler), method, headers={"grpc-timeout": "1S"})

    assert (answer.texts, answer.code) == ([], Code.DEADLINE_EXCEEDED.number)


@FORM
def test_server_stream_stops_at_its_first_message_past_the_deadline(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        yield text("in time")
        clock.advance_ms(1001)
        yield text("late")
        raise AssertionError("asked for more")

    answer = ask(form, serve(SERVER_STREAM, handler), SERVER_STREAM, headers={"grpc-timeout": "1000m"})

    assert (answer.texts, answer.code) == (["in time"], Code.DEADLINE_EXCEEDED.number)


@FORM
@METHODS
def test_body_is_read_within_the_deadline(
    form: str, method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    deadlines = []

    class Bounded(ScriptedBody):
        def set_deadline(self, deadline: Any) -> None:
            deadlines.append(deadline.remaining())

    ask(form, serve(method), method, Bounded(), {"grpc-timeout": "90S"})

    assert deadlines == [pytest.approx(90)]


# Compression


@FORM
@METHODS
@pytest.mark.parametrize(
    "headers",
    [{"grpc-accept-encoding": "br, gzip"}, {"grpc-encoding": "gzip"}],
    ids=["accepted", "used"],
)
def test_response_is_compressed_as_the_client_accepts_or_uses(
    form: str, method: TextMethod, headers: dict[str, str]
) -> None:
    answer = ask(form, serve(method), method, envelopes("a"), headers)
    ((flags, payload),) = answer.envelopes

    assert answer.headers["grpc-encoding"] == "gzip"
    assert (flags, gzip.decompress(payload)) == (COMPRESSED, proto("a"))
    assert answer.code == 0


@FORM
@METHODS
def test_compressed_and_plain_requests_are_read(form: str, method: TextMethod) -> None:
    headers = {"grpc-encoding": "gzip", "grpc-accept-encoding": "identity"}

    for body in (envelope(gzip.compress(proto("a")), COMPRESSED), envelopes("a")):
        assert ask(form, serve(method), method, body, headers).texts == ["a"]


@FORM
@METHODS
@pytest.mark.parametrize("headers", [{}, {"grpc-encoding": "identity"}, {"content-encoding": "gzip"}])
def test_compressed_envelope_needs_a_negotiated_compression(
    form: str, method: TextMethod, headers: dict[str, str]
) -> None:
    body = envelope(gzip.compress(proto("a")), COMPRESSED)

    assert ask(form, serve(method), method, body, headers).code == Code.INTERNAL.number


@FORM
@METHODS
@pytest.mark.parametrize(
    ("compressions", "names"), [(("gzip",), "gzip"), (("gzip", "deflate"), "gzip, deflate"), ((), "identity")]
)
def test_unknown_compression_is_unimplemented_and_those_known_are_listed(
    form: str, method: TextMethod, compressions: tuple[str, ...], names: str
) -> None:
    body = ScriptedBody(envelopes("a"))
    service = serve(method, compressions=compressions)
    answer = ask(form, service, method, body, {"grpc-encoding": "foo"})

    assert answer.code == Code.UNIMPLEMENTED.number
    assert answer.headers["grpc-accept-encoding"] == names
    assert body.sizes == []


@FORM
@pytest.mark.parametrize("name", ["content-encoding", "accept-encoding", "connect-accept-encoding"])
def test_other_headers_of_compression_say_nothing(form: str, name: str) -> None:
    answer = ask(form, serve(UNARY), UNARY, envelopes("a"), {name: "gzip"})

    assert answer.texts == ["a"]
    assert "grpc-encoding" not in answer.headers


@FORM
@METHODS
@pytest.mark.parametrize(
    ("min_bytes", "flags"), [(0, COMPRESSED), (9, COMPRESSED), (10, COMPRESSED), (11, 0), (1 << 40, 0)]
)
def test_message_is_compressed_from_a_size_on(
    form: str, method: TextMethod, min_bytes: int, flags: int
) -> None:
    service = serve(method, compress_min_bytes=min_bytes)
    answer = ask(form, service, method, envelopes("a" * 8), {"grpc-accept-encoding": "gzip"})

    assert len(proto("a" * 8)) == 10
    assert [flags for flags, _ in answer.envelopes] == [flags]
    assert answer.headers["grpc-encoding"] == "gzip"


@FORM
@METHODS
def test_empty_message_is_never_compressed(form: str, method: TextMethod) -> None:
    answer = ask(form, serve(method), method, envelopes(""), {"grpc-accept-encoding": "gzip"})

    assert answer.envelopes == [(0, b"")]


# Interceptors


class Recorder:
    """An interceptor that keeps what it sees of each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, list[str]]] = []

    def intercept_unary(
        self, call_next: Callable[[Any, RequestContext], Any], request: Any, ctx: RequestContext
    ) -> Any:
        response = call_next(request, ctx)
        self._keep(ctx, [request, response])
        return response

    def intercept_client_stream(
        self, call_next: Callable[[Any, RequestContext], Any], request: Any, ctx: RequestContext
    ) -> Any:
        requests = list(request)
        response = call_next(iter(requests), ctx)
        self._keep(ctx, [*requests, response])
        return response

    def intercept_server_stream(
        self, call_next: Callable[[Any, RequestContext], Any], request: Any, ctx: RequestContext
    ) -> Iterator[Any]:
        responses = []
        for response in call_next(request, ctx):
            responses.append(response)
            yield response
        self._keep(ctx, [request, *responses])

    def _keep(self, ctx: RequestContext, messages: list[StringValue]) -> None:
        self.seen.append(
            (ctx.method().name, ctx.http_method(), [message.value for message in messages]),
        )


@FORM
@METHODS
def test_interceptor_sees_the_messages_of_a_call(form: str, method: TextMethod) -> None:
    recorder = Recorder()
    ask(form, serve(method, interceptors=[recorder]), method, envelopes("a"))

    assert recorder.seen == [(method.name, "POST", ["a", "a"])]


@FORM
@METHODS
@pytest.mark.parametrize("error", [None, ConnectError(Code.ABORTED), KeyError()], ids=repr)
def test_interceptor_hears_how_a_call_ended(form: str, method: TextMethod, error: Exception | None) -> None:
    observer = Observer()
    handler = None if error is None else failing(error)
    ask(form, serve(method, handler, interceptors=[observer]), method)

    code = None if error is None else error.code if isinstance(error, ConnectError) else Code.INTERNAL
    assert (observer.starts, observer.codes) == (1, [code])


@FORM
def test_interceptor_hears_of_a_stream_that_cannot_be_read(form: str) -> None:
    observer = Observer()
    ask(form, serve(CLIENT_STREAM, interceptors=[observer]), CLIENT_STREAM, b"\x00")

    assert observer.codes == [Code.INVALID_ARGUMENT]


# The end of the handler's generator


class Cleanup:
    """A handler that streams, and keeps whether its cleanup has run."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        self.events.append("begun")
        try:
            yield text("a")
            yield text("b")
        finally:
            self.events.append("cleaned up")


@FORM
@pytest.mark.parametrize("interceptors", [[], [Relay()]], ids=["bare", "behind a generator"])
@pytest.mark.parametrize("read_count", [0, 1, 2])
def test_handler_is_cleaned_up_when_the_client_leaves(
    form: str, interceptors: list[Any], read_count: int
) -> None:
    handler = Cleanup()
    body = post(form, serve(SERVER_STREAM, handler, interceptors=interceptors), SERVER_STREAM).body
    chunks = iter(body)
    for _ in range(read_count):
        next(chunks)
    close_iterator(body)

    assert handler.events == ["begun", "cleaned up"]


@FORM
def test_abandoned_stream_gives_nothing_more(form: str) -> None:
    body = post(form, serve(SERVER_STREAM, yielding("a", "b")), SERVER_STREAM).body
    chunks = iter(body)
    next(chunks)
    close_iterator(body)

    assert list(chunks) == []


# Base64


def ask_in_text(method: TextMethod, *pieces: bytes) -> Answer:
    return ask("grpc-web-text", serve(method), method, pieces)


def test_base64_may_be_cut_anywhere() -> None:
    data = b64encode(envelopes("a", "", "hello", "b" * 100))

    for size in range(1, 40):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert ask_in_text(CLIENT_STREAM, *pieces).texts == ["a,,hello," + "b" * 100]


def test_pieces_may_be_padded_each() -> None:
    data = envelopes("a", "", "hello", "b" * 100)

    for size in range(1, 40):
        pieces = [b64encode(data[start : start + size]) for start in range(0, len(data), size)]
        assert ask_in_text(CLIENT_STREAM, *pieces).texts == ["a,,hello," + "b" * 100]
        assert ask_in_text(CLIENT_STREAM, b"".join(pieces)).texts == ["a,,hello," + "b" * 100]


def test_pieces_may_be_padded_each_and_cut_anywhere() -> None:
    random = Random(24)
    data = envelopes("a", "", "hello", "b" * 50)
    for _ in range(300):
        encoded = b""
        rest = data
        while rest:
            size = random.randrange(1, 12)
            encoded += b64encode(rest[:size])
            rest = rest[size:]
        pieces = []
        while encoded:
            size = random.randrange(1, 12)
            pieces.append(encoded[:size])
            encoded = encoded[size:]

        assert ask_in_text(CLIENT_STREAM, *pieces).texts == ["a,,hello," + "b" * 50]


@METHODS
@pytest.mark.parametrize(
    "body",
    [
        *(b"****", b"AAA*", b"AAAA AAA", b"AA\r\nAA==", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"),
        *(b"====", b"=AAA", b"A===", b"AA=A", b"AAAA=AAA", b"AAA-", b"AAA_"),
    ],
)
def test_body_that_is_not_base64_is_an_invalid_argument(method: TextMethod, body: bytes) -> None:
    answer = ask_in_text(method, body)

    assert answer.code == Code.INVALID_ARGUMENT.number
    assert answer.trailers["grpc-message"] == "the body is not base64"


@METHODS
@pytest.mark.parametrize("size", [1, 2, 3])
def test_body_that_ends_inside_a_quantum_is_an_invalid_argument(method: TextMethod, size: int) -> None:
    answer = ask_in_text(method, b64encode(envelopes("a")), b"AAA"[:size])

    assert answer.code == Code.INVALID_ARGUMENT.number
    assert answer.trailers["grpc-message"] == "the body ends inside a quantum of base64"


def test_base64_that_is_not_padded_is_cut_off() -> None:
    assert ask_in_text(UNARY, b64encode(envelope(b"")).rstrip(b"=")).code == Code.INVALID_ARGUMENT.number


@pytest.mark.parametrize("piece_size", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("size", range(12))
def test_no_more_base64_is_asked_for_than_the_message_takes(size: int, piece_size: int) -> None:
    message = envelopes("a" * size)
    encoded = b"".join(
        b64encode(message[start : start + piece_size]) for start in range(0, len(message), piece_size)
    )
    body = ExactBody(encoded + b64encode(envelopes("second")))
    positions = []

    def handler(requests: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        positions.append((next(requests).value, body.position))
        return text(next(requests).value)

    answer = ask("grpc-web-text", serve(CLIENT_STREAM, handler), CLIENT_STREAM, body)

    assert answer.texts == ["second"]
    assert positions == [("a" * size, len(encoded))]


def test_base64_is_asked_for_what_is_missing_of_it() -> None:
    source = ScriptedBody(b"AA", b"AAAAA", b"=")
    body = TextBody(source)

    assert (body.read(5), body.read(2)) == (bytes(3), bytes(2))
    assert source.sizes == [8, 2, 1]


def test_base64_is_closed_with_its_body() -> None:
    body = ScriptedBody()
    TextBody(body).close()

    assert body.close_count == 1


def test_length_of_base64_is_none_of_its_bytes() -> None:
    assert TextBody(ScriptedBody(length=8)).length is None


# The shape of every response


@FORM
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
def test_status_comes_once_and_last(form: str, body: bytes, handler: Handler) -> None:
    answer = ask(form, serve(SERVER_STREAM, handler), SERVER_STREAM, body)

    assert len(answer.trailers.get_all("grpc-status")) == 1
    assert all(flags == 0 for flags, _ in answer.envelopes)


@METHODS
def test_all_forms_say_the_same(method: TextMethod) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.response_headers()["a"] = "1"
        ctx.response_trailers()["b"] = "2"
        return [text("x"), text("y")] if method.kind is StreamKind.SERVER_STREAM else text("x")

    answers = [
        ask(form, serve(method, handler), method, headers={"grpc-accept-encoding": "gzip"})
        for form in ("grpc", "grpc-web", "grpc-web-text")
    ]

    for answer in answers:
        del answer.headers["content-type"]
    assert len({repr((a.envelopes, a.headers, sorted(a.trailers.multi_items()))) for a in answers}) == 1


class Broken:
    """A compression that fails."""

    name = "broken"

    def compress(self, data: bytes) -> bytes:
        raise RuntimeError("secret")

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        return data


@FORM
@METHODS
def test_compression_that_fails_is_an_internal_error(
    form: str, method: TextMethod, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(method, compressions=[Broken()])
    answer = ask(form, service, method, envelope(proto("a")), {"grpc-accept-encoding": "broken"})

    assert (answer.trailers["grpc-status"], answer.trailers["grpc-message"]) == ("13", "internal error")
    assert "secret" in caplog.text
