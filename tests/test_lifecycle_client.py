"""How calls end at a client: every way out, in every kind of call and every protocol.

Each cell of the table is a test: ``on_end`` runs once, with the error that the caller gets, or with
``canceled`` where the caller gave the call up.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import gevent  # type: ignore[import-untyped]
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import (
    Cancellation,
    Code,
    ConnectClient,
    ConnectError,
    Headers,
    IdempotencyLevel,
    Lifetime,
    Method,
    ProtocolType,
    Request,
    RequestContext,
    Response,
    ResponseMetadata,
    StreamKind,
)
from connect_sync.http import Body
from tests.support import (
    OK_END,
    OK_WEB_END,
    SERVICE,
    Clock,
    ScopedObserver,
    envelope,
    proto,
    text,
    user,
    web_end,
)


class Incoming(Body):
    """The body of a response: chunks, and what happens after them."""

    def __init__(self, *chunks: bytes, then: BaseException | None = None) -> None:
        self._chunks = list(chunks)
        self._then = then
        self.is_closed = False

    def read(self, size: int) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._then is not None:
            raise self._then
        return b""

    def close(self) -> None:
        self.is_closed = True


class Answering:
    """A transport that reads the request, and then answers or fails."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer = answer
        self.requests = 0

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        lifetime.check()
        self.requests += 1
        b"".join(request.body)
        return self._answer(request)

    def close(self) -> None:
        """Do nothing."""


class Form(NamedTuple):
    """A kind of call in a protocol."""

    method: Method[Any, Any]
    protocol: ProtocolType
    use_get: bool = False

    @property
    def is_bare(self) -> bool:
        return self.method.kind is StreamKind.UNARY and self.protocol is ProtocolType.CONNECT

    @property
    def content_type(self) -> str:
        if self.is_bare:
            return "application/proto"
        return (
            "application/connect+proto"
            if self.protocol is ProtocolType.CONNECT
            else "application/grpc-web+proto"
        )

    @property
    def end(self) -> bytes:
        return b"" if self.is_bare else OK_END if self.protocol is ProtocolType.CONNECT else OK_WEB_END

    def message(self, payload: bytes = proto("a")) -> bytes:
        return payload if self.is_bare else envelope(payload)

    def respond(self, *chunks: bytes, then: BaseException | None = None) -> Response:
        headers = Headers({"content-type": self.content_type, "mark": "leading"})
        return Response(200, headers, Incoming(*chunks, then=then))

    def success(self) -> Response:
        return self.respond(self.message() + self.end)

    def failure(self) -> Response:
        if self.is_bare:
            headers = Headers({"content-type": "application/json", "mark": "leading", "trailer-spent": "5"})
            return Response(409, headers, Incoming(b'{"code":"aborted","message":"try again"}'))
        if self.protocol is ProtocolType.CONNECT:
            end = b'{"error":{"code":"aborted","message":"try again"},"metadata":{"spent":["5"]}}'
            return self.respond(envelope(end, 2))
        return self.respond(web_end("grpc-status: 10", "grpc-message: try again", "spent: 5"))


UNARY: Method[Any, Any] = Method(
    SERVICE, "Get", StringValue, StringValue, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)
CLIENT_STREAM: Method[Any, Any] = Method(
    SERVICE, "Collect", StringValue, StringValue, StreamKind.CLIENT_STREAM
)
SERVER_STREAM: Method[Any, Any] = Method(
    SERVICE, "Expand", StringValue, StringValue, StreamKind.SERVER_STREAM
)

FORMS = [
    Form(method, protocol)
    for method in (UNARY, CLIENT_STREAM, SERVER_STREAM)
    for protocol in (ProtocolType.CONNECT, ProtocolType.GRPC_WEB)
] + [Form(UNARY, ProtocolType.CONNECT, use_get=True)]


def _id(form: Form) -> str:
    return f"{form.method.kind.value}, {form.protocol.value}{', get' if form.use_get else ''}"


def _class_name(value: object) -> str:
    return type(value).__name__


