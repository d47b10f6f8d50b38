"""The pair of values that both sides share: a request, and the response to it.

A server is a function from `Request` to `Response`; a client's transport is the same function seen from
outside. A body that is sent is an iterable of chunks. A body that is received is a `Body`, which is such
an iterable too, and which can also be told how many bytes the reader is waiting for: some servers hand a
message over when it arrives only to a reader that asks for exactly its size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias, TypeVar

from connect_sync.deadline import Deadline
from connect_sync.errors import ConnectError, TooLargeError
from connect_sync.headers import Headers

DEFAULT_READ_MAX_BYTES = 4 << 20
"""How large a received message may be where nothing is said: 4 MiB."""

_ItemT = TypeVar("_ItemT")

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of headers that do not change."""

_logger = logging.getLogger("connect_sync")

READ_SIZE = 64 * 1024
"""Bytes to ask a body for where nothing says how many are to come."""


class Body:
    """The bytes of a request or a response, read as they arrive. Subclasses say how, by ``read``.

    It is no abstract class, since to tell bodies from other iterables would then cost a call in every call.
    """

    __slots__ = ()

    length: int | None = None
    """How many bytes the body was announced to have in all, where it was."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at least one; none, once the body has ended.

        ``size`` (at least 1) is how many bytes the reader waits for. An implementation that can returns
        what has arrived, be it less or more; one that cannot waits for ``size`` bytes or the end.

        Raises:
            ConnectError: The body broke off, cannot be read, or did not arrive within its deadline.
        """
        raise NotImplementedError

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no read outlast ``deadline``, where the source of the bytes can be bounded."""

    def is_disconnected(self) -> bool:
        """Tell, without waiting, whether who sends the body is known to have left.

        One who has said that nothing more will be sent may count as one who has left.
        """
        return False

    def close(self) -> None:
        """Let go of what the body holds. Closing twice is closing once."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes that remain, in chunks as they arrive."""
        while chunk := self.read(READ_SIZE):
            yield chunk


class IterableBody(Body):
    """A body whose chunks come from an iterable."""

    __slots__ = ("_chunks", "_iterator")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Read from ``chunks``; its iterator is closed with the body, if it can be."""
        self._chunks = chunks
        self._iterator = iter(chunks)

    def read(self, size: int) -> bytes:
        """Return the next chunk that is not empty, whatever its size."""
        for chunk in self._iterator:
            if chunk:
                return chunk
        return b""

    def close(self) -> None:
        """Close the iterable and its iterator."""
        close_iterator(self._iterator)
        close_iterator(self._chunks)


def as_body(chunks: Iterable[bytes]) -> Body:
    """Return ``chunks`` to be read as a body."""
    return chunks if isinstance(chunks, Body) else IterableBody(chunks)


def close_iterator(iterator: object) -> None:
    """Close an iterator that can be closed, as a generator can."""
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


def close_all(iterators: Iterable[object]) -> None:
    """Close each of the iterators that can be closed, in order, whatever closing another one raises."""
    with ExitStack() as stack:
        for iterator in reversed(tuple(iterators)):
            stack.callback(close_iterator, iterator)


def close_after(error: BaseException, close: Callable[[], object]) -> None:
    """Call ``close`` while ``error`` is on its way.

    What is not an Exception, such as a KeyboardInterrupt, is not replaced by an Exception of the cleanup,
    which is logged.
    """
    try:
        close()
    except Exception as failure:
        if isinstance(error, Exception):
            raise
        _logger.error("the cleanup of a stream failed", exc_info=failure)


class ClosingIterator(Iterator[_ItemT]):
    """An iterator that closes what it reads from, once: when that ends or fails, or by ``close``.

    Not a generator: one that is closed before its first item would do nothing.
    """

    __slots__ = ("_close_with", "_closes_at_end", "_is_closed", "_next", "_run", "_source")

    def __init__(
        self,
        source: Iterable[Any],
        close_with: Iterable[object] = (),
        *,
        transform: Callable[[Any], _ItemT] | None = None,
        run: Callable[..., Any] | None = None,
        closes_at_end: bool = True,
    ) -> None:
        """Iterate over ``source``.

        Args:
            source: What to iterate over. It and its iterator are closed, if they can be.
            close_with: What to close after them. It may grow until then.
            transform: What to make of each item.
            run: What calls the source's functions: ``run(function, *arguments)``.
            closes_at_end: Whether to close when the source has ended. Servers close a response themselves,
                once it is sent.
        """
        iterator: Iterator[Any] = iter(source) if run is None else run(iter, source)
        self._source = (iterator,) if iterator is source else (iterator, source)
        self._close_with = close_with
        self._run = run
        step: Iterator[_ItemT] = iterator if transform is None else map(transform, iterator)
        self._next: Callable[[], _ItemT] = step.__next__ if run is None else partial(run, step.__next__)
        self._closes_at_end = closes_at_end
        self._is_closed = False

    def __next__(self) -> _ItemT:
        """Return the next item."""
        try:
            return self._next()
        except BaseException as error:
            if self._closes_at_end or not isinstance(error, StopIteration):
                close_after(error, self.close)
            raise

    def close(self) -> None:
        """Close what the items come from. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        # An interceptor may give back the very responses that it was given.
        everything = {id(item): item for item in (*self._source, *self._close_with)}.values()
        if self._run is None:
            close_all(everything)
        else:
            self._run(close_all, everything)


