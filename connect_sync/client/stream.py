"""The responses of a streaming call, as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic

from connect_sync.client.metadata import collect
from connect_sync.context import RequestContext
from connect_sync.headers import Headers
from connect_sync.http import close_iterator
from connect_sync.method import OutputT


class ResponseStream(Iterator[OutputT], Generic[OutputT]):
    """An iterator over the responses of a call, each as soon as it has arrived.

    The call is over when the iterator is exhausted or has raised; before that it is given up by ``close``,
    or by leaving the stream's ``with`` block. A stream that is neither exhausted nor closed keeps its
    connection until it is collected as garbage.
    """

    def __init__(self, ctx: RequestContext, responses: Iterator[OutputT]) -> None:
        """Read the responses of the call ``ctx`` from ``responses``."""
        self._ctx = ctx
        self._responses = responses
        self._ahead: list[OutputT] = []
        self._error: Exception | None = None

    def response_headers(self) -> Headers:
        """Return the response's leading metadata.

        An interceptor that is a generator begins its call with the first message: this then waits for it.
        """
        if self._ctx.response_metadata()[0] is None:
            self._read_ahead()
        return self._ctx.response_headers()

    def response_trailers(self) -> Headers:
        """Return the response's trailing metadata; empty until the stream has ended."""
        return self._ctx.response_trailers()

    def close(self) -> None:
        """Give the call up, if it is not over. Its connection is closed."""
        self._ahead.clear()
        self._error = None
        close_iterator(self._responses)

    def __next__(self) -> OutputT:
        """Return the next response, waiting for it.

        Raises:
            ConnectError: The call failed: with what the server answered, or with ``unavailable``,
                ``deadline_exceeded``, ``canceled``, ``resource_exhausted`` or ``internal``.
        """
        if self._ahead:
            return self._ahead.pop()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        try:
            return next(self._responses)
        finally:
            collect(self._ctx)

    def _read_ahead(self) -> None:
        try:
            self._ahead.append(next(self._responses))
        except StopIteration:
            pass
        except Exception as error:
            self._error = error

    def __enter__(self) -> ResponseStream[OutputT]:
        """Return the stream."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the stream."""
        self.close()
