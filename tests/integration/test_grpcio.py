"""grpcio's client with gunicorn over HTTP/2.

gunicorn serves the calls of one connection one after the other, so each test has channels of its own.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.records import Records
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import PATIENCE
from tests.interop import grpcio_calls
from tests.interop.scenarios import EXPECTED


@pytest.fixture(
    scope="module",
    params=itertools.product(["gthread", "gevent"], [False, True]),
    ids=lambda param: f"{param[0]}, {'TLS' if param[1] else 'plain'}",
)
def interop_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Gunicorn]:
    """gunicorn with the service of `tests.interop`, with each of the workers that have HTTP/2."""
    worker, is_tls = request.param
    server = Http2Gunicorn(
        tmp_path_factory.mktemp("grpcio") / "gunicorn.log",
        worker,
        *("--threads", "4"),
        application="tests.interop.service:application",
        certificates=certificates if is_tls else None,
    )
    yield server
    server.stop()


@pytest.mark.parametrize("scenario", grpcio_calls.SCENARIOS)
def test_scenario(interop_server: Gunicorn, certificates: Certificates, scenario: str) -> None:
    grpcio_calls.check(lambda: connect(interop_server, certificates), scenario)
    print(interop_server.new_output())


class Meter:
    """Stands between a client and a server, for one connection, and counts what the server sends."""

    def __init__(self, server_port: int) -> None:
        self.received = 0
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._thread = Thread(target=self._serve)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            back = Thread(target=self._send_back, args=(server, client))
            back.start()
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _send_back(self, server: socket.socket, client: socket.socket) -> None:
        # Towards the end the client may be gone.
        with suppress(OSError):
            while data := server.recv(65536):
                self.received += len(data)
                client.sendall(data)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join()
        self._listener.close()


# grpcio does not show it.
def test_response_is_compressed(interop_server: Gunicorn, certificates: Certificates) -> None:
    with Meter(interop_server.port) as meter:
        grpcio_calls.check(lambda: connect(interop_server, certificates, meter.port), "compressed")
    assert meter.received < EXPECTED["compressed"]["size"] / 2


@pytest.fixture
def calls(http2_server: Http2Gunicorn, certificates: Certificates) -> Iterator[grpc.Channel]:
    """grpcio's channel to the service that tells what happens to its handlers."""
    with connect(http2_server, certificates) as calls:
        yield calls


def connect(server: Gunicorn, certificates: Certificates, port: int | None = None) -> grpc.Channel:
    authority = None if server.tls is None else certificates.authority.read_bytes()
    return grpcio_calls.connect(f"127.0.0.1:{port or server.port}", authority)


def test_message_reaches_handler_before_next_is_sent(calls: grpc.Channel, channel: Channel) -> None:
    grpcio_calls.send_one_by_one(calls, channel)


def test_response_arrives_before_next_is_asked_for(calls: grpc.Channel, channel: Channel) -> None:
    grpcio_calls.receive_one_by_one(calls, channel)


def test_generator_is_closed_when_call_is_canceled(calls: grpc.Channel, channel: Channel) -> None:
    responses = grpcio_calls.repeat(calls, channel, times=-1)
    assert next(responses).payload == b"x"
    responses.cancel()
    channel.go_on_to_the_end()
    assert "closed" in iter(channel.next_event, "")


# What the server does not know

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
all_kinds = pytest.mark.parametrize("kind", KINDS)


def call(calls: grpc.Channel, kind: str, path: str, request: EchoRequest, **options: Any) -> Any:
    """Make a call of any kind, wait for its end, and return it."""
    method = getattr(calls, kind)(path, EchoRequest.SerializeToString, EchoResponse.FromString)
    if kind.endswith("_unary"):
        made = method.future(request if kind.startswith("unary") else iter([request]), **options)
        made.exception()
    else:
        made = method(request if kind.startswith("unary") else iter([request]), **options)
        with suppress(grpc.RpcError):
            list(made)
    return made


@all_kinds
@pytest.mark.parametrize("path", ["/echo.v1.EchoService/Absent", "/absent.v1.AbsentService/Call"])
def test_what_is_unknown_is_unimplemented(calls: grpc.Channel, kind: str, path: str) -> None:
    made = call(calls, kind, path, EchoRequest())
    assert (made.code(), made.details()) == (grpc.StatusCode.UNIMPLEMENTED, f"unknown method {path}")


# Interceptors


@pytest.fixture(scope="module", params=["gthread", "gevent"])
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Http2Gunicorn]:
    """gunicorn with the service whose calls are watched."""
    log = tmp_path_factory.mktemp("watched") / "gunicorn.log"
    server = Http2Gunicorn(log, request.param, application="tests.integration.watched:application")
    yield server
    print(server.new_output())
    server.stop()


