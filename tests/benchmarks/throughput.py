"""Throughput under gunicorn, loaded by h2load over HTTP/1.1 and HTTP/2.

All servers run at once and are loaded in turn. It needs ``apt-get install nghttp2-client``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple, TypeVar

from tests.benchmarks import grpc_peer, peer
from tests.benchmarks.measure import Row, print_table
from tests.benchmarks.server import serving
from tests.benchmarks.service import ECHO, MESSAGE, wrap

Key = TypeVar("Key")


class Load(NamedTuple):
    """What a load has measured."""

    rate: float
    """Requests a second."""
    median_ms: float
    """The time from request to response, of the middle one of all requests."""
    p99_ms: float
    """The time within which 99 of 100 had their responses."""


def h2load(
    port: int,
    *,
    connections: int,
    seconds: int,
    path: str = ECHO,
    is_http1: bool = False,
    is_grpc: bool = False,
) -> Load:
    """Load a server in cleartext, each connection with one request at a time, after a second to warm up."""
    body = MESSAGE.SerializeToString()
    if is_grpc:
        body = wrap(body)
        headers = ["content-type: application/grpc", "te: trailers"]
    else:
        headers = ["content-type: application/proto", "connect-protocol-version: 1"]
    with tempfile.TemporaryDirectory() as directory:
        data, log = Path(directory, "data"), Path(directory, "log")
        data.write_bytes(body)
        output = subprocess.run(
            [
                *("h2load", f"--clients={connections}", f"--duration={seconds}", "--warm-up-time=1"),
                *(f"--data={data}", f"--log-file={log}", *(f"--header={header}" for header in headers)),
                *(["--h1"] if is_http1 else []),
                f"http://127.0.0.1:{port}{path}",
            ],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        requests = [line.split() for line in log.read_text().splitlines()]
    done = int(_find(r"(\d+) done, ", output))
    assert " 0 failed, 0 errored, 0 timeout" in output, output
    # An error of gRPC has the status 200 too, but none of the bytes that Echo sends back.
    assert int(_find(r"\((\d+)\) data", output)) >= done * len(body), output
    # A status other than 200 has a request that the end of the load has cut off.
    percentiles = quantiles((int(time) / 1000 for _, status, time in requests if status == "200"), n=100)
    return Load(float(_find(r"finished in .*, ([\d.]+) req/s", output)), percentiles[49], percentiles[98])


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def interleaved(cases: Mapping[Key, Callable[[], Load]], rounds: int) -> dict[Key, list[Load]]:
    """Return, for each case, the load of each round; a round runs every case once."""
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    loads: dict[Key, list[Load]] = {key: [] for key in cases}
    for _ in range(rounds):
        for key, case in cases.items():
            loads[key].append(case())
    return loads


@contextmanager
def http1_servers(threads: int) -> Iterator[dict[str, Callable[..., Load]]]:
    """Run gunicorns, and yield what loads each, given the connections and the seconds."""
    with ExitStack() as stack:
        loads: dict[str, Callable[..., Load]] = {}
        for name, application, path in (
            ("bare function", "service:bare_unary", ECHO),
            ("connect-sync", "service:app", ECHO),
            ("connectrpc", "peer:app", f"{peer.SERVICE}/Echo"),
        ):
            server = serving(application, "--worker-class=gthread", f"--threads={threads}")
            loads[name] = partial(h2load, stack.enter_context(server).port, path=path, is_http1=True)
        yield loads


@contextmanager
def http2_servers(threads: int) -> Iterator[dict[str, Callable[..., Load]]]:
    """Run gunicorns and a server of grpcio's: see `http1_servers`."""
    options = (
        *("--worker-class=gthread", f"--threads={threads}"),
        *("--http-protocols=h2,h1", "--http2-cleartext=prior-knowledge"),
    )
    with (
        serving("service:bare_unary", *options) as bare,
        serving("service:app", *options) as ours,
        grpc_peer.serving(threads) as grpc,
    ):
        yield {
            "bare function under gunicorn": partial(h2load, bare.port),
            "connect-sync": partial(h2load, ours.port),
            "connect-sync, gRPC": partial(h2load, ours.port, is_grpc=True),
            "grpcio's server, gRPC": partial(h2load, grpc, is_grpc=True),
        }


def main() -> None:
    """Print a table for HTTP/1.1, and one for HTTP/2."""
    parser = argparse.ArgumentParser(description="Measure throughput under gunicorn.")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for protocol, servers in (("HTTP/1.1", http1_servers), ("HTTP/2", http2_servers)):
        # Each server has as many threads as connections: over HTTP/2, gunicorn gives each connection
        # one for as long as it is open, and further connections wait.
        with servers(threads=arguments.connections) as loads:
            cases = {
                name: partial(load, connections=arguments.connections, seconds=arguments.seconds)
                for name, load in loads.items()
            }
            measured = interleaved(cases, arguments.rounds)
        rates = {name: [load.rate for load in rounds] for name, rounds in measured.items()}
        floor = next(iter(rates.values()))
        rows = [Row(name, values, None if values is floor else floor) for name, values in rates.items()]
        title = f"Throughput over {protocol}, {arguments.connections} connections"
        print_table(title, "requests/s", rows, is_rate=True)


if __name__ == "__main__":
    main()
