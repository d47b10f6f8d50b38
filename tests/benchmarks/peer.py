"""The same service by PyPI's `connectrpc`, its generators and its messages.

Its proto file is ours with another package, so that both can be in one process.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.service import Bare
from tests.toolchains import beside_python, generate

_ROOT = Path(__file__).resolve().parents[2]
_PROTO = _ROOT / "tests" / "benchmarks" / "proto" / "benchmark" / "v1" / "benchmark.proto"
_BUILD = _ROOT / "build" / "benchmarks"

SERVICE = "/peer.v1.BenchmarkService"


def _generate() -> Path:
    """Write the messages and the service, if the proto file is newer than they are, and return where."""
    generated = _BUILD / "peer"
    proto = _BUILD / "proto" / "peer" / "v1" / "benchmark.proto"
    done = generated / "done"
    if not done.exists() or done.stat().st_mtime < _PROTO.stat().st_mtime:
        proto.parent.mkdir(parents=True, exist_ok=True)
        proto.write_text(_PROTO.read_text().replace("package benchmark.v1;", "package peer.v1;"))
        generate(
            generated,
            _BUILD / "proto",
            proto,
            plugins=[beside_python("protoc-gen-py"), beside_python("protoc-gen-connectrpc")],
            outputs={"py": "", "connectrpc": ""},
        )
        done.touch()
    return generated


sys.path.insert(0, str(_generate()))
_connect: Any = importlib.import_module("peer.v1.benchmark_connect")
Message: Any = importlib.import_module("peer.v1.benchmark_pb").Message


class _Benchmark:
    """The handlers, which do what ours do."""

    def echo(self, request: Any, ctx: Any) -> Any:
        return Message(payload=request.payload)

    def count(self, request: Iterator[Any], ctx: Any) -> Any:
        number = 0
        for _ in request:
            number += 1
        return Message(number=number)

    def repeat(self, request: Any, ctx: Any) -> Iterator[Any]:
        response = Message(payload=request.payload)
        for _ in range(request.number):
            yield response


app: Any = _connect.BenchmarkServiceWSGIApplication(_Benchmark())
Client: Any = _connect.BenchmarkServiceClientSync

bare = Bare(Message, Message.from_binary, Message.to_binary)
bare_unary = bare.unary
