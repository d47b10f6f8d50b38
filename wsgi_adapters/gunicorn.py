"""Requests under gunicorn: their bodies, over HTTP/1.1 and over HTTP/2, and a header of HTTP/2.

Both bodies read below gunicorn's ``wsgi.input``, which waits for more than it is asked for, and set what is
left of the call's deadline on each receive.
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
"""For how long the end of a response over HTTP/2 waits for that of its request: it delays an early answer."""

_READS_BETWEEN_CHUNKS = 16
"""How often at most to read frames between two chunks of a response: TLS hands over a record at a time."""

_CANCEL = 0x8
"""The error of HTTP/2 for a stream that is not needed any more (RFC 9113, section 7)."""

_NO_LIMIT = 2_000_000.0
"""Seconds, some 23 days: as long as a socket can be waited for."""

_WITHOUT_BODY = (204, 304)
"""The final statuses whose responses have no body (RFC 9110, section 6.4.1)."""

_LEAST_TIMEOUT = 0.001
"""Seconds for a send whose time is up: 0 would mean another mode to a socket."""


class _Http1Body(RequestBody):
    """A body under gunicorn's HTTP/1.1, with any of its own workers.

    gunicorn's input waits for 1 KiB at least, whatever the size that is asked for. Below it is a reader
    that does not. It receives through an "unreader" that holds the socket, which is where a deadline is set
    on every receive.
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
        """Read what others have read ``ahead``, and the rest below ``stream``, gunicorn's ``wsgi.input``.

        ``length``, where it is known, counts both.
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
        """Let the head of the response leave together with the first chunk.

        A middleware that yields an empty one before has the head wait for the next.
        """
        # A middleware may have a ``write`` of its own, and with it another response. Or it has written first,
        # or asked another application, whose answer has given way to this one.
        response: Any = getattr(write, "__self__", None)
        if (
            _is_response(type(response))
            and not response.headers_sent
            and type(response.sock) is not _HeadCoalescer
        ):
            response.sock = _HeadCoalescer(response)

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Return an iterator over the chunks, until the client has left.

        No send outlasts what is left of the deadline now, and a moment for its error to leave.
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
        """Read what is left, up to a bound."""
        if self._send_bound is not None:
            sock, timeout = self._send_bound
            self._send_bound = None
            sock.settimeout(timeout)
        if self.is_read:
            return
        with suppress(ConnectError):  # the client is gone, or too slow to hear the answer
            self.drain(Deadline(DRAIN_MAX_MS))
        if not self.is_read:
            self._give_up()

    def _timed_out(self) -> ConnectError:
        """Return the error of a read that was not answered in time: of the call, or of the server itself."""
        return client_disconnected(None) if self._deadline is None else deadline_exceeded()

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
        self._input.reader = _BrokenReader()


class GunicornBody(_Http1Body):
    """A body of known length under gunicorn's HTTP/1.1: its reader takes an exact read."""

    __slots__ = ()

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end.

        Raises:
            ConnectError: The client has left, or the deadline has passed.
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
                # It goes on where it was.
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
    """A body in chunks under gunicorn's HTTP/1.1: its reader's parser yields each piece when it arrives."""

    __slots__ = ()

    @property
    def _unreader(self) -> Any:
        return self._reader.req.unreader

    def read(self, size: int) -> bytes:
        """Return what has arrived, whatever ``size``.

        Raises:
            ConnectError: The client has left, its chunks are malformed, or the deadline has passed.
        """
        if self.is_read:
            return b""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            # A piece is empty where a chunk's size came without its data.
            data = next(filter(None, self._reader.parser or ()), b"")
        except TimeoutError as error:
            self._give_up()  # a parser that has failed does not go on
            raise self._timed_out() from error
        except Exception as error:  # gunicorn has a class of its own for each way to be malformed
            self._give_up()
            raise client_disconnected(self._deadline) if _is_cut_off(error) else malformed() from error
        if not data:
            self._end()
        return data

    def _give_up(self) -> None:
        """Read no more, on a connection that cannot be used again.

        If the response has not begun, its head says that it closes (RFC 9112, section 9.6).
        """
        super()._give_up()
        self._reader.req.force_close()


def _is_cut_off(error: Exception) -> bool:
    """Tell whether the connection ended inside the body, be it between the data of a chunk and its end."""
    from gunicorn.http.errors import ChunkMissingTerminator

    if isinstance(error, ChunkMissingTerminator):
        return len(error.term) < len(b"\r\n")
    return isinstance(error, OSError)


