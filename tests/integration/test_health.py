"""The health of a gunicorn, as others see it, and the page of the documentation that tells of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from wsgiref.util import setup_testing_defaults

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest as OfficialRequest
from grpc_health.v1.health_pb2 import HealthCheckResponse as OfficialResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from connect_sync import Code, ConnectError, ProtocolType
from connect_sync.health import Health, HealthCheckRequest, HealthClient, ServingStatus
from tests.integration.channel import Channel
from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import LAST_CHUNK, PATIENCE, chunk, head
from tests.interop import grpcio_calls
from tests.support import CLIENT_PROTOCOLS
from wsgi_adapters.health import Healthz

APPLICATION = "tests.integration.healthy:application"
NAME = "echo.v1.EchoService"

SERVING = ServingStatus.SERVING
NOT_SERVING = ServingStatus.NOT_SERVING
SERVICE_UNKNOWN = ServingStatus.SERVICE_UNKNOWN


class Owner:
    """Who sets the statuses of a server."""

    def __init__(self, server: Gunicorn) -> None:
        self.server = server

    def set(self, service: str, status: ServingStatus) -> None:
        reply = self.server.call(head(f"GET /?{service}={status.name} HTTP/1.1", {"host": "test"}))
        assert (reply.status, reply.body) == (200, b"done")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """The owner of a server of HTTP/1.1 and HTTP/2 that has said nothing yet."""
    output = tmp_path / "gunicorn.log"
    options = ("--http2-cleartext", "both", "--threads", "8")
    server = Http2Gunicorn(output, "gthread", *options, application=APPLICATION)
    yield Owner(server)
    server.stop()
    print(server.new_output())


# The official client, which is grpcio's


@pytest.fixture
def stub(owner: Owner) -> Iterator[Any]:
    with grpcio_calls.connect(f"127.0.0.1:{owner.server.port}") as calls:
        yield HealthStub(calls)


def test_official_client_checks(owner: Owner, stub: Any) -> None:
    assert stub.Check(OfficialRequest(), timeout=PATIENCE).status == OfficialResponse.SERVING
    owner.set("", NOT_SERVING)
    assert stub.Check(OfficialRequest(), timeout=PATIENCE).status == OfficialResponse.NOT_SERVING


def test_official_client_is_told_of_an_unknown_service(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(OfficialRequest(service=NAME), timeout=PATIENCE)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_official_client_watches(owner: Owner, stub: Any, channel: Channel) -> None:
    responses = stub.Watch(
        OfficialRequest(service=NAME), timeout=PATIENCE, metadata=tuple(channel.headers.items())
    )
    assert next(responses).status == OfficialResponse.SERVICE_UNKNOWN
    for status in (SERVING, NOT_SERVING, SERVING):
        owner.set(NAME, status)
        assert next(responses).status == status.value
    responses.cancel()
    assert channel.next_event() == "canceled"


# The client of connect-sync

both_protocols = pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)


@both_protocols
def test_client_checks_and_watches(owner: Owner, protocol: ProtocolType) -> None:
    request = HealthCheckRequest(service=NAME)
    with HealthClient(owner.server.url, protocol=protocol) as client:
        with pytest.raises(ConnectError) as raised:
            client.check(request)
        assert raised.value.code is Code.NOT_FOUND
        with client.watch(request) as responses:
            assert next(responses).status == SERVICE_UNKNOWN
            for status in (SERVING, NOT_SERVING):
                owner.set(NAME, status)
                assert next(responses).status == status
                assert client.check(request).status == status


@both_protocols
def test_watch_ends_when_its_client_leaves(owner: Owner, channel: Channel, protocol: ProtocolType) -> None:
    with HealthClient(owner.server.url, protocol=protocol) as client:
        with client.watch(HealthCheckRequest(), headers=channel.headers) as responses:
            assert next(responses).status == SERVING
        assert channel.next_event() == "canceled"


@both_protocols
def test_watch_ends_at_its_deadline(owner: Owner, channel: Channel, protocol: ProtocolType) -> None:
    with HealthClient(owner.server.url, protocol=protocol) as client:
        client.check(HealthCheckRequest())  # so that the time does not run while the server starts
        with pytest.raises(ConnectError) as raised:
            list(client.watch(HealthCheckRequest(), headers=channel.headers, timeout_ms=500))
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        assert channel.next_event() in ("ended", "deadline_exceeded")


def test_one_watch_too_many_is_refused(owner: Owner, channel: Channel) -> None:
    with HealthClient(owner.server.url) as client:
        watches = [client.watch(HealthCheckRequest()), client.watch(HealthCheckRequest())]
        assert [next(responses).status for responses in watches] == [SERVING, SERVING]
        with pytest.raises(ConnectError) as raised:
            next(client.watch(HealthCheckRequest(), headers=channel.headers))
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert channel.next_event() == "resource_exhausted"
        assert client.check(HealthCheckRequest()).status == SERVING
        for responses in watches:
            responses.close()


# The page


def test_page_follows_the_owner(owner: Owner) -> None:
    with owner.server.connect() as connection:
        for status, line in ((SERVING, 200), (NOT_SERVING, 503), (SERVING, 200)):
            owner.set("", status)
            connection.send(head("GET /healthz HTTP/1.1", {"host": "test"}))
            reply = connection.read_reply()
            assert (reply.status, reply.body) == (line, f"{status.name}\n".encode())
            connection.send(head("HEAD /healthz HTTP/1.1", {"host": "test"}))
            assert connection.read_reply(has_body=False)[:2] == (line, {**reply.headers, "date": ANY})


def test_page_that_is_posted_to_says_so_whatever_is_sent(owner: Owner) -> None:
    with owner.server.connect() as connection:
        headers = {"host": "test", "transfer-encoding": "chunked"}
        connection.send(head("POST /healthz HTTP/1.1", headers), chunk(b"GET /healthz HTTP/1.1"))
        connection.send(LAST_CHUNK)
        reply = connection.read_reply()
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert reply.body == b"POST is not allowed here\n"


# The page of the documentation

PAGE = README.parent / "docs" / "health.md"
_BLOCKS = read_blocks(PAGE)
_FILES, _EXAMPLES, _COMMANDS = sort_blocks(_BLOCKS)
_SNIPPETS = [block for block in _BLOCKS if block.language == "python" and block.file is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has followed the README."""
    folder = tmp_path_factory.mktemp("health")
    readme = sort_blocks([block for block in read_blocks(README) if block.section not in ("", "Install")])
    newcomer = Newcomer(folder)
    newcomer.save(readme.files)
    newcomer.run(readme.preparations[0].text)
    return folder