all_forms = pytest.mark.parametrize("form", FORMS, ids=_id)
enveloped = pytest.mark.parametrize("form", [form for form in FORMS if not form.is_bare], ids=_id)
streams = pytest.mark.parametrize("form", [form for form in FORMS if form.method is SERVER_STREAM], ids=_id)
client_streams = pytest.mark.parametrize(
    "form", [form for form in FORMS if form.method is CLIENT_STREAM], ids=_id
)


class Call:
    """A call that is made, with all that is known of its end."""

    def __init__(self, form: Form, answer: Response | Callable[[Request], Response], **options: Any) -> None:
        self.form = form
        self.recorder = ScopedObserver()
        interceptors = [self.recorder, *options.pop("interceptors", ())]
        self.transport = Answering(answer if callable(answer) else lambda request: answer)
        self.client = ConnectClient(
            "http://unit.test",
            protocol=form.protocol,
            transport=self.transport,
            interceptors=interceptors,
            **options,
        )

    def run(self, requests: Iterable[Any] | None = None, request: Any = None, **options: Any) -> list[str]:
        """Make the call to its end, and return the texts of its responses."""
        method = self.form.method
        request = text("a") if request is None else request
        if method is UNARY:
            return [self.client.call_unary(method, request, use_get=self.form.use_get, **options).value]
        if method is CLIENT_STREAM:
            requests = [request] if requests is None else requests
            return [self.client.call_client_stream(method, requests, **options).value]
        return [message.value for message in self.client.call_server_stream(method, request, **options)]

    def fail(self, **options: Any) -> ConnectError:
        """Make a call that fails, and return its error, which ``on_end`` was given."""
        with pytest.raises(ConnectError) as raised:
            self.run(**options)
        assert self.end() is raised.value
        return raised.value

    def end(self) -> ConnectError | None:
        """Return the outcome that ``on_end`` was given, once."""
        assert (self.recorder.starts, len(self.recorder.errors)) == (1, 1)
        assert user.get() == "nobody"
        return self.recorder.errors[0]

    def given_up(self, cause: object) -> None:
        """Check that the call was given up on this side, because of ``cause``."""
        error = self.end()
        assert error is not None
        assert error.code is Code.CANCELED
        assert error.__cause__ is cause


@all_forms
def test_success(form: Form) -> None:
    call = Call(form, form.success())

    assert call.run() == ["a"]
    assert call.end() is None


@all_forms
def test_error_of_the_server(form: Form) -> None:
    call = Call(form, form.failure())
    with ResponseMetadata() as metadata:
        error = call.fail()

    assert (error.code, error.message) == (Code.ABORTED, "try again")
    assert error.http_status == metadata.http_status() == (409 if form.is_bare else 200)
    assert (error.metadata["mark"], error.metadata["spent"]) == ("leading", "5")
    assert (metadata.headers()["mark"], metadata.trailers()["spent"]) == ("leading", "5")


@all_forms
def test_server_that_cannot_be_reached(form: Form) -> None:
    error = ConnectError(Code.UNAVAILABLE, "connection refused")

    def refuse(request: Request) -> Response:
        raise error

    assert Call(form, refuse).fail() is error
    assert error.http_status is None
    assert len(error.metadata) == 0


@all_forms
def test_response_of_a_web_server(form: Form) -> None:
    page = Response(404, Headers({"content-type": "text/html"}), Incoming(b"<title>Not here</title>"))
    error = Call(form, page).fail()

    assert (error.code, error.http_status) == (Code.UNIMPLEMENTED, 404)
    assert f"http://unit.test{form.method.path} was answered with HTTP 404" in error.message
    assert "Not here" in error.message


@all_forms
def test_successful_response_of_a_web_server(form: Form) -> None:
    page = Response(200, Headers({"content-type": "text/html"}), Incoming(b"<title>Welcome</title>"))
    error = Call(form, page).fail()

    assert (error.code, error.http_status) == (Code.UNKNOWN, 200)
    assert "Welcome" in error.message


@all_forms
def test_malformed_message(form: Form) -> None:
    assert Call(form, form.respond(form.message(b"\xff\xff"), form.end)).fail().code is Code.INTERNAL


