"""The body of a WSGI request, as it arrives.

PEP 3333 says how to read a body of known length and little else. A message has to reach its handler when it
arrives, a read must not go past the body's end, and a client gone silent must not keep a thread: how this is
done differs from server to server, and this module is where it is known. One class is one family.

`open_body` picks by what the environ holds. A body that was not read to its end when the response is done is
read on for a moment, so that the client, which may still be sending, gets to see the answer: closing a socket
with unread bytes in it resets the connection and can take the answer with it (RFC 9112, section 9.6).
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from urllib3.util.wait import wait_for_read

from connect_sync.code import Code
from connect_sync.deadline import Deadline, deadline_exceeded
from connect_sync.errors import ConnectError
from connect_sync.http import READ_SIZE, Body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

DRAIN_MAX_BYTES = 1 << 20
"""How much of an unread body is read on after the response: 1 MiB; past it the connection closes."""
DRAIN_MAX_MS = 1000
"""For how long an unread body is read on after the response; past it the connection closes."""

_HTTP2_END_MS = 100
"""For how long the end of a response over HTTP/2 waits for that of its request: it delays an early answer."""

_READS_BETWEEN_CHUNKS = 16
"""How often at most to read frames between two chunks of a response: TLS hands over a record at a time."""

_CANCEL = 0x8
"""The error of HTTP/2 for a stream that is not needed any more (RFC 9113, section 7)."""

_LEAST_TIMEOUT = 0.001
"""Seconds for a send whose time is up: 0 would mean another mode to a socket."""

# Python reads no numbers of more than some thousand digits; a length of nineteen is past every limit.
_MAX_DIGITS = 19


class _Input(Protocol):
    """The part of ``wsgi.input`` that is used here."""

    def read(self, size: int, /) -> bytes: ...


class RequestBody(Body):
    """The body of a request, from one family of servers."""

    __slots__ = ()

    is_read: bool
    """Whether nothing of the body is left to be read."""
    is_sent_at_once: bool = True
    """Whether the server sends a small response without waiting for its client."""

    def iterate_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks of the response, to be sent one after the other.

        Where the server hands out its connection, no send outlasts the deadline until `close`, and
        chunks that nobody wants any more are not asked for.
        """
        return iter(chunks)


class EmptyBody(RequestBody):
    """No body."""

    __slots__ = ()

    is_read: bool = True
    length: int | None = 0

    def read(self, size: int) -> bytes:
        """Return no bytes."""
        return b""


class LengthBody(RequestBody):
    """A body of known length, on a server of which nothing else is known.

    PEP 3333 leaves it open what a server does at the end of the body: nothing is read beyond it.
    """

    __slots__ = ("_read", "_remaining", "length")

    def __init__(self, stream: _Input, length: int) -> None:
        """Read ``length`` bytes from ``stream``."""
        self._read = stream.read
        self._remaining = length
        self.length: int | None = length

    @property
    def is_read(self) -> bool:  # type: ignore[override]
        """Whether all of its length was read."""
        return not self._remaining

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end. Raises ConnectError if the client broke off."""
        if size > self._remaining:
            size = self._remaining
            if not size:
                return b""
        data = _read_input(self._read, size)
        if not data:
            raise _broken_off()
        self._remaining -= len(data)
        return data


class TerminatedBody(RequestBody):
    """A body of unknown length, on a server that ends its input where the body ends.

    Such servers say so by ``wsgi.input_terminated``. An exact read returns as soon as it can.
    """

    __slots__ = ("_read", "is_read")

    is_read: bool

    def __init__(self, stream: _Input) -> None:
        """Read ``stream`` to its end."""
        self._read = stream.read
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end. Raises ConnectError if the client broke off."""
        if self.is_read:
            return b""
        data = _read_input(self._read, size)
        self.is_read = not data
        return data


class UnreadableBody(RequestBody):
    """A chunked body on a server that does not pass it on: it neither decodes it nor ends its input."""

    __slots__ = ()

    is_read: bool = True

    def read(self, size: int) -> bytes:
        """Raise ConnectError: the body cannot be read."""
        raise ConnectError(
            Code.UNIMPLEMENTED, "this server cannot pass on a request body without Content-Length"
        )


