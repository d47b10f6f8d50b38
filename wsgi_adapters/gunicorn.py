"""Requests under gunicorn: their bodies, over HTTP/1.1 and over HTTP/2, and a header of HTTP/2.

The bodies bypass gunicorn's ``wsgi.input``, which waits for more data than requested, and limit each receive
to the time left until the call's deadline.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from urllib3.util.wait import wait_for_read

from connect_sync.deadline import Deadline, client_disconnected, deadline_exceeded
from connect_sync.errors import ConnectError
from connect_sync.http import READ_SIZE
from wsgi_adapters.body import (
    DRAIN_MAX_MS,
    SEND_GRACE_MS,
    SMALL_RESPONSE_BYTES,
    RequestBody,
    consumed,
    is_closed_by_peer,
    malformed,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_HTTP2_END_MS = 100
"""How long the end of a response over HTTP/2 waits for the end of its request: it delays an early answer."""

_READS_BETWEEN_CHUNKS = 16
"""The most reads of frames between two chunks of a response: TLS returns one record at a time."""

_CANCEL = 0x8
"""The HTTP/2 error code of a stream that is no longer needed (RFC 9113, section 7)."""

_NO_LIMIT = 2_000_000.0
"""In seconds, about 23 days: close to the longest timeout of a socket."""

_WITHOUT_BODY = (204, 304)
"""The final statuses whose responses have no body (RFC 9110, section 6.4.1)."""

_LEAST_TIMEOUT = 0.001
"""In seconds, for a send after the deadline: 0 would make the socket non-blocking."""


class _Http1Body(RequestBody):
    """A body under gunicorn's HTTP/1.1, with any of its own workers.

    gunicorn's input waits for at least 1 KiB, whatever size is requested. The reader below it does not. It
    receives through an "unreader", which holds the socket: there the deadline is set on every receive.
    """

    __slots__ = (
        "_ahead",
        "_bounded",
        "_deadline",
        "_input",
        "_reader",
        "_remaining",
        "_send_bound",
        "is_read",
        "length",
    )

    is_read: bool
    length: int | None

    def __init__(self, stream: Any, length: int | None, ahead: bytes = b"") -> None:
        """Read data that was read ``ahead``, then the rest from the reader of gunicorn's input ``stream``.

        ``length``, if known, counts both.
        """
        self._input = stream
        self._reader = stream.reader
        self._ahead = ahead
        self.length = length
        self._remaining = length or 0
        self.is_read = length == 0
        self._deadline: Deadline | None = None
        self._bounded: _BoundedSocket | None = None
        self._send_bound: tuple[socket.socket, float | None] | None = None

    @property
    def _unreader(self) -> Any:
        return self._reader.unreader

    @property
    def _socket(self) -> socket.socket:
        sock: socket.socket = self._unreader.sock if self._bounded is None else self._bounded.sock
        return sock

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

    def coalesce_head(self, write: Callable[[bytes], object]) -> None:
        """Send the head of the response together with the first chunk.

        If a middleware yields an empty chunk first, the head waits for the next one.
        """
        # A middleware may use a ``write`` of its own, and so another response. Or it has already written, or
        # called another application first, whose response this one replaces.
        response: Any = getattr(write, "__self__", None)
        if (
            _is_response(type(response))
            and not response.headers_sent
            and type(response.sock) is not _HeadCoalescer
        ):
            response.sock = _HeadCoalescer(response)

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks, until the client disconnects.

        No send outlasts the time left until the deadline, plus a moment to send its error.
        """
        if self._deadline is not None:
            sock = self._socket
            self._send_bound = (sock, sock.gettimeout())
            sock.settimeout(self._deadline.wait_limit() + SEND_GRACE_MS / 1000)
        return self.until_disconnect(chunks)

    def is_disconnected(self) -> bool:
        """Tell whether the client has closed the connection, or its sending half."""
        return is_closed_by_peer(self._socket.fileno())

    def close(self) -> None:
        """Read the rest of the body, up to a limit."""
        if self._send_bound is not None:
            sock, timeout = self._send_bound
            self._send_bound = None
            sock.settimeout(timeout)
        if self.is_read:
            return
        with suppress(ConnectError):  # the client disconnected, or is too slow to get the answer
            self.drain(Deadline(DRAIN_MAX_MS))
        if not self.is_read:
            self._give_up()

    def _timed_out(self) -> ConnectError:
        """Return the error for a read that exceeded the call's deadline, or the server's own timeout."""
        return client_disconnected(None) if self._deadline is None else deadline_exceeded()

    def _end(self) -> None:
        """Stop reading, and restore the socket."""
        self.is_read = True
        if self._bounded is not None:
            self._unreader.sock = self._bounded.restore()
            self._bounded = None

    def _give_up(self) -> None:
        """Stop reading, and make gunicorn close the connection.

        Before the next request, gunicorn reads the previous body to its end. If that end is unknown, this
        has to fail, or the rest of the body would be taken for a request.
        """
        self._end()
        self._input.reader = _BrokenReader()


