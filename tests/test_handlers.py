"""The handlers of a service: what may be one, and what is refused before any call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property, partial, wraps
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Method, RequestContext, StreamKind
from connect_sync.server.handlers import find_handlers
from tests.support import BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY, TextMethod, echo, split, text

EVERY_KIND = pytest.mark.parametrize(
    "method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name
)
ONE_RESPONSE = pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM], ids=lambda method: method.name)


def find(handler: Any, method: TextMethod = UNARY) -> Callable[..., Any]:
    """Return the handler that is found on an object that has just this one."""
    return find_handlers(SimpleNamespace(greet=handler), {"greet": method})["greet"]


# What may be a handler


class Greeter:
    def greet(self, request: Any, ctx: RequestContext) -> Any:
        return request

    @staticmethod
    def greet_static(request: Any, ctx: RequestContext) -> Any:
        return request

    @classmethod
    def greet_class(cls, request: Any, ctx: RequestContext) -> Any:
        return request

    def __call__(self, request: Any, ctx: RequestContext) -> Any:
        return request


@pytest.mark.parametrize(
    "handler",
    [
        echo,
        lambda *arguments: arguments[0],
        lambda request, ctx, more=1: request,
        partial(lambda more, request, ctx: request, 1),
        Greeter().greet,
        Greeter().greet_static,
        Greeter().greet_class,
        Greeter(),
        # It has no signature.
        max,
    ],
)
@EVERY_KIND
def test_handler_may_be_anything_that_takes_a_request_and_a_context(handler: Any, method: TextMethod) -> None:
    assert find(handler, method) is handler


def with_session(handler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(handler)
    def wrapper(request: StringValue, ctx: RequestContext) -> Any:
        return handler(request, ctx, "session")

    return wrapper


def without_context(handler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(handler)
    def wrapper(request: StringValue, ctx: RequestContext) -> Any:
        return handler(request)

    return wrapper


def collected(handler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(handler)
    def wrapper(request: StringValue, ctx: RequestContext) -> Any:
        return next(handler(request, ctx))

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        with_session(lambda request, ctx, session: request),
        without_context(lambda request: request),
        collected(split),
    ],
    ids=["more", "less", "generator"],
)
def test_decorated_handler_is_what_its_decorator_makes_of_it(handler: Any) -> None:
    ctx = RequestContext()
    assert find(handler)(text("a"), ctx) == text("a")


def test_stream_handler_yields_or_returns_an_iterator() -> None:
    assert find(split, SERVER_STREAM) is split
    assert find(echo, SERVER_STREAM) is echo


def test_bidirectional_method_has_no_handler() -> None:
    assert find_handlers(object(), {"chat": BIDI}) == {}


def test_handlers_of_several_methods_have_their_names() -> None:
    greeter = SimpleNamespace(greet=echo, expand=split)
    handlers = find_handlers(greeter, {"greet": UNARY, "chat": BIDI, "expand": SERVER_STREAM})
    assert handlers == {"greet": echo, "expand": split}


# What is refused


def test_class_in_place_of_its_instance_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Greeter is a class: pass an instance of it$"):
        find_handlers(Greeter, {"greet": UNARY})


@pytest.mark.parametrize("implementation", [object(), SimpleNamespace(greet=None), SimpleNamespace(greet=5)])
def test_missing_handler_is_refused(implementation: object) -> None:
    error = r"has no method 'greet' to handle unit\.v1\.UnitService\.Unary$"
    with pytest.raises(TypeError, match=error):
        find_handlers(implementation, {"greet": UNARY})


class AsyncHandlers:
    async def coroutine(self, request: Any, ctx: RequestContext) -> Any: ...

    async def generator(self, request: Any, ctx: RequestContext) -> AsyncIterator[Any]:
        yield request

    async def __call__(self, request: Any, ctx: RequestContext) -> Any: ...


@pytest.mark.parametrize(
    "handler",
    [
        AsyncHandlers().coroutine,
        AsyncHandlers().generator,
        partial(AsyncHandlers.coroutine, AsyncHandlers()),
        AsyncHandlers(),
    ],
    ids=["coroutine", "generator", "partial", "object"],
)
@EVERY_KIND
def test_async_handler_is_refused(method: TextMethod, handler: Any) -> None:
    error = rf"^SimpleNamespace\.greet is async: write the handler of {method.full_name} as a plain def$"
    with pytest.raises(TypeError, match=error):
        find(handler, method)


class Generators:
    def method(self, request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield request

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[Any]:
        yield request


@pytest.mark.parametrize(
    "handler",
    [split, Generators().method, partial(Generators.method, Generators()), Generators()],
    ids=["function", "method", "partial", "object"],
)
@ONE_RESPONSE
def test_handler_of_one_response_may_not_yield(method: TextMethod, handler: Any) -> None:
    error = (
        rf"^SimpleNamespace\.greet yields, but {method.full_name} is {method.kind.value}: "
        "return the response rather than yield it$"
    )
    with pytest.raises(TypeError, match=error):
        find(handler, method)
    assert find(handler, SERVER_STREAM) is handler


@pytest.mark.parametrize(
    ("handler", "signature"),
    [
        (lambda: None, "greet()"),
        (lambda request: None, "greet(request)"),
        (lambda request, ctx, more: None, "greet(request, ctx, more)"),
        (lambda *, request, ctx: None, "greet(*, request, ctx)"),
        (wraps(echo)(lambda request: None), "greet(request: 'StringValue') -> 'StringValue'"),
        (partial(lambda request, ctx: None, 1), "greet(ctx)"),
    ],
)
@EVERY_KIND
def test_handler_of_other_arguments_is_refused(method: TextMethod, handler: Any, signature: str) -> None:
    with pytest.raises(TypeError) as raised:
        find(handler, method)
    assert str(raised.value) == (
        "SimpleNamespace.greet must take a request and a context to handle "
        f"{method.full_name}, got {signature}"
    )


# Names that are nearly those of handlers


class Base(Protocol):
    """What is generated for a service of several methods."""

    def greet(self, request: Any, ctx: RequestContext) -> Any: ...
    def list_(self, request: Any, ctx: RequestContext) -> Any: ...
    def get_user(self, request: Any, ctx: RequestContext) -> Any: ...
    def lock_account(self, request: Any, ctx: RequestContext) -> Any: ...
    def list_users(self, request: Any, ctx: RequestContext) -> Any: ...


def method_named(name: str, kind: StreamKind = StreamKind.UNARY) -> TextMethod:
    return Method("greet.v1.GreetService", name, StringValue, StringValue, kind)


METHODS: dict[str, Method[Any, Any]] = {
    "greet": method_named("Greet"),
    "list_": method_named("List"),
    "get_user": method_named("GetUser"),
    "lock_account": method_named("LockAccount"),
    "list_users": method_named("ListUsers", StreamKind.SERVER_STREAM),
    "talk": method_named("Talk", StreamKind.BIDI_STREAM),
}


def handler(self: Any, request: Any, ctx: RequestContext) -> Any:
    return request


def implementation(*bases: type, **attributes: Any) -> Any:
    return type("Greeter", bases, attributes)()


MISSPELT = [
    ("Greet", "greet"),
    ("GREET", "greet"),
    ("gret", "greet"),
    ("greeet", "greet"),
    ("list", "list_"),
    ("List", "list_"),
    ("getUser", "get_user"),
    ("GetUser", "get_user"),
    ("get_user_", "get_user"),
    ("get_usr", "get_user"),
    ("lock_acount", "lock_account"),
    ("lsit_users", "list_users"),
]


@pytest.mark.parametrize(("name", "right"), MISSPELT)
def test_name_that_is_nearly_a_handlers_is_refused(name: str, right: str) -> None:
    with pytest.raises(TypeError) as raised:
        find_handlers(implementation(Base, **{name: handler}), METHODS)
    full_name = METHODS[right].full_name
    assert str(raised.value) == f"Greeter.{name} looks like the handler of {full_name}: name it {right!r}"


@pytest.mark.parametrize(("name", "right"), MISSPELT)
def test_error_for_a_missing_handler_names_the_one_that_looks_like_it(name: str, right: str) -> None:
    with pytest.raises(TypeError) as raised:
        find_handlers(implementation(**{name: handler}), {right: METHODS[right]})
    assert str(raised.value) == (
        f"Greeter has no method {right!r} to handle {METHODS[right].full_name}: "
        f"rename Greeter.{name}, which looks like it"
    )


def nothing(request: Any, ctx: RequestContext) -> None: ...


@pytest.mark.parametrize(
    "function", [staticmethod(nothing), classmethod(handler), partial(nothing), Greeter()]
)
def test_misspelt_handler_may_be_any_callable(function: Any) -> None:
    with pytest.raises(TypeError, match="name it 'greet'"):
        find_handlers(implementation(Base, Greet=function), METHODS)


def test_misspelt_handler_of_an_instance_or_a_base_is_refused() -> None:
    greeter = implementation(Base)
    greeter.Greet = nothing
    mixin = type("Mixin", (), {"Greet": handler})
    for misspelt in (greeter, implementation(Base, mixin), implementation(type("Child", (mixin, Base), {}))):
        with pytest.raises(TypeError, match=r"^Greeter\.Greet looks like"):
            find_handlers(misspelt, METHODS)


def test_name_in_another_case_is_refused_whatever_its_arguments() -> None:
    with pytest.raises(TypeError, match="name it 'greet'"):
        find_handlers(implementation(Base, Greet=lambda self, request: request), METHODS)


# What is left alone


def test_service_may_leave_all_its_handlers_to_the_base() -> None:
    assert find_handlers(implementation(Base), METHODS).keys() == METHODS.keys() - {"talk"}


@pytest.mark.parametrize("bases", [(Base,), ()])
def test_service_that_has_all_handlers_may_have_any_other_method(bases: tuple[type, ...]) -> None:
    own = dict.fromkeys(METHODS, handler)
    others = {name: handler for name, _ in MISSPELT}
    assert find_handlers(implementation(*bases, **own, **others), METHODS).keys() == METHODS.keys() - {"talk"}


@pytest.mark.parametrize(
    "name",
    [
        "_greet",
        "_Greet",
        "__greet",
        "greet_all",
        "greeting",
        "get_users",
        "get_user2",
        "set_user",
        "unlock_account",
        "list_user",
        "lists",
        "talk",
        "Talk",
    ],
)
def test_helper_with_a_name_of_its_own_is_left_alone(name: str) -> None:
    find_handlers(implementation(Base, **{name: handler}), METHODS)


@pytest.mark.parametrize(
    "helper", [lambda self: None, lambda self, one: None, lambda self, one, two, three: None]
)
def test_similar_name_of_a_helper_with_other_arguments_is_left_alone(helper: Any) -> None:
    find_handlers(implementation(Base, gret=helper), METHODS)


def test_properties_are_not_evaluated() -> None:
    def evaluate(self: object) -> NoReturn:
        raise AssertionError("evaluated")

    for name in ("Greet", "gret"):
        for lazy in (property(evaluate), cached_property(evaluate)):
            find_handlers(implementation(Base, **{name: lazy}), METHODS)


@pytest.mark.parametrize("value", [None, 5, "greet", StringValue])
def test_attribute_that_is_not_a_function_is_left_alone(value: Any) -> None:
    find_handlers(implementation(Base, Greet=value), METHODS)


def test_handlers_of_another_service_are_left_alone() -> None:
    class Other(Protocol):
        def Greet(self, request: Any, ctx: RequestContext) -> Any: ...
        def lock_accounts_(self, request: Any, ctx: RequestContext) -> Any: ...

    both = implementation(Base, Other, Greet=handler, lock_accounts_=handler)
    assert find_handlers(both, METHODS)


def test_handler_that_is_found_at_run_time_is_not_left_to_the_base() -> None:
    def delegate(self: object, name: str) -> Any:
        return nothing if name in METHODS else object.__getattribute__(self, name)

    delegating = implementation(Base, __getattribute__=delegate, Greet=handler)
    assert set(find_handlers(delegating, METHODS).values()) == {nothing}
