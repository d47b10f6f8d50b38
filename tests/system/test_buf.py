"""buf: ``buf curl`` as a client, and ``buf generate`` with the plugin of this project."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from interop.v1.interop_pb2 import InteropDetail

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn
from tests.integration.wire import PATIENCE
from tests.interop.scenarios import read_json

_HERE = Path(__file__).parent
_PROTOS = _HERE.parent / "proto"
_SERVICE = "interop.v1.InteropService"


class Way(Enum):
    """How ``buf curl`` goes to a server."""

    CONNECT = "connect"
    GRPC_WEB = "grpcweb"
    GRPC = "grpc"
    GRPC_OVER_TLS = "grpc-over-tls"


class Curl:
    """``buf curl``, for one server."""

    def __init__(self, buf: Buf, url: str, *options: str) -> None:
        self._buf = buf
        self._url = url
        self._options = options

    def call(self, method: str, *messages: object, **options: Any) -> Called:
        """Call a method of the service; each message is one in JSON."""
        return Called(self._buf.run(*self._arguments(method, *messages, **options)))

    def interrupt(self, method: str, message: object, *, after: int) -> Called:
        """Call a method, and press Ctrl-C when so many messages have come."""
        return Called(self._buf.interrupt(*self._arguments(method, message), after=after))

    def _arguments(
        self,
        method: str,
        *messages: object,
        service: str = _SERVICE,
        schema: Path = _PROTOS,
        options: tuple[str, ...] = (),
    ) -> tuple[str, ...]:
        return (
            *("curl", *self._options, *options),
            *("--schema", str(schema)),
            *("--data", "".join(map(json.dumps, messages))),
            f"{self._url}/{service}/{method}",
        )


class Called:
    """What came of a call."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.messages = list(read_json(process.stdout))
        self.log = process.stderr

    def error(self) -> dict[str, Any]:
        """Return the error that was shown, its details as their reasons."""
        error: dict[str, Any] = json.loads(self.log)
        error["details"] = [_reason(detail) for detail in error.get("details", ())]
        return error


class Buf:
    """The program ``buf``."""

    def __init__(self, node: Path, cache: Path) -> None:
        self._command = (
            str(node),
            str(_HERE / "node" / "node_modules" / "@bufbuild" / "buf" / "bin" / "buf"),
        )
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**os.environ, "BUF_CACHE_DIR": str(cache), "PATH": path}

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [*self._command, *arguments], env=self._environment, cwd=cwd, capture_output=True, text=True
        )
        print(process.stderr)
        return process

    def interrupt(self, *arguments: str, after: int) -> subprocess.CompletedProcess[str]:
        """Run a command, and press Ctrl-C when it has printed so many objects of JSON."""
        command = [*self._command, *arguments]
        with subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # All processes in the foreground of a terminal get the signal.
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            ends = (line for line in process.stdout if line == "}\n")
            assert len(list(islice(ends, after))) == after
            os.killpg(process.pid, signal.SIGINT)
            # What it prints until it ends may stop in the middle of a message.
            _, log = process.communicate(timeout=PATIENCE)
        print(log)
        return subprocess.CompletedProcess(command, process.returncode, "", log)