class GunicornBody(_Http1Body):
    """A body of known length under gunicorn's HTTP/1.1: the reader supports exact reads."""

    __slots__ = ()

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end.

        Raises:
            ConnectError: The client disconnected, or the deadline has passed.
        """
        if self.is_read:
            return b""
        remaining = self._remaining
        if self._ahead:
            data, self._ahead = self._ahead, b""
        else:
            try:
                data = self._reader.read(size if size < remaining else remaining)
            except TimeoutError as error:
                # Reading can continue.
                raise self._timed_out() from error
            except OSError as error:
                self._give_up()
                raise client_disconnected(self._deadline) from error
            if not data:
                self._give_up()
                raise client_disconnected(self._deadline)
        self._remaining = remaining - len(data)
        if not self._remaining:
            self._end()
        return data


class GunicornChunkedBody(_Http1Body):
    """A body in chunks under gunicorn's HTTP/1.1: the reader's parser yields each piece as it arrives."""

    __slots__ = ()

    @property
    def _unreader(self) -> Any:
        return self._reader.req.unreader

    def read(self, size: int) -> bytes:
        """Return what has arrived, whatever ``size``.

        Raises:
            ConnectError: The client disconnected, its chunks are malformed, or the deadline has passed.
        """
        if self.is_read:
            return b""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            # A piece is empty if the size of a chunk arrived without its data.
            data = next(filter(None, self._reader.parser or ()), b"")
        except TimeoutError as error:
            self._give_up()  # a failed parser cannot continue
            raise self._timed_out() from error
        except Exception as error:  # gunicorn has one class per kind of malformed body
            self._give_up()
            raise client_disconnected(self._deadline) if _is_cut_off(error) else malformed() from error
        if not data:
            self._end()
        return data

    def _give_up(self) -> None:
        """Stop reading, on a connection that cannot be reused.

        If the response has not begun, its head announces the close (RFC 9112, section 9.6).
        """
        super()._give_up()
        self._reader.req.force_close()


def _is_cut_off(error: Exception) -> bool:
    """Tell whether the connection ended inside the body, including just before the end of a chunk."""
    from gunicorn.http.errors import ChunkMissingTerminator

    if isinstance(error, ChunkMissingTerminator):
        return len(error.term) < len(b"\r\n")
    return isinstance(error, OSError)


class GunicornHttp2Body(RequestBody):
    """A body under gunicorn's HTTP/2, with the gthread and the gevent worker.

    Whichever stream waits for data reads the frames of all streams of the connection. This body reads them
    until it has data of its own stream, and between two chunks of the response, where a reset by the client
    would otherwise go unnoticed. gunicorn itself is never allowed to block on a body: its timeout would start
    over with each byte from the client, and it may lose requests that arrive meanwhile. Within a deadline, it
    is not allowed to block until the client accepts a response either.
    """

    __slots__ = (
        "_ahead",
        "_connection",
        "_deadline",
        "_received",
        "_socket_timeout",
        "_stream",
        "is_read",
        "length",
    )

    is_read: bool
    length: int | None

    def __init__(self, stream: Any, length: int | None) -> None:
        """Read ``stream``, gunicorn's own ``wsgi.input``, of ``length`` bytes if the request states it."""
        self.length = length
        # Data that a middleware has read ahead is in the buffer of the input.
        buffered = len(stream._buf)
        self._ahead: bytes = stream.read(buffered) if buffered else b""
        self._received = len(self._ahead)
        self._stream = stream._stream
        self._connection = stream._stream.connection
        self._deadline: Deadline | None = None
        sock = self._connection.sock
        self._socket_timeout: float | None = sock.gettimeout()
        # gunicorn has set the timeout of idle connections instead.
        sock.settimeout(self._connection.stream_timeout)
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return what has arrived, whatever ``size``.

        Raises:
            ConnectError: The client disconnected, or the deadline has passed.
        """
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            return self._receive()
        except ConnectError:
            raise
        except Exception as error:
            from gunicorn.http2.errors import HTTP2ProtocolError

            # Anything else means that the connection is lost.
            is_malformed = isinstance(error, HTTP2ProtocolError)
            raise malformed() if is_malformed else client_disconnected(self._deadline) from error

    def _receive(self) -> bytes:
        stream = self._stream
        connection = self._connection
        while not self.is_read:
            chunk: bytes | None = stream.pop_chunk()
            if chunk:
                self._received += len(chunk)
                # h2 has checked the body against Content-Length.
                self.is_read = stream.body_complete and self._received == stream.body_size
                return chunk
            if stream.body_complete:
                if self.length is not None and self._received < self.length:
                    raise consumed()
                self.is_read = True
                break
            if self._is_disconnected():
                raise client_disconnected(self._deadline)
            if stream.expect_continue and not stream.response_headers_sent:
                stream.expect_continue = False
                connection.send_informational(stream.stream_id, 100, [])
            if self._deadline is None:
                # As gunicorn does; no limit is None here, or 0.
                if not self._read_frames(connection.stream_timeout or _NO_LIMIT):
                    connection.abort_stream(stream.stream_id, _CANCEL)
                continue
            # A client that keeps sending must not outlast the deadline either.
            self._deadline.check()
            if not self._read_frames(self._deadline.wait_limit()):
                raise deadline_exceeded()
        return b""

    def _is_disconnected(self) -> bool:
        return bool(self._stream.disconnected or self._connection.is_closed)

    def _read_frames(self, timeout: float) -> bool:
        """Read frames for at most ``timeout`` seconds, and tell whether any arrived."""
        connection = self._connection
        if connection._deferred_events:
            requests = connection._process_events(())  # they have already been read
        else:
            before = connection.sock.gettimeout()
            connection.sock.settimeout(0)
            try:
                data = _receive_by(Deadline(timeout * 1000), connection.sock)
            finally:
                connection.sock.settimeout(before)
            if data is None:
                return False
            requests = connection.receive_data(data)
        # Look up the queue only now: if the client resets a queued request, gunicorn replaces the queue.
        # gunicorn's own `pump` looks it up earlier, and loses the new requests.
        connection.pending_requests.extend(requests)
        return True

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no wait for frames outlast ``deadline``."""
        self._deadline = deadline

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether the client has sent everything and its window fits a response of ``size`` bytes."""
        connection = self._connection
        if not super().needs_no_close_after(size) or self._is_disconnected() or connection._deferred_events:
            return False
        window: int = connection.h2_conn.local_flow_control_window(self._stream.stream_id)
        return size <= window

    def is_disconnected(self) -> bool:
        """Tell whether the client has reset the stream or disconnected."""
        from gunicorn.http2.errors import HTTP2StreamError

        if is_closed_by_peer(self._connection.sock.fileno()):
            return True
        try:
            self._catch_up()
        except HTTP2StreamError:
            return True
        return self._is_disconnected()

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, until the client resets the stream.

        No send outlasts the time left until the deadline, plus a moment to send its error: chunks are split
        to fit the client's flow-control window.
        """
        limit = None
        if self._deadline is not None:
            limit = Deadline(self._deadline.remaining() * 1000 + SEND_GRACE_MS)
        self._check_peer()
        for chunk in chunks:
            if limit is None:
                yield chunk
            else:
                yield from self._within(limit, chunk)
            self._catch_up()
        self._await_end()

    def _catch_up(self) -> None:
        """Read the frames that have arrived."""
        if self._ends_too_early():
            return
        for _ in range(_READS_BETWEEN_CHUNKS):
            if not self._look_for_frames(0):
                break

    def _within(self, limit: Deadline, chunk: bytes) -> Iterator[bytes]:
        """Yield a chunk in pieces that can be sent at once, as the client opens its window."""
        h2_connection = self._connection.h2_conn
        stream_id = self._stream.stream_id
        while True:
            # A client may make its windows negative (RFC 9113, section 6.9.2).
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
        """Read frames as `_read_frames` does; raise what gunicorn treats as a disconnected client."""
        try:
            is_read = self._read_frames(timeout)
        except Exception as error:  # a lost connection or malformed frames
            raise _peer_left(self._stream.stream_id) from error
        self._check_peer()
        return is_read

    def _check_peer(self) -> None:
        if self._is_disconnected():
            raise _peer_left(self._stream.stream_id)

    def _await_end(self) -> None:
        """Wait for the request to end before the response does, if it is about to.

        gunicorn resets a stream whose response ends first, and answers frames still in flight with another
        reset. A proxy may take that for a failure of this call, or of the next one on the connection.
        """
        if self._ends_too_early():
            return
        self._deadline = Deadline(_HTTP2_END_MS)
        try:
            self.drain()
        except ConnectError:
            self._check_peer()  # if still connected, it has more to send than is waited for

    def _ends_too_early(self) -> bool:
        """Tell whether the client may still end its request short of its Content-Length on seeing the answer.

        h2 treats that as an error of the whole connection, unless the response has ended before it is read.
        """
        return self.length is not None and not self._stream.body_complete

    def close(self) -> None:
        """Restore the socket's timeout. For an unread body, gunicorn resets the stream."""
        self._connection.sock.settimeout(self._socket_timeout)


