from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from connect_sync import (
    Code,
    ConnectError,
    ContextKey,
    RequestContext,
    ResponseMetadata,
    ResponseStream,
    StreamKind,
)
from connect_sync.http import close_iterator
from connect_sync.interceptor import Interceptor, Interceptors
from tests.support import (
    CLIENT_STREAM,
    DEFAULT_HANDLERS,
    SERVER_STREAM,
    UNARY,
    Clock,
    Handler,
    Observer,
    Relay,
    TextMethod,
    ask,
    error_of,
    failing,
    in_memory,
    post,
    serve,
    text,
)

SIDES = pytest.mark.parametrize("side", ["server", "client"])
KINDS = pytest.mark.parametrize(
    "method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=["unary", "client stream", "server stream"]
)


def call(
    side: str, method: TextMethod, interceptors: list[Any], handler: Handler | None = None, value: str = "a,b"
) -> list[str]:
    """Call ``method`` with the interceptors on one side, and return the values of its responses."""
    service = serve(method, handler, interceptors=interceptors if side == "server" else ())
    client = in_memory(service, interceptors=interceptors if side == "client" else ())
    if method.kind is StreamKind.UNARY:
        return [client.call_unary(method, text(value)).value]
    if method.kind is StreamKind.CLIENT_STREAM:
        return [client.call_client_stream(method, map(text, value.split(","))).value]
    return [message.value for message in client.call_server_stream(method, text(value))]


def open_stream(side: str, interceptors: list[Any], handler: Handler | None = None) -> ResponseStream[Any]:
    """Call a server-streaming method with the interceptors on one side."""
    service = serve(SERVER_STREAM, handler, interceptors=interceptors if side == "server" else ())
    client = in_memory(service, interceptors=interceptors if side == "client" else ())
    return client.call_server_stream(SERVER_STREAM, text("a,b"))


