"""The errors of an application: what its mapping makes of exceptions, and where they may come from."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from typing import Any, ClassVar
from wsgiref.util import setup_testing_defaults

import pytest
from google.protobuf.duration_pb2 import Duration

from connect_sync import Code, ConnectError, ErrorMapping, Headers, Method, ProtocolType, RequestContext
from connect_sync.errors import ContractError, TooLargeError
from connect_sync.http import Request
from connect_sync.protocols.grpc import decode_status
from connect_sync.server import Service
from connect_sync.server.errors import ErrorMapper
from tests.support import (
    CLIENT_STREAM,
    READ,
    SERVER_STREAM,
    UNARY,
    Handler,
    TextMethod,
    ask,
    envelope,
    error_of,
    failing,
    in_memory,
    run_wsgi,
    serve,
    text,
)
from wsgi_adapters import ConnectWSGIApplication

SECRET = "the secret of the handler"


def to_error(errors: ErrorMapping, error: BaseException) -> ConnectError:
    return ErrorMapper(errors).to_connect_error(error, UNARY)


def assert_internal(error: ConnectError, cause: BaseException | None) -> None:
    assert (error.code, error.message, error.details) == (Code.INTERNAL, "internal error", ())
    assert error.__cause__ is cause


# What is mapped


def test_connect_error_is_sent_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = TooLargeError(1)

    assert to_error({Exception: Code.NOT_FOUND}, error) is error
    assert error.__cause__ is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("code", "message"),
    [(Code.NOT_FOUND, "not found"), (Code.ABORTED, "aborted"), (Code.DEADLINE_EXCEEDED, "deadline exceeded")],
)
def test_code_is_told_in_words_and_never_in_those_of_the_exception(
    code: Code, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    raised = KeyError(SECRET)

    error = to_error({KeyError: code}, raised)

    assert (error.code, error.message, error.details) == (code, message, ())
    assert error.__cause__ is raised
    assert caplog.records == []


class BothError(PermissionError, KeyError):
    """An exception with two lines of bases."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError(), Code.NOT_FOUND),
        (IndexError(), Code.OUT_OF_RANGE),
        (FileNotFoundError(), Code.UNAVAILABLE),
        (BothError(), Code.UNAVAILABLE),
        (ValueError(), Code.DATA_LOSS),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("order", [1, -1], ids=["base first", "base last"])
def test_nearest_class_in_the_mro_decides(error: Exception, code: Code, order: int) -> None:
    errors: list[tuple[type[Exception], Code]] = [
        (Exception, Code.DATA_LOSS),
        (OSError, Code.UNAVAILABLE),
        (LookupError, Code.OUT_OF_RANGE),
        (KeyError, Code.NOT_FOUND),
    ]
    assert to_error(dict(errors[::order]), error).code is code


def test_mapping_is_taken_as_it_was_when_the_service_was_made() -> None:
    errors: dict[type[Exception], Code] = {KeyError: Code.NOT_FOUND}
    mapper = ErrorMapper(errors)
    errors.clear()

    assert mapper.to_connect_error(KeyError(), UNARY).code is Code.NOT_FOUND


# Functions


def test_function_makes_the_error_from_the_exception(caplog: pytest.LogCaptureFixture) -> None:
    def explain(error: KeyError) -> ConnectError:
        return ConnectError(Code.NOT_FOUND, f"no {error.args[0]}", [Duration(seconds=1)])

    raised = KeyError("pet")
    error = to_error({KeyError: explain}, raised)

    assert (error.code, error.message) == (Code.NOT_FOUND, "no pet")
    assert error.details[0].value(Duration).seconds == 1
    assert error.__cause__ is raised
    assert caplog.records == []


def test_cause_that_a_function_has_set_stays() -> None:
    cause = OSError()

    def explain(error: KeyError) -> ConnectError:
        mapped = ConnectError(Code.UNAVAILABLE)
        mapped.__cause__ = cause
        return mapped

    assert to_error({KeyError: explain}, KeyError()).__cause__ is cause


def test_connect_error_that_a_function_raises_is_the_error(caplog: pytest.LogCaptureFixture) -> None:
    raised = KeyError()

    error = to_error({KeyError: raiser(ConnectError(Code.NOT_FOUND, "no pet"))}, raised)

    assert (error.code, error.message, error.__cause__) == (Code.NOT_FOUND, "no pet", raised)
    assert caplog.records == []