@all_forms
def test_message_that_is_too_large(form: Form) -> None:
    call = Call(form, form.respond(form.message(proto("x" * 100)), form.end), read_max_bytes=50)

    assert call.fail().code is Code.RESOURCE_EXHAUSTED


@enveloped
def test_response_without_its_end(form: Form) -> None:
    assert Call(form, form.respond(form.message())).fail().code is Code.INTERNAL


@all_forms
def test_connection_that_breaks_in_the_response(form: Form) -> None:
    broken = ConnectError(Code.UNAVAILABLE, "it closed the connection")

    assert Call(form, form.respond(then=broken)).fail() is broken
    assert broken.http_status == 200


@all_forms
def test_deadline(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def answer_late(request: Request) -> Response:
        clock.advance_ms(1001)
        raise ConnectError(Code.DEADLINE_EXCEEDED, "late")

    assert Call(form, answer_late).fail(timeout_ms=1000).code is Code.DEADLINE_EXCEEDED


@all_forms
def test_cancellation(form: Form) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    call = Call(form, form.success())

    assert call.fail(cancellation=cancellation).code is Code.CANCELED
    assert call.transport.requests == 0


@all_forms
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), gevent.Timeout(1), GeneratorExit()],
    ids=_class_name,
)
def test_exception_outside_exception_goes_on(form: Form, error: BaseException) -> None:
    def interrupt(request: Request) -> Response:
        raise error

    call = Call(form, interrupt)
    with pytest.raises(type(error)) as raised:
        call.run()

    assert raised.value is error
    call.given_up(error)


@client_streams
def test_requests_that_fail(form: Form) -> None:
    error = ValueError("of the caller")

    def requests() -> Iterator[Any]:
        yield text("a")
        raise error

    call = Call(form, form.success())
    with pytest.raises(ValueError, match="of the caller"):
        call.run(requests())

    call.given_up(error)


@all_forms
def test_request_of_another_type(form: Form) -> None:
    call = Call(form, form.success())
    with pytest.raises(TypeError) as raised:
        call.run(request="a text")

    call.given_up(raised.value)


@all_forms
def test_request_that_is_too_large_to_send(form: Form) -> None:
    call = Call(form, form.success(), send_max_bytes=10)
    error = call.fail(request=text("x" * 100))

    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "send_max_bytes" in error.message
    assert form.method is CLIENT_STREAM or call.transport.requests == 0


@streams
@pytest.mark.parametrize("read_count", [0, 1])
def test_stream_that_is_closed_early(form: Form, read_count: int) -> None:
    response = form.respond(form.message(), form.message(), form.end)
    call = Call(form, response)
    stream = call.client.call_server_stream(form.method, text())
    for _ in range(read_count):
        next(stream)
        assert user.get() == "nobody"
    assert call.recorder.errors == []
    stream.close()
    stream.close()

    error = call.end()
    assert error is not None
    assert error.code is Code.CANCELED
    assert isinstance(response.body, Incoming)
    assert response.body.is_closed


@streams
def test_stream_that_is_dropped(form: Form) -> None:
    call = Call(form, form.respond(form.message(), form.message(), form.end))
    stream = call.client.call_server_stream(form.method, text())
    next(stream)
    del stream
    gc.collect()

    error = call.end()
    assert error is not None
    assert error.code is Code.CANCELED


