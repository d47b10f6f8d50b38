"""How calls end at a server: every way out, in every kind of call and every protocol.

Each cell of the table is a test: ``on_end`` runs once, with what the client is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent  # type: ignore[import-untyped]
import pytest
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import (
    Code,
    ConnectError,
    Headers,
    IdempotencyLevel,
    Method,
    Request,
    RequestContext,
    Response,
    StreamKind,
)
from connect_sync.deadline import Deadline
from connect_sync.errors import UnansweredError
from connect_sync.http import Body, close_iterator
from connect_sync.server import Service
from tests.support import (
    END,
    SERVICE,
    WEB_END,
    Clock,
    Handler,
    ScopedObserver,
    envelope,
    proto,
    serve,
    split_envelopes,
    text,
    trailer_lines,
    user,
)


class Incoming(Body):
    """A request's body that says whether something was read of it, and may break off."""

    def __init__(self, data: bytes, error: ConnectError | None = None) -> None:
        self._data = data
        self._error = error
        self.read_count = 0

    def read(self, size: int) -> bytes:
        self.read_count += 1
        data, self._data = self._data[:size], self._data[size:]
        if not data and self._error is not None:
            raise self._error
        return data


# The protocols


class Told(NamedTuple):
    """What the client is told."""

    values: list[str]
    code: str | None
    message: str
    trailers: dict[str, str]


class Wire(NamedTuple):
    """A form in which a method is called."""

    name: str
    content_type: str
    read: Callable[[Response, bytes], Told]
    timeout: tuple[str, str]
    encoding: str
    is_enveloped: bool = True
    is_text: bool = False
    is_get: bool = False


def _value(payload: bytes) -> str:
    return StringValue.FromString(payload).value


def _read_unary(response: Response, body: bytes) -> Told:
    prefix = "trailer-"
    trailers = {
        name.removeprefix(prefix): value for name, value in response.fields() if name.startswith(prefix)
    }
    if response.status == 200:
        return Told([_value(body)], None, "", trailers)
    error = json.loads(body)
    assert response.status == Code(error["code"]).http_status
    return Told([], error["code"], error.get("message", ""), trailers)


def _read_stream(response: Response, body: bytes) -> Told:
    *messages, (flags, payload) = split_envelopes(body)
    assert (response.status, flags) == (200, END)
    end = json.loads(payload)
    error = end.get("error", {})
    trailers = {name: ", ".join(values) for name, values in end.get("metadata", {}).items()}
    values = [_value(message) for _, message in messages]
    return Told(values, error.get("code"), error.get("message", ""), trailers)


def _status(values: list[str], lines: list[tuple[str, str]]) -> Told:
    trailers = dict(lines)
    number = int(trailers.pop("grpc-status"))
    code = None if number == 0 else Code.from_number(number).value
    return Told(values, code, trailers.pop("grpc-message", ""), trailers)


def _read_grpc_web(response: Response, body: bytes) -> Told:
    *messages, (flags, payload) = split_envelopes(body)
    assert (response.status, flags) == (200, WEB_END)
    return _status([_value(message) for _, message in messages], trailer_lines(payload))


def _read_grpc_web_text(response: Response, body: bytes) -> Told:
    pieces = body.replace(b"=", b"= ").replace(b"= =", b"==").split()
    return _read_grpc_web(response, b"".join(map(b64decode, pieces)))


def _read_grpc(response: Response, body: bytes) -> Told:
    assert response.status == 200
    assert response.trailers is not None
    values = [_value(message) for _, message in split_envelopes(body)]
    return _status(values, response.trailers.multi_items())


