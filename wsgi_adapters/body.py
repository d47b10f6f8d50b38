"""The body of a WSGI request, as it arrives.

PEP 3333 specifies how to read a body of known length and little else. A message has to reach its handler when
it arrives, a read must not go past the end of the body, and a silent client must not block a thread: how to
do this differs between servers. Each class here is for one family of servers; gunicorn's are in a module of
their own, and `wsgi_adapters.servers` determines the family of a request.

If a body has not been read to its end when the response is done, reading continues for a moment, so that a
client that is still sending receives the response: closing a socket with unread data resets the connection,
which can destroy the response (RFC 9112, section 9.6).
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
"""How much of an unread body is read after the response: 16 MiB, more than socket buffers hold of a request
that the client has sent in full. Beyond it, the connection is closed."""
DRAIN_MAX_MS = 5000
"""How long an unread body is read after the response, while the client keeps sending."""
DRAIN_SILENCE_MS = 1000
"""How long such a client may be silent before the connection is closed."""

SEND_GRACE_MS = 1000
"""How long sending the error of a call may take after its deadline."""

SMALL_RESPONSE_BYTES = 16 * 1024
"""The largest response that fits into socket buffers, so that sending it does not block."""

_SILENCE_MS = 100
"""How long a client may be silent before it counts as done sending, if nothing else tells."""

# Without POLLRDHUP, the system does not report a half-closed connection, but still reports a reset.
_CLOSED = getattr(select, "POLLRDHUP", 0)


class _Input(Protocol):
    """The part of ``wsgi.input`` that is used on every server."""

    def read(self, size: int, /) -> bytes: ...


class _BufferedInput(_Input, Protocol):
    """wsgiref's ``wsgi.input``: the connection's reader itself."""

    def read1(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class RequestBody(Body):
    """The body of a request, from one family of servers."""

    __slots__ = ()

    is_read: bool
    """Whether the body has been read to its end."""
    is_framed: bool = True
    """Whether the server knows where the body ends and the next request begins."""

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether no cleanup is needed after sending a response of ``size`` bytes.

        The server can send it without waiting for the client, and the request body has been read.
        """
        return self.is_read and size <= SMALL_RESPONSE_BYTES

    def coalesce_head(self, write: Callable[[bytes], object]) -> None:
        """Send the head of the response together with its first chunk, if the server allows it.

        ``write`` is the result of ``start_response``. The first chunk will not be empty.
        """

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks of the response, to be sent one at a time.

        If the server exposes its connection, no send outlasts the deadline until `close`, and no chunks are
        generated after the client has disconnected.
        """
        return iter(chunks)

    def until_disconnect(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks of a response; for a stream, until the client disconnects.

        It then raises BrokenPipeError, which servers handle like an error of their own sends.
        """
        return iter(chunks) if isinstance(chunks, tuple) else self._stream_until_disconnect(chunks)

    def _stream_until_disconnect(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            if self.is_disconnected():
                raise BrokenPipeError(errno.EPIPE, "client disconnected")

    def drain(self, end: Deadline | None = None) -> None:
        """Read the rest of the body, up to a number of bytes.

        Pass ``end`` if the client may still be sending: reading stops then, or when the client is silent.
        Raises ConnectError as `read` does.
        """
        drained = 0
        while drained < DRAIN_MAX_BYTES and not self.is_read:
            if end is not None:
                end.check()
                self.set_deadline(Deadline(DRAIN_SILENCE_MS))
            drained += len(self.read(READ_SIZE))


class Peer:
    """What is known about a client beyond its request: see `wsgi_adapters.servers`."""

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
            is_disconnected: Tells, without blocking, whether the client has closed the connection.
            sock: Its socket, whose timeout bounds the server's reads and sends.
            linger_fd: The file descriptor of its connection, if the server does not read the part of the body
                that the application left unread.
            keep_alive: Whether the server then takes those bytes for the next request.
            forwards_request_first: Whether the server forwards the whole request before it reads any of the
                response, so that the application must not wait for the response to be read.
        """
        self.is_disconnected: Callable[[], bool] = is_disconnected
        self.socket: socket.socket | None = sock
        self.linger_fd: int | None = linger_fd
        self.keep_alive: bool = keep_alive
        self.forwards_request_first: bool = forwards_request_first


class ServerBody(RequestBody):
    """A body on a server of which only the input and the `Peer` are used."""

    # Class defaults instead of slots save four assignments per call.
    _peer: Peer | None = None
    _socket: socket.socket | None = None
    _deadline: Deadline | None = None
    _timeout: float | None = None

    def __init__(self, peer: Peer | None = None) -> None:
        """Use ``peer``, if the server tells anything about its client."""
        if peer is not None:
            self._peer = peer
            self._socket = peer.socket

    def is_disconnected(self) -> bool:
        """Tell whether the client has closed the connection, or its sending half."""
        return self._peer is not None and self._peer.is_disconnected()

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no receive outlast ``deadline``, if the server exposes its socket."""
        if self._deadline is None and self._socket is not None:
            self._timeout = self._socket.gettimeout()
        self._deadline = deadline

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether no cleanup is needed after sending, including restoring the socket's timeout."""
        is_bounded = self._deadline is not None and self._socket is not None
        # As in the base class, without a call.
        return self.is_read and size <= SMALL_RESPONSE_BYTES and not is_bounded

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks; for a stream, until the client disconnects."""
        if self._peer is None:
            return iter(chunks)
        if self._deadline is not None and self._socket is not None:
            self._socket.settimeout(self._deadline.wait_limit() + SEND_GRACE_MS / 1000)
        if self._peer.forwards_request_first:
            with suppress(ConnectError):  # the client disconnected, or the deadline has passed
                self.drain()
        return self.until_disconnect(chunks)

    def close(self) -> None:
        """Restore the socket's timeout, and read what the client still sends, if the server does not.

        Raises:
            BrokenPipeError: The body was not read to its end, and the server would reuse the connection.
                This makes it close it: servers handle this like an error of their own sends.
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
        """Call ``read``, a method of the server's input, within the deadline. Raises ConnectError."""
        deadline = self._deadline
        if deadline is not None:
            remaining = deadline.wait_limit()
            if not remaining:
                raise deadline_exceeded()
            if self._socket is not None:
                self._socket.settimeout(remaining)
        try:
            return read(size)
        except Exception as error:  # servers raise various errors for a truncated body
            # Without a socket, a timeout is the server's own, not the deadline.
            if deadline is not None and self._socket is not None and isinstance(error, TimeoutError):
                raise deadline_exceeded() from error
            # A lost connection is an OSError; for malformed bodies servers have other errors.
            raise client_disconnected(deadline) if isinstance(error, OSError) else malformed() from error


class EmptyBody(ServerBody):
    """No body."""

    is_read: bool = True
    length: int | None = 0

    def read(self, size: int) -> bytes:
        """Return no bytes."""
        return b""


class LengthBody(ServerBody):
    """A body of known length, on a server about which nothing else is known.

    PEP 3333 does not define what happens at the end of the body, so nothing is read beyond it. If the input
    has ``read1``, it returns what has arrived; an exact read receives as often as necessary, each time with
    the whole timeout.
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
        """Return what has arrived, or ``size`` bytes. Raises ConnectError if the client disconnected."""
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

    Such servers set ``wsgi.input_terminated``. An exact read returns as soon as it can.
    """

    is_read: bool

    def __init__(self, stream: _Input, peer: Peer | None = None) -> None:
        """Read ``stream`` to its end."""
        super().__init__(peer)
        self._read = stream.read
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end. Raises ConnectError if the client disconnected."""
        if self.is_read:
            return b""
        data = self._receive(self._read, size)
        self.is_read = not data
        return data


class ChunkedBody(ServerBody):
    """A body in chunks, read from the connection itself.

    This is for servers that leave chunks to the application, like wsgiref's, and for those whose decoder
    delays messages or mistakes a truncated body for a complete one. The format is that of RFC 9112, section
    7.1; extensions and trailers are ignored.
    """

    _MAX_LINE = 512
    _MAX_TRAILERS = 100

    is_read: bool

    def __init__(
        self, stream: _BufferedInput, peer: Peer | None = None, max_bytes: int | None = None
    ) -> None:
        """Read chunks from ``stream``, ``max_bytes`` at most if the server has such a limit."""
        super().__init__(peer)
        self._stream = stream
        self._has_begun = False
        self._left = 0
        self._room = max_bytes
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return what has arrived of a chunk, at most ``size`` bytes.

        Raises:
            ConnectError: The client disconnected, or its chunks are malformed or exceed the server's limit.
        """
        if self.is_read:
            return b""
        if not self._left and not self._next_chunk():
            self.is_read = True
            return b""
        if self._room is not None and self._left > self._room:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, "the request body exceeds the server's limit")
        data = self._receive(self._stream.read1, min(size, self._left))
        if not data:
            raise client_disconnected(self._deadline)
        self._left -= len(data)
        if self._room is not None:
            self._room -= len(data)
        return data

    def _next_chunk(self) -> bool:
        """Read the head of a chunk, and tell whether the chunk has data: the last one has none."""
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
    """A body in chunks under uWSGI, which has a function of its own to read them."""

    is_read: bool

    def __init__(self, read_chunk: Callable[..., bytes], peer: Peer | None = None) -> None:
        """Read with ``read_chunk``, which is ``uwsgi.chunked_read``."""
        super().__init__(peer)
        self._read_chunk = read_chunk
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return the next chunk, whatever ``size``.

        Raises:
            ConnectError: The client disconnected, or the deadline has passed, rounded up to the whole seconds
                that uWSGI counts in.
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
    """A body that was partly read before the application was called."""

    is_read: bool = False

    def read(self, size: int) -> bytes:
        """Raise ConnectError: the missing part must not look like an empty message."""
        raise consumed()


