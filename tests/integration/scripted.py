"""A server of raw sockets that does what a script says, for clients that have to bear with it."""

from __future__ import annotations

import io
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.client import parse_headers
from threading import Event, Lock, Thread
from typing import NamedTuple, Protocol, TypeAlias

from tests.integration.wire import PATIENCE, reset


class HungUp(Exception):
    """The client is gone, or the script has ended the connection: there is nothing more to do on it."""


class Request(NamedTuple):
    """The head of a request, and of its body what was read of it."""

    first_line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The connection of one client."""

    def __init__(self, sock: socket.socket, requests: list[Request], stopped: Event) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._reader = sock.makefile("rb")
        self.requests = requests
        self._stopped = stopped

    def read_head(self) -> Request:
        """Read a request up to its body."""
        first_line = self._reader.readline().decode("latin-1").rstrip()
        if not first_line:
            raise HungUp
        headers = {name.lower(): value for name, value in parse_headers(self._reader).items()}
        request = Request(first_line, headers, b"")
        self.requests.append(request)
        return request

    def read_head_and_rest(self) -> tuple[Request, bytes]:
        """Read a request up to its body, and return with it what has come behind, by the socket alone."""
        data = b""
        while b"\r\n\r\n" not in data:
            received = self.socket.recv(1 << 16)
            if not received:
                raise HungUp
            data += received
        first_line, _, rest = data.partition(b"\r\n")
        reader = io.BytesIO(rest)
        headers = {name.lower(): value for name, value in parse_headers(reader).items()}
        request = Request(first_line.decode("latin-1"), headers, b"")
        self.requests.append(request)
        return request, reader.read()

    def read_chunk(self) -> bytes:
        """Read a chunk of a body; the last one is empty."""
        line = self._reader.readline()
        if not line:
            raise HungUp
        data = self._reader.read(int(line, 16))
        self._reader.readline()
        return data

    def read_body(self) -> bytes:
        """Read the body of the request whose head was read last."""
        headers = self.requests[-1].headers
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self.read_chunk, b""))
        return self._reader.read(int(headers.get("content-length", 0)))

    def read_request(self) -> Request:
        """Read a request with its body."""
        head = self.read_head()
        self.requests[-1] = request = head._replace(body=self.read_body())
        return request

    def read(self, size: int) -> bytes:
        return self._reader.read(size)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send the bytes one by one, taking minutes if there are thousands."""
        for byte in data:
            self.send(bytes([byte]))
            self._stopped.wait(0.01)
        raise AssertionError("the client has heard all of it")

    def wait_for_hang_up(self) -> None:
        """Say nothing, and listen to nothing, till the client has gone."""
        while self._reader.read1():
            pass
        raise HungUp

    def has_hung_up(self, within: float) -> bool:
        """Tell whether the client, which has nothing more to say, goes within some seconds."""
        return bool(select.select([self.socket], [], [], within)[0])

    def wait_for_end(self) -> None:
        """Do nothing at all, till the server is closed."""
        self._stopped.wait()
        raise HungUp

    def reset(self) -> None:
        """Break the connection off."""
        self._reader.close()
        reset(self.socket)
        raise HungUp

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


Script: TypeAlias = Callable[[Peer], object]


class Serve(Protocol):
    """Starts a server for the time of a test."""

    def __call__(self, script: Script, *, is_tls: bool = False) -> ScriptedServer: ...


class ScriptedServer:
    """Runs a script for each connection, in a thread of its own. The script's end is the connection's."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._script = script
        self._tls = tls
        self._stopped = Event()
        self._failures: list[TimeoutError | AssertionError] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._threads = [Thread(target=self._accept, name="scripted-server")]
        self._threads[0].start()

    def close(self) -> None:
        """End the connections, and raise what went wrong in a script."""
        self._stopped.set()
        with suppress(ConnectionRefusedError):  # another late connection has ended the thread
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._threads[0].join()
        for sock in self._sockets:
            with suppress(OSError):
                # Not by the method of ssl, after which what comes would be read as it is, encrypted.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _accept(self) -> None:
        with self._listener:
            while True:
                sock, _ = self._listener.accept()
                if self._stopped.is_set():
                    sock.close()
                    return
                self.connections += 1
                self._sockets.append(sock)
                thread = Thread(target=self._run, args=[sock], name="scripted-connection")
                self._threads.append(thread)
                thread.start()

    def _run(self, sock: socket.socket) -> None:
        with suppress(HungUp, ConnectionError, ssl.SSLError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                self._sockets.append(sock)
            peer = Peer(sock, self.requests, self._stopped)
            try:
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                self._script(peer)
            except (TimeoutError, AssertionError) as error:
                self._failures.append(error)
            finally:
                peer.close()


# What scripts are made of

Act: TypeAlias = Callable[[Peer], None]


def acts(*acts: Act) -> Script:
    """Follow each request, on any connection, by the next of ``acts``; the last is for all the rest."""
    left = deque(acts)
    lock = Lock()

    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            with lock:
                act = left.popleft() if len(left) > 1 else left[0]
            act(peer)

    return script


def say(data: bytes) -> Act:
    """Send ``data``, and keep the connection."""
    return lambda peer: peer.send(data)


def say_and_leave(data: bytes) -> Act:
    """Send ``data``, and end the connection."""

    def act(peer: Peer) -> None:
        peer.send(data)
        raise HungUp

    return act


def say_and_break_off(data: bytes) -> Act:
    """Send ``data``, and reset the connection when the client has it."""

    def act(peer: Peer) -> None:
        peer.send(data)
        peer.reset()

    return act


def say_and_wait(data: bytes, said: Event | None = None) -> Act:
    """Send ``data`` and nothing more, till the client leaves."""

    def act(peer: Peer) -> None:
        peer.send(data)
        if said is not None:
            said.set()
        peer.wait_for_hang_up()

    return act


def say_for_ever(start: bytes, data: bytes) -> Act:
    """Send ``start``, then ``data`` again and again, till the client leaves."""

    def act(peer: Peer) -> None:
        peer.send(start)
        while True:
            peer.send(data)

    return act


def drip(start: bytes, data: bytes) -> Act:
    """Send ``start``, then ``data`` byte by byte, till the client leaves."""

    def act(peer: Peer) -> None:
        peer.send(start)
        peer.drip(data)

    return act
