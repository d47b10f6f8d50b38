"""Memory over a stream of 1 GiB each way: by how much the peak of each side grows, against one message."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from benchmark.v1.benchmark_connect import BenchmarkServiceClient
from benchmark.v1.benchmark_pb2 import Message

from tests.benchmarks.server import serving

_SIZE = 1 << 20
_COUNT = 1024


def _peak(process: int) -> int:
    """Return the most memory that a process has had, in bytes, since `_forget_peak`."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def _forget_peak(process: int) -> None:
    """Let the peak begin anew (proc(5), "clear_refs")."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def main() -> None:
    """Print a table: the growth of each side, in messages."""
    message = Message(payload=bytes(_SIZE), number=_COUNT)

    def send(client: BenchmarkServiceClient) -> None:
        assert client.count(message for _ in range(_COUNT)).number == _COUNT

    def receive(client: BenchmarkServiceClient) -> None:
        assert sum(1 for _ in client.repeat(message)) == _COUNT

    ways: dict[str, Callable[[BenchmarkServiceClient], None]] = {
        "client streaming": send,
        "server streaming": receive,
    }
    print(f"\nMemory, a stream of {_COUNT} messages of {_SIZE >> 20} MiB")
    print(f"{'':34}{'server grows by':>18}{'client grows by':>18}")
    with (
        serving("service:app", "--worker-class=gthread", "--threads=2", "--timeout=0") as server,
        BenchmarkServiceClient(f"http://127.0.0.1:{server.port}") as client,
    ):
        client.echo(Message(payload=b"x"))
        for way, call in ways.items():
            processes = (server.worker(), os.getpid())
            before = []
            for process in processes:
                _forget_peak(process)
                before.append(_peak(process))
            call(client)
            grown = [_peak(process) - base for process, base in zip(processes, before, strict=True)]
            shown = [f"{growth / _SIZE:.1f} MiB" for growth in grown]
            print(f"{way:34}{shown[0]:>18}{shown[1]:>18}")


if __name__ == "__main__":
    main()
