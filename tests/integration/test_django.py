"""A service inside a Django site, over sockets: whose call it is, what is live, and what is written."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from google.rpc.error_details_pb2 import BadRequest  # type: ignore[import-untyped]
from grpc_status import rpc_status

from connect_sync import ProtocolType, ResponseMetadata
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import (
    LAST_CHUNK,
    PATIENCE,
    SERVICE,
    Connection,
    chunk,
    envelopes,
    head,
    post,
)
from tests.interop import grpcio_calls
from tests.support import CLIENT_PROTOCOLS

_ROOT = Path(__file__).resolve().parents[2]

NAMES = ["anna", "bert", "carl"]
PAGE = "https://example.com"
PROTO = {"content-type": "application/proto"}

all_dialects = pytest.mark.parametrize(
    "dialect", [Dialect.CONNECT, Dialect.GRPC_WEB, Dialect.GRPC_WEB_TEXT], ids=lambda dialect: dialect.name
)
all_protocols = pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)


class Site:
    """The site of `django_site`: its server, and its database."""

    def __init__(self, server: Gunicorn, database: Path) -> None:
        self.server = server
        self._database = database

    def groups(self) -> list[str]:
        """Return what has been written, and committed."""
        with closing(sqlite3.connect(self._database)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM auth_group ORDER BY name")]

    def clear(self) -> None:
        with closing(sqlite3.connect(self._database)) as connection, connection:
            connection.execute("DELETE FROM auth_group")

    def log_in(self, name: str) -> dict[str, str]:
        """Return the headers of a user who has logged in."""
        reply = self.server.call(head(f"GET /log-in/{name} HTTP/1.1", {"host": "test"}))
        assert reply.status == 200, reply
        cookie, _, _ = reply.headers["set-cookie"].partition(";")
        return {"cookie": cookie}


@contextmanager
def serving(
    directory: Path, worker: str, application: str = "application", kind: type[Gunicorn] = Gunicorn
) -> Iterator[Site]:
    database = directory / "site.sqlite3"
    server = kind(
        directory / "gunicorn.log",
        worker,
        "--env",
        f"SITE_DATABASE={database}",
        application=f"tests.integration.django_site:{application}",
    )
    try:
        yield Site(server, database)
    finally:
        server.stop()
        print(server.new_output())


@pytest.fixture(scope="module", params=["sync", "gthread"])
def running_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site"), request.param) as site:
        yield site


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The site on gunicorn with one thread, by either of its workers."""
    yield running_site
    running_site.clear()
    print(running_site.server.new_output())


# Calls


@all_protocols
def test_calls_are_those_of_the_user_who_has_logged_in(site: Site, protocol: ProtocolType) -> None:
    headers = site.log_in("jane")
    with EchoServiceClient(site.server.url, protocol=protocol) as client:
        assert client.echo(EchoRequest(payload=b"a"), headers=headers).payload == b"jane"
        assert client.echo(EchoRequest(payload=b"b")).payload == b"AnonymousUser"
        assert client.echo_safely(EchoRequest(), headers=headers, use_get=True).payload == b"jane"


@all_protocols
@pytest.mark.parametrize("prefix", ["", "/api"])
def test_streams_are_served(site: Site, protocol: ProtocolType, prefix: str) -> None:
    requests = [EchoRequest(payload=name.encode()) for name in NAMES]
    with EchoServiceClient(site.server.url + prefix, protocol=protocol) as client:
        assert client.collect(requests).payload == "".join(NAMES).encode()
        responses = client.repeat(EchoRequest(payload=b"x" * 2000, times=3))
        assert [response.payload for response in responses] == [b"x" * 2000] * 3


def test_connection_is_kept_when_a_request_was_answered_before_its_body_was_read(tmp_path: Path) -> None:
    with serving(tmp_path, "gthread") as site, site.server.connect() as connection:
        connection.send(post("Nothing", PROTO, bytes(200_000)))
        assert connection.read_reply().status == 404
        connection.send(post("EchoSafely", PROTO, b""))
        assert connection.read_reply().status == 200