class Intercepting:
    """Raises in place of each kind of call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        raise self._error

    intercept_client_stream = intercept_server_stream = intercept_unary


@all_forms
def test_error_of_an_interceptor(form: Form) -> None:
    error = ConnectError(Code.PERMISSION_DENIED, "not you")
    call = Call(form, form.success(), interceptors=[Intercepting(error)])

    assert call.fail() is error
    assert error.http_status is None


class Refusing:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def on_start(self, ctx: RequestContext) -> None:
        raise self._error

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        raise AssertionError("its on_start did not return")


@all_forms
def test_refusal_at_the_start(form: Form) -> None:
    error = ConnectError(Code.UNAUTHENTICATED, "log in first")
    inner = ScopedObserver()
    call = Call(form, form.success(), interceptors=[Refusing(error), inner])

    assert call.fail() is error
    assert (inner.starts, call.transport.requests) == (0, 0)


@all_forms
@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()], ids=_class_name)
def test_exception_at_the_start(form: Form, error: BaseException) -> None:
    call = Call(form, form.success(), interceptors=[Refusing(error)])
    with pytest.raises(type(error)):
        call.run()

    call.given_up(error)
    assert call.transport.requests == 0


class FailingAtTheEnd:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def on_start(self, ctx: RequestContext) -> None:
        """Do nothing."""

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        raise self._error


@all_forms
@pytest.mark.parametrize("fails_before", [False, True], ids=["after success", "after an error"])
def test_error_at_the_end_takes_the_place_of_the_outcome(form: Form, fails_before: bool) -> None:
    error = ConnectError(Code.DATA_LOSS, "nothing was written down")
    response = form.failure() if fails_before else form.success()
    call = Call(form, response, interceptors=[FailingAtTheEnd(error)])

    assert call.fail() is error


@all_forms
@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()], ids=_class_name)
def test_exception_at_the_end_is_raised(form: Form, error: BaseException) -> None:
    call = Call(form, form.success(), interceptors=[FailingAtTheEnd(error)])
    with pytest.raises(type(error)) as raised:
        call.run()

    assert raised.value is error
    call.given_up(error)


@streams
def test_error_at_the_end_of_a_stream_that_is_closed_early_is_logged(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    response = form.respond(form.message(), form.message(), form.end)
    call = Call(form, response, interceptors=[FailingAtTheEnd(KeyError("x"))])
    call.client.call_server_stream(form.method, text()).close()

    error = call.end()
    assert error is not None
    assert error.code is Code.CANCELED
    assert [record.getMessage() for record in caplog.records] == [
        "FailingAtTheEnd.on_end failed after the outcome of its call was told"
    ]


# What the hooks of a call see


@all_forms
def test_response_is_known_at_the_end(form: Form) -> None:
    seen: list[tuple[Any, ...]] = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append((ctx.protocol(), ctx.peer(), ctx.method()))

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append((ctx.http_method(), ctx.response_headers()["mark"], ctx.response_trailers()["spent"]))

    call = Call(form, form.failure(), interceptors=[Looking()])
    call.fail()

    assert seen == [
        (form.protocol, "unit.test:80", form.method),
        ("GET" if form.use_get else "POST", "leading", "5"),
    ]


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("https://greet.example", "greet.example:443"),
        ("http://[::1]:8000/prefix", "[::1]:8000"),
    ],
)
def test_peer_of_a_client_is_the_address_that_is_called(address: str, peer: str) -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append(ctx.peer())

    form = Form(UNARY, ProtocolType.CONNECT)
    transport = Answering(lambda request: form.success())
    ConnectClient(address, transport=transport, interceptors=[Looking()]).call_unary(UNARY, text())

    assert seen == [peer]


# What is left of a call


@pytest.mark.parametrize("way", ["error", "web server", "malformed", "no end", "two messages", "unreachable"])
@all_forms
def test_failed_call_keeps_nothing_of_its_caller(form: Form, way: str, without_gc: None) -> None:
    def answer(request: Request) -> Response:
        if way == "unreachable":
            raise ConnectError(Code.UNAVAILABLE)
        if way == "web server":
            return Response(404, Headers({"content-type": "text/html"}), Incoming(b"Not here"))
        if way == "malformed":
            return form.respond(form.message(b"\xff\xff"), form.end)
        if way == "no end":
            return form.respond(form.message()[:-1])
        if way == "two messages":
            return form.respond(form.message(), form.message(), form.end)
        return form.failure()

    class Mark:
        """Something that a caller has in a variable."""

    def call() -> weakref.ref[Mark]:
        mark = Mark()
        # Whether it fails is for other tests.
        with suppress(ConnectError):
            made.run()
        return weakref.ref(mark)

    made = Call(form, answer)
    made.client = ConnectClient("http://unit.test", protocol=form.protocol, transport=made.transport)

    assert call()() is None
