"""The context of a call that came in."""

from __future__ import annotations

from typing import Any

from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline
from connect_sync.headers import Headers
from connect_sync.http import Body, Request
from connect_sync.method import Method
from connect_sync.protocol_type import ProtocolType


class ServerContext(RequestContext):
    """A context that looks at its request when it is asked."""

    __slots__ = ("_request",)

    def __init__(
        self,
        method: Method[Any, Any],
        request: Request,
        deadline: Deadline | None,
        protocol: ProtocolType,
    ) -> None:
        """Make the context of a call of ``method``, which came by ``request``."""
        # Without ``super().__init__()``, which has no request to ask later.
        self._method = method
        self._request = request
        self._deadline = deadline
        self._protocol = protocol
        self._response_headers = None
        self._response_trailers = None

    def http_method(self) -> str:
        """Return the HTTP method of the request: ``POST`` or ``GET``."""
        return self._request.method

    def request_headers(self) -> Headers:
        """Return the headers that the client sent."""
        return self._request.headers

    def is_active(self) -> bool:
        """Tell whether the client is still connected, and the deadline not passed."""
        if self._deadline is not None and not self._deadline.remaining():
            return False
        body = self._request.body
        return not isinstance(body, Body) or not body.is_disconnected()

    def peer(self) -> str | None:
        """Return the client's address, ``host:port``; None where it is not known."""
        return self._request.peer
