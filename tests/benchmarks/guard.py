"""A guard that noise cannot move: the instructions of the hot paths, counted by valgrind.

``python -m tests.benchmarks.guard`` counts them as ratios to the bare functions, and fails if one has grown
by more than a tenth over what ``guard.json`` has recorded for the same minor version of Python; with
``--record`` it records them there. It needs valgrind: ``apt-get install valgrind``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmark.v1.benchmark_pb2 import Message

from connect_sync import ConnectClient
from connect_sync.client import Lifetime
from connect_sync.http import Request, Response
from tests.benchmarks.calls import STREAM_LENGTH, ours, run
from tests.benchmarks.service import MESSAGE, app, bare

_RECORD = Path(__file__).with_name("guard.json")
_MAX_GROWTH = 1.1
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_CALLS = 200
_WARM_UP = 100


class Canned:
    """A transport that answers at once, with the same bytes."""

    def __init__(self) -> None:
        self._body = (MESSAGE.SerializeToString(),)

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        return Response(200, (("content-type", "application/proto"),), self._body)

    def close(self) -> None:
        pass


def _bare_client() -> None:
    MESSAGE.SerializeToString()
    Message.FromString(b"\n\x04Jane")


_client = ConnectClient("http://test", transport=Canned())
_echo = app.methods["echo"]

# Each path beside the least that its work can cost.
_PATHS: Mapping[str, tuple[Callable[[], object], Callable[[], object], int]] = {
    "server, unary": (
        partial(run, app, *ours.unary),
        partial(run, bare.unary, *ours.unary),
        _CALLS,
    ),
    "server, unary, gRPC-Web": (
        partial(run, app, *ours.web_unary),
        partial(run, bare.unary, *ours.unary),
        _CALLS,
    ),
    f"server, server streaming, {STREAM_LENGTH} messages": (
        partial(run, app, *ours.server_stream),
        partial(run, bare.server_stream, *ours.server_stream),
        2,
    ),
    f"server, client streaming, {STREAM_LENGTH} messages": (
        partial(run, app, *ours.client_stream),
        partial(run, bare.client_stream, *ours.client_stream),
        2,
    ),
    "client, unary, without its transport": (
        partial(_client.call_unary, _echo, MESSAGE),
        _bare_client,
        _CALLS,
    ),
}


def _count_here() -> None:
    """Run each path, and have valgrind, under which this process is, write a file for each."""
    for number, (path, least, calls) in enumerate(_PATHS.values()):
        for name, call in (("path", path), ("least", least)):
            for _ in range(_WARM_UP if calls > 2 else 2):
                call()
            _control("--instr=on")
            _control("--zero")
            for _ in range(calls):
                call()
            _control(f"--dump={name}-{number}")
            _control("--instr=off")


def _control(command: str) -> None:
    subprocess.run(["callgrind_control", command, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


_find_counts = re.compile(
    r"^desc: Trigger: .*?(path|least)-(\d+)$.*?^totals: (\d+)$", re.MULTILINE | re.DOTALL
)


def count() -> dict[str, float]:
    """Return how many instructions each path takes, as ratios to the least."""
    counts = {}
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"),
                f"--callgrind-out-file={directory}/out",
                *(sys.executable, "-m", "tests.benchmarks.guard", "--count-here"),
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if run.returncode != 0:
            raise SystemExit(f"bench-guard: valgrind failed:\n{run.stdout}")
        for file in Path(directory).iterdir():
            found = _find_counts.search(file.read_text())
            if found is not None:
                counts[found[1], int(found[2])] = int(found[3])
    return {
        name: round(counts["path", number] / counts["least", number], 3) for number, name in enumerate(_PATHS)
    }


def main() -> int:
    """Compare, or record, as the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(description="Count the instructions of the hot paths.")
    parser.add_argument("--record", action="store_true", help="record them, in place of comparing")
    parser.add_argument("--count-here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count_here:
        _count_here()
        return 0
    if shutil.which("callgrind_control") is None:
        print("bench-guard: valgrind is missing: apt-get install valgrind", file=sys.stderr)
        return 2
    records = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    ratios = count()
    if arguments.record:
        records[_PYTHON] = ratios
        _RECORD.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
        return 0
    recorded = records.get(_PYTHON)
    if recorded is None:
        print(f"bench-guard: nothing is recorded for Python {_PYTHON}: --record does", file=sys.stderr)
        return 2
    print(f"{'instructions, as a ratio to the least':45}{'recorded':>10}{'now':>10}{'growth':>10}")
    status = 0
    for name, ratio in ratios.items():
        growth = ratio / recorded[name]
        verdict = ""
        if growth > _MAX_GROWTH:
            verdict = "  too much"
            status = 1
        print(f"{name:45}{recorded[name]:10.2f}{ratio:10.2f}{growth - 1:+10.1%}{verdict}")
    return status


if __name__ == "__main__":
    sys.exit(main())
