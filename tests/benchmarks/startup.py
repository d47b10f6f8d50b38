"""Start-up: how long a program takes to have its imports, against what it could not do without.

The generated code of a service has its client and its application.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial

from tests.benchmarks import peer
from tests.benchmarks.measure import against, interleaved, print_table

_NOTHING = "pass"
_PROTOBUF = "import benchmark.v1.benchmark_pb2"
_CLIENT = f"{_PROTOBUF}, connect_sync"
_GENERATED = "import benchmark.v1.benchmark_connect"


def _start(program: str, environment: Mapping[str, str]) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def main() -> None:
    """Print a table."""
    assert peer.Message is not None  # its code is there
    with tempfile.TemporaryDirectory() as cache:
        # Modules are compiled before they are measured, be they installed or in a checkout.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONPYCACHEPREFIX": cache,
            "PYTHONDONTWRITEBYTECODE": "",
        }
        _measure(environment)


def _measure(environment: Mapping[str, str]) -> None:
    programs = {
        "Python alone": _NOTHING,
        "messages of Protobuf": _PROTOBUF,
        "messages and urllib3": f"{_PROTOBUF}, urllib3",
        "connect-sync, its client alone": _CLIENT,
        "connect-sync, generated code": _GENERATED,
        "connectrpc, generated code": "import peer.v1.benchmark_connect",
        "grpcio": f"{_PROTOBUF}, grpc",
    }
    cases = {name: partial(_start, program, environment) for name, program in programs.items()}
    times = {
        name: [value / 1000 for value in values]
        for name, values in interleaved(cases, calls=1, rounds=15).items()
    }
    rows = against("messages and urllib3", times)
    print_table("Start-up, from the start of a process to its end", "ms", rows)


if __name__ == "__main__":
    main()