METHODS = dict(zip(KINDS, ["Echo", "Repeat", "Collect", "Converse"], strict=True))


@pytest.fixture
def watched_calls(watched: Http2Gunicorn) -> Iterator[grpc.Channel]:
    with grpcio_calls.connect(f"127.0.0.1:{watched.port}") as calls:
        yield calls


def ended_with(made: Any) -> str:
    """Return the trailing metadata that on_end has written."""
    ended: str = dict(made.trailing_metadata())["ended-with"]
    return ended


@pytest.mark.parametrize("kind", KINDS[:3])
def test_trailing_metadata_of_on_end_is_sent(
    watched_calls: grpc.Channel, records: Records, kind: str
) -> None:
    path = f"/echo.v1.EchoService/{METHODS[kind]}"
    made = call(watched_calls, kind, path, EchoRequest(times=2), metadata=tuple(records.headers.items()))
    assert (made.code(), ended_with(made)) == (grpc.StatusCode.OK, "ok")
    assert records.next().wait().end() is None


@all_kinds
def test_call_is_refused_by_an_interceptor(watched_calls: grpc.Channel, records: Records, kind: str) -> None:
    path = f"/echo.v1.EchoService/{METHODS[kind]}"
    metadata = (*records.headers.items(), ("refuse", "yes"))
    made = call(watched_calls, kind, path, EchoRequest(), metadata=metadata)
    assert (made.code(), made.details()) == (grpc.StatusCode.UNAUTHENTICATED, "as asked")
    assert ended_with(made) == "unauthenticated"
    assert records.next().wait().code == "unauthenticated"


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_on_end_is_told_how_the_client_left(
    watched_calls: grpc.Channel, records: Records, leave: str
) -> None:
    metadata = (*records.headers.items(), ("wait-until-inactive", "yes"))
    method = watched_calls.unary_stream(
        "/echo.v1.EchoService/Repeat", EchoRequest.SerializeToString, EchoResponse.FromString
    )
    responses = method(
        EchoRequest(times=1), metadata=metadata, timeout=0.5 if leave == "deadline" else PATIENCE
    )
    next(responses)
    if leave == "cancel":
        responses.cancel()
    assert records.next().wait().code == ("canceled" if leave == "cancel" else "deadline_exceeded")


# Metadata named "version", which gunicorn overwrites


@pytest.fixture(scope="module", params=["gthread", "gevent"])
def version_reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Http2Gunicorn]:
    """gunicorn with the service that tells what it reads of a header named ``version``."""
    log = tmp_path_factory.mktemp("versions") / "gunicorn.log"
    server = Http2Gunicorn(log, request.param, application="tests.integration.versions:application")
    yield server
    print(server.new_output())
    server.stop()


def read_version(server: Http2Gunicorn, *versions: str) -> dict[str, Any]:
    """Return what a handler reads of a header named ``version``, by the ways in which it can."""
    with grpcio_calls.connect(f"127.0.0.1:{server.port}") as channel:
        echo = channel.unary_unary(
            "/echo.v1.EchoService/Echo",
            request_serializer=EchoRequest.SerializeToString,
            response_deserializer=EchoResponse.FromString,
        )
        metadata = tuple(("version", value) for value in versions)
        response = echo(EchoRequest(), timeout=PATIENCE, metadata=metadata)
    read: dict[str, Any] = json.loads(response.payload)
    return read


@pytest.mark.parametrize("versions", [["v7"], ["2"], ["a", "b"]], ids=",".join)
def test_metadata_named_version_is_the_clients(version_reader: Http2Gunicorn, versions: list[str]) -> None:
    value = ",".join(versions)

    assert read_version(version_reader, *versions) == {
        "get": value,
        "get_many": [value, "trailers", value, None],
        "iteration": [value],
        "in": True,
        "get, parsed": value,
    }


ABSENT = {
    "get": None,
    "get_many": [None, "trailers", None, None],
    "iteration": [],
    "in": False,
    "get, parsed": None,
}


def test_version_of_http_is_not_metadata(version_reader: Http2Gunicorn) -> None:
    assert read_version(version_reader) == ABSENT


def test_version_of_http_is_not_metadata_behind_a_middleware_with_an_input_of_its_own(tmp_path: Path) -> None:
    application = "tests.integration.versions:replaced"
    server = Http2Gunicorn(tmp_path / "gunicorn.log", "gthread", application=application)
    try:
        assert read_version(server) == ABSENT
    finally:
        print(server.new_output())
        server.stop()
