"""The service under the oldest gunicorn that is supported; all other tests run under the newest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from echo.v1.echo_pb2 import EchoRequest

from connect_sync import ProtocolType
from tests.integration.calls import Kind
from tests.integration.channel import Channel
from tests.integration.live import NAMES, assert_closed, assert_live, paced, wrap
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import chunk, envelope, post
from tests.interop import grpcio_calls
from tests.support import CLIENT_PROTOCOLS

_PACKAGES = Path(__file__).resolve().parents[2] / "build" / "system" / "gunicorn"

PROTO = {"content-type": "application/proto"}
STREAM = {"content-type": "application/connect+proto"}
CHUNKED = {"transfer-encoding": "chunked"}
TIMEOUT = {"connect-timeout-ms": "100"}


# The newest is tested with the other parser of each worker.
@pytest.fixture(
    scope="module", params=[("sync", "fast"), ("gthread", "python"), ("gevent", "python")], ids="-".join
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    output = tmp_path_factory.mktemp("server") / "gunicorn.log"
    worker, parser = request.param
    server = Gunicorn(output, worker, f"--http-parser={parser}", packages=_PACKAGES)
    yield server
    server.stop()
    log = server.new_output()
    print(log)
    assert "Starting gunicorn 27.0.0" in log


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_calls_of_each_kind(server: Gunicorn, protocol: ProtocolType, kind: Kind) -> None:
    with server.client(protocol=protocol) as client:
        for _ in range(3):
            assert kind.call(client) == [b"request"]


def test_message_reaches_handler_before_next_is_sent(server: Gunicorn, channel: Channel) -> None:
    with server.client() as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


def test_response_reaches_client_before_next_is_asked_for(server: Gunicorn, channel: Channel) -> None:
    with server.client() as client:
        assert_live(client.repeat(EchoRequest(payload=b"x", times=3), headers=channel.headers), channel)


def test_generator_is_closed_when_client_leaves(server: Gunicorn, channel: Channel) -> None:
    request = envelope(EchoRequest(payload=b"x", times=-1).SerializeToString())
    with server.connect() as connection:
        connection.send(post("Repeat", STREAM | channel.headers, request))
        connection.read_head()
        connection.reset()
        channel.go_on_to_the_end()
        assert_closed(channel)


@pytest.mark.parametrize(
    "request_start",
    [
        post("Collect", STREAM | CHUNKED | TIMEOUT) + chunk(wrap("anna")),
        post("Echo", PROTO | TIMEOUT | {"content-length": "100"}),
    ],
    ids=["chunked", "length"],
)
def test_deadline_ends_wait_for_a_silent_client(server: Gunicorn, request_start: bytes) -> None:
    with server.connect() as connection:
        connection.send(request_start)
        assert connection.read_reply().error()["code"] == "deadline_exceeded"


def test_answer_reaches_client_that_still_sends(server: Gunicorn) -> None:
    with server.connect() as connection:
        connection.send(post("Unknown", STREAM | CHUNKED), *[chunk(bytes(1 << 20))] * 4)
        assert connection.read_reply().status == 404


@pytest.fixture(scope="module", params=["gthread", "gevent"])
def http2_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gunicorn]:
    output = tmp_path_factory.mktemp("server") / "gunicorn.log"
    application = "tests.interop.service:application"
    server = Http2Gunicorn(
        output, request.param, "--threads", "4", application=application, packages=_PACKAGES
    )
    yield server
    server.stop()
    print(server.new_output())


@pytest.mark.parametrize("scenario", grpcio_calls.SCENARIOS)
def test_grpc(http2_server: Gunicorn, scenario: str) -> None:
    grpcio_calls.check(lambda: grpcio_calls.connect(f"127.0.0.1:{http2_server.port}"), scenario)
