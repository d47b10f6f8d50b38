"""The response's metadata, for callers of methods that return a message alone."""

from __future__ import annotations

from contextvars import ContextVar, Token

from connect_sync.client.call import ClientContext
from connect_sync.headers import Headers


class ResponseMetadata:
    """Collects the metadata of calls: of the last one that ended while its block was running.

    A stream counts when it begins and with each of its messages; its trailers are there when it has ended.

    ::

        with ResponseMetadata() as metadata:
            client.greet(request)
        print(metadata.headers()["greet-version"])

    A call that fails leaves the metadata of its response too. Only calls of the block's own thread (or
    rather, its context) are seen; of nested blocks, the inner one sees them.
    """

    def __init__(self) -> None:
        """Collect nothing yet."""
        self._ctx: ClientContext | None = None
        self._token: Token[ResponseMetadata | None] | None = None

    def headers(self) -> Headers:
        """Return the response's leading metadata; empty before a call has ended."""
        return Headers() if self._ctx is None else self._ctx.response_headers()

    def trailers(self) -> Headers:
        """Return the response's trailing metadata; empty before a call has ended."""
        return Headers() if self._ctx is None else self._ctx.response_trailers()

    def http_status(self) -> int | None:
        """Return the HTTP status of the response; None before a call has ended, or if it got no response."""
        return None if self._ctx is None else self._ctx.http_status

    def __enter__(self) -> ResponseMetadata:
        """Begin to collect."""
        self._token = _current.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop to collect; what was collected stays."""
        if self._token is not None:
            _current.reset(self._token)
            self._token = None


_current: ContextVar[ResponseMetadata | None] = ContextVar("response_metadata", default=None)


def collect(ctx: ClientContext) -> None:
    """Hand the metadata of a call to the block that it runs in, if there is one."""
    metadata = _current.get()
    if metadata is not None:
        metadata._ctx = ctx
