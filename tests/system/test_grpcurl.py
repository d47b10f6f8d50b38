"""grpcurl, which calls by gRPC over HTTP/2."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.interop.scenarios import read_json

_HERE = Path(__file__).parent
_GRPCURL = _HERE.parents[1] / "build" / "system" / "go" / "grpcurl"
_SERVICE = "interop.v1.InteropService"


class Grpcurl:
    """grpcurl, for one server and one schema."""

    def __init__(self, server: Gunicorn, folder: Path, file: str, *options: str) -> None:
        self._options = (*options, "-import-path", str(folder), "-proto", file, "-format-error")
        self._address = f"127.0.0.1:{server.port}"

    def call(self, method: str, *data: object, options: tuple[str, ...] = ()) -> Called:
        """Call a method; each of ``data`` is a message in JSON."""
        joined = "".join(map(json.dumps, data))
        command = [str(_GRPCURL), *self._options, *options, "-d", joined, self._address, method]
        process = subprocess.run(command, capture_output=True, text=True)
        print(process.stdout, process.stderr, sep="\n")
        return Called(process)


class Called:
    """What came of a call."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.output = process.stdout
        self._log = process.stderr

    def messages(self) -> list[Any]:
        return list(read_json(self.output))

    def error(self) -> dict[str, Any]:
        """Return the google.rpc.Status of a call that failed."""
        status: dict[str, Any] = json.loads(self._log)
        # To gRPC's number of the code, the exit status adds 64.
        assert self.status == 64 + status["code"]
        return status

    def metadata(self, heading: str) -> list[str]:
        """Return the lines of metadata below a heading, which ``-v`` shows."""
        found = re.search(rf"^{heading}:\n((?:[a-z-]+: .*\n)+)", self.output, re.MULTILINE)
        assert found is not None
        return found[1].splitlines()


@pytest.fixture(scope="module", params=["plain", "TLS"])
def interop(
    request: pytest.FixtureRequest,
    http2_server: Gunicorn,
    http2_tls_server: Gunicorn,
    certificates: Certificates,
) -> Grpcurl:
    protos = _HERE.parent / "proto"
    if request.param == "plain":
        return Grpcurl(http2_server, protos, "interop/v1/interop.proto", "-plaintext")
    authority = ("-cacert", str(certificates.authority), "-authority", "localhost")
    return Grpcurl(http2_tls_server, protos, "interop/v1/interop.proto", *authority)


def test_unary(interop: Grpcurl) -> None:
    called = interop.call(f"{_SERVICE}/Unary", {"text": "hello"})
    assert called.status == 0
    assert called.messages() == [{"text": "hello", "timeoutMs": -1}]


def test_client_stream(interop: Grpcurl) -> None:
    called = interop.call(f"{_SERVICE}/ClientStream", {"text": "a"}, {"text": "b"})
    assert called.status == 0
    assert called.messages() == [{"text": "a,b", "number": 2, "timeoutMs": -1}]


def test_server_stream(interop: Grpcurl) -> None:
    called = interop.call(f"{_SERVICE}/ServerStream", {"text": "x", "count": 3})
    assert called.status == 0
    assert [message["text"] for message in called.messages()] == ["x", "x", "x"]


def test_metadata(interop: Grpcurl) -> None:
    options = ("-v", "-H", "echo-ascii: one, two", "-H", "echo-bin: AAH+/w==")
    called = interop.call(f"{_SERVICE}/Unary", {}, options=options)
    assert called.status == 0
    leading = called.metadata("Response headers received")
    assert {"echo-ascii: one, two", "echo-bin: AAH+/w=="} <= set(leading)
    assert called.metadata("Response trailers received") == [
        "echo-trailer: one, two",
        "echo-trailer-bin: AAH+/w==",
    ]


@pytest.mark.parametrize("method", ["Unary", "ClientStream", "ServerStream"])
def test_error(interop: Grpcurl, method: str) -> None:
    failure = {"code": "not_found", "message": "nothing here: é, 100%", "detail": "why"}
    assert interop.call(f"{_SERVICE}/{method}", {"failure": failure}).error() == {
        "code": 5,
        "message": "nothing here: é, 100%",
        "details": [{"@type": "type.googleapis.com/interop.v1.InteropDetail", "reason": "why"}],
    }


def test_deadline(interop: Grpcurl) -> None:
    called = interop.call(
        f"{_SERVICE}/ServerStream", {"count": 2, "wait": True}, options=("-max-time", "0.5")
    )
    assert [message.get("number", 0) for message in called.messages()] == [0, 1]
    assert called.error()["code"] == 4


def test_bidirectional_method_is_unimplemented(interop: Grpcurl) -> None:
    assert interop.call(f"{_SERVICE}/BidiStream", {}, {}).error()["code"] == 12


def test_server_without_reflection_says_so(http2_server: Gunicorn) -> None:
    command = [str(_GRPCURL), "-plaintext", f"127.0.0.1:{http2_server.port}", "list"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.stderr == "Failed to list services: server does not support the reflection API\n"


# What the server does not know


@pytest.fixture
def newer(http2_server: Gunicorn) -> Grpcurl:
    return Grpcurl(http2_server, _HERE / "newer", "interop.proto", "-plaintext")


@pytest.mark.parametrize(
    "method", [f"{_SERVICE}/Absent", f"{_SERVICE}/AbsentStream", "interop.v1.AbsentService/Call"]
)
def test_what_is_unknown_is_unimplemented(newer: Grpcurl, method: str) -> None:
    assert newer.call(method, {}).error() == {"code": 12, "message": f"unknown method /{method}"}


# Interceptors


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grpcurl]:
    """For a server whose interceptor refuses calls that ask for it."""
    output = tmp_path_factory.mktemp("watched") / "gunicorn.log"
    server = Http2Gunicorn(output, "gthread", application="tests.integration.watched:application")
    yield Grpcurl(server, _HERE.parent / "proto", "echo/v1/echo.proto", "-plaintext", "-H", "refuse: yes")
    server.stop()


@pytest.mark.parametrize("method", ["Echo", "Collect", "Repeat", "Converse"])
def test_call_is_refused_by_an_interceptor(watched: Grpcurl, method: str) -> None:
    called = watched.call(f"echo.v1.EchoService/{method}", {"times": 2})
    assert called.messages() == []
    assert called.error() == {"code": 16, "message": "as asked"}