def test_exception_that_a_function_raises_again_stays_unmapped(caplog: pytest.LogCaptureFixture) -> None:
    def explain(error: KeyError) -> ConnectError:
        raise error

    raised = raise_and_catch(KeyError(SECRET))
    assert_internal(to_error({KeyError: explain}, raised), raised)

    assert raised.__context__ is None
    assert_logged(caplog, raised)
    assert "raise_and_catch" in caplog.text
    assert "explain" not in caplog.text


@pytest.mark.parametrize("has_context", [False, True], ids=["alone", "while another is handled"])
def test_function_that_fails_is_the_cause(has_context: bool, caplog: pytest.LogCaptureFixture) -> None:
    failure = ZeroDivisionError(SECRET)
    if has_context:
        failure.__context__ = OSError()
    context = failure.__context__

    raised = KeyError()
    assert_internal(to_error({KeyError: raiser(failure)}, raised), failure)

    assert failure.__context__ is (context or raised)
    assert_logged(caplog, failure)


@pytest.mark.parametrize("result", [None, Code.NOT_FOUND, ValueError()], ids=repr)
def test_function_that_returns_something_else_is_a_fault(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def explain(error: KeyError) -> Any:
        return result

    raised = KeyError()
    error = to_error({KeyError: explain}, raised)

    assert_internal(error, error.__cause__)
    assert isinstance(error.__cause__, TypeError)
    assert error.__cause__.__context__ is raised
    assert_logged(caplog, error.__cause__)
    assert f"must return a ConnectError, got {result!r}" in caplog.text


def test_what_is_not_an_exception_leaves_a_function(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        to_error({KeyError: raiser(KeyboardInterrupt())}, KeyError())


# What is not mapped


@pytest.mark.parametrize("errors", [{}, {KeyError: Code.NOT_FOUND}], ids=["no mapping", "another class"])
def test_unmapped_exception_is_internal_and_logged(
    errors: ErrorMapping, caplog: pytest.LogCaptureFixture
) -> None:
    raised = raise_and_catch(ValueError(SECRET))

    assert_internal(to_error(errors, raised), raised)
    assert_logged(caplog, raised)
    assert SECRET in caplog.text


@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), GeneratorExit()], ids=repr
)
def test_what_is_not_an_exception_is_internal_and_the_servers_to_report(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert_internal(to_error({Exception: Code.NOT_FOUND}, raised), raised)
    assert caplog.records == []


def test_response_that_cannot_be_sent_is_internal_whatever_is_mapped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    raised = ContractError("expected a StringValue, got None")

    assert_internal(to_error({Exception: Code.NOT_FOUND}, raised), raised)
    assert_logged(caplog, raised)


# What is refused


async def explain_later(error: Exception) -> ConnectError:
    raise AssertionError


def explain_often(error: Exception) -> Iterator[ConnectError]:
    yield ConnectError(Code.NOT_FOUND)


class AsyncFunction:
    async def __call__(self, error: Exception) -> ConnectError:
        raise AssertionError


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([(KeyError, Code.NOT_FOUND)], "must be a mapping of exception classes, got \\["),
        ({KeyError("a"): Code.NOT_FOUND}, "must be classes derived from Exception, got KeyError\\('a'\\)"),
        ({"KeyError": Code.NOT_FOUND}, "must be classes derived from Exception, got 'KeyError'"),
        ({(KeyError, ValueError): Code.NOT_FOUND}, "must be classes derived from Exception, got \\("),
        ({str: Code.NOT_FOUND}, "must be classes derived from Exception, got <class 'str'>"),
        ({KeyboardInterrupt: Code.ABORTED}, "KeyboardInterrupt'>: exceptions outside Exception always"),
        ({asyncio.CancelledError: Code.CANCELED}, "CancelledError'>: exceptions outside Exception always"),
        ({BaseException: Code.UNKNOWN}, "BaseException'>: exceptions outside Exception always propagate"),
        ({ConnectError: Code.UNKNOWN}, "must not map .*: a ConnectError is sent as it is"),
        ({TooLargeError: Code.UNKNOWN}, "must not map .*: a ConnectError is sent as it is"),
        ({KeyError: "not_found"}, "errors\\[KeyError\\] must be a Code, such as .*, got 'not_found'"),
        ({KeyError: 404}, "errors\\[KeyError\\] must be a Code, .* or a function .*, got 404"),
        ({KeyError: None}, "errors\\[KeyError\\] must be a Code, .* or a function .*, got None"),
        ({KeyError: ConnectError(Code.NOT_FOUND)}, "a function of the exception that returns a ConnectError"),
        ({KeyError: ConnectError}, "a function of the exception that returns a ConnectError, got <class"),
        ({KeyError: ValueError}, "a function of the exception that returns a ConnectError, got <class"),
        ({KeyError: explain_later}, "returns a ConnectError: <function explain_later .*> is async"),
        ({KeyError: partial(explain_later)}, "is async"),
        ({KeyError: AsyncFunction()}, "is async"),
        ({KeyError: explain_often}, "<function explain_often .*> is a generator"),
        ({KeyError: lambda: ConnectError(Code.NOT_FOUND)}, "does not take the exception alone: too many"),
        ({KeyError: lambda error, ctx: None}, "does not take the exception alone: missing .* 'ctx'"),
    ],
)
def test_mapping_that_could_not_work_is_refused(errors: Any, message: str) -> None:
    for make in (ErrorMapper, partial(serve_errors, UNARY), serve(UNARY).with_errors):
        with pytest.raises(TypeError, match=message):
            make(errors)


