"""Liveness: how long a message of a client stream takes from its sending until its handler has told of it.

Each server of docs/servers.md that PyPI has is started, and sent one message at a time, on one open stream.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.benchmarks.server import end_on_sigterm
from tests.integration.channel import Channel
from tests.integration.live import wrap
from tests.integration.other_servers import KINDS, OtherServer
from tests.integration.servers import Gunicorn
from tests.integration.wire import LAST_CHUNK, Connection, chunk, post

_MESSAGES = 500
_HEADERS = {"content-type": "application/connect+proto", "transfer-encoding": "chunked"}
_WORKERS = {
    "gunicorn sync, Python parser": ("sync", "python"),
    "gunicorn gthread, C parser": ("gthread", "fast"),
    "gunicorn gevent, C parser": ("gevent", "fast"),
}


def _delays(connect: Callable[[], Connection]) -> list[float]:
    """Return the milliseconds that each message took."""
    delays = []
    with closing(Channel()) as channel, connect() as connection:
        connection.send(post("Collect", _HEADERS | channel.headers))
        assert channel.next_event() == "called"
        message = chunk(wrap("anna"))
        for _ in range(_MESSAGES):
            start = perf_counter()
            connection.send(message)
            assert channel.next_event() == "got anna"
            delays.append((perf_counter() - start) * 1000)
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
    return delays


def main() -> None:
    """Print a table: the delays of each server, of which each is what the call back to here takes, too."""
    end_on_sigterm()
    print(f"\nLiveness, client streaming, {_MESSAGES} messages one at a time, from send to handler")
    print(f"{'':34}{'ms, median':>18}{'99 of 100 within':>20}{'longest':>10}")
    with tempfile.TemporaryDirectory() as directory:
        for name, (worker, parser) in _WORKERS.items():
            server = Gunicorn(Path(directory) / f"{worker}.log", worker, f"--http-parser={parser}")
            try:
                _show(name, _delays(server.connect))
            finally:
                server.stop()
    for name, kind in KINDS.items():
        if kind.has_live_requests:
            other = OtherServer(kind)
            try:
                _show(name, _delays(other.connect))
            finally:
                other.stop()


def _show(name: str, delays: list[float]) -> None:
    ordered = sorted(delays)
    within = ordered[len(ordered) * 99 // 100]
    print(f"{name:34}{median(delays):18.2f}{within:20.2f}{ordered[-1]:10.2f}")


if __name__ == "__main__":
    main()
