"""What a handler or an interceptor knows of the call it is in, and can add to it."""

from __future__ import annotations

from typing import Any

from connect_sync.deadline import Deadline
from connect_sync.headers import Headers
from connect_sync.http import Body, Request
from connect_sync.method import Method


class RequestContext:
    """A call: its method, its metadata in and out, its deadline and its peer.

    On the server, the request's metadata is what the client sent, and the response's is for the handler
    to write. On the client it is the other way around.
    """

    __slots__ = ("_deadline", "_method", "_request", "_response_headers", "_response_trailers")

    def __init__(self, method: Method[Any, Any], request: Request, deadline: Deadline | None = None) -> None:
        """Make the context of one call of ``method``, which comes or goes by ``request``."""
        self._method = method
        self._request = request
        self._deadline = deadline
        self._response_headers: Headers | None = None
        self._response_trailers: Headers | None = None

    def method(self) -> Method[Any, Any]:
        """Return the method that is called."""
        return self._method

    def http_method(self) -> str:
        """Return the HTTP method of the request: ``POST`` or ``GET``."""
        return self._request.method

    def request_headers(self) -> Headers:
        """Return the request's headers."""
        return self._request.headers

    def response_headers(self) -> Headers:
        """Return the response's leading metadata.

        A handler that streams writes it before it yields the first message: with that it leaves.
        """
        if self._response_headers is None:
            self._response_headers = Headers()
        return self._response_headers

    def response_trailers(self) -> Headers:
        """Return the response's trailing metadata, which leaves when the handler has ended."""
        if self._response_trailers is None:
            self._response_trailers = Headers()
        return self._response_trailers

    def response_metadata(self) -> tuple[Headers | None, Headers | None]:
        """Return the leading and the trailing metadata, None where nobody has asked for it."""
        return self._response_headers, self._response_trailers

    def timeout_ms(self) -> float | None:
        """Return how many milliseconds remain until the deadline, 0 or more; None without one."""
        return None if self._deadline is None else self._deadline.remaining() * 1000

    def is_active(self) -> bool:
        """Tell, without waiting, whether anybody still waits for the result of the call.

        It is False once the deadline has passed; at a service also once the client has left, as far as the
        server can tell, at a client once the call was canceled. A handler that works for long may ask
        between two steps, and end early. It has to ask in its own thread.
        """
        if self._deadline is not None and not self._deadline.remaining():
            return False
        body = self._request.body
        return not isinstance(body, Body) or not body.is_disconnected()

    def peer(self) -> str | None:
        """Return the other side's address, ``host:port``, where it is known."""
        return self._request.peer