class GunicornBody(RequestBody):
    """A body under gunicorn, with the sync and the gthread worker.

    gunicorn's input waits for 1 KiB at least, whatever the size that is asked for. Below it is a reader
    that does not: for a chunked body, the reader's parser yields each piece when it arrives; for a body of
    known length, the reader takes an exact read. Both receive through an "unreader" that holds the socket,
    which is where a deadline is set on every receive.
    """

    __slots__ = (
        "_ahead",
        "_bounded",
        "_chunks",
        "_deadline",
        "_input",
        "_remaining",
        "_send_bound",
        "_unreader",
        "is_read",
        "length",
    )

    is_read: bool
    length: int | None

    def __init__(self, stream: Any) -> None:
        """Read ``stream``, gunicorn's own ``wsgi.input``."""
        reader = stream.reader
        self._input = stream
        self._bounded: _BoundedSocket | None = None
        self._deadline: Deadline | None = None
        self._send_bound: tuple[socket.socket, float | None] | None = None
        self._chunks: Iterator[bytes] | None = None
        # What a middleware has read ahead waits in the buffer of the stream, or in that of the reader.
        buffered = stream.buf.tell()
        self._ahead: bytes = stream.read(buffered) if buffered else b""
        if hasattr(reader, "parser"):
            buffered = reader.buf.tell()
            self._ahead += reader.read(buffered) if buffered else b""
            self._chunks = iter(reader.parser or ())
            self._unreader = reader.req.unreader
            self.length = None
            self.is_read = False
        else:
            self._remaining = len(self._ahead) + reader.length
            self._unreader = reader.unreader
            self.length = self._remaining
            self.is_read = not self._remaining

    def read(self, size: int) -> bytes:
        """Return what has arrived, or ``size`` bytes of a body of known length.

        Raises:
            ConnectError: The client broke off, its chunks are malformed, or the deadline has passed.
        """
        if self.is_read:
            return b""
        try:
            data = self._receive(size)
        except TimeoutError as error:
            self._give_up()
            raise deadline_exceeded() from error
        except Exception as error:  # gunicorn has a class of its own for each way to be malformed
            self._give_up()
            raise _broken_off() from error
        if self._chunks is not None:
            if not data:
                self._end()
            return data
        if not data:
            self._give_up()
            raise _broken_off()
        self._remaining -= len(data)
        if not self._remaining:
            self._end()
        return data

    def _receive(self, size: int) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
        elif self._chunks is not None:
            # A piece is empty where a chunk's size came without its data.
            data = next(filter(None, self._chunks), b"")
        else:
            data = self._input.reader.read(min(size, self._remaining))
        return data

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no receive outlast ``deadline``."""
        self._deadline = deadline
        if self.is_read:
            return
        if self._bounded is None:
            self._bounded = _BoundedSocket(self._unreader.sock, deadline)
            self._unreader.sock = self._bounded
        else:
            self._bounded.deadline = deadline

    def iterate_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return the chunks' iterator.

        No send outlasts what is left of the deadline now, and a moment for its error to leave.
        """
        if self._deadline is not None:
            sock = self._unreader.sock if self._bounded is None else self._bounded.sock
            self._send_bound = (sock, sock.gettimeout())
            sock.settimeout(self._deadline.wait_limit() + DRAIN_MAX_MS / 1000)
        return iter(chunks)

    def close(self) -> None:
        """Read what is left, up to a bound."""
        if self._send_bound is not None:
            sock, timeout = self._send_bound
            self._send_bound = None
            sock.settimeout(timeout)
        if self.is_read:
            return
        self.set_deadline(Deadline(DRAIN_MAX_MS))
        drained = 0
        try:
            while drained < DRAIN_MAX_BYTES and not self.is_read:
                drained += len(self.read(READ_SIZE))
        except ConnectError:
            return  # the client is gone, or too slow to hear the answer
        if not self.is_read:
            self._give_up()

    def _end(self) -> None:
        """Read no more, and give the socket back as it was."""
        self.is_read = True
        if self._bounded is not None:
            self._unreader.sock = self._bounded.restore()
            self._bounded = None

    def _give_up(self) -> None:
        """Read no more, and let gunicorn find that the connection cannot be used again.

        Before the next request gunicorn reads the last one's body to its end. Where that end is not known,
        this has to fail, or the rest of the body would be taken for a request.
        """
        self._end()
        self._input.reader = _LostReader()


