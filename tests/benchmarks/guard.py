"""A guard that noise cannot move: the instructions of the hot paths, counted by valgrind.

``python -m tests.benchmarks.guard`` counts them as ratios to the least that the same work can cost, and fails
if one has grown by more than a tenth over what ``guard.json`` has recorded for the same minor version of
Python, or if nothing is recorded to compare with; with ``--record`` it records them there. It needs valgrind:
``apt-get install valgrind``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from benchmark.v1.benchmark_pb2 import Message
from urllib3.connection import HTTPConnection

from connect_sync import ConnectClient
from connect_sync.client import Lifetime
from connect_sync.http import Request, Response
from tests.benchmarks.calls import STREAM_LENGTH, gunicorn_input, ours, response, run
from tests.benchmarks.server import end_on_sigterm
from tests.benchmarks.service import ECHO, MESSAGE, app, bare

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_RECORD = Path(__file__).with_name("guard.json")
_MAX_GROWTH = 1.1
_PATIENCE = 300.0
"""Seconds in which the counting should long have ended."""

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_ENVIRONMENT = {
    "machine": platform.machine(),
    "python": platform.python_version(),
    **{package: version(package) for package in ("protobuf", "urllib3")},
}
"""What counts depend on beside the code that is guarded."""

_BODY = MESSAGE.SerializeToString()
_REQUEST = f"POST {ECHO} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(_BODY)}\r\n\r\n".encode() + _BODY
_RESPONSE = response("proto", _BODY)


class _Canned:
    """A transport that answers at once, with the same bytes."""

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        return Response(200, (("content-type", "application/proto"),), (_BODY,))

    def close(self) -> None:
        pass


class _AnsweringSocket(socket.socket):
    """A socket whose other end answers all that is sent at once, with the same bytes."""

    def __init__(self) -> None:
        near, self._far = socket.socketpair()
        super().__init__(fileno=near.detach())

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        size = super().send(data)
        self._far.recv(size)
        self._far.sendall(_RESPONSE)
        return size


class _Connection(HTTPConnection):
    def connect(self) -> None:
        self.sock = _AnsweringSocket()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


_manager = urllib3.PoolManager()
_manager.pool_classes_by_scheme = {"http": _Pool}
_client = ConnectClient("http://test", pool_manager=_manager)
_canned_client = ConnectClient("http://test", transport=_Canned())
_socket = _AnsweringSocket()
_echo = app.methods["echo"]


def _exchange() -> Message:
    _socket.send(_REQUEST)
    return Message.FromString(_socket.recv(4096).partition(b"\r\n\r\n")[2])


def _convert() -> Message:
    MESSAGE.SerializeToString()
    return Message.FromString(_BODY)


_CALLS = 200
_STREAMS = 10
"""More than the eight calls after which Python 3.11 specializes a function (PEP 659)."""

# Each path beside the least that its work can cost, and how many times each runs, first to warm up and then
# to be counted.
_PATHS: Mapping[str, tuple[Callable[[], object], Callable[[], object], int]] = {
    "server, unary": (
        partial(run, app, *ours.unary, accepting=True),
        partial(run, bare.unary, *ours.unary),
        _CALLS,
    ),
    "server, unary, from gunicorn's input": (
        partial(run, app, *ours.unary, accepting=True, make_input=gunicorn_input),
        partial(run, bare.unary, *ours.unary, make_input=gunicorn_input),
        _CALLS,
    ),
    "server, unary, gRPC-Web": (
        partial(run, app, *ours.web_unary, accepting=True),
        partial(run, bare.unary, *ours.unary),
        _CALLS,
    ),
    f"server, server streaming, {STREAM_LENGTH} messages": (
        partial(run, app, *ours.server_stream, accepting=True),
        partial(run, bare.server_stream, *ours.server_stream),
        _STREAMS,
    ),
    f"server, client streaming, {STREAM_LENGTH} messages": (
        partial(run, app, *ours.client_stream, accepting=True),
        partial(run, bare.client_stream, *ours.client_stream),
        _STREAMS,
    ),
    "client, unary": (
        partial(_client.call_unary, _echo, MESSAGE, timeout_ms=60_000),
        _exchange,
        _CALLS,
    ),
    "client, unary, without its transport": (
        partial(_canned_client.call_unary, _echo, MESSAGE),
        _convert,
        _CALLS,
    ),
}

_WINDOW = "PyNumber_InPlaceMatrixMultiply"
"""The function of Python's that `@=` calls, and nothing else does: what is counted happens within it."""