_CONNECT_TIMEOUT = ("connect-timeout-ms", "1000")
_GRPC_TIMEOUT = ("grpc-timeout", "1S")
UNARY_WIRE = Wire("connect", "application/proto", _read_unary, _CONNECT_TIMEOUT, "content-encoding", False)
GET_WIRE = Wire(
    "connect get", "", _read_unary, _CONNECT_TIMEOUT, "content-encoding", is_enveloped=False, is_get=True
)
STREAM_WIRE = Wire(
    "connect", "application/connect+proto", _read_stream, _CONNECT_TIMEOUT, "connect-content-encoding"
)
GRPC_WIRES = [
    Wire("grpc-web", "application/grpc-web+proto", _read_grpc_web, _GRPC_TIMEOUT, "grpc-encoding"),
    Wire(
        "grpc-web-text",
        "application/grpc-web-text",
        _read_grpc_web_text,
        _GRPC_TIMEOUT,
        "grpc-encoding",
        is_text=True,
    ),
    Wire("grpc", "application/grpc", _read_grpc, _GRPC_TIMEOUT, "grpc-encoding"),
]

# The kinds of calls

UNARY: Method[Any, Any] = Method(
    SERVICE, "Get", StringValue, StringValue, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS
)
KINDS: dict[StreamKind, Method[Any, Any]] = {
    StreamKind.UNARY: UNARY,
    StreamKind.CLIENT_STREAM: Method(SERVICE, "Collect", StringValue, StringValue, StreamKind.CLIENT_STREAM),
    StreamKind.SERVER_STREAM: Method(SERVICE, "Expand", StringValue, StringValue, StreamKind.SERVER_STREAM),
    StreamKind.BIDI_STREAM: Method(SERVICE, "Chat", StringValue, StringValue, StreamKind.BIDI_STREAM),
}


class Form(NamedTuple):
    """A kind of call in a protocol."""

    method: Method[Any, Any]
    wire: Wire


FORMS = [
    Form(method, wire)
    for kind, method in KINDS.items()
    for wire in ([UNARY_WIRE, GET_WIRE] if kind is StreamKind.UNARY else [STREAM_WIRE]) + GRPC_WIRES
    if kind is not StreamKind.BIDI_STREAM
]
BIDI_FORMS = [Form(KINDS[StreamKind.BIDI_STREAM], wire) for wire in [STREAM_WIRE, *GRPC_WIRES]]


def _id(form: Form) -> str:
    return f"{form.method.kind.value}, {form.wire.name}"


def _class_name(value: object) -> str:
    return type(value).__name__


all_forms = pytest.mark.parametrize("form", FORMS, ids=_id)
forms_with_a_body = pytest.mark.parametrize("form", [form for form in FORMS if not form.wire.is_get], ids=_id)
streams = pytest.mark.parametrize(
    "form", [form for form in FORMS if form.method.kind is StreamKind.SERVER_STREAM], ids=_id
)


class Outcome:
    """A call that has been served, with all that is known of its end."""

    def __init__(self, form: Form, handler: Handler | None, **options: Any) -> None:
        self.form = form
        self.recorder: Any = options.pop("recorder", None) or ScopedObserver()
        method = options.pop("method", form.method)
        interceptors = [self.recorder, *options.pop("interceptors", ())]
        self.service: Service = serve(method, handler, interceptors=interceptors, **options)

    def request(
        self,
        payload: bytes | None = None,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        query: str | None = None,
    ) -> Request:
        wire = self.form.wire
        fields = Headers(headers or {})
        if wire.is_get:
            default = "connect=v1&encoding=proto&base64=1&message=CgNhLGI"  # the text "a,b"
            return Request(
                "GET", self.form.method.path, fields, body or Incoming(b""), query=query or default
            )
        fields["content-type"] = wire.content_type
        if payload is None:
            payload = proto("a,b")
        data = envelope(payload) if wire.is_enveloped else payload
        if wire.is_text:
            data = b64encode(data)
        body = Incoming(data) if body is None else body
        return Request("POST", self.form.method.path, fields, body, accepts_trailers=True)

    def serve(self, request: Request) -> Told:
        """Serve the request, and check what holds for every call."""
        response = self.service(request)
        body = b"".join(response.body)
        told = self.form.wire.read(response, body)
        assert self.recorder.starts == 1
        assert len(self.recorder.errors) == 1
        self.check_end(request, told.code)
        assert told.trailers.get("ended-with") == (told.code or "ok")
        return told

    def check_end(self, request: Request, code: str | None) -> None:
        (error,) = self.recorder.errors
        assert request.error is error
        assert (None if error is None else error.code.value) == code
        assert self.recorder.threads == {threading.get_ident()}
        assert user.get() == "nobody"

    @property
    def cause(self) -> BaseException | None:
        error: ConnectError | None
        (error,) = self.recorder.errors
        assert error is not None
        return error.__cause__


