"""The service under pyvoy: grpcio's client over HTTP/2, and this project's over HTTP/1.1.

pyvoy does not tell the application that a client has left, but goes on to the end of its response: so nothing
here gives up a call that has none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from echo.v1.echo_pb2 import EchoRequest

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.wire import Connection, envelope, post
from tests.interop import grpcio_calls
from tests.interop.calls import check
from tests.interop.scenarios import Variant, each_cell

_ROOT = Path(__file__).resolve().parents[2]
_ECHO = "tests.integration.service:application=/echo.v1.EchoService=wsgi"
_LEFT_OUT = ("cancel", "unary_cancel", "client_stream_cancel")
STREAM = {"content-type": "application/connect+proto"}


class Ports(NamedTuple):
    """Where a server listens."""

    cleartext: int
    tls: int


@pytest.fixture(scope="module")
def ports(certificates: Certificates) -> Iterator[Ports]:
    """A server, in cleartext and over TLS."""
    keys = ("--tls-cert", str(certificates.server), "--tls-key", str(certificates.server))
    with subprocess.Popen(
        [
            *(Path(sys.executable).with_name("pyvoy"), "tests.interop.service:application"),
            *("--interface", "wsgi", "--additional-mount", _ECHO),
            *("--port", "0", "--tls-port", "0", *keys, "--tls-disable-http3"),
        ],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests' / 'gen'}"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            listening = re.fullmatch(r"pyvoy listening on 127\.0\.0\.1:(\d+) \(TLS on (\d+)\)\n", said)
            assert listening is not None, said
            yield Ports(*map(int, listening.groups()))
        finally:
            process.terminate()
            print(process.communicate()[1])


@pytest.mark.parametrize("scenario", [name for name in grpcio_calls.SCENARIOS if name not in _LEFT_OUT])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_grpcio(ports: Ports, certificates: Certificates, is_tls: bool, scenario: str) -> None:
    port = ports.tls if is_tls else ports.cleartext
    authority = certificates.authority.read_bytes() if is_tls else None
    grpcio_calls.check(lambda: grpcio_calls.connect(f"127.0.0.1:{port}", authority), scenario)


def test_message_reaches_handler_before_next_is_sent(ports: Ports, channel: Channel) -> None:
    with grpcio_calls.connect(f"127.0.0.1:{ports.cleartext}") as calls:
        grpcio_calls.send_one_by_one(calls, channel)


def test_response_arrives_before_next_is_asked_for(ports: Ports, channel: Channel) -> None:
    with grpcio_calls.connect(f"127.0.0.1:{ports.cleartext}") as calls:
        grpcio_calls.receive_one_by_one(calls, channel)


# WSGI has no bidirectional streams, and the client refuses them by itself.
@each_cell({"connect": (*_LEFT_OUT, "bidi"), "grpc-web": (*_LEFT_OUT, "bidi", "unary_get")})
def test_client(ports: Ports, variant: Variant, scenario: str) -> None:
    check(f"http://127.0.0.1:{ports.cleartext}", variant, scenario)


def test_client_that_leaves_goes_unnoticed(ports: Ports, channel: Channel) -> None:
    with Connection(ports.cleartext) as connection:
        request = envelope(EchoRequest(payload=b"x", times=3).SerializeToString())
        connection.send(post("Repeat", STREAM | channel.headers, request))
        assert channel.next_event() == "asked for 0"
        connection.reset()
    channel.go_on_to_the_end()
    assert [channel.next_event() for _ in range(3)] == ["asked for 1", "asked for 2", "closed"]


def test_deadline_does_not_end_wait_for_a_chunk(ports: Ports, channel: Channel) -> None:
    with Connection(ports.cleartext) as connection:
        headers = {"connect-timeout-ms": "100", "transfer-encoding": "chunked"}
        connection.send(post("Collect", STREAM | headers | channel.headers))
        assert channel.next_event() == "called"
        assert not connection.is_answered(within=0.3)
