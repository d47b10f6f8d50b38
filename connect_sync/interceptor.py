"""What wraps a call, on both sides.

An interceptor is an object with any of the methods below. The list that an application or a client is given
runs from the outside in: the first interceptor sees a call first and its result last. There are two kinds of
methods, for two purposes:

- ``on_start`` and ``on_end`` are about the call and not its messages. Every ``on_start`` runs before the
  request is read (at a server) or sent (at a client), every ``on_end`` once the outcome is known.
- ``intercept_…`` are about the messages of one kind of call. They run in between, each around the next.

A call that has an ``on_start`` runs in a `contextvars` context of its own. A context variable that an
interceptor or the handler sets therefore ends with the call, whatever else its thread does.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import Any, Protocol, TypeAlias, TypeVar, cast, overload

from google.protobuf.message import Message

from connect_sync.code import Code
from connect_sync.context import RequestContext
from connect_sync.errors import ConnectError, ContractError
from connect_sync.http import ClosingIterator, close_all
from connect_sync.method import Method, StreamKind
from connect_sync.signatures import is_async, is_generator, mismatch

_logger = logging.getLogger("connect_sync")

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")

Call: TypeAlias = Callable[[_RequestT, RequestContext], _ResponseT]
"""The rest of a call, as an interceptor calls it."""

_OnStart: TypeAlias = Callable[[RequestContext], Any]
_OnEnd: TypeAlias = Callable[[Any, RequestContext, "ConnectError | None"], None]

Hooks: TypeAlias = tuple[tuple[_OnStart, _OnEnd], ...]
"""Each ``on_start`` with its ``on_end``, from the outside in."""


class UnaryInterceptor(Protocol):
    """Wraps unary calls."""

    def intercept_unary(self, call_next: Call[Any, Message], request: Any, ctx: RequestContext) -> Message:
        """Return the response to ``request``, by ``call_next(request, ctx)`` or without it."""
        ...


class ClientStreamInterceptor(Protocol):
    """Wraps client-streaming calls."""

    def intercept_client_stream(
        self, call_next: Call[Iterator[Any], Message], request: Iterator[Any], ctx: RequestContext
    ) -> Message:
        """Return the response to the messages of ``request``."""
        ...


class ServerStreamInterceptor(Protocol):
    """Wraps server-streaming calls."""

    def intercept_server_stream(
        self, call_next: Call[Any, Iterator[Any]], request: Any, ctx: RequestContext
    ) -> Iterator[Message]:
        """Yield, or return an iterator of, the responses to ``request``."""
        ...


class StartInterceptor(Protocol):
    """Sees the start of every call, to add headers to it for example, or to refuse it."""

    def on_start(self, ctx: RequestContext) -> Any:
        """Begin a call.

        At a server this runs before a byte of the request's body is read.

        Returns:
            The token that ``on_end`` is given.

        Raises:
            Exception: The call is refused: with this error if it is a `ConnectError`, else with what the
                application makes of exceptions. Interceptors outside of this one get their ``on_end``.
        """
        ...


class MetadataInterceptor(StartInterceptor, Protocol):
    """Sees the start and the end of every call."""

    def on_end(self, token: Any, ctx: RequestContext, error: ConnectError | None) -> None:
        """End a call whose ``on_start`` returned ``token``.

        This runs exactly once for each ``on_start`` that returned, however the call ends, in the same
        `contextvars` context, and at a server in the same thread. It may write trailing metadata.

        Args:
            token: What ``on_start`` returned.
            ctx: The context of the call.
            error: None for a success, else the error that the other side is told, with the exception beneath
                it as its ``__cause__``. A client that disconnected or gave the call up is ``canceled``.

        Raises:
            Exception: It takes the place of the outcome, also for the interceptors outside of this one; if
                the outcome can no longer be told, it is logged.
        """


Interceptor: TypeAlias = (
    UnaryInterceptor
    | ClientStreamInterceptor
    | ServerStreamInterceptor
    | StartInterceptor
    | MetadataInterceptor
)
"""An object with the methods of any of these."""

ToConnectError: TypeAlias = Callable[[BaseException], ConnectError]
"""Returns the error that stands for an exception."""


# What an interceptor may have

_METHOD_NAMES = {
    StreamKind.UNARY: "intercept_unary",
    StreamKind.CLIENT_STREAM: "intercept_client_stream",
    StreamKind.SERVER_STREAM: "intercept_server_stream",
}

_ARGUMENTS = {
    **dict.fromkeys(_METHOD_NAMES.values(), ("call_next", "request", "ctx")),
    "on_start": ("ctx",),
    "on_end": ("token", "ctx", "error"),
}

# What other libraries call the same, which a measure of similarity does not find.
_SYNONYMS = {
    "intercept_unary_unary": "intercept_unary",  # grpcio's
    "intercept_stream_unary": "intercept_client_stream",
    "intercept_unary_stream": "intercept_server_stream",
    **dict.fromkeys(("on_begin", "on_call", "on_enter", "on_open", "on_request"), "on_start"),
    **dict.fromkeys(
        ("on_close", "on_complete", "on_done", "on_error", "on_exit", "on_finish", "on_response", "on_stop"),
        "on_end",
    ),
}
_MIN_SIMILARITY = 0.8


def _check_interceptor(interceptor: Interceptor) -> None:
    if isinstance(interceptor, type):
        raise TypeError(f"interceptors must be instances, got the class {interceptor.__name__}")
    kind = type(interceptor).__name__
    _check_names(interceptor, kind)
    names = [name for name in _ARGUMENTS if hasattr(interceptor, name)]
    if not names:
        raise TypeError(f"{kind} is not an interceptor: it needs one of {', '.join(_ARGUMENTS)}")
    if "on_end" in names and "on_start" not in names:
        raise TypeError(f"{kind} has on_end but no on_start: write both, or on_start alone")
    for name in names:
        _check_method(getattr(interceptor, name), name, f"{kind}.{name}")


def _check_method(method: object, name: str, label: str) -> None:
    arguments = _ARGUMENTS[name]
    if not callable(method):
        raise TypeError(f"{label} must be a function, got {method!r}")
    if is_async(method):
        raise TypeError(f"{label} is async: write a plain function, with def")
    if name != "intercept_server_stream" and is_generator(method):
        raise TypeError(f"{label} is a generator: return a value instead of yielding")
    problem = mismatch(method, *arguments)
    if problem:
        raise TypeError(f"{label} must take ({', '.join(arguments)}): {problem}")


def _check_names(interceptor: Interceptor, kind: str) -> None:
    """Refuse methods that look as if they were to be called, and would not be."""
    for name in dir(interceptor):
        if name.startswith("_") or name in _ARGUMENTS:
            continue
        # Properties are not run.
        method = inspect.getattr_static(interceptor, name, None)
        if callable(method) or isinstance(method, classmethod):
            meant = _meant_name(name, getattr(interceptor, name))
            if meant is not None:
                raise TypeError(
                    f"{kind}.{name} would never be called: "
                    f"name it {meant}, or start its name with an underscore"
                )


def _meant_name(name: str, method: Callable[..., Any]) -> str | None:
    """Return the name of which that of ``method`` is a variant; None if it is not one."""
    plain = name.lower().removesuffix("_sync").removesuffix("_async")
    if plain in _SYNONYMS:
        return _SYNONYMS[plain]
    if plain == "intercept_bidi_stream":
        return "intercept_client_stream and intercept_server_stream (bidirectional methods are refused)"
    if not plain.startswith(("on", "intercept")):
        return None
    plain = plain.replace("_", "")
    by_plain_name = {known.replace("_", ""): known for known in _ARGUMENTS}
    for found in difflib.get_close_matches(plain, by_plain_name, 1, _MIN_SIMILARITY):
        known = by_plain_name[found]
        # A method whose name is only similar may be another one, with other arguments.
        if found == plain or not mismatch(method, *_ARGUMENTS[known]):
            return known
    return None


class Interceptors:
    """The interceptors of one side, from the outside in: checked, and parted into what they wrap."""

    __slots__ = ("_context_class", "_interceptors", "hooks")

    hooks: Hooks | None
    """Their ``on_start`` and ``on_end``; None if there are none, so that calls pay nothing."""

    def __init__(self, interceptors: Iterable[Interceptor], context_class: type[RequestContext]) -> None:
        """Take the interceptors, and the class of the contexts that this side makes for its calls.

        Raises:
            TypeError: One of them is a class, has none of the methods, has ``on_end`` without ``on_start``,
                or has a method that is async, is a generator where a value must be returned, takes other
                arguments, or has a name that is nearly one of those that are called.
        """
        if not isinstance(interceptors, Iterable):
            raise TypeError(f"interceptors must be a list of interceptors, got {interceptors!r}")
        self._interceptors = tuple(interceptors)
        for interceptor in self._interceptors:
            _check_interceptor(interceptor)
        self._context_class = context_class
        pairs = [
            (cast(StartInterceptor, interceptor).on_start, getattr(interceptor, "on_end", _ignore_end))
            for interceptor in self._interceptors
            if hasattr(interceptor, "on_start")
        ]
        self.hooks = tuple(pairs) or None

    def around(self, call: Call[Any, Any], method: Method[Any, Any]) -> Call[Any, Any]:
        """Return ``call``, a call of ``method``, with the ``intercept_…`` methods for its kind around it."""
        name = _METHOD_NAMES.get(method.kind)
        wrappers = [
            (getattr(interceptor, name), f"{type(interceptor).__name__}.{name}")
            for interceptor in self._interceptors
            if name is not None and hasattr(interceptor, name)
        ]
        if not wrappers:
            return call
        call = _check_call(call, method.full_name, self._context_class)
        wrap = _wrap_stream if method.kind is StreamKind.SERVER_STREAM else _wrap
        for wrapper, label in reversed(wrappers):
            call = wrap(wrapper, label, call)
        return call


def _ignore_end(token: Any, ctx: RequestContext, error: ConnectError | None) -> None:
    """Stand for the ``on_end`` of an interceptor that has none."""


# Around the messages


def _check_call(
    call_next: Call[Any, Any], full_name: str, context_class: type[RequestContext]
) -> Call[Any, Any]:
    """Return the innermost call, with a look at what interceptors hand to it and get from it."""

    def call(request: Any, ctx: RequestContext) -> Any:
        if not isinstance(ctx, context_class):
            raise ContractError(
                f"call_next(request, ctx) must be given the context of the call, got {ctx!r}: "
                "pass on the ctx that the interceptor was given"
            )
        response = call_next(request, ctx)
        if response is None:
            raise ContractError(f"the handler of {full_name} returned None: return the response")
        return response

    return call


def _wrap(method: Callable[..., Any], label: str, call_next: Call[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Any:
        response = method(call_next, request, ctx)
        if response is None:
            raise ContractError(f"{label} returned None: return the response of call_next(request, ctx)")
        return _checked_result(method, response)

    return call


def _wrap_stream(method: Callable[..., Any], label: str, call_next: Call[Any, Any]) -> Call[Any, Any]:
    check = partial(_check_message, label)

    def call(request: Any, ctx: RequestContext) -> Iterator[Any]:
        # An interceptor that ends before what it iterates over would leave that open.
        inner: list[Any] = []

        def call_inner(request: Any, ctx: RequestContext) -> Any:
            responses = call_next(request, ctx)
            inner.append(responses)
            return responses

        try:
            responses = _checked_result(method, method(call_inner, request, ctx))
            if not isinstance(responses, Iterable):
                raise ContractError(
                    f"{label} returned {responses!r}: yield the responses, or return an iterator of them"
                )
            return ClosingIterator(responses, inner, transform=check)
        except BaseException:
            close_all(inner)
            raise

    return call


def _check_message(label: str, message: Any) -> Any:
    if message is None:
        raise ContractError(f"{label} yielded None: yield the responses of call_next(request, ctx)")
    return message


# Around the call


class CallHooks:
    """The hooks of one call, and the `contextvars` context in which they and the application's code run."""

    __slots__ = ("_can_tell", "_context", "_ctx", "_due", "_hooks", "_to_connect_error", "raised")

    raised: BaseException | None
    """What the call ends with, once it has ended: what ended it, or what an ``on_end`` raised instead."""

    def __init__(self, hooks: Hooks, ctx: RequestContext, to_connect_error: ToConnectError) -> None:
        """Run nothing yet.

        Args:
            hooks: Each ``on_start`` with its ``on_end``, from the outside in.
            ctx: The context of the call.
            to_connect_error: What this side makes of exceptions.
        """
        self._hooks = hooks
        self._ctx = ctx
        self._to_connect_error = to_connect_error
        self._context = copy_context()
        self._due: list[tuple[_OnEnd, Any]] = []
        self._can_tell = True
        self.raised = None

    def run(self, function: Callable[..., _ResponseT], /, *arguments: Any) -> _ResponseT:
        """Return what ``function`` returns for ``arguments`` in the context of the call."""
        return self._context.run(function, *arguments)

    def start(self) -> None:
        """Run each ``on_start``, from the outside in. What one raises is raised, and ends the call."""
        self._context.run(self._start)

    def _start(self) -> None:
        for on_start, on_end in self._hooks:
            self._due.append((on_end, _checked_result(on_start, on_start(self._ctx))))

    def succeed(self) -> ConnectError | None:
        """End a call that has succeeded: run each ``on_end``, from the inside out.

        Returns:
            None, or the error that has taken the place of the success.
        """
        return self._context.run(self._end, None)

    def fail(self, raised: BaseException) -> ConnectError:
        """End a call with ``raised``: run each ``on_end``, from the inside out.

        Returns:
            The error that the other side is told. What is not an Exception goes on: see `raised`.
        """
        return self._context.run(self._fail, raised)

    def abandon(self, raised: BaseException, error: ConnectError) -> ConnectError:
        """End a call with ``error``, which the other side cannot be told: it is gone.

        ``raised`` is what the application's code raised when it was closed.
        """
        return self._context.run(self._abandon, raised, error)

    def _fail(self, raised: BaseException) -> ConnectError:
        return self._end(self._outcome_of(raised))

    def _abandon(self, raised: BaseException, error: ConnectError) -> ConnectError:
        self._outcome_of(raised)  # which logs what is to be logged
        self._can_tell = False
        return self._end(error)

    @overload
    def _end(self, error: ConnectError) -> ConnectError: ...

    @overload
    def _end(self, error: None) -> ConnectError | None: ...

    def _end(self, error: ConnectError | None) -> ConnectError | None:
        while self._due:
            on_end, token = self._due.pop()
            try:
                _checked_result(on_end, on_end(token, self._ctx, error))
            except BaseException as raised:
                if self._can_tell or not isinstance(raised, Exception):
                    error = self._outcome_of(raised)
                else:
                    self._log(on_end, raised)
        return error

    def _outcome_of(self, raised: BaseException) -> ConnectError:
        """Let the call end with ``raised``, and return the error that stands for it."""
        self._interrupt(raised)
        try:
            return self._to_connect_error(raised)
        except BaseException as interrupt:  # of a function that maps exceptions, or of a handler of logs
            self._interrupt(interrupt)
            error = ConnectError(Code.INTERNAL, "internal error")
            error.__cause__ = interrupt
            return error

    def _log(self, on_end: _OnEnd, raised: Exception) -> None:
        try:
            name = getattr(on_end, "__qualname__", repr(on_end))
            _logger.error("%s failed after the outcome of its call was told", name, exc_info=raised)
        except BaseException as interrupt:
            self._interrupt(interrupt)

    def _interrupt(self, raised: BaseException) -> None:
        """Let the call end with ``raised``, unless it ends with what is not an Exception already."""
        if self.raised is None or isinstance(self.raised, Exception):
            self.raised = raised
        # What is not an Exception goes on, past the response.
        self._can_tell = self._can_tell and isinstance(raised, Exception)


def _checked_result(function: Callable[..., Any], result: Any) -> Any:
    """Return what a function returned.

    Raises:
        ContractError: It has not run yet, since it is async. Behind a decorator, only its result tells.
    """
    if isinstance(result, CoroutineType | AsyncGeneratorType):
        kind = "an async generator"
        if isinstance(result, CoroutineType):
            result.close()
            kind = "a coroutine"
        name = getattr(function, "__qualname__", repr(function))
        raise ContractError(f"{name} returned {kind}: write a plain function, with def")
    return result