# Streams are live, and a transaction


@all_dialects
def test_message_reaches_handler_before_next_is_sent_and_is_committed_with_the_last(
    site: Site, channel: Channel, dialect: Dialect
) -> None:
    with site.server.connect() as connection:
        open_collect(connection, channel, dialect)
        for name in NAMES:
            connection.send(chunk(dialect.wrap(EchoRequest(payload=name.encode()))))
            assert channel.next_event() == f"got {name}"
            assert site.groups() == []
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        outcome = dialect.read(connection.read_reply().body, {})
    assert (outcome.payloads, outcome.code) == (["".join(NAMES).encode()], None)
    assert site.groups() == NAMES


@all_dialects
@pytest.mark.parametrize(
    ("error", "code"), [("aborted", "aborted"), ("bug", "internal"), ("missing", "not_found")]
)
def test_client_stream_that_fails_is_rolled_back(
    site: Site, channel: Channel, dialect: Dialect, error: str, code: str
) -> None:
    with site.server.connect() as connection:
        open_collect(connection, channel, dialect)
        connection.send(chunk(dialect.wrap(EchoRequest(payload=b"anna"))))
        assert channel.next_event() == "got anna"
        connection.send(chunk(dialect.wrap(EchoRequest(payload=b"bert", error=error))), LAST_CHUNK)
        outcome = dialect.read(connection.read_reply().body, {})
    assert outcome.code == code
    assert site.groups() == []


def test_client_stream_that_breaks_off_is_rolled_back(site: Site, channel: Channel) -> None:
    with site.server.connect() as connection:
        open_collect(connection, channel, Dialect.CONNECT)
        connection.send(chunk(Dialect.CONNECT.wrap(EchoRequest(payload=b"anna"))))
        assert channel.next_event() == "got anna"
        connection.reset()
    assert channel.next_event() == "canceled"
    assert channel.next_event() == ""
    # The worker's only thread is free again when the view has returned.
    assert site.server.call(post("EchoSafely", PROTO, b"")).status == 200
    assert site.groups() == []


@all_protocols
def test_unary_call_is_committed_or_rolled_back(site: Site, protocol: ProtocolType) -> None:
    for payload, error in [(b"good", ""), (b"bad", "aborted"), (b"worse", "bug"), (b"gone", "missing")]:
        request = EchoRequest(payload=payload, error=error)
        if protocol is ProtocolType.CONNECT:
            call = post("Echo", PROTO, request.SerializeToString())
        else:
            call = post("Echo", Dialect.GRPC_WEB.headers, Dialect.GRPC_WEB.wrap(request))
        site.server.call(call)
    assert site.groups() == ["good"]


@all_dialects
def test_message_reaches_client_before_next_is_asked_for(
    site: Site, channel: Channel, dialect: Dialect
) -> None:
    headers = {**dialect.headers, **channel.headers, **site.log_in("jane"), "accept-encoding": "gzip"}
    with site.server.connect() as connection:
        connection.send(post("Repeat", headers, dialect.wrap(EchoRequest(payload=b"x" * 500, times=3))))
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            if number == 0:
                _, received = connection.read_head()
                assert "content-encoding" not in received
            (message,) = envelopes(dialect.decode(connection.read_chunk()))
            assert message == (0, EchoResponse(payload=b"x" * 500).SerializeToString())
            channel.go_on()
        assert channel.next_event() == "closed for jane"
        assert connection.read_chunk()
        assert connection.read_chunk() == b""
    assert channel.next_event() == "finished"


def test_generator_is_closed_and_request_finished_when_client_leaves(site: Site, channel: Channel) -> None:
    headers = {**Dialect.CONNECT.headers, **channel.headers, **site.log_in("jane")}
    with site.server.connect() as connection:
        connection.send(post("Repeat", headers, Dialect.CONNECT.wrap(EchoRequest(payload=b"x", times=-1))))
        connection.read_head()
        connection.read_envelope()
        connection.reset()
    channel.go_on_to_the_end()
    *_, closed, finished = iter(channel.next_event, "")
    assert (closed, finished) == ("closed for jane", "finished")