def serve_errors(method: TextMethod, errors: ErrorMapping) -> Service:
    return serve(method, errors=errors)


class PetError(ConnectError):
    def __init__(self, error: Exception) -> None:
        super().__init__(Code.NOT_FOUND, f"no pet: {error.args[0]}")


class Explainer:
    def explain(self, error: Exception, prefix: str = "no pet") -> ConnectError:
        return ConnectError(Code.NOT_FOUND, f"{prefix}: {error.args[0]}")

    __call__ = explain


@pytest.mark.parametrize(
    "function",
    [
        PetError,
        Explainer(),
        Explainer().explain,
        partial(Explainer().explain, prefix="no pet"),
        lambda error: PetError(error),
    ],
    ids=["class of errors", "object", "method", "partial", "lambda"],
)
def test_function_may_be_whatever_is_called_with_the_exception(
    function: Callable[[Any], ConnectError],
) -> None:
    error = to_error({KeyError: function}, KeyError("Rex"))
    assert (error.code, error.message) == (Code.NOT_FOUND, "no pet: Rex")


# Calls

METHODS = [UNARY, READ, CLIENT_STREAM, SERVER_STREAM]
all_methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
all_protocols = pytest.mark.parametrize("protocol", ["connect", "grpc-web", "grpc"])
ERRORS: ErrorMapping = {KeyError: Code.NOT_FOUND}


def call(protocol: str, service: Service, method: TextMethod) -> ConnectError | None:
    """Return the error of a call, as its client has it."""
    if protocol == "grpc":
        headers = Headers({"content-type": "application/grpc"})
        response = service(Request("POST", method.path, headers, (envelope(b""),), accepts_trailers=True))
        assert SECRET.encode() not in b"".join(response.body)
        assert response.trailers is not None
        return decode_status(response.trailers)[0]
    client = in_memory(service, protocol=ProtocolType(protocol))
    if method is READ and protocol == "connect":
        return error_of(lambda: client.call_unary(READ, text(), use_get=True))
    calls: dict[TextMethod, Callable[[], object]] = {
        CLIENT_STREAM: lambda: client.call_client_stream(method, [text()]),
        SERVER_STREAM: lambda: list(client.call_server_stream(method, text())),
    }
    return error_of(calls.get(method, lambda: client.call_unary(method, text())))


def assert_not_found(error: ConnectError | None) -> None:
    assert error is not None
    assert (error.code, error.message) == (Code.NOT_FOUND, "not found")