def default_handler(form: Form) -> Handler:
    def answer(request: Any, ctx: RequestContext) -> Any:
        assert user.get() == "jane"
        return text(_text_of(request))

    def stream(request: Any, ctx: RequestContext) -> Iterator[Any]:
        assert user.get() == "jane"
        yield text(request.value)

    return stream if form.method.kind is StreamKind.SERVER_STREAM else answer


def _text_of(request: Any) -> str:
    return request.value if hasattr(request, "value") else ",".join(message.value for message in request)


def raising(form: Form, error: BaseException, after: int = 0) -> Handler:
    """Return a handler that raises ``error``; a stream after so many messages."""

    def fail(request: Any, ctx: RequestContext) -> Any:
        raise error

    def stream(request: Any, ctx: RequestContext) -> Iterator[Any]:
        for number in range(after):
            yield text(str(number))
        raise error

    return stream if form.method.kind is StreamKind.SERVER_STREAM else fail


@all_forms
def test_success(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))
    told = outcome.serve(outcome.request())

    assert (told.values, told.code) == (["a,b"], None)


@all_forms
def test_error_of_the_handler(form: Form) -> None:
    error = ConnectError(Code.ABORTED, "try again")
    outcome = Outcome(form, raising(form, error))
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("aborted", "try again")
    assert outcome.recorder.errors == [error]


@all_forms
def test_unexpected_exception_of_the_handler(form: Form) -> None:
    error = KeyError("secret")
    outcome = Outcome(form, raising(form, error))
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("internal", "internal error")
    assert outcome.cause is error


@all_forms
def test_mapped_exception_of_the_handler(form: Form) -> None:
    error = KeyError("secret")
    outcome = Outcome(form, raising(form, error), errors={LookupError: Code.NOT_FOUND})
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("not_found", "not found")
    assert outcome.cause is error


@streams
def test_error_after_a_message(form: Form) -> None:
    error = KeyError("secret")
    outcome = Outcome(form, raising(form, error, after=2))
    told = outcome.serve(outcome.request())

    assert (told.values, told.code) == (["0", "1"], "internal")
    assert outcome.cause is error


@forms_with_a_body
def test_malformed_message(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))

    assert outcome.serve(outcome.request(b"\xff\xff")).code == "invalid_argument"


@pytest.mark.parametrize(
    "query", ["connect=v1&encoding=proto&base64=1&message=!", "connect=v1&encoding=proto"]
)
def test_malformed_query(query: str) -> None:
    outcome = Outcome(Form(UNARY, GET_WIRE), default_handler(Form(UNARY, GET_WIRE)))

    assert outcome.serve(outcome.request(query=query)).code == "invalid_argument"


@all_forms
def test_message_that_is_too_large(form: Form) -> None:
    outcome = Outcome(form, default_handler(form), read_max_bytes=3)

    assert outcome.serve(outcome.request()).code == "resource_exhausted"


@all_forms
def test_malformed_timeout(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))
    name, _ = form.wire.timeout

    assert outcome.serve(outcome.request(headers={name: "soon"})).code == "invalid_argument"


@forms_with_a_body
def test_unknown_compression(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))

    assert outcome.serve(outcome.request(headers={form.wire.encoding: "foo"})).code == "unimplemented"


