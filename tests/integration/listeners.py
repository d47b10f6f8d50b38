"""Ports that take no connection."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that refuses connections, and that no other process can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def full_listener() -> Iterator[int]:
    """Yield a port that takes no further connection, and refuses none."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        is_full = False
        while not is_full:
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            _, connected, _ = select.select([], [sock], [], 0.1)
            is_full = not connected
        yield listener.getsockname()[1]