@all_methods
@all_protocols
def test_client_is_told_what_is_mapped(
    method: TextMethod, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_not_found(call(protocol, serve(method, failing(KeyError(SECRET)), errors=ERRORS), method))
    assert caplog.records == []


@all_methods
@all_protocols
def test_client_is_not_told_what_is_not_mapped(
    method: TextMethod, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = call(protocol, serve(method, failing(ValueError(SECRET)), errors=ERRORS), method)

    assert error is not None
    assert (error.code, error.message) == (Code.INTERNAL, "internal error")
    (record,) = caplog.records
    assert record.getMessage() == f"{method.full_name} failed"


def failing_after(*values: str) -> Handler:
    """Return a handler that streams ``values``, and fails then."""

    def handle(request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield from map(text, values)
        raise KeyError(SECRET)

    return handle


def failing_in_cleanup(request: Any, ctx: RequestContext) -> Iterator[Any]:
    try:
        yield from map(text, "ab")
    finally:
        raise KeyError(SECRET)


@all_protocols
@pytest.mark.parametrize(
    "handler",
    [failing_after(), failing_after("a"), failing_after("a", "b"), failing_in_cleanup],
    ids=["before the first message", "after the first message", "after the last message", "in its cleanup"],
)
def test_stream_may_fail_anywhere(protocol: str, handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    assert_not_found(call(protocol, serve(SERVER_STREAM, handler, errors=ERRORS), SERVER_STREAM))
    assert caplog.records == []


def test_messages_before_the_error_of_a_stream_are_sent() -> None:
    answer = ask(serve(SERVER_STREAM, failing_after("a", "b"), errors=ERRORS), SERVER_STREAM)

    assert answer.texts == ["a", "b"]
    assert answer.end["error"] == {"code": "not_found", "message": "not found"}


class Failing:
    """An interceptor that fails where it is told to."""

    def __init__(self, place: str) -> None:
        self._place = place

    def on_start(self, ctx: RequestContext) -> None:
        self._fail("on_start")

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        self._fail("on_end")

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        self._fail("before")
        response = call_next(request, ctx)
        self._fail("after")
        return response

    intercept_client_stream = intercept_unary

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        self._fail("before")
        yield from call_next(request, ctx)
        self._fail("after")

    def _fail(self, place: str) -> None:
        if place == self._place:
            raise KeyError(SECRET)


@all_methods
@all_protocols
@pytest.mark.parametrize("place", ["on_start", "before", "after", "on_end"])
def test_interceptor_may_fail_anywhere(
    method: TextMethod, protocol: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(method, interceptors=[Failing(place)], errors=ERRORS)

    assert_not_found(call(protocol, service, method))
    assert caplog.records == []


def test_interceptor_sees_the_exception_of_the_handler() -> None:
    class Seeing:
        seen: ClassVar[list[Exception]] = []

        def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
            try:
                return call_next(request, ctx)
            except KeyError as error:
                self.seen.append(error)
                raise

    raised = KeyError()
    assert_not_found(
        call("connect", serve(UNARY, failing(raised), interceptors=[Seeing()], errors=ERRORS), UNARY)
    )
    assert Seeing.seen == [raised]


# Services and applications


def code_of(service: Service, method: TextMethod = UNARY) -> str | None:
    return ask(service, method).code


@all_methods
def test_service_with_other_errors_leaves_the_first_as_it_was(method: TextMethod) -> None:
    first = serve(method, failing(KeyError()), errors=ERRORS)
    other = first.with_errors({KeyError: Code.ABORTED})

    assert (code_of(first, method), code_of(other, method)) == ("not_found", "aborted")


class Unit(ConnectWSGIApplication[object]):
    path = f"/{UNARY.service}"
    methods: ClassVar[Mapping[str, Method[Any, Any]]] = {"unary": UNARY, "expand": SERVER_STREAM}


class Handlers:
    unary = staticmethod(failing(KeyError(SECRET)))
    expand = staticmethod(failing_after("a"))


def test_application_maps_nothing_by_default(caplog: pytest.LogCaptureFixture) -> None:
    assert code_of(Unit(Handlers()).service) == "internal"
    assert code_of(Unit(Handlers(), errors=ERRORS).service) == "not_found"


def test_defaults_of_a_site_are_for_applications_without_a_mapping() -> None:
    without = Unit(Handlers())
    with_none = Unit(Handlers(), errors={})
    defaults: ErrorMapping = {KeyError: Code.ABORTED}

    mapped = without._with_default_errors(defaults)
    assert isinstance(mapped, Unit)
    assert code_of(mapped.service) == "aborted"
    assert code_of(without.service) == "internal"
    assert with_none._with_default_errors(defaults) is with_none


def test_environ_has_the_mapped_error_with_its_cause() -> None:
    application = Unit(Handlers(), errors=ERRORS)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": UNARY.path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "wsgi.input": BytesIO(b'""'),
    }
    setup_testing_defaults(environ)

    status, _, body = run_wsgi(application, environ)

    assert (status, json.loads(body)) == ("404 Not Found", {"code": "not_found", "message": "not found"})
    error = environ["connect_sync.error"]
    assert isinstance(error, ConnectError)
    assert isinstance(error.__cause__, KeyError)


# What the tests share


def raiser(error: BaseException) -> Callable[[Any], ConnectError]:
    def function(_: Exception) -> ConnectError:
        raise error

    return function


def raise_and_catch(error: Exception) -> Exception:
    """Return ``error`` with a traceback, as a handler's has one."""
    try:
        raise error
    except type(error) as raised:
        return raised


def assert_logged(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("connect_sync.server", logging.ERROR)
    assert record.getMessage() == f"{UNARY.full_name} failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
