"""Servers of what is measured, each a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 20.0
"""Seconds in which it should long have started."""


class Server(NamedTuple):
    """A gunicorn with one worker."""

    port: int
    process: int
    """The process of its master."""

    def worker(self) -> int:
        """Return the process of its worker."""
        children = Path(f"/proc/{self.process}/task/{self.process}/children")
        (worker,) = children.read_text().split()
        return int(worker)


def end_on_sigterm() -> None:
    """Have SIGTERM end this process as an error would, which ends its servers too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))


@contextmanager
def serving(application: str, *options: str) -> Iterator[Server]:
    """Serve an application of ``tests.benchmarks``, ``module:name``, with further options of gunicorn."""
    end_on_sigterm()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--no-control-socket", "--log-level", "warning"),
                *("--bind", f"fd://{listener.fileno()}", *options, f"tests.benchmarks.{application}"),
            ],
            cwd=_ROOT,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    # The listener is gunicorn's alone from here on: if that ends, connections are refused.
    try:
        server = Server(port, process.pid)
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None and not _has_worker(server):
            assert time.monotonic() < deadline, "gunicorn has not started"
            time.sleep(0.05)
        assert process.poll() is None, "gunicorn has ended"
        yield server
    finally:
        process.terminate()
        process.wait()


def _has_worker(server: Server) -> bool:
    try:
        server.worker()
    except ValueError:
        return False
    return True


@contextmanager
def running(serve: Callable[..., None], *arguments: object) -> Iterator[int]:
    """Run ``serve``, which sends its port to the connection that it gets first, and yield the port."""
    end_on_sigterm()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(sender, *arguments), daemon=True)
    try:
        process.start()
        # The process has the only one left: if it ends, so does the wait for its port.
        sender.close()
        try:
            port = receiver.recv()
        except EOFError:
            raise AssertionError(f"the server of {serve.__module__} has ended before it had a port") from None
        yield port
    finally:
        if process.pid is not None:
            process.terminate()
            process.join()
