"""What a handler or an interceptor knows of the call it is in, and can add to it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from connect_sync.deadline import Deadline
from connect_sync.headers import Headers, HeadersInput
from connect_sync.method import Method
from connect_sync.protocol_type import ProtocolType

_ValueT = TypeVar("_ValueT")
_DefaultT = TypeVar("_DefaultT")


class ContextKey(Generic[_ValueT]):
    """The key of a value that interceptors hand to handlers, and of the value's type.

    ::

        USER = ContextKey[User]("user")

        ctx.set(USER, user)  # in an interceptor
        ctx.get(USER)  # in a handler: a User

    Each key is different from every other one, whatever their names.
    """

    __slots__ = ("name",)

    name: str
    """The key's name, for errors and logs."""

    def __init__(self, name: str) -> None:
        """Make a key."""
        self.name = name

    def __repr__(self) -> str:
        """Show the name."""
        return f"ContextKey({self.name!r})"


class RequestContext:
    """A call: its method, its metadata in and out, its deadline and its peer.

    At a server, the request's metadata is what the client sent, and the response's is for the handler to
    write. At a client it is the other way around.

    The library makes the contexts of calls. One that is made by hand is for the unit test of a handler:
    ``RequestContext(headers={"authorization": "Bearer abc"}, timeout_ms=500)``.
    """

    __slots__ = (
        "_deadline",
        "_http_method",
        "_method",
        "_peer",
        "_protocol",
        "_request_headers",
        "_response_headers",
        "_response_trailers",
        "_values",
    )

    _values: dict[ContextKey[Any], Any]

    def __init__(
        self,
        method: Method[Any, Any] | None = None,
        *,
        headers: HeadersInput = (),
        timeout_ms: float | None = None,
        http_method: str = "POST",
        protocol: ProtocolType = ProtocolType.CONNECT,
        peer: str | None = None,
    ) -> None:
        """Make the context of one call.

        Args:
            method: The method that is called; a handler that does not ask for it needs none.
            headers: The request's metadata.
            timeout_ms: How many milliseconds the call may take from now on; None for no deadline.
            http_method: ``POST`` or ``GET``.
            protocol: The protocol that the call is made in.
            peer: The other side's address, ``host:port``.

        Raises:
            TypeError: A header's name or value is not a string.
            ValueError: A header cannot be sent.
        """
        self._method = method
        self._request_headers = Headers(headers)
        self._deadline = None if timeout_ms is None else Deadline(timeout_ms)
        self._http_method = http_method
        self._protocol = protocol
        self._peer = peer
        self._response_headers: Headers | None = None
        self._response_trailers: Headers | None = None

    def method(self) -> Method[Any, Any]:
        """Return the method that is called.

        Raises:
            LookupError: The context was made by hand, without a method.
        """
        if self._method is None:
            raise LookupError("this context has no method: make it with RequestContext(method, …)")
        return self._method

    def http_method(self) -> str:
        """Return the HTTP method of the request: ``POST`` or ``GET``."""
        return self._http_method

    def protocol(self) -> ProtocolType:
        """Return the protocol that the call is made in."""
        return self._protocol

    def request_headers(self) -> Headers:
        """Return the request's metadata.

        At a server these are all the headers that the client sent. At a client they are the caller's, and
        interceptors may add to them; the headers of HTTP and of the protocol are not among them.
        """
        return self._request_headers

    def response_headers(self) -> Headers:
        """Return the response's leading metadata.

        A handler that streams writes it before it yields the first message, with which it is sent.
        """
        if self._response_headers is None:
            self._response_headers = Headers()
        return self._response_headers

    def response_trailers(self) -> Headers:
        """Return the response's trailing metadata, which is sent when the handler has ended."""
        if self._response_trailers is None:
            self._response_trailers = Headers()
        return self._response_trailers

    def timeout_ms(self) -> float | None:
        """Return how many milliseconds remain until the deadline, 0 or more; None without one."""
        return None if self._deadline is None else self._deadline.remaining() * 1000

    def is_active(self) -> bool:
        """Tell, without waiting, whether the result of the call is still wanted.

        It is False once the deadline has passed; at a server also once the client has disconnected, as far
        as the server can tell, at a client once the call was canceled. A handler that works for long may ask
        between two steps, in its own thread, and end early.
        """
        return self._deadline is None or self._deadline.remaining() > 0

    def peer(self) -> str | None:
        """Return the other side's address, ``host:port``; None where it is not known.

        At a server this is the client, or the last proxy before it; at a client, the address that is called.
        """
        return self._peer

    def set(self, key: ContextKey[_ValueT], value: _ValueT) -> None:
        """Keep ``value`` for the rest of the call, also for the body of its stream."""
        try:
            self._values[key] = value
        except AttributeError:  # the first value of the call
            self._values = {key: value}

    @overload
    def get(self, key: ContextKey[_ValueT]) -> _ValueT: ...

    @overload
    def get(self, key: ContextKey[_ValueT], default: _DefaultT) -> _ValueT | _DefaultT: ...

    def get(self, key: ContextKey[Any], default: Any = ...) -> Any:
        """Return the value that was set for ``key``, or ``default``.

        Raises:
            LookupError: None was set, and there is no default.
        """
        try:
            return self._values[key]
        except (AttributeError, KeyError):
            if default is not ...:
                return default
        raise LookupError(f"{key.name} is not set: call ctx.set({key.name}, …) in an interceptor")


def response_metadata(ctx: RequestContext) -> tuple[Headers | None, Headers | None]:
    """Return the leading and the trailing metadata of a response, None for what was never asked for."""
    return ctx._response_headers, ctx._response_trailers