class GunicornHttp2Body(RequestBody):
    """A body under gunicorn's HTTP/2, with the gthread and the gevent worker.

    The frames of all of a connection's streams are read by whoever waits for one of them: by this body
    until it has data of its own stream, and between two chunks of the response, since nobody else would
    hear there that the client has given the stream up. gunicorn itself is never let wait for a body: it would
    count anew with each byte that the client sends, and may lose the requests that come meanwhile. Nor is it
    let wait for the client to take a response within a deadline.
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
        """Read ``stream``, gunicorn's own ``wsgi.input``, of ``length`` bytes if that was announced."""
        self.length = length
        # What a middleware has read ahead waits in the buffer of the input.
        buffered = len(stream._buf)
        self._ahead: bytes = stream.read(buffered) if buffered else b""
        self._received = len(self._ahead)
        self._stream = stream._stream
        self._connection = stream._stream.connection
        self._deadline: Deadline | None = None
        sock = self._connection.sock
        self._socket_timeout: float | None = sock.gettimeout()
        # Of gunicorn's two timeouts, it has left there that of idle connections.
        sock.settimeout(self._connection.stream_timeout)
        self.is_read = False

    def read(self, size: int) -> bytes:
        """Return what has arrived, whatever ``size``.

        Raises:
            ConnectError: The client has left, or the deadline has passed.
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

            # Anything else means that the connection is gone.
            is_malformed = isinstance(error, HTTP2ProtocolError)
            raise malformed() if is_malformed else client_disconnected(self._deadline) from error

    def _receive(self) -> bytes:
        stream = self._stream
        connection = self._connection
        while not self.is_read:
            chunk: bytes | None = stream.pop_chunk()
            if chunk:
                self._received += len(chunk)
                # h2 has seen to it that the body is as long as it was announced to be.
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
                # As gunicorn has it; 0 stands for no limit, and comes as None.
                if not self._read_frames(connection.stream_timeout or _NO_LIMIT):
                    connection.abort_stream(stream.stream_id, _CANCEL)
                continue
            # A client that goes on sending must not outlast it either.
            self._deadline.check()
            if not self._read_frames(self._deadline.wait_limit()):
                raise deadline_exceeded()
        return b""

    def _is_disconnected(self) -> bool:
        return bool(self._stream.disconnected or self._connection.is_closed)

    def _read_frames(self, timeout: float) -> bool:
        """Read frames for at most ``timeout`` seconds, and tell whether that was enough."""
        connection = self._connection
        if connection._deferred_events:
            requests = connection._process_events(())  # they have been read before
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
        # The queue is looked up only now: where the client resets a request that waits in it, gunicorn puts
        # another one in its place. gunicorn's own `pump` has it from before, and loses the new requests.
        connection.pending_requests.extend(requests)
        return True

    def set_deadline(self, deadline: Deadline) -> None:
        """Let no wait for frames outlast ``deadline``."""
        self._deadline = deadline

    def needs_no_close_after(self, size: int) -> bool:
        """Tell whether the client has sent everything, and has room for a response of ``size`` bytes."""
        connection = self._connection
        if not super().needs_no_close_after(size) or self._is_disconnected() or connection._deferred_events:
            return False
        window: int = connection.h2_conn.local_flow_control_window(self._stream.stream_id)
        return size <= window

    def is_disconnected(self) -> bool:
        """Tell whether the client has given the stream up, or left."""
        from gunicorn.http2.errors import HTTP2StreamError

        if is_closed_by_peer(self._connection.sock.fileno()):
            return True
        try:
            self._catch_up()
        except HTTP2StreamError:
            return True
        return self._is_disconnected()

    def wrap_response(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, until the client gives the stream up.

        No send outlasts what is left of the deadline now, and a moment for its error to leave: chunks are
        cut to what the client has opened its window for.
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
        if self._is_disconnected():
            raise _peer_left(self._stream.stream_id)

    def _await_end(self) -> None:
        """Let the request end before the response does, if it is about to.

        gunicorn resets a stream whose response ends first, and answers with another reset what was still on
        its way: to a proxy, that may be a failure of this call, or of the next one on the connection.
        """
        if self._ends_too_early():
            return
        self._deadline = Deadline(_HTTP2_END_MS)
        try:
            self.drain()
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


def restore_version(environ: WSGIEnvironment, stream: Any | None) -> None:
    """Make ``HTTP_VERSION`` the request's ``version`` header (PEP 3333).

    In every request over HTTP/2, gunicorn overwrites it with the version of HTTP. ``stream`` is gunicorn's
    ``wsgi.input``, which has the headers as they came; None if a middleware has replaced it. The header is
    lost then, and counts as absent.
    """
    if environ.get("HTTP_VERSION") != "2":
        return  # restored before, or set by a middleware
    fields = [] if stream is None else stream._stream.get_regular_headers()
    values = [value for name, value in fields if name == "version"]
    if values:
        environ["HTTP_VERSION"] = ",".join(values)
    else:
        del environ["HTTP_VERSION"]


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


def _is_response(kind: type) -> bool:
    """Tell whether a class is gunicorn's response over HTTP/1.1, which need not be imported for that."""
    return kind.__module__ == "gunicorn.http.wsgi" and kind.__name__ == "Response"


class _HeadCoalescer:
    """The socket of a response until its head has left, which it does together with the first chunk.

    gunicorn sends the head when there is a chunk, but by a send of its own. Each send lets another thread of
    the worker have Python's lock, which costs more than the send itself, and makes a packet of its own.
    """

    __slots__ = ("_head", "_response", "_sock")

    def __init__(self, response: Any) -> None:
        """Hold the head of ``response``."""
        self._response = response
        self._sock: socket.socket = response.sock
        self._head = b""

    def sendall(self, data: bytes) -> None:
        """Keep the head, or send it with the first chunk, after which the response has its socket back."""
        if not self._head and self._has_body():
            self._head = data
        elif len(data) <= SMALL_RESPONSE_BYTES:
            self._response.sock = self._sock
            self._sock.sendall(self._head + data)
        else:
            self._release().sendall(data)

    def _has_body(self) -> bool:
        """Tell whether something will be sent behind the head: of chunks, gunicorn sends the last one itself.

        A middleware may have made a GET of a HEAD, or given the response another status or length.
        """
        response = self._response
        return response.chunked or bool(
            response.response_length
            and response.req.method != "HEAD"
            and response.status_code not in _WITHOUT_BODY
        )

    def sendfile(self, file: IO[bytes], **options: Any) -> int:
        """Send a file, which a middleware has put in place of the body, behind the head."""
        return self._release().sendfile(file, **options)

    def _release(self) -> socket.socket:
        """Send the head on its own, and give the response its socket back."""
        self._response.sock = self._sock
        self._sock.sendall(self._head)
        return self._sock


class _BrokenReader:
    """A reader for gunicorn whose connection has lost its place."""

    def read(self, size: int) -> bytes:
        raise OSError(errno.ENOTCONN, "the request body was not read to its end")