class _Counted:
    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __imatmul__(self, times: int) -> _Counted:
        for _ in range(times):
            self._call()
        return self


def _count_here() -> None:
    """Run each path and its least, and have valgrind, under which this process is, write a file for each."""
    # Garbage that something else has left would be collected within one of them.
    gc.disable()
    for path, least, times in _PATHS.values():
        for call in (path, least):
            for _ in range(times):
                call()
            counted = _Counted(call)
            counted @= times


def _count() -> dict[str, float]:
    """Return how many instructions each path takes, as a ratio to the least."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("bench-guard: valgrind is missing: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                [
                    *(valgrind, "--tool=callgrind", "--quiet", f"--callgrind-out-file={directory}/out"),
                    *("--collect-atstart=no", f"--toggle-collect={_WINDOW}", f"--dump-after={_WINDOW}"),
                    *(sys.executable, "-m", "tests.benchmarks.guard", "--count-here"),
                ],
                # The environment's size moves what is in memory, and protobuf has tables keyed by address.
                env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},
                cwd=_RECORD.parents[2],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"bench-guard: valgrind has not ended within {_PATIENCE:.0f} s")
        if done.returncode != 0:
            sys.exit(f"bench-guard: valgrind failed:\n{done.stdout}")
        files = sorted(Path(directory).glob("out.*"), key=lambda file: int(file.suffix[1:]))
        if len(files) != 2 * len(_PATHS):
            sys.exit(f"bench-guard: valgrind does not see the calls of {_WINDOW} in this build of Python")
        counts = [int(file.read_text().rpartition("totals: ")[2]) for file in files]
    return {
        name: round(path / least, 3)
        for name, path, least in zip(_PATHS, counts[::2], counts[1::2], strict=True)
    }


def _compare(recorded: Mapping[str, float], ratios: Mapping[str, float]) -> bool:
    """Print the ratios beside the recorded ones, and return whether none has grown too much."""
    print(f"{'instructions, as a ratio to the least':45}{'recorded':>10}{'now':>10}{'growth':>10}")
    is_good = True
    for name, ratio in ratios.items():
        growth = ratio / recorded[name]
        verdict = ""
        if growth > _MAX_GROWTH:
            verdict = "  too much"
            is_good = False
        print(f"{name:45}{recorded[name]:10.2f}{ratio:10.2f}{growth - 1:+10.1%}{verdict}")
    return is_good


def main() -> int:
    """Compare, or record, as the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(description="Count the instructions of the hot paths.")
    parser.add_argument("--record", action="store_true", help="record them, in place of comparing")
    parser.add_argument("--count-here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count_here:
        _count_here()
        return 0
    end_on_sigterm()  # and valgrind with it
    records = json.loads(_RECORD.read_text())
    if arguments.record:
        records[_PYTHON] = {"environment": _ENVIRONMENT, "ratios": _count()}
        _RECORD.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
        return 0
    record = records.get(_PYTHON, {"environment": {}, "ratios": {}})
    recorded = record["ratios"]
    unmatched = [f"not recorded: {name}" for name in _PATHS if name not in recorded]
    unmatched += [f"recorded, but no path: {name}" for name in recorded if name not in _PATHS]
    if unmatched:
        sys.exit("\n".join([f"bench-guard, Python {_PYTHON}: run with --record", *unmatched]))
    is_good = _compare(recorded, _count())
    for what, now in _ENVIRONMENT.items():
        then = record["environment"].get(what)
        if then != now:
            print(f"{what}: recorded with {then}, counted with {now}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
