"""Throughput under gunicorn, by load generators: wrk over HTTP/1.1, h2load over HTTP/2.

All servers run at once and are loaded in turn. It needs ``apt-get install wrk nghttp2-client``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from tests.benchmarks import grpc_peer, peer
from tests.benchmarks.measure import Row, print_table
from tests.benchmarks.server import serving
from tests.benchmarks.service import ECHO, PAYLOAD, wrap

_MESSAGE = b"\n\x04" + PAYLOAD
_THREADS = 8


class Load(NamedTuple):
    """What a load generator has measured."""

    rate: float
    """Requests a second."""
    latency_ms: float
    """The mean time of a request."""


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def wrk(port: int, path: str, connections: int, seconds: int) -> Load:
    """Load a server over HTTP/1.1, each connection with one request at a time."""
    escaped = "".join(f"\\{byte:03d}" for byte in _MESSAGE)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = "{escaped}"\n')
        script.write('wrk.headers["Content-Type"] = "application/proto"\n')
        script.write('wrk.headers["Connect-Protocol-Version"] = "1"\n')
        script.flush()
        output = subprocess.run(
            [
                *("wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"),
                *(f"--script={script.name}", f"http://127.0.0.1:{port}{path}"),
            ],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    assert "Non-2xx" not in output, output
    number, unit = re.search(r"Latency\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
    latency = float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    return Load(float(_find(r"Requests/sec:\s+([\d.]+)", output)), latency)


def h2load(port: int, content_type: str, body: bytes, connections: int, seconds: int) -> Load:
    """Load a server over cleartext HTTP/2, each connection with one request at a time."""
    with tempfile.NamedTemporaryFile() as data:
        data.write(body)
        data.flush()
        output = subprocess.run(
            [
                *("h2load", f"--clients={connections}", "--max-concurrent-streams=1"),
                *(f"--duration={seconds}", "--warm-up-time=1", f"--data={data.name}"),
                *(f"--header=content-type: {content_type}", "--header=te: trailers"),
                f"http://127.0.0.1:{port}{ECHO}",
            ],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    assert " 0 failed, 0 errored" in output, output
    rate = float(_find(r"finished in .*, ([\d.]+) req/s", output))
    return Load(rate, connections / rate * 1000)


def main() -> None:
    """Print a table for HTTP/1.1, and one for HTTP/2."""
    parser = argparse.ArgumentParser(description="Measure throughput under gunicorn.")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    missing = [program for program in ("wrk", "h2load") if shutil.which(program) is None]
    if missing:
        sys.exit(f"throughput: {' and '.join(missing)} missing: apt-get install wrk nghttp2-client")
    connections, seconds = arguments.connections, arguments.seconds
    threads = (f"--threads={_THREADS}", "--worker-class=gthread")
    with ExitStack() as stack:
        http1: dict[str, Callable[[], Load]] = {}
        for name, application, path in (
            ("bare function", "service:bare_unary", ECHO),
            ("connect-sync", "service:app", ECHO),
            ("connectrpc", "peer:app", f"{peer.SERVICE}/Echo"),
        ):
            server = stack.enter_context(serving(application, *threads))
            http1[name] = partial(wrk, server.port, path, connections, seconds)
        _show(f"Throughput under gunicorn, {connections} connections", http1, arguments.rounds)
    http2 = ("--http-protocols=h2,h1", "--http2-cleartext=prior-knowledge", "--threads=64")
    with ExitStack() as stack:
        bare = stack.enter_context(serving("service:bare_unary", *http2, "--worker-class=gthread"))
        ours = stack.enter_context(serving("service:app", *http2, "--worker-class=gthread"))
        grpc = stack.enter_context(grpc_peer.serving(_THREADS))
        load = partial(h2load, connections=connections, seconds=seconds)
        _show(
            f"Throughput over HTTP/2, {connections} connections",
            {
                "bare function under gunicorn": partial(load, bare.port, "application/proto", _MESSAGE),
                "connect-sync": partial(load, ours.port, "application/proto", _MESSAGE),
                "connect-sync, gRPC": partial(load, ours.port, "application/grpc", wrap(_MESSAGE)),
                "grpcio's server, gRPC": partial(load, grpc, "application/grpc", wrap(_MESSAGE)),
            },
            arguments.rounds,
        )


def _show(title: str, loads: dict[str, Callable[[], Load]], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in loads}
    for load in loads.values():
        load()
    for _ in range(rounds):
        for name, load in loads.items():
            rates[name].append(load().rate)
    floor = next(iter(rates.values()))
    rows = [Row(name, values, None if values is floor else floor) for name, values in rates.items()]
    print_table(title, "requests/s", rows, is_rate=True)


if __name__ == "__main__":
    main()