def open_collect(connection: Connection, channel: Channel, dialect: Dialect) -> None:
    headers = {**dialect.headers, **channel.headers, "transfer-encoding": "chunked"}
    connection.send(post("Collect", headers))
    assert channel.next_event() == "called"


# gRPC


@pytest.fixture(scope="module")
def running_http2_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("http2"), "gthread", kind=Http2Gunicorn) as site:
        yield site


@pytest.fixture
def http2_site(running_http2_site: Site) -> Iterator[Site]:
    yield running_http2_site
    running_http2_site.clear()


@pytest.fixture
def calls(http2_site: Site) -> Iterator[grpc.Channel]:
    with grpcio_calls.connect(f"127.0.0.1:{http2_site.server.port}") as calls:
        yield calls


def test_client_stream_is_live_in_grpc(http2_site: Site, calls: grpc.Channel, channel: Channel) -> None:
    grpcio_calls.send_one_by_one(calls, channel)
    assert http2_site.groups() == NAMES


def test_server_stream_is_live_in_grpc(calls: grpc.Channel, channel: Channel) -> None:
    responses = grpcio_calls.repeat(calls, channel, times=3)
    for number in range(3):
        assert next(responses).payload == b"x"
        assert channel.next_event() == f"asked for {number}"
        channel.go_on()
    assert channel.next_event() == "closed for AnonymousUser"
    assert list(responses) == []
    assert channel.next_event() == "finished"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("", "OK", ""),
        ("aborted", "ABORTED", "as asked"),
        ("bug", "INTERNAL", "internal error"),
        ("missing", "NOT_FOUND", "not found"),
        ("invalid", "INVALID_ARGUMENT", "name: This field cannot be blank."),
    ],
)
def test_unary_call_is_committed_or_rolled_back_in_grpc(
    http2_site: Site, calls: grpc.Channel, error: str, code: str, message: str
) -> None:
    call = start_echo(calls, error)
    assert (call.code().name, call.details()) == (code, message)
    assert http2_site.groups() == ([] if error else ["anna"])


def test_official_classes_read_the_fields_of_a_validation_error(calls: grpc.Channel) -> None:
    status = rpc_status.from_call(start_echo(calls, "invalid"))
    bad_request = BadRequest()
    (detail,) = status.details
    assert detail.Unpack(bad_request)
    (violation,) = bad_request.field_violations
    assert (violation.field, violation.description) == ("name", "This field cannot be blank.")


def start_echo(calls: grpc.Channel, error: str) -> Any:
    echo = calls.unary_unary(f"{SERVICE}/Echo", EchoRequest.SerializeToString, EchoResponse.FromString)
    return echo.future(EchoRequest(payload=b"anna", error=error))


# Pages of other origins


def test_preflight_is_answered_by_django_cors_headers(site: Site) -> None:
    headers = {
        "host": "test",
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "connect-protocol-version,content-type",
    }
    reply = site.server.call(head(f"OPTIONS {SERVICE}/Echo HTTP/1.1", headers))

    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "Connect-Protocol-Version" in reply.headers["access-control-allow-headers"].split(", ")


@pytest.mark.parametrize(("origin", "is_allowed"), [(PAGE, True), ("https://example.org", False)])
def test_page_of_an_allowed_origin_may_read_what_the_protocols_need(
    site: Site, channel: Channel, origin: str, is_allowed: bool
) -> None:
    headers = {**Dialect.GRPC_WEB.headers, **channel.headers, "origin": origin}
    with site.server.connect() as connection:
        connection.send(post("Repeat", headers, Dialect.GRPC_WEB.wrap(EchoRequest(times=2))))
        # The headers are there before the second message is asked for.
        _, received = connection.read_head()
        channel.go_on_to_the_end()
        assert len(list(iter(connection.read_chunk, b""))) == 3
    assert ("access-control-allow-origin" in received) == is_allowed
    assert ("Grpc-Status" in received.get("access-control-expose-headers", "")) == is_allowed