class UnreadableBody(ServerBody):
    """A chunked body on a server that does not support it: it neither decodes the chunks nor ends its input.

    Such a server does not find the end of the body either, and may take its data for the next request.
    """

    is_read: bool = False
    is_framed: bool = False

    def read(self, size: int) -> bytes:
        """Raise ConnectError: the body cannot be read."""
        raise ConnectError(
            Code.UNIMPLEMENTED, "this server does not support a request body without Content-Length"
        )


# Shared by the families


def is_closed_by_peer(descriptor: int) -> bool:
    """Tell, without blocking, whether the peer of a socket has closed it, or its sending half."""
    return descriptor < 0 or _poll(descriptor, _CLOSED, 0)


def _poll(descriptor: int, events: int, timeout: float) -> bool:
    """Tell whether one of ``events`` occurs within ``timeout`` seconds; False if poll() is not available."""
    if not hasattr(select, "poll"):
        return False
    # gevent's poll() does not support these events, and would switch to other greenlets.
    monkey = sys.modules.get("gevent.monkey") if not timeout else None
    poll = select.poll() if monkey is None else monkey.get_original("select", "poll")()
    poll.register(descriptor, events)
    return bool(poll.poll(timeout * 1000))


def _linger(descriptor: int) -> None:
    """Read from a connection that is about to be closed, whose client may still be sending."""
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
    """Return the error for a body that was read before the application could."""
    return ConnectError(Code.INTERNAL, "the request body was already read, perhaps by middleware")


def malformed() -> MalformedError:
    """Return the error for a body whose HTTP framing is invalid."""
    return MalformedError("the request body is malformed")