class Recorder:
    """An interceptor of every kind, which writes a log."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def _intercept(
        self, call_next: Callable[[Any, RequestContext], Any], request: Any, ctx: RequestContext
    ) -> Any:
        self._log.append(f"{self._name}>")
        response = call_next(request, ctx)
        self._log.append(f"<{self._name}")
        return response

    intercept_unary = intercept_client_stream = _intercept

    def intercept_server_stream(
        self, call_next: Callable[[Any, RequestContext], Any], request: Any, ctx: RequestContext
    ) -> Iterator[Any]:
        self._log.append(f"{self._name}>")
        yield from call_next(request, ctx)
        self._log.append(f"<{self._name}")

    def on_start(self, ctx: RequestContext) -> None:
        self._log.append(f"{self._name} starts")

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        self._log.append(f"{self._name} ends")


# What is an interceptor


def check(interceptors: Iterable[Any]) -> None:
    Interceptors(interceptors, RequestContext)


def has_unary(self: object, call_next: Any, request: Any, ctx: RequestContext) -> Any:
    return call_next(request, ctx)


def has_start(self: object, ctx: RequestContext) -> None:
    """Do nothing."""


def has_end(self: object, token: Any, ctx: RequestContext, error: ConnectError | None) -> None:
    """Do nothing."""


FUNCTIONS = {
    "intercept_unary": has_unary,
    "intercept_client_stream": has_unary,
    "intercept_server_stream": has_unary,
    "on_start": has_start,
    "on_end": has_end,
}


def make(names: Iterable[str], **functions: Any) -> Any:
    """Return an object of the class ``Some`` with the methods of these names, and those given."""
    return type("Some", (), {**{name: FUNCTIONS[name] for name in names}, **functions})()


@pytest.mark.parametrize(
    "methods",
    [
        ["intercept_unary"],
        ["intercept_client_stream"],
        ["intercept_server_stream"],
        ["on_start"],
        ["on_start", "on_end"],
        ["intercept_unary", "intercept_server_stream", "on_start", "on_end"],
    ],
    ids=" ".join,
)
def test_any_of_the_methods_make_an_interceptor(methods: list[str]) -> None:
    interceptor = make(methods)

    check([interceptor])


@pytest.mark.parametrize("interceptor", [object(), None, "intercept_unary", lambda request: request])
def test_object_without_any_of_the_methods_is_refused(interceptor: Any) -> None:
    with pytest.raises(TypeError, match="is not an interceptor: it needs one of intercept_unary, "):
        check([interceptor])


@pytest.mark.parametrize("methods", [["intercept_unary", "on_end"], ["on_end"]], ids=" ".join)
def test_on_end_needs_an_on_start(methods: list[str]) -> None:
    with pytest.raises(TypeError, match="Some has on_end but no on_start: write both, or on_start alone"):
        check([make(methods)])


def test_class_in_place_of_an_instance_is_refused() -> None:
    interceptor: Any = Observer

    with pytest.raises(TypeError, match="interceptors must be instances, got the class Observer"):
        check([interceptor])


def test_single_interceptor_in_place_of_a_list_is_refused() -> None:
    interceptors: Any = Observer()

    with pytest.raises(TypeError, match="interceptors must be a list of interceptors, got "):
        check(interceptors)


async def coroutine(*arguments: Any) -> None:
    """Do nothing."""


async def async_generator(*arguments: Any) -> Any:
    yield


def generator(*arguments: Any) -> Any:
    yield


every_method = pytest.mark.parametrize("name", FUNCTIONS)


@every_method
@pytest.mark.parametrize("function", [coroutine, async_generator])
def test_async_method_is_refused(name: str, function: Any) -> None:
    with pytest.raises(TypeError, match=f"Some.{name} is async: write a plain function, with def"):
        check([make(["on_start"], **{name: function})])


@every_method
def test_generator_is_refused_but_where_a_stream_is_returned(name: str) -> None:
    interceptor = make(["on_start"], **{name: generator})

    if name == "intercept_server_stream":
        check([interceptor])
    else:
        with pytest.raises(
            TypeError, match=f"Some.{name} is a generator: return a value instead of yielding"
        ):
            check([interceptor])


@every_method
def test_method_of_other_arguments_is_refused(name: str) -> None:
    expected = {
        "on_start": "(ctx)",
        "on_end": "(token, ctx, error)",
    }.get(name, "(call_next, request, ctx)")

    with pytest.raises(TypeError, match=re.escape(f"Some.{name} must take {expected}: ")):
        check([make(["on_start"], **{name: lambda self: None})])


@every_method
def test_attribute_that_is_not_a_method_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"Some.{name} must be a function, got None"):
        check([make(["on_start"], **{name: None})])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_begin", "on_start"),
        ("on_started", "on_start"),
        ("onStart", "on_start"),
        ("on_strat", "on_start"),
        ("on_finish", "on_end"),
        ("on_error", "on_end"),
        ("OnEnd", "on_end"),
        ("on_ended", "on_end"),
        ("intercept_unary_sync", "intercept_unary"),
        ("intercept_unary_async", "intercept_unary"),
        ("intercept_unary_unary", "intercept_unary"),
        ("intercept_stream_unary", "intercept_client_stream"),
        ("intercept_unary_stream", "intercept_server_stream"),
        ("interceptUnary", "intercept_unary"),
        ("intercept_client_streaming", "intercept_client_stream"),
        ("intercept_server_stream_sync", "intercept_server_stream"),
        ("intercept_bidi_stream", "intercept_client_stream and intercept_server_stream"),
    ],
)
def test_name_that_is_nearly_that_of_a_method_is_refused(name: str, meant: str) -> None:
    expected = f"Some.{name} would never be called: name it {meant}"

    with pytest.raises(TypeError, match=expected):
        check([make(["on_start"], **{name: lambda *arguments: None})])


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_near_name_of_a_method_without_an_instance_is_refused(wrap: Any) -> None:
    with pytest.raises(TypeError, match=r"Some\.on_begin would never be called"):
        check([make(["on_start"], on_begin=wrap(lambda *arguments: None))])


def test_similar_name_of_a_method_with_other_arguments_is_left_alone() -> None:
    check([make(["on_start"], on_startup=lambda self: None)])


@pytest.mark.parametrize(
    ("name", "function", "place"),
    [
        ("on_end", lambda self, token, error, ctx: None, "'ctx' is in another place"),
        ("intercept_unary", lambda self, request, ctx, call_next: None, "'call_next' is in another place"),
    ],
)
def test_arguments_in_another_order_are_refused(name: str, function: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        check([make(["on_start"], **{name: function})])


@pytest.mark.parametrize(
    "name", ["_on_begin", "once", "count", "start", "end", "on_message", "users", "intercepted"]
)
def test_other_names_are_left_alone(name: str) -> None:
    interceptor = make(["on_start"], **{name: has_start})

    check([interceptor])


def test_attribute_of_a_near_name_that_is_not_callable_is_left_alone() -> None:
    interceptor = make(["on_start"], on_begin="a setting")

    check([interceptor])


def test_properties_are_not_run_by_the_check() -> None:
    interceptor = make(["on_start"], on_begin=property(lambda self: pytest.fail("run")))

    check([interceptor])


@SIDES
def test_interceptors_are_checked_when_their_side_is_built(side: str) -> None:
    service = serve(UNARY)
    options: dict[str, Any] = {"interceptors": [object()]}

    with pytest.raises(TypeError, match="is not an interceptor"):
        serve(UNARY, **options) if side == "server" else in_memory(service, **options)


# Around the call


@SIDES
@KINDS
def test_first_interceptor_is_the_outermost(side: str, method: TextMethod) -> None:
    log: list[str] = []
    call(side, method, [Recorder("a", log), Recorder("b", log)])

    assert log == ["a starts", "b starts", "a>", "b>", "<b", "<a", "b ends", "a ends"]


@SIDES
@KINDS
def test_interceptor_of_other_kinds_is_passed_by(side: str, method: TextMethod) -> None:
    kinds = {"intercept_unary", "intercept_client_stream", "intercept_server_stream"}
    own = {
        StreamKind.UNARY: "intercept_unary",
        StreamKind.CLIENT_STREAM: "intercept_client_stream",
        StreamKind.SERVER_STREAM: "intercept_server_stream",
    }[method.kind]
    others = make([], **dict.fromkeys(kinds - {own}, lambda *arguments: pytest.fail("called")))

    assert call(side, method, [others]) == call(side, method, [])


class Replacing:
    """Changes what goes in and what comes out."""

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return text(call_next(text(f"{request.value}+in"), ctx).value + "+out")

    def intercept_client_stream(self, call_next: Any, request: Iterator[Any], ctx: RequestContext) -> Any:
        response = call_next((text(f"{message.value}+in") for message in request), ctx)
        return text(f"{response.value}+out")

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        for message in call_next(text(f"{request.value}+in"), ctx):
            yield text(f"{message.value}+out")


@SIDES
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (UNARY, ["a,b+in+out"]),
        (CLIENT_STREAM, ["a+in,b+in+out"]),
        (SERVER_STREAM, ["a+out", "b+in+out"]),
    ],
    ids=["unary", "client stream", "server stream"],
)
def test_interceptor_may_change_requests_and_responses(
    side: str, method: TextMethod, expected: list[str]
) -> None:
    assert call(side, method, [Replacing()]) == expected


class Answering:
    """Answers in place of the handler."""

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return text("mine")

    intercept_client_stream = intercept_unary

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        return iter([text("mine"), text("too")])


@SIDES
@pytest.mark.parametrize(
    ("method", "expected"),
    [(UNARY, ["mine"]), (CLIENT_STREAM, ["mine"]), (SERVER_STREAM, ["mine", "too"])],
    ids=["unary", "client stream", "server stream"],
)
def test_interceptor_may_answer_without_the_rest_of_the_call(
    side: str, method: TextMethod, expected: list[str]
) -> None:
    assert call(side, method, [Answering()], failing(AssertionError("called"))) == expected


class Raising:
    """Ends every call by an error."""

    def _intercept(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        raise ConnectError(Code.PERMISSION_DENIED, "not you")

    intercept_unary = intercept_client_stream = intercept_server_stream = _intercept


@SIDES
@KINDS
def test_interceptor_may_end_the_call_by_an_error(side: str, method: TextMethod) -> None:
    with pytest.raises(ConnectError, match="permission_denied: not you"):
        call(side, method, [Raising()])


class Catching:
    """Turns the error of a call into another."""

    def _intercept(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        try:
            return call_next(request, ctx)
        except ConnectError as error:
            raise ConnectError(Code.UNAVAILABLE, f"was {error.code.value}") from error

    intercept_unary = intercept_client_stream = _intercept

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        try:
            yield from call_next(request, ctx)
        except ConnectError as error:
            raise ConnectError(Code.UNAVAILABLE, f"was {error.code.value}") from error


@SIDES
@KINDS
def test_interceptor_sees_the_error_of_the_call(side: str, method: TextMethod) -> None:
    with pytest.raises(ConnectError, match="unavailable: was aborted"):
        call(side, method, [Catching()], failing(ConnectError(Code.ABORTED)))


class Retrying:
    """Makes a call again that has failed."""

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        try:
            return call_next(request, ctx)
        except ConnectError:
            return call_next(request, ctx)


@SIDES
def test_interceptor_may_make_the_call_again(side: str) -> None:
    calls = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        calls.append(ctx.request_headers().get_all("tag"))
        if len(calls) == 1:
            raise ConnectError(Code.UNAVAILABLE)
        return request

    service = serve(UNARY, handler, interceptors=[Retrying()] if side == "server" else ())
    client = in_memory(service, interceptors=[Retrying()] if side == "client" else ())
    client.call_unary(UNARY, text(), headers={"tag": "1"})

    assert calls == [["1"], ["1"]]


@SIDES
@KINDS
def test_interceptor_knows_the_method(side: str, method: TextMethod) -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            seen.append(ctx.method())

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append(ctx.method())

    call(side, method, [Looking()])

    assert seen == [method, method]


@KINDS
def test_metadata_that_a_client_interceptor_adds_reaches_the_handler(method: TextMethod) -> None:
    class Signing:
        def on_start(self, ctx: RequestContext) -> None:
            ctx.request_headers()["authorization"] = "Bearer x"

    seen = []
    handler = DEFAULT_HANDLERS[method.kind]

    def looking(request: Any, ctx: RequestContext) -> Any:
        seen.append(ctx.request_headers()["authorization"])
        return handler(request, ctx)

    call("client", method, [Signing()], looking)

    assert seen == ["Bearer x"]


@KINDS
def test_metadata_that_a_server_interceptor_adds_at_the_start_reaches_the_client(method: TextMethod) -> None:
    class Marking:
        def on_start(self, ctx: RequestContext) -> None:
            ctx.response_headers()["mark"] = "leading"
            ctx.response_trailers()["mark"] = "trailing"

    with ResponseMetadata() as metadata:
        call("server", method, [Marking()])

    assert (metadata.headers()["mark"], metadata.trailers()["mark"]) == ("leading", "trailing")


@KINDS
def test_trailing_metadata_that_a_server_interceptor_adds_at_the_end_reaches_the_client(
    method: TextMethod,
) -> None:
    class Timing:
        def on_start(self, ctx: RequestContext) -> None:
            """Do nothing."""

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            ctx.response_trailers()["took"] = "5"

    with ResponseMetadata() as metadata:
        call("server", method, [Timing()])

    assert metadata.trailers()["took"] == "5"


@KINDS
def test_client_interceptor_sees_the_metadata_of_the_response_at_the_end(method: TextMethod) -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None:
            """Do nothing."""

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append((ctx.response_headers()["mark"], ctx.response_trailers()["mark"]))

    class Marking:
        def on_start(self, ctx: RequestContext) -> None:
            ctx.response_headers()["mark"] = "leading"
            ctx.response_trailers()["mark"] = "trailing"

    client = in_memory(serve(method, interceptors=[Marking()]), interceptors=[Looking()])
    if method is UNARY:
        client.call_unary(method, text())
    elif method is CLIENT_STREAM:
        client.call_client_stream(method, [text()])
    else:
        list(client.call_server_stream(method, text()))

    assert seen == [("leading", "trailing")]


# The beginning and the end of a call: each is told once, however the call ends


@SIDES
@KINDS
def test_end_of_a_successful_call_is_told_once(side: str, method: TextMethod) -> None:
    observer = Observer()
    call(side, method, [observer])

    assert (observer.starts, observer.errors) == (1, [None])


@SIDES
@KINDS
def test_end_of_a_failed_call_is_told_once(side: str, method: TextMethod) -> None:
    observer = Observer()
    with pytest.raises(ConnectError):
        call(side, method, [observer], failing(ConnectError(Code.ABORTED)))

    assert (observer.starts, observer.codes) == (1, [Code.ABORTED])


@KINDS
def test_client_observer_is_told_the_error_that_the_server_made_of_it(method: TextMethod) -> None:
    observer = Observer()
    with pytest.raises(ConnectError):
        call("client", method, [observer], failing(KeyError("x")))

    assert observer.codes == [Code.INTERNAL]


@SIDES
def test_end_of_an_empty_stream_is_told_once(side: str) -> None:
    observer = Observer()
    call(side, SERVER_STREAM, [observer], lambda request, ctx: iter(()))

    assert (observer.starts, observer.errors) == (1, [None])


@SIDES
def test_end_of_a_stream_that_fails_after_a_message_is_told_once(side: str) -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield request
        raise ConnectError(Code.ABORTED)

    observer = Observer()
    with pytest.raises(ConnectError):
        call(side, SERVER_STREAM, [observer], handler)

    assert (observer.starts, observer.codes) == (1, [Code.ABORTED])


@SIDES
@pytest.mark.parametrize("types", [[], [Relay]], ids=["alone", "inside a generator"])
@pytest.mark.parametrize("read_count", [0, 1])
def test_end_of_a_stream_that_is_closed_early_is_told_once(
    side: str, read_count: int, types: list[type[Relay]]
) -> None:
    observer = Observer()
    stream = open_stream(side, [*(make() for make in types), observer])
    for _ in range(read_count):
        next(stream)
    stream.close()
    stream.close()

    assert (observer.starts, observer.codes) == (1, [Code.CANCELED])


@SIDES
@pytest.mark.parametrize("read_count", [0, 1])
def test_beginning_of_a_stream_that_is_closed_early_is_told_without_a_generator_outside(
    side: str, read_count: int
) -> None:
    observer = Observer()
    stream = open_stream(side, [observer])
    for _ in range(read_count):
        next(stream)
    stream.close()

    assert observer.starts == 1


@SIDES
def test_end_of_an_exhausted_stream_that_is_then_closed_is_told_once(side: str) -> None:
    observer = Observer()
    with open_stream(side, [observer]) as stream:
        list(stream)

    assert observer.errors == [None]


class FailsLater:
    """Fails with the first message in its hands."""

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        for _ in call_next(request, ctx):
            raise ConnectError(Code.ABORTED, "by an interceptor")
        yield


class FailsAfterOne:
    """Fails between the first message and the second."""

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        for message in call_next(request, ctx):
            yield message
            raise ConnectError(Code.ABORTED, "by an interceptor")


class FailsOutright:
    """Fails once it has called the rest of the call."""

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        next(call_next(request, ctx))
        raise ConnectError(Code.ABORTED, "by an interceptor")


class GivesUp:
    """Takes the first message alone."""

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        for message in call_next(request, ctx):
            yield message
            return


LEAVING = pytest.mark.parametrize(
    "interceptor",
    [FailsLater(), FailsAfterOne(), FailsOutright(), GivesUp()],
    ids=lambda interceptor: type(interceptor).__name__,
)


@SIDES
@LEAVING
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_outcome_is_told_to_what_is_outside_and_inside_an_interceptor_that_leaves_early(
    side: str, interceptor: Interceptor, place: str
) -> None:
    observer = Observer()
    interceptors = [observer, interceptor] if place == "outside" else [interceptor, observer]
    error = error_of(lambda: list(open_stream(side, interceptors)))

    assert (error is None) is isinstance(interceptor, GivesUp)
    assert (observer.starts, observer.codes) == (1, [None if error is None else Code.ABORTED])


@pytest.mark.parametrize("result", [None, 5, text("no iterator")], ids=["none", "number", "message"])
def test_end_is_told_once_if_the_handler_of_a_stream_returns_no_iterator(result: Any) -> None:
    observer = Observer()
    answer = ask(serve(SERVER_STREAM, lambda request, ctx: result, interceptors=[observer]), SERVER_STREAM)

    assert answer.code == "internal"
    assert (observer.starts, len(observer.errors)) == (1, 1)


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM])
def test_end_is_told_once_if_the_handler_returns_another_type(method: TextMethod) -> None:
    observer = Observer()
    result: Any = iter(["no message"]) if method is SERVER_STREAM else "no message"
    answer = ask(serve(method, lambda request, ctx: result, interceptors=[observer]), method)

    assert answer.code == "internal"
    assert (observer.starts, len(observer.errors)) == (1, 1)


@KINDS
def test_end_is_told_once_if_the_deadline_passes_in_the_handler(
    method: TextMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(2000)
        return iter([text("late")]) if method is SERVER_STREAM else text("late")

    observer = Observer()
    service = serve(method, handler, interceptors=[observer])
    answer = ask(service, method, headers={"connect-timeout-ms": "1000"})

    assert answer.code == "deadline_exceeded"
    assert (observer.starts, len(observer.errors)) == (1, 1)


@SIDES
@KINDS
def test_interceptor_that_raises_at_the_start_ends_the_call_and_is_not_told_its_end(
    side: str, method: TextMethod
) -> None:
    class Refusing(Observer):
        def on_start(self, ctx: RequestContext) -> int:
            raise ConnectError(Code.UNAUTHENTICATED, "who are you")

    refusing, outside, inside = Refusing(), Observer(), Observer()
    with pytest.raises(ConnectError, match="unauthenticated: who are you"):
        call(side, method, [outside, refusing, inside], failing(AssertionError("called")))

    assert (outside.starts, outside.codes) == (1, [Code.UNAUTHENTICATED])
    assert (refusing.errors, inside.starts) == ([], 0)


@SIDES
@KINDS
def test_interceptor_that_raises_at_the_end_fails_the_call(side: str, method: TextMethod) -> None:
    class Failing(Observer):
        def on_end(self, token: int, ctx: RequestContext, error: ConnectError | None) -> None:
            super().on_end(token, ctx, error)
            raise ConnectError(Code.DATA_LOSS, "nothing was written down")

    failing_observer, outside = Failing(), Observer()
    with pytest.raises(ConnectError, match="data_loss: nothing was written down"):
        call(side, method, [outside, failing_observer])

    assert (failing_observer.errors, outside.codes) == ([None], [Code.DATA_LOSS])


@SIDES
def test_token_goes_from_the_start_to_the_end_of_the_same_call(side: str) -> None:
    tokens: list[object] = []

    class Pairing:
        def on_start(self, ctx: RequestContext) -> object:
            tokens.append(token := object())
            return token

        def on_end(self, token: object, ctx: RequestContext, error: ConnectError | None) -> None:
            tokens.append(token)

    service = serve(SERVER_STREAM, interceptors=[Pairing()] if side == "server" else ())
    client = in_memory(service, interceptors=[Pairing()] if side == "client" else ())
    first = client.call_server_stream(SERVER_STREAM, text())
    second = client.call_server_stream(SERVER_STREAM, text())
    list(first)
    list(second)

    first_token, second_token, first_ended, second_ended = tokens
    assert first_token is first_ended
    assert second_token is second_ended
    assert first_token is not second_token


# The handler's generator


class Cleanup:
    """A handler that streams, and keeps whether its cleanup has run."""

    def __init__(self, count: int = 2) -> None:
        self.events: list[str] = []
        self._count = count

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[Any]:
        self.events.append("begun")
        try:
            for number in range(self._count):
                yield text(str(number))
        finally:
            self.events.append("cleaned up")


@SIDES
@LEAVING
def test_handler_is_cleaned_up_when_an_interceptor_leaves_early(side: str, interceptor: Interceptor) -> None:
    handler = Cleanup()
    # Neither a collection of garbage nor the death of the error's traceback does the library's work.
    gc.disable()
    try:
        error = error_of(lambda: list(open_stream(side, [interceptor], handler)))
        events = list(handler.events)
    finally:
        gc.enable()

    assert (error is None) is isinstance(interceptor, GivesUp)
    assert events == ["begun", "cleaned up"]


@SIDES
@pytest.mark.parametrize("types", [[], [Relay], [Relay, Observer, Relay]], ids=len)
def test_handler_is_cleaned_up_when_the_stream_is_closed_early(side: str, types: list[type[Any]]) -> None:
    handler = Cleanup()
    stream = open_stream(side, [make() for make in types], handler)
    next(stream)
    stream.close()

    assert handler.events == ["begun", "cleaned up"]


class Responses:
    """Responses that are no iterator: what gives them and their iterator are closed each."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __iter__(self) -> Iterator[Any]:
        return ResponsesIterator(self._log)

    def close(self) -> None:
        self._log.append("iterable closed")