@all_forms
@pytest.mark.parametrize("result", [None, 5, "text", UninterpretedOption()], ids=_class_name)
def test_response_of_another_type(form: Form, result: Any) -> None:
    def stream(request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield result

    is_stream = form.method.kind is StreamKind.SERVER_STREAM
    outcome = Outcome(form, stream if is_stream else lambda request, ctx: result)
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("internal", "internal error")
    assert isinstance(outcome.cause, TypeError)


@all_forms
def test_response_of_another_type_is_not_for_the_mapping_of_errors(form: Form) -> None:
    outcome = Outcome(form, lambda request, ctx: None, errors={Exception: Code.NOT_FOUND})

    assert outcome.serve(outcome.request()).code == "internal"


@streams
def test_stream_that_is_not_iterable(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    outcome = Outcome(form, lambda request, ctx: None)

    assert outcome.serve(outcome.request()).code == "internal"
    assert "returned None: a server-streaming handler must yield its responses" in str(outcome.cause)


@all_forms
def test_response_that_cannot_be_encoded(form: Form) -> None:
    method: Method[Any, Any] = Method(
        SERVICE,
        form.method.name,
        StringValue,
        UninterpretedOption.NamePart,  # its fields are required
        form.method.kind,
        form.method.idempotency,
    )
    incomplete = UninterpretedOption.NamePart()
    is_stream = form.method.kind is StreamKind.SERVER_STREAM
    outcome = Outcome(
        form, lambda request, ctx: iter([incomplete]) if is_stream else incomplete, method=method
    )
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("internal", "internal error")


@all_forms
def test_response_that_is_too_large_to_send(form: Form) -> None:
    outcome = Outcome(form, default_handler(form), send_max_bytes=4)
    told = outcome.serve(outcome.request())

    assert told.code == "resource_exhausted"
    assert "send_max_bytes" in told.message


@all_forms
def test_deadline_that_passes_in_the_handler(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1001)
        return iter([text()]) if form.method.kind is StreamKind.SERVER_STREAM else text()

    outcome = Outcome(form, handler)

    assert outcome.serve(outcome.request(headers=dict([form.wire.timeout]))).code == "deadline_exceeded"


@forms_with_a_body
def test_client_that_disconnects_within_its_request(form: Form) -> None:
    gone = ConnectError(Code.CANCELED, "gone")
    outcome = Outcome(form, default_handler(form))
    outcome.serve(outcome.request(body=Incoming(b"", gone)))

    assert outcome.recorder.errors == [gone]


@streams
@pytest.mark.parametrize("read_count", [0, 1, 2])
def test_client_that_disconnects_within_its_response(form: Form, read_count: int) -> None:
    outcome = Outcome(form, lambda request, ctx: iter([text("a"), text("b"), text("c")]))
    request = outcome.request()
    chunks = outcome.service(request).body
    iterator = iter(chunks)
    for _ in range(read_count):
        next(iterator)
    close_iterator(iterator)
    close_iterator(chunks)

    outcome.check_end(request, "canceled")
    assert isinstance(outcome.cause, GeneratorExit)


@streams
def test_cleanup_that_fails_after_the_client_disconnected(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    failure = KeyError("in the cleanup")

    def handler(request: Any, ctx: RequestContext) -> Iterator[Any]:
        try:
            yield text()
            yield text()
        finally:
            raise failure

    outcome = Outcome(form, handler)
    request = outcome.request()
    chunks = outcome.service(request).body
    iterator = iter(chunks)
    next(iterator)
    close_iterator(iterator)
    close_iterator(chunks)

    outcome.check_end(request, "canceled")
    assert outcome.cause is failure
    assert [record.getMessage() for record in caplog.records] == [f"{form.method.full_name} failed"]


@all_forms
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), gevent.Timeout(1), GeneratorExit()],
    ids=_class_name,
)
def test_exception_outside_exception_goes_on(form: Form, error: BaseException) -> None:
    outcome = Outcome(form, raising(form, error))
    request = outcome.request()
    with pytest.raises(type(error)) as raised:
        b"".join(outcome.service(request).body)

    assert raised.value is error
    outcome.check_end(request, "internal")
    assert outcome.cause is error


