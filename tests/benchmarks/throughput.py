"""Throughput under gunicorn, by load generators: wrk over HTTP/1.1, h2load over HTTP/2.

All servers run at once and are loaded in turn: on any cores, as a site leaves them, and then on one core from
another. They start several times, as a process is faster or slower, for as long as it lives, by where its
memory happens to lie. It needs ``apt-get install wrk nghttp2-client``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from tests.benchmarks import grpc_peer, peer
from tests.benchmarks.measure import against, in_rounds, on_core, print_table
from tests.benchmarks.server import serving
from tests.benchmarks.service import ECHO, MESSAGE, wrap

_GUNICORN = ("--worker-class=gthread", "--http-parser=fast")


def wrk(port: int, path: str, *, connections: int, seconds: int, core: int | None = None) -> float:
    """Load a server over HTTP/1.1, each connection with one request at a time; return requests a second."""
    body = "".join(f"\\{byte:03d}" for byte in MESSAGE.SerializeToString())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = "{body}"\n')
        script.write('wrk.headers["Content-Type"] = "application/proto"\n')
        script.write('wrk.headers["Connect-Protocol-Version"] = "1"\n')
        script.flush()
        output = _run(
            [
                *("wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"),
                *(f"--script={script.name}", f"http://127.0.0.1:{port}{path}"),
            ],
            core,
        )
    assert "Non-2xx" not in output, output
    assert "Socket errors" not in output, output
    return float(_find(r"Requests/sec:\s+([\d.]+)", output))


class Load(NamedTuple):
    """What h2load has measured."""

    rate: float
    """Requests a second."""
    median_ms: float
    """The time from request to response, of the middle one of all requests."""
    p99_ms: float
    """The time within which 99 of 100 had their responses."""


def h2load(
    port: int,
    path: str = ECHO,
    *,
    connections: int,
    seconds: int,
    core: int | None = None,
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
        output = _run(
            [
                *("h2load", f"--clients={connections}", f"--duration={seconds}", "--warm-up-time=1"),
                *(f"--data={data}", f"--log-file={log}", *(f"--header={header}" for header in headers)),
                *(["--h1"] if is_http1 else []),
                f"http://127.0.0.1:{port}{path}",
            ],
            core,
        )
        requests = [line.split() for line in log.read_text().splitlines()]
    done = int(_find(r"(\d+) done, ", output))
    assert " 0 failed, 0 errored, 0 timeout" in output, output
    # An error of gRPC has the status 200 too, but none of the bytes that Echo sends back.
    assert int(_find(r"\((\d+)\) data", output)) >= done * len(body), output
    # A status other than 200 has a request that the end of the load has cut off.
    percentiles = quantiles((int(time) / 1000 for _, status, time in requests if status == "200"), n=100)
    return Load(float(_find(r"finished in .*, ([\d.]+) req/s", output)), percentiles[49], percentiles[98])


def _run(command: list[str], core: int | None) -> str:
    """Run a load generator, and return what it prints."""
    with on_core(core):
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def check_programs(*names: str) -> None:
    """End the process where a load generator is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} missing: apt-get install wrk nghttp2-client")


@contextmanager
def http1_servers(threads: int, core: int | None) -> Iterator[dict[str, tuple[int, str]]]:
    """Run gunicorns, and yield the port of each, and the path that it is called at."""
    with ExitStack() as stack:
        servers = {}
        with on_core(core):
            for name, application, path in (
                ("bare function", "service:bare_unary", ECHO),
                ("connect-sync", "service:app", ECHO),
                ("connectrpc", "peer:app", f"{peer.SERVICE}/Echo"),
            ):
                server = serving(application, *_GUNICORN, f"--threads={threads}")
                servers[name] = (stack.enter_context(server).port, path)
        yield servers


@contextmanager
def _http1_loads(threads: int, core: int | None) -> Iterator[dict[str, Callable[..., float]]]:
    with http1_servers(threads, core) as servers:
        loads: dict[str, Callable[..., float]] = {
            name: partial(wrk, *server) for name, server in servers.items()
        }
        for load in loads.values():  # to warm up, as h2load does by itself
            load(connections=threads, seconds=1)
        yield loads


@contextmanager
def _http2_loads(threads: int, core: int | None) -> Iterator[dict[str, Callable[..., float]]]:
    """Run gunicorns and a server of grpcio's, and yield what loads each."""
    options = (
        *(*_GUNICORN, f"--threads={threads}"),
        *("--http-protocols=h2,h1", "--http2-cleartext=prior-knowledge"),
    )
    with (
        on_core(core),
        serving("service:bare_unary", *options) as bare,
        serving("service:app", *options) as ours,
        serving("peer:app", *options) as theirs,
        grpc_peer.serving(threads) as grpc,
    ):
        yield {
            "bare function under gunicorn": partial(_h2load_rate, bare.port),
            "connect-sync": partial(_h2load_rate, ours.port),
            "connect-sync, gRPC": partial(_h2load_rate, ours.port, is_grpc=True),
            "connectrpc": partial(_h2load_rate, theirs.port, f"{peer.SERVICE}/Echo"),
            "grpcio's server, gRPC": partial(_h2load_rate, grpc, is_grpc=True),
        }


def _h2load_rate(*arguments: Any, **options: Any) -> float:
    return h2load(*arguments, **options).rate


def main() -> None:
    """Print a table for HTTP/1.1 and one for HTTP/2, on any cores and on one."""
    parser = argparse.ArgumentParser(description="Measure throughput under gunicorn.")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2, help="of each load")
    parser.add_argument("--rounds", type=int, default=2, help="between two starts; two in all, at least")
    parser.add_argument("--starts", type=int, default=5, help="of the servers")
    arguments = parser.parse_args()
    check_programs("wrk", "h2load")
    for where, core, from_core in (("any cores", None, None), ("one core, from another", 0, 1)):
        for version, serve in (("HTTP/1.1", _http1_loads), ("HTTP/2", _http2_loads)):
            rates: dict[str, list[float]] = {}
            for _ in range(arguments.starts):
                # Each server has as many threads as connections: over HTTP/2, gunicorn gives each
                # connection one for as long as it is open, and further connections wait.
                with serve(arguments.connections, core) as loads:
                    options = {
                        "connections": arguments.connections,
                        "seconds": arguments.seconds,
                        "core": from_core,
                    }
                    cases = {name: partial(load, **options) for name, load in loads.items()}
                    for name, values in in_rounds(cases, arguments.rounds).items():
                        rates.setdefault(name, []).extend(values)
            title = f"Throughput over {version}, {arguments.connections} connections, on {where}"
            print_table(title, "requests/s", against(next(iter(rates)), rates), is_rate=True)


if __name__ == "__main__":
    main()