class GunicornHttp2Body(RequestBody):
    """A body under gunicorn's HTTP/2, with the gthread and the gevent worker.

    The frames of all of a connection's streams are read by whoever waits for one of them: by this body
    until it has data of its own stream, and between two chunks of the response, since nobody else would
    hear there that the client has given the stream up. Within a deadline, gunicorn itself is never let
    wait: it would count anew with each byte that the client sends or takes, and reset the stream in the end.
    """

    __slots__ = ("_ahead", "_connection", "_deadline", "_socket_timeout", "_stream", "is_read", "length")

    is_read: bool
    is_sent_at_once = False
    length: int | None

    def __init__(self, stream: Any, length: int | None) -> None:
        """Read ``stream``, gunicorn's own ``wsgi.input``, of ``length`` bytes if that was announced."""
        self.length = length
        # What a middleware has read ahead waits in the buffer of the input.
        buffered = len(stream._buf)
        self._ahead: bytes = stream.read(buffered) if buffered else b""
        self._stream = stream._stream
        self._connection = stream._stream.connection
        self._deadline: Deadline | None = None
        self._socket_timeout: float | None = self._connection.sock.gettimeout()
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return what has arrived, whatever ``size``.

        Raises:
            ConnectError: The client broke off, or the deadline has passed.
        """
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            return self._receive()
        except ConnectError:
            raise
        except Exception as error:  # gunicorn has a class of its own for each way to be malformed
            raise _broken_off() from error

    def _receive(self) -> bytes:
        stream = self._stream
        connection = self._connection
        while not self.is_read:
            chunk: bytes | None = stream.pop_chunk()
            if chunk:
                return chunk
            if stream.body_complete:
                self.is_read = True
                break
            if self._has_left():
                raise _broken_off()
            if stream.expect_continue and not stream.response_headers_sent:
                stream.expect_continue = False
                connection.send_informational(stream.stream_id, 100, [])
            if self._deadline is None:
                connection.pump(stream.stream_id)
                continue
            # A client that goes on sending must not outlast it either.
            self._deadline.check()
            if not self._read_frames(self._deadline.wait_limit()):
                raise deadline_exceeded()
        return b""

    def _has_left(self) -> bool:
        return bool(self._stream.disconnected or self._connection.is_closed)

    def _read_frames(self, timeout: float) -> bool:
        """Read frames for at most ``timeout`` seconds, and tell whether that was enough."""
        connection = self._connection
        if connection._deferred_events:
            connection.pump(self._stream.stream_id)  # they have been read before
            return True
        before = connection.sock.gettimeout()
        connection.sock.settimeout(0)
        try:
            data = _receive_by(Deadline(timeout * 1000), connection.sock)
        finally:
            connection.sock.settimeout(before)
        if data is None:
            return False
        connection.pending_requests.extend(connection.receive_data(data))
        return True

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no wait for frames outlast ``deadline``."""
        self._deadline = deadline

    def iterate_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, until the client gives the stream up.

        No send outlasts what is left of the deadline now, and a moment for its error to leave: chunks are
        cut to what the client has opened its window for.
        """
        limit = None
        if self._deadline is not None:
            limit = Deadline(self._deadline.remaining() * 1000 + DRAIN_MAX_MS)
        self._check_peer()
        for chunk in chunks:
            if limit is None:
                # Of the two timeouts that gunicorn may have left here, one is for idle connections.
                self._connection.sock.settimeout(self._connection.stream_timeout)
                yield chunk
            else:
                yield from self._within(limit, chunk)
            if self._ends_too_early():
                continue
            for _ in range(_READS_BETWEEN_CHUNKS):
                if not self._look_for_frames(0):
                    break
        self._await_end()

    def _within(self, limit: Deadline, chunk: bytes) -> Iterator[bytes]:
        """Yield a chunk in pieces that can be sent at once, as the client makes room for them."""
        h2_connection = self._connection.h2_conn
        stream_id = self._stream.stream_id
        while True:
            # A client may shrink its windows to less than nothing (RFC 9113, section 6.9.2).
            window = max(0, h2_connection.local_flow_control_window(stream_id)) if chunk else 0
            piece, chunk = chunk[:window], chunk[window:]
            if piece or not chunk:
                self._connection.sock.settimeout(limit.wait_limit() or _LEAST_TIMEOUT)
                yield piece
            if not chunk:
                return
            remaining = limit.wait_limit()
            if not remaining or not self._look_for_frames(remaining):
                self._connection.abort_stream(stream_id, _CANCEL)
                raise _peer_left(stream_id)

    def _look_for_frames(self, timeout: float) -> bool:
        """Read frames as `_read_frames` does; raise what gunicorn takes for a client that has left."""
        try:
            is_read = self._read_frames(timeout)
        except Exception as error:  # a connection that is lost, or frames that are malformed
            raise _peer_left(self._stream.stream_id) from error
        self._check_peer()
        return is_read

    def _check_peer(self) -> None:
        if self._has_left():
            raise _peer_left(self._stream.stream_id)

    def _await_end(self) -> None:
        """Let the request end before the response does, if it is about to.

        gunicorn resets a stream whose response ends first, and answers with another reset what was still on
        its way: to a proxy, that may be a failure of this call, or of the next one on the connection.
        """
        if self._ends_too_early():
            return
        self._deadline = Deadline(_HTTP2_END_MS)
        drained = 0
        try:
            while drained < DRAIN_MAX_BYTES and not self.is_read:
                drained += len(self.read(READ_SIZE))
        except ConnectError:
            self._check_peer()  # if it is there, it has more to say than is waited for

    def _ends_too_early(self) -> bool:
        """Tell whether the client, when it sees the answer, may end its request before the announced length.

        h2 takes that for an error of the whole connection, unless the response has ended before it is read.
        """
        return self.length is not None and not self._stream.body_complete

    def close(self) -> None:
        """Give the socket back as it was. What is left of the body, gunicorn tells the client to keep."""
        self._connection.sock.settimeout(self._socket_timeout)


def _receive_by(deadline: Deadline, sock: socket.socket) -> bytes | None:
    """Return what a socket that does not wait has received by ``deadline``; None if that is nothing.

    Left to wait, gevent's sockets would count anew with each byte of a TLS record.
    """
    while True:
        try:
            return sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            remaining = deadline.wait_limit()
            if not remaining or not wait_for_read(sock, remaining):
                return None


def _peer_left(stream_id: int) -> Exception:
    """Return what gunicorn takes for the end of a stream, and not for an error of the application."""
    from gunicorn.http2.errors import HTTP2StreamError

    return HTTP2StreamError(stream_id, "the client has given it up")


class _BoundedSocket:
    """The part of a socket that gunicorn receives with, bounded by a deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.sock = sock
        self._timeout = sock.gettimeout()
        self.deadline = deadline

    def recv(self, size: int) -> bytes:
        remaining = self.deadline.wait_limit()
        if not remaining:
            raise TimeoutError
        self.sock.settimeout(remaining)
        return self.sock.recv(size)

    def restore(self) -> socket.socket:
        self.sock.settimeout(self._timeout)
        return self.sock