@pytest.fixture(scope="module")
def buf(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Buf:
    return Buf(node, tmp_path_factory.mktemp("buf"))


@pytest.fixture(params=Way, ids=lambda way: way.value)
def curl(
    request: pytest.FixtureRequest,
    buf: Buf,
    server: Gunicorn,
    http2_server: Gunicorn,
    http2_tls_server: Gunicorn,
    certificates: Certificates,
) -> Curl:
    """``buf curl`` in each way."""
    way: Way = request.param
    if way is Way.GRPC:
        return Curl(buf, http2_server.url, "--protocol", "grpc", "--http2-prior-knowledge")
    if way is Way.GRPC_OVER_TLS:
        return Curl(buf, http2_tls_server.url, "--protocol", "grpc", "--cacert", str(certificates.authority))
    return Curl(buf, server.url, "--protocol", way.value)


def test_unary(curl: Curl) -> None:
    called = curl.call("Unary", {"text": "hello"})
    assert called.status == 0
    assert called.messages == [{"text": "hello", "timeoutMs": -1}]


def test_client_stream(curl: Curl) -> None:
    called = curl.call("ClientStream", {"text": "a"}, {"text": "b"}, {"text": "c"})
    assert called.status == 0
    assert called.messages == [{"text": "a,b,c", "number": 3, "timeoutMs": -1}]


def test_server_stream(curl: Curl) -> None:
    called = curl.call("ServerStream", {"text": "x", "count": 3})
    assert called.status == 0
    assert [message["text"] for message in called.messages] == ["x", "x", "x"]


def test_error(curl: Curl) -> None:
    failure = {"code": "not_found", "message": "nothing here: é, 100%", "detail": "why"}
    called = curl.call("Unary", {"failure": failure})
    # buf's exit status is gRPC's number of the code, times eight.
    assert called.status == 5 * 8
    assert called.messages == []
    assert called.error() == {
        "code": "not_found",
        "message": "nothing here: é, 100%",
        "details": ["why"],
    }


def test_error_of_client_stream(curl: Curl) -> None:
    failure = {"code": "failed_precondition", "message": "too late", "detail": "why"}
    called = curl.call("ClientStream", {"text": "a"}, {"failure": failure})
    assert called.status == 9 * 8
    assert called.messages == []
    assert called.error() == {"code": "failed_precondition", "message": "too late", "details": ["why"]}


def test_error_of_server_stream(curl: Curl) -> None:
    failure = {"code": "resource_exhausted", "message": "no more", "detail": "why"}
    called = curl.call("ServerStream", {"count": 2, "failure": failure})
    assert called.status == 8 * 8
    assert [message.get("number", 0) for message in called.messages] == [0, 1]
    assert called.error() == {"code": "resource_exhausted", "message": "no more", "details": ["why"]}


@pytest.mark.parametrize("path", ["interop.v1.InteropService/Absent", "interop.v1.AbsentService/Call"])
def test_what_is_unknown_is_unimplemented(curl: Curl, path: str) -> None:
    service, _, method = path.partition("/")
    called = curl.call(method, {}, service=service, schema=_HERE / "newer")
    assert called.status == 12 * 8
    assert called.error()["code"] == "unimplemented"


@pytest.mark.parametrize(
    ("method", "messages", "numbers"),
    [
        ("Unary", [{"wait": True}], []),
        ("ClientStream", [{"text": "a"}, {"wait": True}], []),
        ("ServerStream", [{"count": 2, "wait": True}], [0, 1]),
    ],
    ids=["Unary", "ClientStream", "ServerStream"],
)
def test_timeout(curl: Curl, method: str, messages: list[object], numbers: list[int]) -> None:
    # buf reads the schema in this time, too.
    called = curl.call(method, *messages, options=("--timeout", "2s"))
    assert called.status == 4 * 8
    assert [message.get("number", 0) for message in called.messages] == numbers
    assert called.error()["code"] == "deadline_exceeded"


def test_interrupt(curl: Curl) -> None:
    key = str(uuid.uuid4())
    called = curl.interrupt("ServerStream", {"count": -1, "key": key}, after=3)
    assert called.error()["code"] == "canceled"
    assert curl.call("Outcome", {"key": key}).messages == [{"outcome": "closed"}]


# A value of --header is one line of CSV.
_METADATA = ("--header", '"echo-ascii: one, two"', "--header", "echo-bin: AAH+/w", "--verbose")


@pytest.mark.parametrize("method", ["Unary", "ClientStream", "ServerStream"])
def test_leading_metadata(curl: Curl, method: str) -> None:
    called = curl.call(method, {}, options=_METADATA)
    assert called.status == 0
    assert re.findall(r"^buf: < \(#1\) (Echo-.*)$", called.log, re.MULTILINE)[:2] == [
        "Echo-Ascii: one, two",
        "Echo-Bin: AAH+/w",
    ]


# Of a call with one response, buf shows the trailing metadata in some of the protocols only.
def test_trailing_metadata(curl: Curl) -> None:
    called = curl.call("ServerStream", {"count": 1}, options=_METADATA)
    assert called.status == 0
    # What stands in the body is marked by an asterisk.
    assert re.findall(r"^buf: < \(#1\) (?:\[\*\] )?(Echo-Trailer.*)$", called.log, re.MULTILINE) == [
        "Echo-Trailer: one, two",
        "Echo-Trailer-Bin: AAH+/w",
    ]


# As docs/codegen.md has it, with the protoc of grpcio-tools.
_TEMPLATE = """\
version: v2
plugins:
  - protoc_builtin: python
    protoc_path: [python, -m, grpc_tools.protoc]
    out: gen
  - protoc_builtin: pyi
    protoc_path: [python, -m, grpc_tools.protoc]
    out: gen
  - local: protoc-gen-connect-sync
    out: gen
"""

_PROGRAM = """\
import sys

from interop.v1.interop_connect import InteropServiceClient
from interop.v1.interop_pb2 import InteropRequest

with InteropServiceClient(sys.argv[1]) as client:
    print(client.unary(InteropRequest(text="hello")).text)
    print(client.client_stream(InteropRequest(text=text) for text in "abc").text)
    print([response.number for response in client.server_stream(InteropRequest(count=3))])
"""


def test_generate(buf: Buf, server: Gunicorn, tmp_path: Path) -> None:
    (tmp_path / "buf.gen.yaml").write_text(_TEMPLATE)
    assert buf.run("generate", str(_PROTOS), cwd=tmp_path).returncode == 0
    generated = tmp_path / "gen"
    assert sorted(path.name for path in (generated / "interop" / "v1").iterdir()) == [
        "interop_connect.py",
        "interop_pb2.py",
        "interop_pb2.pyi",
    ]

    called = subprocess.run(
        [sys.executable, "-c", _PROGRAM, server.url],
        env={**os.environ, "PYTHONPATH": str(generated)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert called.stdout == "hello\na,b,c\n[0, 1, 2]\n"


def _reason(detail: dict[str, str]) -> str:
    assert detail["type"] == InteropDetail.DESCRIPTOR.full_name
    # Connect's base64 has no padding.
    return InteropDetail.FromString(base64.b64decode(detail["value"] + "==")).reason
