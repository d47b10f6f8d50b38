"""The client with a server by PyPI's `connectrpc`: ASGI, under uvicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.calls import check
from tests.interop.scenarios import Variant, each_cell

_ROOT = Path(__file__).resolve().parents[2]
_PLUGINS = ("protoc-gen-py", "protoc-gen-connectrpc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    directory = tmp_path_factory.mktemp("connectrpc")
    _generate(directory)
    output = directory / "uvicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, output.open("wb") as log:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--fd", str(listener.fileno())),
                *("--log-level", "warning", "tests.interop.connectrpc_service:application"),
            ],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{_ROOT}"},
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    print(output.read_text())


def _generate(directory: Path) -> None:
    """Write the messages and the service, by the generators that belong to `connectrpc`."""
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={_ROOT / 'tests' / 'proto'}"),
            *(f"--plugin={Path(sys.executable).with_name(name)}" for name in _PLUGINS),
            *(f"--py_out={directory}", f"--connectrpc_out={directory}", "interop/v1/interop.proto"),
        ],
        check=True,
    )


# WSGI has no bidirectional streams, and the client refuses them by itself. connectrpc 0.12, the last one for
# Python 3.10, lets the handler of a unary call run on when its client has left.
_LEFT_OUT = ("bidi", "unary_cancel") if sys.version_info < (3, 11) else ("bidi",)


@each_cell({"connect": _LEFT_OUT, "grpc-web": (*_LEFT_OUT, "unary_get")})
def test_scenario(server: str, variant: Variant, scenario: str) -> None:
    check(server, variant, scenario)