class ResponsesIterator(Iterator[Any]):
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __next__(self) -> Any:
        return text()

    def close(self) -> None:
        self._log.append("iterator closed")


def test_iterable_of_a_handler_and_its_iterator_are_closed_within_an_interceptor() -> None:
    log: list[str] = []
    service = serve(SERVER_STREAM, lambda request, ctx: Responses(log), interceptors=[Observer()])
    body = iter(post(service, SERVER_STREAM).body)
    next(body)
    close_iterator(body)

    assert log == ["iterator closed", "iterable closed"]


def test_handler_is_cleaned_up_before_the_end_of_the_stream_leaves() -> None:
    class Timing:
        def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
            responses = call_next(request, ctx)
            yield next(responses)
            ctx.response_trailers()["seen"] = "1"

    handler = Cleanup(count=5)
    body = iter(post(serve(SERVER_STREAM, handler, interceptors=[Timing()]), SERVER_STREAM).body)
    next(body)
    next(body)

    assert handler.events == ["begun", "cleaned up"]


# What interceptors hand on and give back


class Silent:
    """Returns nothing, as one does that forgets to."""

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        call_next(request, ctx)

    intercept_client_stream = intercept_server_stream = intercept_unary


class YieldsNothing:
    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        for _ in call_next(request, ctx):
            yield None