@streams
@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=_class_name)
def test_exception_outside_exception_goes_on_after_a_message(form: Form, error: BaseException) -> None:
    outcome = Outcome(form, raising(form, error, after=1))
    request = outcome.request()
    chunks = iter(outcome.service(request).body)
    next(chunks)
    with pytest.raises(type(error)):
        next(chunks)

    outcome.check_end(request, "internal")
    assert outcome.cause is error


@pytest.mark.parametrize("form", BIDI_FORMS, ids=_id)
def test_bidirectional_method(form: Form) -> None:
    outcome = Outcome(form, None)
    body = Incoming(b"")

    assert outcome.serve(outcome.request(body=body)).code == "unimplemented"
    assert body.read_count == 0


class Intercepting:
    """Raises in place of each kind of call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        raise self._error

    intercept_client_stream = intercept_unary

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        yield next(call_next(request, ctx))
        raise self._error


@all_forms
def test_error_of_an_interceptor(form: Form) -> None:
    error = KeyError("x")
    outcome = Outcome(form, default_handler(form), interceptors=[Intercepting(error)])

    assert outcome.serve(outcome.request()).code == "internal"
    assert outcome.cause is error


class Interrupting(Incoming):
    """A body that a signal interrupts before it is read."""

    def set_deadline(self, deadline: Deadline) -> None:
        raise KeyboardInterrupt


@all_forms
def test_interrupt_before_the_body_is_read(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))
    request = outcome.request(headers=dict([form.wire.timeout]), body=Interrupting(b""))
    with pytest.raises(KeyboardInterrupt):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")


@all_forms
def test_client_that_disconnects_while_the_handler_works(form: Form) -> None:
    outcome = Outcome(form, default_handler(form))
    request = outcome.request()
    body = request.body
    assert isinstance(body, Body)
    body.is_disconnected = lambda: True  # type: ignore[method-assign]

    assert outcome.serve(request).code == "canceled"


@streams
def test_stream_of_a_client_that_disconnected_fails_without_hooks_too(form: Form) -> None:
    outcome = Outcome(form, lambda request, ctx: iter(()))
    service = serve(form.method, lambda request, ctx: iter(()))
    request = outcome.request()
    request.body.is_disconnected = lambda: True  # type: ignore[attr-defined]
    response = service(request)

    assert form.wire.read(response, b"".join(response.body)).code == "canceled"


class Failing(Iterator[Any]):
    """Responses that are interrupted, and cannot be closed either."""

    def __next__(self) -> Any:
        raise KeyboardInterrupt

    def close(self) -> None:
        raise ValueError("in the cleanup")


@streams
@pytest.mark.parametrize("count", [0, 1])
def test_interrupt_is_not_replaced_by_what_the_cleanup_raises(
    form: Form, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = Outcome(form, lambda request, ctx: Failing(), interceptors=[Passing()] * count)
    request = outcome.request()
    with pytest.raises(KeyboardInterrupt):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")
    assert isinstance(outcome.cause, KeyboardInterrupt)
    assert "the cleanup of a stream failed" in caplog.text


class Passing:
    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return call_next(request, ctx)


@all_forms
@pytest.mark.parametrize("error", [KeyboardInterrupt(), gevent.Timeout(1)], ids=_class_name)
def test_mapping_of_errors_that_is_interrupted(form: Form, error: BaseException) -> None:
    def explain(raised: KeyError) -> ConnectError:
        raise error

    outcome = Outcome(form, raising(form, KeyError("x")), errors={KeyError: explain})
    request = outcome.request()
    with pytest.raises(type(error)):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")
    assert outcome.cause is error


@all_forms
def test_unexpected_exception_is_logged_and_mapped_in_the_context_of_the_call(form: Form) -> None:
    seen = []

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(user.get())

    def explain(raised: KeyError) -> ConnectError:
        seen.append(user.get())
        raise raised

    logger = logging.getLogger("connect_sync.server")
    looking = Looking()
    logger.addHandler(looking)
    try:
        outcome = Outcome(form, raising(form, KeyError("x")), errors={KeyError: explain})
        outcome.serve(outcome.request())
    finally:
        logger.removeHandler(looking)

    assert seen == ["jane", "jane"]


class Lazy:
    """Responses whose iterator is made when they are asked for, as that of a query."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        self.seen.append(user.get())
        return iter([text("a")])


