"""The test's end of the channel on which a handler tells what happens to it: see `service`."""

from __future__ import annotations

import socket
from typing import BinaryIO

from tests.integration.wire import PATIENCE


class Channel:
    """Events from one handler, and leave for it to go on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._socket: socket.socket | None = None
        self._events: BinaryIO | None = None
        host, port = self._listener.getsockname()
        self.headers = {"channel": f"{host}:{port}"}

    def next_event(self) -> str:
        """Return what the handler tells next; nothing once it has ended."""
        self._accept()
        assert self._events is not None
        return self._events.readline().decode().rstrip()

    def go_on(self) -> None:
        """Let the handler give its next message."""
        self._accept().sendall(b"\n")

    def go_on_to_the_end(self) -> None:
        """Let the handler give all of its messages."""
        self._accept().shutdown(socket.SHUT_WR)

    def is_called(self) -> bool:
        """Tell, without waiting, whether a handler has opened the channel."""
        self._listener.setblocking(False)
        try:
            self._accept()
        except BlockingIOError:
            return False
        finally:
            self._listener.settimeout(PATIENCE)
        return True

    def close(self) -> None:
        if self._socket is not None and self._events is not None:
            self._events.close()
            self._socket.close()
        self._listener.close()

    def _accept(self) -> socket.socket:
        if self._socket is None:
            self._socket, _ = self._listener.accept()
            self._socket.settimeout(PATIENCE)
            self._events = self._socket.makefile("rb")
        return self._socket