# Beside Django


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of the service, and of the site for everything else."""
    with serving(tmp_path_factory.mktemp("beside"), "gthread", "beside") as site:
        yield site


def test_site_is_served_beside_the_service(beside: Site) -> None:
    assert beside.log_in("jane")


@all_dialects
def test_client_stream_is_live_beside_the_site(beside: Site, channel: Channel, dialect: Dialect) -> None:
    with beside.server.connect() as connection:
        open_collect(connection, channel, dialect)
        for name in NAMES:
            connection.send(chunk(dialect.wrap(EchoRequest(payload=name.encode()))))
            assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert dialect.read(connection.read_reply().body, {}).payloads == ["".join(NAMES).encode()]
    assert beside.groups() == NAMES
    beside.clear()


def _open_files(process: str) -> list[str]:
    """Return the paths of what a process has open; of a socket, its number."""
    files = []
    for descriptor in Path("/proc", process, "fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed since
            files.append(os.readlink(descriptor))
    return files


def test_no_database_connection_is_left_beside_the_site(beside: Site) -> None:
    with EchoServiceClient(beside.server.url) as client, ResponseMetadata() as metadata:
        client.collect([EchoRequest(payload=b"anna")])
        client.echo(EchoRequest())
    assert beside.groups() == ["anna"]
    assert not [file for file in _open_files(metadata.headers()["process"]) if ".sqlite3" in file]
    beside.clear()


def test_server_stream_is_live_beside_the_site(beside: Site, channel: Channel) -> None:
    with EchoServiceClient(beside.server.url) as client:
        for number, _ in enumerate(client.repeat(EchoRequest(times=3), headers=channel.headers)):
            assert channel.next_event() == f"asked for {number}"
            channel.go_on()
    assert channel.next_event() == "closed"


# Django's own development server


@pytest.fixture(scope="module")
def development_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("development")
    command = (
        "import tests.integration.django_site\n"
        "from django.core.management import call_command\n"
        "call_command('runserver', '127.0.0.1:0', use_reloader=False, skip_checks=True)\n"
    )
    with (directory / "errors.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", command],
            cwd=_ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests' / 'gen'}",
                "SITE_DATABASE": str(directory / "site.sqlite3"),
            },
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            assert process.stdout is not None
            try:
                output = ""
                while (match := re.search(r"http://127\.0\.0\.1:(\d+)/", output)) is None:
                    line = process.stdout.readline()
                    assert line, (directory / "errors.log").read_text()
                    output += line
                yield int(match[1])
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=PATIENCE)


def test_development_server_serves_live_responses(development_port: int, channel: Channel) -> None:
    with EchoServiceClient(f"http://127.0.0.1:{development_port}") as client:
        assert client.echo(EchoRequest(payload=b"a")).payload == b"AnonymousUser"
        for number, _ in enumerate(client.repeat(EchoRequest(times=3), headers=channel.headers)):
            assert channel.next_event() == f"asked for {number}"
            channel.go_on()
    assert channel.next_event() == "closed for AnonymousUser"


@pytest.mark.parametrize("method", ["Collect", "Converse", "Unknown"])
@pytest.mark.parametrize("framing", [{}, {"content-length": "0"}], ids=["alone", "beside a length"])
def test_development_server_has_no_chunked_requests(
    development_port: int, channel: Channel, method: str, framing: dict[str, str]
) -> None:
    smuggled = post("Echo", {**PROTO, **channel.headers}, b"")
    with Connection(development_port) as connection:
        headers = {**Dialect.CONNECT.headers, "transfer-encoding": "chunked", **framing}
        connection.send(post(method, headers) + smuggled)
        reply = connection.read_reply()
        assert connection.read_rest() == b""
    assert reply.status == (404 if method == "Unknown" else 200)
    assert b"HTTP/1.1" not in reply.body
    assert not channel.is_called()