def restore_version(environ: WSGIEnvironment, stream: Any | None) -> None:
    """Make ``HTTP_VERSION`` the request's ``version`` header (PEP 3333).

    In every request over HTTP/2, gunicorn overwrites it with the HTTP version. ``stream`` is gunicorn's
    ``wsgi.input``, which has the original headers; None if a middleware has replaced it. Then the header is
    lost, and treated as absent.
    """
    if environ.get("HTTP_VERSION") != "2":
        return  # already restored, or set by a middleware
    fields = [] if stream is None else stream._stream.get_regular_headers()
    values = [value for name, value in fields if name == "version"]
    if values:
        environ["HTTP_VERSION"] = ",".join(values)
    else:
        del environ["HTTP_VERSION"]


def _receive_by(deadline: Deadline, sock: socket.socket) -> bytes | None:
    """Return what a non-blocking socket receives by ``deadline``; None if nothing arrives.

    The timeout of a blocking gevent socket would start over with each byte of a TLS record.
    """
    while True:
        try:
            return sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            remaining = deadline.wait_limit()
            if not remaining or not wait_for_read(sock, remaining):
                return None


def _peer_left(stream_id: int) -> Exception:
    """Return an exception that gunicorn treats as the end of a stream, not as an application error."""
    from gunicorn.http2.errors import HTTP2StreamError

    return HTTP2StreamError(stream_id, "reset by the client")


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


