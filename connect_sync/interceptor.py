"""What wraps a call, on both sides.

An interceptor is an object with any of the methods below; the list that is given to an application or to
a client runs from the outside in: the first one sees a call first and its result last. `on_start` and
`on_end` are for what concerns the call and not its messages, and hold for calls of every kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

from connect_sync.context import RequestContext
from connect_sync.http import close_iterator
from connect_sync.method import StreamKind

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")

Call: TypeAlias = Callable[[_RequestT, RequestContext], _ResponseT]
"""The rest of a call, as an interceptor calls it."""


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
    """Sees the beginning of every call: to add headers to it, say, or to refuse it."""

    def on_start(self, ctx: RequestContext) -> Any:
        """Begin a call. What is returned is handed to ``on_end``; what is raised ends the call."""
        ...


class MetadataInterceptor(StartInterceptor, Protocol):
    """Sees the beginning and the end of every call."""

    def on_end(self, token: Any, ctx: RequestContext, error: Exception | None) -> None:
        """End a call whose ``on_start`` returned ``token``.

        ``error`` is what the call raised; None if it succeeded, or if its stream was closed early.
        """


Interceptor: TypeAlias = (
    UnaryInterceptor
    | ClientStreamInterceptor
    | ServerStreamInterceptor
    | StartInterceptor
    | MetadataInterceptor
)
"""An object with the methods of any of these."""

_OnStart: TypeAlias = Callable[[RequestContext], Any]
_OnEnd: TypeAlias = Callable[[Any, RequestContext, "Exception | None"], None]

_METHOD_NAMES = {
    StreamKind.UNARY: "intercept_unary",
    StreamKind.CLIENT_STREAM: "intercept_client_stream",
    StreamKind.SERVER_STREAM: "intercept_server_stream",
}


def check_interceptors(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """Return the interceptors as a tuple.

    Raises:
        TypeError: One of them is a class, has none of the methods, or has ``on_end`` without ``on_start``.
    """
    checked = tuple(interceptors)
    for interceptor in checked:
        if isinstance(interceptor, type):
            raise TypeError(f"{interceptor!r} is a class: an interceptor is an instance")
        names = {*_METHOD_NAMES.values(), "on_start"}
        if not any(hasattr(interceptor, name) for name in names):
            raise TypeError(f"{interceptor!r} is no interceptor: it has none of {sorted(names)}")
        if hasattr(interceptor, "on_end") and not hasattr(interceptor, "on_start"):
            raise TypeError(f"{interceptor!r} has on_end, but no on_start")
    return checked


def intercept(call: Call[Any, Any], kind: StreamKind, interceptors: Iterable[Interceptor]) -> Call[Any, Any]:
    """Return ``call``, a call of ``kind``, wrapped in ``interceptors``."""
    for interceptor in reversed(tuple(interceptors)):
        gives_stream = kind is StreamKind.SERVER_STREAM
        method = getattr(interceptor, _METHOD_NAMES[kind], None)
        if method is not None:
            call = (_around_stream if gives_stream else _around)(method, call)
        if hasattr(interceptor, "on_start"):
            on_start = cast(StartInterceptor, interceptor).on_start
            on_end = getattr(interceptor, "on_end", None) or _ignore_end
            call = (_observe_stream if gives_stream else _observe)(on_start, on_end, call)
    return call


def _ignore_end(token: Any, ctx: RequestContext, error: Exception | None) -> None:
    """Stand for the ``on_end`` of an interceptor that has none."""


def _around(method: Callable[..., Any], call_next: Call[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Any:
        return method(call_next, request, ctx)

    return call


def _observe(on_start: _OnStart, on_end: _OnEnd, call_next: Call[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Any:
        token = on_start(ctx)
        try:
            response = call_next(request, ctx)
        except Exception as error:
            on_end(token, ctx, error)
            raise
        on_end(token, ctx, None)
        return response

    return call


def _around_stream(method: Callable[..., Any], call_next: Call[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Iterator[Any]:
        # An interceptor that ends before what it iterates over would leave that open.
        inner: list[Any] = []

        def call_inner(request: Any, ctx: RequestContext) -> Any:
            responses = call_next(request, ctx)
            inner.append(responses)
            return responses

        def close_inner(error: Exception | None) -> None:
            for responses in inner:
                close_iterator(responses)

        try:
            return _Stream(method(call_inner, request, ctx), close_inner)
        except Exception as error:
            close_inner(error)
            raise

    return call


def _observe_stream(on_start: _OnStart, on_end: _OnEnd, call_next: Call[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Iterator[Any]:
        end = partial(on_end, on_start(ctx), ctx)
        try:
            return _Stream(call_next(request, ctx), end)
        except Exception as error:
            end(error)
            raise

    return call


class _Stream(Iterator[Any]):
    """A stream of responses, and what has to happen, once, when it ends.

    Not a generator: one that is closed before its first message would do nothing.
    """

    __slots__ = ("_iterator", "_on_end", "_responses")

    def __init__(self, responses: Iterable[Any], on_end: Callable[[Exception | None], None]) -> None:
        self._responses = responses
        self._iterator = iter(responses)
        self._on_end: Callable[[Exception | None], None] | None = on_end

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            self._end(None)
            raise
        except Exception as error:
            self._end(error)
            raise

    def close(self) -> None:
        try:
            close_iterator(self._iterator)
            close_iterator(self._responses)
        except Exception as error:
            self._end(error)
            raise
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(error)
