"""The body of a WSGI request, as it arrives.

PEP 3333 says how to read a body of known length and little else. A message has to reach its handler when it
arrives, a read must not go past the body's end, and a client gone silent must not keep a thread: how this is
done differs from server to server. One class here is one family of servers; gunicorn's have a module of their
own, and `wsgi_adapters.servers` knows which family a request comes from.

A body that was not read to its end when the response is done is read on for a moment, so that the client,
which may still be sending, gets to see the answer: closing a socket with unread bytes in it resets the
connection and can take the answer with it (RFC 9112, section 9.6).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import ceil
from typing import Protocol

from connect_sync.chunked import read_chunk_size
from connect_sync.code import Code
from connect_sync.deadline import Deadline, client_disconnected, deadline_exceeded
from connect_sync.errors import ConnectError, MalformedError
from connect_sync.http import READ_SIZE, Body

DRAIN_MAX_BYTES = 16 << 20
"""How much of an unread body is read on after the response: 16 MiB, more than sockets hold of what a client
has sent to the end. Past it the connection closes."""
DRAIN_MAX_MS = 5000
"""For how long an unread body is read on after the response, of a client that goes on sending."""
DRAIN_SILENCE_MS = 1000
"""For how long such a client may be silent before the connection closes."""

SEND_GRACE_MS = 1000
"""How long after the deadline of a call its error may take to leave."""

SMALL_RESPONSE_BYTES = 16 * 1024
"""Up to what size a response fits into the buffers of a socket, so that sending it does not wait."""

_SILENCE_MS = 100
"""How long a client may be silent before it counts as one that sends no more, where nothing else tells."""

# Where the system does not tell that the other side has closed its half, it still tells of a reset.
_CLOSED = getattr(select, "POLLRDHUP", 0)


class _Input(Protocol):
    """The part of ``wsgi.input`` that is used of every server."""

    def read(self, size: int, /) -> bytes: ...


class _BufferedInput(_Input, Protocol):
    """What wsgiref has for ``wsgi.input``: the connection's reader itself."""

    def read1(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class RequestBody(Body):
    """The body of a request, from one family of servers."""

    __slots__ = ()

    is_read: bool
    """Whether nothing of the body is left to be read."""
    is_framed: bool = True
    """Whether the server knows where the body ends, and the next request begins."""

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether nothing is left to do but to send a response of ``size`` bytes.

        The server does that without waiting for its client, and nothing of the request is left to be read.
        """
        return self.is_read and size <= SMALL_RESPONSE_BYTES

    def coalesce_head(self, write: Callable[[bytes], object]) -> None:
        """Let the head of the response leave together with its first chunk, where the server can be told so.

        ``write`` is what ``start_response`` has returned. The first chunk will not be empty.
        """

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks of the response, to be sent one after the other.

        Where the server hands out its connection, no send outlasts the deadline until `close`, and
        chunks that nobody wants any more are not asked for.
        """
        return iter(chunks)

    def until_disconnect(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks of a response: of a stream, until the client has left.

        It raises BrokenPipeError if it has, which servers know from their own sends.
        """
        return iter(chunks) if isinstance(chunks, tuple) else self._stream_until_disconnect(chunks)

    def _stream_until_disconnect(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            if self.is_disconnected():
                raise BrokenPipeError(errno.EPIPE, "the client has left")

    def drain(self, end: Deadline | None = None) -> None:
        """Read what is left of the body, up to a bound in bytes.

        With ``end``, of a client that may still send: till then at most, and while it is not silent for long.
        Raises ConnectError as `read` does.
        """
        drained = 0
        while drained < DRAIN_MAX_BYTES and not self.is_read:
            if end is not None:
                end.check()
                self.set_deadline(Deadline(DRAIN_SILENCE_MS))
            drained += len(self.read(READ_SIZE))


class Peer:
    """What a server tells about a client beyond its request: see `wsgi_adapters.servers`."""

    __slots__ = ("forwards_request_first", "is_disconnected", "keep_alive", "linger_fd", "socket")

    def __init__(
        self,
        is_disconnected: Callable[[], bool],
        *,
        sock: socket.socket | None = None,
        linger_fd: int | None = None,
        keep_alive: bool = False,
        forwards_request_first: bool = False,
    ) -> None:
        """Describe a client.

        Args:
            is_disconnected: Tells, without waiting, whether the client has closed the connection.
            sock: Its socket, whose timeout bounds the server's reads and sends.
            linger_fd: The file descriptor of its connection, if the server leaves unread what the application
                has not read of the body.
            keep_alive: Whether the server then takes those bytes for the next request.
            forwards_request_first: Whether the server reads nothing of the response before it has forwarded
                the whole request, so that the application must not wait for the response to be read.
        """
        self.is_disconnected: Callable[[], bool] = is_disconnected
        self.socket: socket.socket | None = sock
        self.linger_fd: int | None = linger_fd
        self.keep_alive: bool = keep_alive
        self.forwards_request_first: bool = forwards_request_first


class ServerBody(RequestBody):
    """A body on a server of which no more is used than its input, and what it tells of its client."""

    # Defaults of the class, in place of slots, spare four assignments in each call.
    _peer: Peer | None = None
    _socket: socket.socket | None = None
    _deadline: Deadline | None = None
    _timeout: float | None = None

    def __init__(self, peer: Peer | None = None) -> None:
        """Serve ``client``, where something of it is known."""
        if peer is not None:
            self._peer = peer
            self._socket = peer.socket

    def is_disconnected(self) -> bool:
        """Tell whether the client has closed the connection, or its sending half."""
        return self._peer is not None and self._peer.is_disconnected()

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no receive outlast ``deadline``, where the server hands out its socket."""
        if self._deadline is None and self._socket is not None:
            self._timeout = self._socket.gettimeout()
        self._deadline = deadline

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether nothing is left to do but to send a response, not even to give the socket back."""
        is_bounded = self._deadline is not None and self._socket is not None
        # As the base class has it, without a call.
        return self.is_read and size <= SMALL_RESPONSE_BYTES and not is_bounded

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks, of a stream until the client has left."""
        if self._peer is None:
            return iter(chunks)
        if self._deadline is not None and self._socket is not None:
            self._socket.settimeout(self._deadline.wait_limit() + SEND_GRACE_MS / 1000)
        if self._peer.forwards_request_first:
            with suppress(ConnectError):  # the client is gone, or its time is up
                self.drain()
        return self.until_disconnect(chunks)

    def close(self) -> None:
        """Give the socket back as it was, and take what the client still sends, where nobody else does.

        Raises:
            BrokenPipeError: The body has not come to its end, so that the connection has to, which the
                server would keep. Servers know this error from their own sends.
        """
        if self._peer is None:
            return
        if self._deadline is not None and self._socket is not None:
            self._socket.settimeout(self._timeout)
        if self._peer.linger_fd is not None and not self.is_read:
            _linger(self._peer.linger_fd)
            if self._peer.keep_alive:
                raise BrokenPipeError(errno.EPIPE, "the request was not read to its end")

    def _receive(self, read: Callable[[int], bytes], size: int) -> bytes:
        """Return what ``read`` does, which is one of the server's. Raises ConnectError."""
        deadline = self._deadline
        if deadline is not None:
            remaining = deadline.wait_limit()
            if not remaining:
                raise deadline_exceeded()
            if self._socket is not None:
                self._socket.settimeout(remaining)
        try:
            return read(size)
        except Exception as error:  # what a server raises for a body that broke off is its own affair
            # Without a socket, a timeout is the server's own, and no deadline.
            if deadline is not None and self._socket is not None and isinstance(error, TimeoutError):
                raise deadline_exceeded() from error
            # A connection that is gone is an OSError; servers have other errors for what is malformed.
            raise client_disconnected(deadline) if isinstance(error, OSError) else malformed() from error


class EmptyBody(ServerBody):
    """No body."""

    is_read: bool = True
    length: int | None = 0

    def read(self, size: int) -> bytes:
        """Return no bytes."""
        return b""


class LengthBody(ServerBody):
    """A body of known length, on a server of which nothing else is known.

    PEP 3333 leaves it open what a server does at the end of the body: nothing is read beyond it. Where the
    input has ``read1``, that hands over what has arrived; an exact read receives as often as it takes, each
    time with the whole timeout.
    """

    is_read: bool = False

    def __init__(self, stream: _Input, length: int, peer: Peer | None = None) -> None:
        """Read ``length`` bytes from ``stream``."""
        if peer is not None:
            super().__init__(peer)
        read1: Callable[[int], bytes] | None = getattr(stream, "read1", None)
        self._read = read1 or stream.read
        self._is_exact = read1 is None
        self._remaining = length
        self.length: int | None = length
        if not length:
            self.is_read = True

    def read(self, size: int) -> bytes:
        """Return what has arrived, or ``size`` bytes. Raises ConnectError if the client has left."""
        remaining = self._remaining
        if not remaining:
            return b""
        if not self._is_exact and size < READ_SIZE:
            size = READ_SIZE
        data = self._receive(self._read, size if size < remaining else remaining)
        if not data:
            raise client_disconnected(self._deadline)
        self._remaining = remaining - len(data)
        if not self._remaining:
            self.is_read = True
        return data


class TerminatedBody(ServerBody):
    """A body of unknown length, on a server that ends its input where the body ends.

    Such servers say so by ``wsgi.input_terminated``. An exact read returns as soon as it can.
    """

    is_read: bool

    def __init__(self, stream: _Input, peer: Peer | None = None) -> None:
        """Read ``stream`` to its end."""
        super().__init__(peer)
        self._read = stream.read
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end. Raises ConnectError if the client has left."""
        if self.is_read:
            return b""
        data = self._receive(self._read, size)
        self.is_read = not data
        return data


class ChunkedBody(ServerBody):
    """A body in chunks, read from the connection itself.

    This is for servers that leave the chunks to the application, as wsgiref's does, and for those that decode
    them in a way that holds messages back, or that takes what is no end of a body for one. Their form is
    that of RFC 9112, section 7.1; extensions and trailers are passed over.
    """

    _MAX_LINE = 512
    _MAX_TRAILERS = 100

    is_read: bool

    def __init__(
        self, stream: _BufferedInput, peer: Peer | None = None, max_bytes: int | None = None
    ) -> None:
        """Read the chunks from ``stream``, of ``max_bytes`` at most if the server has such a limit."""
        super().__init__(peer)
        self._stream = stream
        self._has_begun = False
        self._left = 0
        self._room = max_bytes
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return what has arrived of a chunk, at most ``size`` bytes.

        Raises:
            ConnectError: The client has left, or its chunks are malformed, or more than the server's limit.
        """
        if self.is_read:
            return b""
        if not self._left and not self._next_chunk():
            self.is_read = True
            return b""
        if self._room is not None and self._left > self._room:
            raise ConnectError(
                Code.RESOURCE_EXHAUSTED, "the request body is larger than the server's own limit"
            )
        data = self._receive(self._stream.read1, min(size, self._left))
        if not data:
            raise client_disconnected(self._deadline)
        self._left -= len(data)
        if self._room is not None:
            self._room -= len(data)
        return data

    def _next_chunk(self) -> bool:
        """Read the head of a chunk, and tell whether it is not the last one."""
        if self._has_begun and self._line() != b"\r\n":
            raise malformed()
        self._has_begun = True
        try:
            self._left = read_chunk_size(self._line())
        except ValueError as error:
            raise malformed() from error
        if self._left:
            return True
        for _ in range(self._MAX_TRAILERS):
            if self._line() == b"\r\n":
                return False
        raise malformed()

    def _line(self) -> bytes:
        line = self._receive(self._stream.readline, self._MAX_LINE)
        if not line.endswith(b"\n") and len(line) < self._MAX_LINE:
            raise client_disconnected(self._deadline)
        if not line.endswith(b"\r\n"):
            raise malformed()
        return line


class UwsgiChunkedBody(ServerBody):
    """A body in chunks under uWSGI, which has a call of its own for them."""

    is_read: bool

    def __init__(self, read_chunk: Callable[..., bytes], peer: Peer | None = None) -> None:
        """Read by ``read_chunk``, which is ``uwsgi.chunked_read``."""
        super().__init__(peer)
        self._read_chunk = read_chunk
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return the next chunk, whatever ``size``.

        Raises:
            ConnectError: The client has left, or the deadline has passed: to the second, in which uWSGI
                counts.
        """
        if self.is_read:
            return b""
        data = self._receive(self._next_chunk, size)
        self.is_read = not data
        return data

    def _next_chunk(self, size: int) -> bytes:
        if self._deadline is None:
            return self._read_chunk()
        # 0 would mean the server's own timeout.
        return self._read_chunk(max(1, ceil(self._deadline.wait_limit())))


class PartlyReadBody(ServerBody):
    """A body of which others have read something before it came to the application."""

    is_read: bool = False

    def read(self, size: int) -> bytes:
        """Raise ConnectError: what is missing must not look like an empty message."""
        raise consumed()


class UnreadableBody(ServerBody):
    """A chunked body on a server that does not pass it on: it neither decodes it nor ends its input.

    Such a server does not find its end either, and may take what is in it for the next request.
    """

    is_read: bool = False
    is_framed: bool = False

    def read(self, size: int) -> bytes:
        """Raise ConnectError: the body cannot be read."""
        raise ConnectError(
            Code.UNIMPLEMENTED, "this server cannot pass on a request body without Content-Length"
        )


# What the families share


def is_closed_by_peer(descriptor: int) -> bool:
    """Tell, without waiting, whether the other side of a socket has closed it, or its sending half."""
    return descriptor < 0 or _poll(descriptor, _CLOSED, 0)


def _poll(descriptor: int, events: int, timeout: float) -> bool:
    """Tell whether one of ``events`` happens within ``timeout`` seconds; never, where there is no polling."""
    if not hasattr(select, "poll"):
        return False
    # gevent's own does not know what is asked here, and would let others run meanwhile.
    monkey = sys.modules.get("gevent.monkey") if not timeout else None
    poll = select.poll() if monkey is None else monkey.get_original("select", "poll")()
    poll.register(descriptor, events)
    return bool(poll.poll(timeout * 1000))


def _linger(descriptor: int) -> None:
    """Read on from a connection that is about to be closed, for a client that still sends."""
    deadline = Deadline(DRAIN_MAX_MS)
    drained = 0
    while drained < DRAIN_MAX_BYTES and deadline.remaining():
        if not _poll(descriptor, select.POLLIN, min(deadline.remaining(), _SILENCE_MS / 1000)):
            return
        try:
            data = os.read(descriptor, READ_SIZE)
        except OSError:
            return
        if not data:
            return
        drained += len(data)


def consumed() -> ConnectError:
    """Return the error of a body of which others have read what the application should."""
    return ConnectError(Code.INTERNAL, "the request body was read before, perhaps by middleware")


def malformed() -> MalformedError:
    """Return the error of a body whose framing in HTTP is broken."""
    return MalformedError("the request body is malformed")