class Impostor:
    """Hands on a context of its own."""

    def _intercept(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return call_next(request, RequestContext(ctx.method()))

    intercept_unary = intercept_client_stream = intercept_server_stream = _intercept


CONTRACT_FAULTS = [
    (Silent(), "Silent.intercept_{kind} returned None: "),
    (Impostor(), "pass on the ctx that the interceptor was given"),
]


@KINDS
@pytest.mark.parametrize(("interceptor", "message"), CONTRACT_FAULTS)
def test_fault_of_an_interceptor_is_raised_at_a_client(
    method: TextMethod, interceptor: Any, message: str
) -> None:
    observer = Observer()
    kind = method.kind.name.lower()
    with pytest.raises(TypeError, match=re.escape(message.format(kind=kind))):
        call("client", method, [observer, interceptor])

    assert observer.codes == [Code.CANCELED]


@KINDS
@pytest.mark.parametrize(("interceptor", "message"), CONTRACT_FAULTS)
def test_fault_of_an_interceptor_is_logged_and_internal_at_a_server(
    method: TextMethod, interceptor: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(method, interceptors=[interceptor], errors={Exception: Code.NOT_FOUND})
    answer = ask(service, method)

    assert answer.code == "internal"
    assert message.format(kind=method.kind.name.lower()) in caplog.text


@SIDES
def test_interceptor_that_yields_none_is_at_fault(side: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((TypeError, ConnectError)) as raised:
        call(side, SERVER_STREAM, [YieldsNothing()])

    text_of_all = caplog.text + str(raised.value)
    assert "YieldsNothing.intercept_server_stream yielded None" in text_of_all


@KINDS
def test_handler_and_not_the_interceptor_is_blamed_for_what_the_handler_did_not_return(
    method: TextMethod, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(serve(method, lambda request, ctx: None, interceptors=[Replacing()]), method)

    assert answer.code == "internal"
    assert f"the handler of {method.full_name} returned None" in caplog.text


def hidden(function: Any) -> Any:
    """Return a plain function that returns what an async one does, as many decorators make it."""

    def call(self: object, *arguments: Any) -> Any:
        return function(*arguments)

    return call


@SIDES
@KINDS
@pytest.mark.parametrize("function", [coroutine, async_generator])
@pytest.mark.parametrize("name", ["on_start", "on_end"])
def test_async_hook_behind_a_decorator_is_at_fault(
    side: str, method: TextMethod, name: str, function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer()
    with pytest.raises((TypeError, ConnectError)) as raised:
        call(side, method, [observer, make(["on_start"], **{name: hidden(function)})])

    assert "write a plain function, with def" in caplog.text + str(raised.value)
    assert len(observer.errors) == 1
    assert observer.errors[0] is not None


@KINDS
def test_async_interceptor_behind_a_decorator_is_at_fault_at_a_client(method: TextMethod) -> None:
    names = ("intercept_unary", "intercept_client_stream", "intercept_server_stream")
    interceptor = make([], **dict.fromkeys(names, hidden(coroutine)))

    with pytest.raises(TypeError):
        call("client", method, [interceptor])


# The cost of interceptors


class Passing:
    """Passes everything on, and has hooks."""

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        return call_next(request, ctx)

    intercept_client_stream = intercept_unary

    def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield from call_next(request, ctx)

    def on_start(self, ctx: RequestContext) -> None:
        """Do nothing."""

    def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
        """Do nothing."""


def count_calls(function: Callable[[], object]) -> int:
    """Return how many functions of Python are called while ``function`` runs."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@SIDES
@KINDS
@pytest.mark.parametrize("way", ["to its end", "closed early"])
def test_cost_is_linear_in_the_number_of_interceptors(
    side: str, method: TextMethod, way: str, without_gc: None
) -> None:
    def cost(count: int) -> int:
        interceptors = [Passing() for _ in range(count)]
        service = serve(method, interceptors=interceptors if side == "server" else ())
        client = in_memory(service, interceptors=interceptors if side == "client" else ())

        def run() -> None:
            if method.kind is StreamKind.UNARY:
                client.call_unary(method, text())
            elif method.kind is StreamKind.CLIENT_STREAM:
                client.call_client_stream(method, [text()])
            else:
                with client.call_server_stream(method, text("a,b,c")) as stream:
                    next(stream)
                    if way == "to its end":
                        list(stream)

        run()
        return count_calls(run)

    costs = [cost(count) for count in (2, 4, 8, 16)]
    steps = [
        (after - before) / size for before, after, size in zip(costs, costs[1:], (2, 4, 8), strict=False)
    ]

    # The first layers also bring what is there once.
    assert steps[1] == pytest.approx(steps[2])
    assert steps[0] <= steps[2] * 1.5


# Calls that an interceptor makes several times


class Hedging:
    """Makes the same call in several threads at once."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
        with ThreadPoolExecutor(4) as pool:
            responses = list(pool.map(lambda _: call_next(request, ctx), range(4)))
        self.seen.append(sorted(ctx.request_headers()))
        return responses[0]


def test_client_may_make_a_call_in_several_threads_at_once() -> None:
    headers = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        headers.append(sorted(ctx.request_headers().multi_items()))
        return request

    hedging = Hedging()
    client = in_memory(serve(UNARY, handler), interceptors=[hedging])
    client.call_unary(UNARY, text(), headers={"tag": "1", "connect-timeout-ms": "7"})

    assert len(headers) == 4
    assert all(attempt == headers[0] for attempt in headers)
    assert hedging.seen == [["tag"]]


# What interceptors hand to handlers

NAME: ContextKey[str] = ContextKey("name")


@KINDS
def test_value_of_an_interceptor_reaches_the_handler(method: TextMethod) -> None:
    class Naming:
        def on_start(self, ctx: RequestContext) -> None:
            ctx.set(NAME, "Jane")

    def handler(request: Any, ctx: RequestContext) -> Any:
        return text(ctx.get(NAME))

    def stream(request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield text(ctx.get(NAME))
        yield text(ctx.get(NAME))

    is_stream = method.kind is StreamKind.SERVER_STREAM
    values = call("server", method, [Naming()], stream if is_stream else handler)

    assert values == (["Jane", "Jane"] if is_stream else ["Jane"])