@pytest.fixture(scope="module")
def newcomer(folder: Path) -> Newcomer:
    """Somebody who has saved the files of the page, gunicorn's configuration being one."""
    newcomer = Newcomer(folder, GUNICORN_CMD_ARGS="--no-control-socket")
    newcomer.save(_FILES)
    return newcomer


def test_every_block_of_the_page_is_followed() -> None:
    assert [block.file for block in _FILES] == ["healthy.py", "ask.py", "gunicorn.conf.py"]
    assert [command.text.split()[0] for command, _ in _EXAMPLES] == ["curl", "curl", "curl", "python"]
    assert [command.text.split()[0] for command in _COMMANDS] == ["gunicorn"]
    assert len(_SNIPPETS) == 1


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(command.text, output.text, id=f"{command.section}, {number}")
        for number, (command, output) in enumerate(_EXAMPLES)
    ],
)
def test_command_prints_what_the_page_shows(newcomer: Newcomer, command: str, output: str) -> None:
    with newcomer.serving(_COMMANDS[0].text):
        assert newcomer.run(command).splitlines() == output.splitlines()


def test_chain_of_pages_has_both() -> None:
    names: dict[str, Any] = {"Healthz": Healthz, "health": Health()}
    exec(_SNIPPETS[0].text, names)
    lines = []
    for path in ("/readyz", "/healthz", "/"):
        environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
        setup_testing_defaults(environ)
        names["pages"](environ, lambda line, headers: lines.append(line))
    assert lines == ["503 Service Unavailable", "200 OK", "404 Not Found"]


@pytest.mark.parametrize(
    ("worker", "number"),
    [
        ("sync", signal.SIGTERM),
        ("gthread", signal.SIGTERM),
        ("gevent", signal.SIGTERM),
        # Of gthread, the handler of SIGQUIT may wait for a lock that the thread it has interrupted holds.
        ("gevent", signal.SIGINT),
    ],
    ids=lambda param: param if isinstance(param, str) else param.name,
)
def test_watch_hears_that_the_server_stops(
    newcomer: Newcomer, folder: Path, tmp_path: Path, worker: str, number: signal.Signals
) -> None:
    process = tmp_path / "gunicorn.pid"
    server = Gunicorn(
        tmp_path / "gunicorn.log",
        worker,
        *("--config", str(folder / "gunicorn.conf.py"), "--no-control-socket"),
        *("--chdir", str(folder), "--pid", str(process), "--threads", "8"),
        application="healthy:app",
    )
    try:
        with HealthClient(server.url) as client:
            responses = client.watch(HealthCheckRequest())
            assert next(responses).status == SERVING
            os.kill(int(process.read_text()), number)
            # It ends as a stream does that nobody cuts.
            assert [response.status for response in responses] == [NOT_SERVING]
        server.wait_for_end()
    finally:
        server.stop()
        print(server.new_output())