def _is_response(kind: type) -> bool:
    """Tell whether a class is gunicorn's HTTP/1.1 response, without importing it."""
    return kind.__module__ == "gunicorn.http.wsgi" and kind.__name__ == "Response"


class _HeadCoalescer:
    """Stands in for the socket of a response until the head is sent, together with the first chunk.

    gunicorn sends the head when there is a chunk, but in a separate send. Each send releases the GIL to
    another thread of the worker, which costs more than the send itself, and makes a separate packet.
    """

    __slots__ = ("_head", "_response", "_sock")

    def __init__(self, response: Any) -> None:
        """Hold the head of ``response``."""
        self._response = response
        self._sock: socket.socket = response.sock
        self._head = b""

    def sendall(self, data: bytes) -> None:
        """Hold the head, or send it with the first chunk and restore the response's socket."""
        if not self._head and self._has_body():
            self._head = data
        elif len(data) <= SMALL_RESPONSE_BYTES:
            self._response.sock = self._sock
            self._sock.sendall(self._head + data)
        else:
            self._release().sendall(data)

    def _has_body(self) -> bool:
        """Tell whether something is sent after the head: for chunks, gunicorn always sends the last one.

        A middleware may have turned a HEAD into a GET, or changed the status or length of the response.
        """
        response = self._response
        return response.chunked or bool(
            response.response_length
            and response.req.method != "HEAD"
            and response.status_code not in _WITHOUT_BODY
        )

    def sendfile(self, file: IO[bytes], **options: Any) -> int:
        """Send the head, then a file with which a middleware has replaced the body."""
        return self._release().sendfile(file, **options)

    def _release(self) -> socket.socket:
        """Send the head on its own, and restore the response's socket."""
        self._response.sock = self._sock
        self._sock.sendall(self._head)
        return self._sock


class _BrokenReader:
    """A reader for gunicorn that fails: the end of the body cannot be found."""

    def read(self, size: int) -> bytes:
        raise OSError(errno.ENOTCONN, "the request body was not read to its end")
