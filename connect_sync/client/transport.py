"""How a client reaches a server: HTTP/1.1 over connections of urllib3.

urllib3 opens the connections and pools them; it owns name resolution, TLS, client certificates and proxies.
The exchange over a connection is done here, for three reasons: a call has to end when its deadline passes or
it is canceled, even if the server sends a byte at a time; a request has to be sent message by message; and a
server that answers early has to be heard. `http1` parses the responses, on a reader that bounds each receive
by what remains of the deadline.

A connection goes back to the pool if the request was sent whole, the response was read to its end, and
nothing came after it. Otherwise it is closed.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, cast

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import EmptyPoolError, HTTPError
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.ssl_match_hostname import CertificateError
from urllib3.util.ssltransport import SSLTransport
from urllib3.util.timeout import Timeout
from urllib3.util.wait import wait_for_read, wait_for_socket

from connect_sync.client.arguments import parse_address
from connect_sync.client.failure import OtherProtocolError, Route, check_start, root_cause
from connect_sync.client.http1 import HTTP1Response, has_begun, without_interim_responses
from connect_sync.client.lifetime import Lifetime
from connect_sync.code import Code
from connect_sync.deadline import Deadline, deadline_exceeded
from connect_sync.errors import ConnectError, UnansweredError
from connect_sync.http import READ_SIZE, Body, Request, Response

_POOL_SIZE = 64
"""How many idle connections are kept for threads that share a client."""

_JOIN_MAX_BYTES = 64 * 1024
"""The largest body that is copied, to be sent in one piece with its head."""

_SEND_MAX_BYTES = 256 * 1024
"""How much of a large body is sent between two checks for an early response."""


_START_BYTES = 9
"""How much of a response tells its protocol: the header of a frame of HTTP/2."""


class Transport(Protocol):
    """Sends the requests of a client."""

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        """Send a request, and return the response when its head has arrived.

        The response's body has to be closed, or read to its end.

        Raises:
            ConnectError: ``unavailable``, if there is no response; ``deadline_exceeded`` or ``canceled``,
                if the lifetime ended first.
        """
        ...

    def close(self) -> None:
        """Close the idle connections."""
        ...


class Urllib3Transport:
    """Sends requests to one address, over HTTP/1.1."""

    def __init__(self, address: str, pool_manager: urllib3.PoolManager | None = None) -> None:
        """Send to ``address`` over the connections of ``pool_manager``, or of one of its own.

        Raises:
            TypeError: ``address`` is not a ``str``.
            ValueError: It is not an ``http`` or ``https`` URL, or has more than a host, a port and a path.
        """
        url = parse_address(address)
        self._is_owner = pool_manager is None
        self._manager = urllib3.PoolManager(maxsize=_POOL_SIZE) if pool_manager is None else pool_manager
        self._url = url
        self._origin = url.netloc or url.host
        self._prefix = (url.path or "").rstrip("/")
        # Typed loosely, as what is called here are the pool's methods for its subclasses.
        self._pool: Any = self._open_pool()
        self._collected: SimpleQueue[HTTPConnection] = SimpleQueue()
        self._proxy_headers: tuple[tuple[str, str], ...] = ()
        pool = self._pool
        has_tunnel = self._needs_tunnel(pool)
        self.route: Route = Route(url, pool.proxy, has_tunnel=has_tunnel)
        if pool.proxy is not None and not has_tunnel:
            # RFC 9112, section 3.2.2: a proxy is sent the whole URL.
            self._prefix = f"{url.scheme}://{self._origin}{self._prefix}"
            self._proxy_headers = tuple(pool.proxy_headers.items())

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        """Send a request: see `Transport.send`."""
        connection, is_new = self._connect(lifetime)
        exchange = _Exchange(self, connection, lifetime, is_new)
        try:
            exchange.send(self._head(request), request.body)
            return exchange.receive(request.method)
        except BaseException:
            exchange.end(is_reusable=False)
            raise

    def close(self) -> None:
        """Close the idle connections, unless the pool manager is the caller's.

        A request that is sent later opens a new one.
        """
        if self._is_owner:
            self._pool.close()
            self._manager.clear()
            self._pool = self._open_pool()

    def release(self, connection: HTTPConnection) -> None:
        """Put a connection back into the pool: an open one for the next call, a closed one for its place."""
        self._pool._put_conn(connection)

    def release_later(self, connection: HTTPConnection) -> None:
        """Put a closed connection back when the pool is used next.

        For garbage collection, which may run while its own thread holds the lock of the pool.
        """
        self._collected.put(connection)

    def _head(self, request: Request) -> bytes:
        target = self._prefix + request.path
        if request.query:
            target = f"{target}?{request.query}"
        lines = [f"{request.method} {target} HTTP/1.1\r\n"]
        headers = request.headers
        if "host" not in headers:
            lines.append(f"host: {self._origin}\r\n")
        if "user-agent" not in headers:
            lines.append("user-agent: connect-sync\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in headers.multi_items()]
        lines += [f"{name}: {value}\r\n" for name, value in self._proxy_headers]
        body = request.body
        if not isinstance(body, tuple):
            lines.append("transfer-encoding: chunked\r\n")
        elif body:
            lines.append(f"content-length: {sum(map(len, body))}\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")

    # How a connection is opened

    def _open_pool(self) -> HTTPConnectionPool:
        return self._manager.connection_from_host(self._url.host, self._url.port, self._url.scheme)

    def _needs_tunnel(self, pool: HTTPConnectionPool) -> bool:
        return connection_requires_http_tunnel(pool.proxy, pool.proxy_config, self._url.scheme)

    def _connect(self, lifetime: Lifetime) -> tuple[HTTPConnection, bool]:
        """Return an open connection, from the pool if possible, and whether it is new."""
        remaining = lifetime.remaining()
        try:
            connection = self._take(0)
            if connection is not None and not connection.is_closed:
                return connection, False
            if lifetime.is_bounded:
                return self._open_within(connection, lifetime, remaining), True
            return self._open(connection, None), True
        except (HTTPError, HTTPException, OSError, CertificateError) as error:
            cause = root_cause(error)
        try:
            # Not in the handler, where urllib3's error would become the context of this one.
            raise failure(cause, lifetime, self.route.connect_message(cause)) from cause
        finally:
            del cause  # its traceback has this frame: they would keep each other

    def _take(self, timeout: float | None) -> HTTPConnection | None:
        """Take a connection, open or not, from the pool; None if no place becomes free in time."""
        if not self._collected.empty():
            with suppress(Empty):  # other threads take from it too
                while True:
                    self.release(self._collected.get_nowait())
        try:
            return cast(HTTPConnection, self._pool._get_conn(timeout=timeout))
        except EmptyPoolError:
            return None

    def _open(self, connection: HTTPConnection | None, timeout: float | None) -> HTTPConnection:
        """Open a connection: wait for a place in the pool, resolve the name, connect, shake hands."""
        if connection is None:
            connection = self._take(timeout)
            if connection is None:
                raise TimeoutError
        pool = self._pool
        limit = Timeout.resolve_default_timeout(pool.timeout.connect_timeout)
        limits = [seconds for seconds in (timeout, limit) if seconds is not None]
        connection.timeout = min(limits) if limits else None
        try:
            if connection.is_closed and pool.proxy is not None and self._needs_tunnel(pool):
                pool._prepare_proxy(connection)
            pool._validate_conn(connection)
            if connection.is_closed:
                connection.connect()
        except BaseException:
            self._discard(connection)
            raise
        return connection

    def _discard(self, connection: HTTPConnection) -> None:
        """Close a connection that no call has used, and free its place.

        The connection itself is not put back, for the next call to open again: the call that abandoned this
        attempt may be about to shut down its socket.
        """
        connection.close()
        self._pool._put_conn(None)

    def _open_within(
        self, connection: HTTPConnection | None, lifetime: Lifetime, timeout: float | None
    ) -> HTTPConnection:
        """Open a connection in another thread, and wait for it as long as the call lives.

        Neither name resolution nor a slow handshake can be interrupted, or bounded from inside. If the call
        ends first, the thread closes the connection when it has opened it.
        """
        result: Future[HTTPConnection] = Future()

        def work() -> None:
            try:
                opened = self._open(connection, timeout)
            except BaseException as error:
                if result.set_running_or_notify_cancel():
                    result.set_exception(error)
                return
            if result.set_running_or_notify_cancel():
                result.set_result(opened)
            else:
                self._discard(opened)

        def abandon() -> None:
            result.cancel()
            sock = None if connection is None else connection.sock
            if sock is not None:  # read once: the other thread may set it to None
                _shut_down(sock)

        with lifetime.attached(result, abandon):
            Thread(target=work, name="connect-sync-connect", daemon=True).start()
            try:
                return result.result(lifetime.remaining())
            except (CancelledError, FutureTimeoutError, ConnectError):
                abandon()
                if not result.cancelled():
                    return result.result()  # it was opened, or failed, at this very moment
            except BaseException:  # the attempt failed, or the caller's thread was interrupted
                abandon()
                if not result.cancelled() and result.exception() is None:
                    self._discard(result.result())
                raise
        lifetime.check()
        raise TimeoutError


def failure(error: Exception, lifetime: Lifetime, message: str) -> ConnectError:
    """Return what ``error`` means for a call: its lifetime has ended, or else ``message``."""
    try:
        lifetime.check()
    except ConnectError as ended:
        return ended
    is_due = lifetime.deadline is not None and lifetime.deadline.is_due()
    if is_due and isinstance(error, TimeoutError):
        return deadline_exceeded()
    return UnansweredError(Code.UNAVAILABLE, message)


class _Exchange:
    """One request and its response, on one connection."""

    def __init__(
        self, transport: Urllib3Transport, connection: HTTPConnection, lifetime: Lifetime, is_new: bool
    ) -> None:
        self._transport = transport
        self._is_new = is_new
        self._connection: HTTPConnection | None = connection
        self._socket = cast(socket.socket, connection.sock)
        self._lifetime = lifetime
        self._receiver = _Receiver(self._socket, lifetime)
        self._reader = io.BufferedReader(self._receiver)
        self._is_sent = False
        self._send_error: OSError | None = None
        self._socket.settimeout(None)
        lifetime.attach(self, self._shut_down)

    def send(self, head: bytes, body: Iterable[bytes]) -> None:
        """Send the request: all of it, or until the server answers or hangs up."""
        if isinstance(body, tuple):
            if sum(map(len, body)) <= _JOIN_MAX_BYTES:
                self._is_sent = self._send(head + b"".join(body))
            else:
                self._is_sent = self._send(head) and all(map(self._send_listening, body))
            return
        if not self._send(head):
            return
        for chunk in body:
            # The iterator is the caller's code. While it ran, the call may have been canceled or answered.
            self._lifetime.check()
            if not self._send_listening(b"%x\r\n%b\r\n" % (len(chunk), chunk)):
                return
        self._lifetime.check()
        self._is_sent = self._send(b"0\r\n\r\n")

    def receive(self, method: str) -> Response:
        """Return the response when its head has arrived."""
        response = HTTP1Response(self._reader, method)
        start = b""
        try:
            start = self._reader.peek(1)[:_START_BYTES]
            check_start(start, is_plain=self._transport.route.is_plain)
            response.begin()
        except OtherProtocolError as error:
            raise self.failure(error) from error
        except (HTTPException, OSError) as error:
            cause = self._send_error or error
            try:
                raise self.failure(cause, is_silent=self._is_new and not start) from cause
            finally:
                del cause  # as in `_connect`
        return Response(response.status, response.headers, _ResponseBody(self, response))

    def failure(self, error: Exception, *, is_silent: bool = False) -> ConnectError:
        """Return what ``error`` means for the call: see `Route.response_message`."""
        message = self._transport.route.response_message(error, is_silent=is_silent)
        return failure(error, self._lifetime, message)

    def set_deadline(self, deadline: Deadline) -> None:
        """Bound each receive by ``deadline``."""
        self._lifetime = self._receiver.lifetime = Lifetime(deadline, self._lifetime.cancellation)

    def end(self, *, is_reusable: bool) -> None:
        """Release the connection: to the pool if it can be used again, else closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._lifetime.detach(self)
        cancellation = self._lifetime.cancellation
        if (
            not is_reusable
            or not self._is_sent
            or (cancellation is not None and cancellation.is_canceled())
            or self._has_leftover()
        ):
            connection.close()
        self._transport.release(connection)

    def abandon(self) -> None:
        """Release the connection during garbage collection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._lifetime.detach(self)
            connection.close()
            self._transport.release_later(connection)

    def _send(self, data: bytes) -> bool:
        """Send bytes, waiting until the socket has taken them; return whether it has."""
        view = memoryview(data)
        try:
            while view:
                if self._lifetime.deadline is not None:
                    self._socket.settimeout(self._lifetime.remaining())
                view = view[self._socket.send(view) :]
        except TimeoutError as error:
            raise self.failure(error) from error
        except OSError as error:
            # The server hung up, perhaps after an answer.
            self._send_error = error.with_traceback(None)  # which has this frame
            return False
        return True

    def _send_listening(self, data: bytes) -> bool:
        """Send bytes until the server answers; return whether all were sent.

        RFC 9112, section 9.5: a server may answer before it has read everything, and then stop reading.
        """
        if not isinstance(self._socket, socket.socket):
            # TLS in TLS cannot be non-blocking: it would lose what the outer layer has no room for.
            return not self._receiver.has_answer() and self._send(data)
        view = memoryview(data)
        self._socket.settimeout(0)
        try:
            while view:
                self._lifetime.check()
                if self._receiver.has_answer():
                    return False
                try:
                    view = view[self._socket.send(view[:_SEND_MAX_BYTES]) :]
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError) as full:
                    can_write = not isinstance(full, ssl.SSLWantReadError)
                    remaining = self._lifetime.remaining()
                    wait_for_socket(self._socket, read=True, write=can_write, timeout=remaining)
        except OSError as error:
            self._send_error = error.with_traceback(None)  # which has this frame
            return False
        finally:
            self._socket.settimeout(None)
        return True

    def _has_leftover(self) -> bool:
        """Tell whether data has arrived that was not read."""
        self._receiver.is_finished = True
        return bool(self._reader.peek(1)) or _has_decrypted(self._socket)

    def _shut_down(self) -> None:
        _shut_down(self._socket)


class _Receiver(io.RawIOBase):
    """Receives from a socket, within the lifetime of a call."""

    def __init__(self, sock: socket.socket, lifetime: Lifetime) -> None:
        self._socket = sock
        self.lifetime = lifetime
        self._ahead = b""
        self.is_finished = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ahead:
            size = min(len(buffer), len(self._ahead))
            buffer[:size] = self._ahead[:size]
            self._ahead = self._ahead[size:]
            return size
        if self.is_finished:
            return 0
        if self.lifetime.deadline is not None:
            self._socket.settimeout(self.lifetime.remaining())
        return self._socket.recv_into(buffer)

    def has_answer(self) -> bool:
        """Tell, without waiting, whether the server has begun to answer or has hung up."""
        if wait_for_read(self._socket, timeout=0):
            timeout = self._socket.gettimeout()
            self._socket.settimeout(0)
            try:
                data = self._socket.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return False  # what arrived is for TLS itself, such as a session ticket
            except OSError:
                return True  # reading the answer will raise it again
            finally:
                self._socket.settimeout(timeout)
            if not data:
                return True
            self._ahead += data
        self._ahead = without_interim_responses(self._ahead)
        return has_begun(self._ahead)


class _ResponseBody(Body):
    """The body of a response as it arrives. Its end frees the connection."""

    def __init__(self, exchange: _Exchange, response: HTTP1Response) -> None:
        self._exchange: _Exchange | None = exchange
        self._response = response
        self.length = response.length

    def read(self, size: int) -> bytes:
        if self._exchange is None:
            return b""
        try:
            # More than was asked for, if it has arrived: a stream may have many messages.
            data = self._response.read(max(size, READ_SIZE))
        except ConnectError:
            self.close()
            raise
        except (HTTPException, OSError) as error:
            try:
                raise self._exchange.failure(error) from error
            finally:
                self.close()
        if not data:
            self.close()
        return data

    def set_deadline(self, deadline: Deadline) -> None:
        if self._exchange is not None:
            self._exchange.set_deadline(deadline)

    def close(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(is_reusable=self._response.is_complete and self._response.is_persistent)

    def __del__(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()


def _has_decrypted(sock: socket.socket) -> bool:
    """Tell whether TLS holds decrypted data that was not read, which waiting for the socket cannot see."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending() > 0
    if isinstance(sock, SSLTransport):  # TLS in TLS
        return sock.sslobj.pending() > 0 or sock.incoming.pending > 0 or _has_decrypted(sock.socket)
    # Sockets of other TLS libraries cannot be asked.
    return not isinstance(sock, socket.socket)


def _shut_down(sock: socket.socket) -> None:
    """Wake the thread that waits for a socket. It stays open: its number must not go to another file yet."""
    # The method of SSLSocket would free what the other thread is using, and urllib3's wrapper for TLS in TLS
    # does not have one.
    plain = getattr(sock, "socket", sock)
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