@streams
def test_iterator_of_responses_is_made_in_the_context_of_the_call(form: Form) -> None:
    lazy = Lazy()
    outcome = Outcome(form, lambda request, ctx: lazy)
    outcome.serve(outcome.request())

    assert lazy.seen == ["jane"]


@all_forms
def test_error_that_a_subclass_has_left_empty_is_sent(form: Form) -> None:
    class Quiet(ConnectError):
        def __init__(self) -> None:
            """Leave everything as it is."""

    outcome = Outcome(form, raising(form, Quiet()))

    assert outcome.serve(outcome.request()).code == "unknown"


@all_forms
def test_error_of_a_client_call_in_the_handler_keeps_its_code_alone(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    error = UnansweredError(Code.UNAVAILABLE, "cannot connect to 10.0.0.1:8000")
    outcome = Outcome(form, raising(form, error))
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("unavailable", "unavailable")
    assert outcome.cause is error
    assert "cannot connect to 10.0.0.1:8000" in caplog.text


@all_forms
def test_error_that_is_raised_for_many_calls_keeps_nothing_of_them(form: Form) -> None:
    error = ConnectError(Code.ABORTED)
    for _ in range(3):
        outcome = Outcome(form, raising(form, error))
        outcome.serve(outcome.request())

    assert error.__traceback__ is None


# on_start


class Refusing:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def on_start(self, ctx: RequestContext) -> None:
        raise self._error

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        raise AssertionError("its on_start did not return")


@all_forms
@pytest.mark.parametrize(
    "error",
    [ConnectError(Code.UNAUTHENTICATED, "who are you"), KeyError("x")],
    ids=_class_name,
)
def test_refusal_at_the_start_is_the_answer(form: Form, error: Exception) -> None:
    inner = ScopedObserver()
    outcome = Outcome(form, lambda request, ctx: pytest.fail("called"), interceptors=[Refusing(error), inner])
    body = Incoming(b"")
    told = outcome.serve(outcome.request(body=body))

    is_expected = isinstance(error, ConnectError)
    assert told.code == ("unauthenticated" if is_expected else "internal")
    assert outcome.recorder.errors[0] is error if is_expected else outcome.cause is error
    assert (inner.starts, body.read_count) == (0, 0)


@all_forms
@pytest.mark.parametrize("fault", ["timeout", "compression", "message", "size"])
def test_call_is_refused_at_the_start_before_its_faults_are_found(form: Form, fault: str) -> None:
    headers = {
        "timeout": {form.wire.timeout[0]: "soon"},
        "compression": {form.wire.encoding: "foo"},
    }
    outcome = Outcome(
        form, None, interceptors=[Refusing(ConnectError(Code.UNAUTHENTICATED))], read_max_bytes=1
    )
    body = Incoming(b"\xff" * 100)

    assert outcome.serve(outcome.request(headers=headers.get(fault), body=body)).code == "unauthenticated"
    assert body.read_count == 0


@all_forms
def test_interrupt_at_the_start_goes_on(form: Form) -> None:
    error = KeyboardInterrupt()
    outcome = Outcome(form, None, interceptors=[Refusing(error)])
    request = outcome.request()
    with pytest.raises(KeyboardInterrupt):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")
    assert outcome.cause is error


@all_forms
def test_start_comes_before_the_body_is_read(form: Form) -> None:
    body = Incoming(b"")
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append(body.read_count)

    outcome = Outcome(form, default_handler(form), interceptors=[Looking()])
    b"".join(outcome.service(outcome.request(body=body)).body)

    assert seen == [0]


# on_end


class FailingAtTheEnd:
    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.ends: list[ConnectError | None] = []

    def on_start(self, ctx: RequestContext) -> None:
        """Do nothing."""

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        self.ends.append(error)
        raise self._error


@all_forms
@pytest.mark.parametrize("fails_before", [False, True], ids=["after success", "after an error"])
def test_error_at_the_end_takes_the_place_of_the_outcome(form: Form, fails_before: bool) -> None:
    error = ConnectError(Code.DATA_LOSS, "nothing was written down")
    failing = FailingAtTheEnd(error)
    handler = raising(form, ConnectError(Code.ABORTED)) if fails_before else default_handler(form)
    outcome = Outcome(form, handler, interceptors=[failing])
    told = outcome.serve(outcome.request())

    assert (told.code, told.message) == ("data_loss", "nothing was written down")
    assert outcome.recorder.errors == [error]
    assert [end and end.code for end in failing.ends] == [Code.ABORTED if fails_before else None]


@all_forms
def test_unexpected_exception_at_the_end_is_internal(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("x")
    outcome = Outcome(form, default_handler(form), interceptors=[FailingAtTheEnd(error)])

    assert outcome.serve(outcome.request()).code == "internal"
    assert outcome.cause is error
    assert len(caplog.records) == 1


@all_forms
def test_interrupt_at_the_end_goes_on_once_the_others_have_run(form: Form) -> None:
    error = KeyboardInterrupt()
    outcome = Outcome(form, default_handler(form), interceptors=[FailingAtTheEnd(error)])
    request = outcome.request()
    with pytest.raises(KeyboardInterrupt):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")
    assert outcome.cause is error


@streams
def test_error_at_the_end_of_an_abandoned_stream_is_logged(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = Outcome(
        form, lambda request, ctx: iter([text(), text()]), interceptors=[FailingAtTheEnd(KeyError("x"))]
    )
    request = outcome.request()
    chunks = outcome.service(request).body
    iterator = iter(chunks)
    next(iterator)
    close_iterator(iterator)
    close_iterator(chunks)

    outcome.check_end(request, "canceled")
    assert [record.getMessage() for record in caplog.records] == [
        "FailingAtTheEnd.on_end failed after the outcome of its call was told"
    ]


@all_forms
def test_error_at_the_end_of_an_interrupted_call_is_logged(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = Outcome(form, raising(form, KeyboardInterrupt()), interceptors=[FailingAtTheEnd(KeyError("x"))])
    request = outcome.request()
    with pytest.raises(KeyboardInterrupt):
        b"".join(outcome.service(request).body)

    outcome.check_end(request, "internal")
    assert [record.getMessage() for record in caplog.records] == [
        "FailingAtTheEnd.on_end failed after the outcome of its call was told"
    ]


# The context of a call


@all_forms
def test_context_variable_of_a_handler_ends_with_the_call(form: Form) -> None:
    def set_user(request: Any, ctx: RequestContext) -> Any:
        user.set("somebody else")
        return text()

    def stream(request: Any, ctx: RequestContext) -> Iterator[Any]:
        user.set("somebody else")
        yield text()
        assert user.get() == "somebody else"

    class Watching:
        def on_start(self, ctx: RequestContext) -> None:
            """Do nothing."""

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append(user.get())

    seen: list[str] = []
    is_stream = form.method.kind is StreamKind.SERVER_STREAM
    outcome = Outcome(form, stream if is_stream else set_user, recorder=Watching())
    chunks = outcome.service(outcome.request()).body
    for _ in chunks:
        assert user.get() == "nobody"

    assert (seen, user.get()) == (["somebody else"], "nobody")