class Request:
    """An HTTP request: its head, and its body as it arrives or is to be sent."""

    __slots__ = ("accepts_trailers", "body", "error", "headers", "method", "path", "peer", "query")

    def __init__(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: Iterable[bytes] = (),
        *,
        query: str = "",
        peer: str | None = None,
        accepts_trailers: bool = False,
    ) -> None:
        """Make a request.

        Args:
            method: The HTTP method, in upper case.
            path: The path below the place where the service is mounted, starting with a slash.
            headers: The headers, those that frame the body in HTTP aside.
            body: The chunks of the body. A ``tuple`` is a body whose length is known.
            query: The query string, still percent-encoded, without the question mark.
            peer: The client's address, where it is known.
            accepts_trailers: Whether the response may have trailers, on the way that the request came.
        """
        self.method: str = method
        self.path: str = path
        self.query: str = query
        self.headers: Headers = headers
        self.body: Iterable[bytes] = body
        self.peer: str | None = peer
        self.accepts_trailers: bool = accepts_trailers
        self.error: ConnectError | None = None
        """The error of the call, if it failed. A service sets it before it sends the end of the response."""


class Response:
    """An HTTP response: its head, and its body as it arrives or is to be sent."""

    __slots__ = ("_headers", "body", "status", "trailers")

    def __init__(
        self,
        status: int,
        headers: Headers | Fields,
        body: Iterable[bytes] = (),
        trailers: Headers | None = None,
    ) -> None:
        """Make a response.

        Args:
            status: The HTTP status.
            headers: The headers, those that frame the body in HTTP aside; or, where they are always the same,
                their fields, names in lower case, which any number of responses may share.
            body: The chunks of the body. A ``tuple`` is a body whose length is known.
            trailers: What follows the body, complete when the body has ended; None for a protocol that
                has no HTTP trailers.
        """
        self._headers = headers
        self.status: int = status
        self.body: Iterable[bytes] = body
        self.trailers: Headers | None = trailers

    @property
    def headers(self) -> Headers:
        """The headers, which are this response's own."""
        if isinstance(self._headers, tuple):
            self._headers = Headers.from_wire(self._headers)
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    def fields(self) -> list[tuple[str, str]]:
        """Return the names and values of the headers, in a new list."""
        return list(self._headers) if isinstance(self._headers, tuple) else self._headers.multi_items()


def read_whole(body: Body, max_bytes: int) -> bytes:
    """Read a body to its end.

    Raises:
        ConnectError: ``resource_exhausted`` for more than ``max_bytes`` bytes, as soon as they are
            announced or have arrived; or what ``Body.read`` raises.
    """
    length = body.length
    if length is not None:
        if length > max_bytes:
            raise TooLargeError(max_bytes, length)
        # A small body comes in one read: what is announced has to come, and nothing behind it.
        data = body.read(length if length < READ_SIZE else READ_SIZE) if length else b""
        if len(data) == length:
            return data
        chunks = [data]
        size = len(data)
    else:
        chunks = []
        size = 0
    while chunk := body.read(min(READ_SIZE, max_bytes + 1 - size)):
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)