class _LostReader:
    """A reader for gunicorn whose connection has lost its place."""

    def read(self, size: int) -> bytes:
        raise OSError(errno.ENOTCONN, "the request body was not read to its end")


def open_body(environ: WSGIEnvironment) -> RequestBody:
    """Return the body of a request, in the way of the server that ``environ`` comes from."""
    length = _content_length(environ)
    is_chunked = length is None and "HTTP_TRANSFER_ENCODING" in environ
    # From HTTP/2 on a body has its end in the frames, whether a length is announced or not.
    is_terminated = environ.get("wsgi.input_terminated") or not environ["SERVER_PROTOCOL"].startswith(
        "HTTP/1"
    )
    stream = environ["wsgi.input"]
    module = type(stream).__module__
    if module == "gunicorn.http.body":
        return GunicornBody(stream)
    if module == "gunicorn.http2.request":
        return GunicornHttp2Body(stream, length)
    # Envoy has taken any transfer coding off, and leaves no trace of it.
    if module == "_pyvoy.wsgi" and length is None:
        return TerminatedBody(stream)
    if length is not None:
        return LengthBody(stream, length)
    if is_terminated:
        return TerminatedBody(stream)
    return UnreadableBody() if is_chunked else EmptyBody()


def _content_length(environ: WSGIEnvironment) -> int | None:
    length = environ.get("CONTENT_LENGTH")
    # Servers have refused what is no number; some leave the variable empty.
    if not length or not length.isdecimal():
        return None
    return int(length) if len(length) < _MAX_DIGITS else sys.maxsize


def _read_input(read: Any, size: int) -> bytes:
    try:
        data: bytes = read(size)
    except TimeoutError as error:
        raise deadline_exceeded() from error
    except Exception as error:  # what a server raises for a body that broke off is its own affair
        raise _broken_off() from error
    return data


def _broken_off() -> ConnectError:
    return ConnectError(Code.INVALID_ARGUMENT, "the request body broke off, or is malformed")
