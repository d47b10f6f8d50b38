"""Several services on one gunicorn, behind a router, alone and inside a site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest
from interop.v1.interop_connect import InteropServiceClient
from interop.v1.interop_pb2 import InteropRequest

from connect_sync import ProtocolType
from tests.integration.channel import Channel
from tests.integration.live import NAMES, assert_live, paced
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import LAST_CHUNK, chunk, head
from tests.interop import grpcio_calls
from tests.support import CLIENT_PROTOCOLS

all_protocols = pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)


@pytest.fixture(scope="module")
def inside_a_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server of a site that has the services below /api/v1."""
    yield from start(tmp_path_factory, "inside_a_site")


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server of nothing but the services, which is mounted at /mounted."""
    yield from start(tmp_path_factory, "alone", "--env", "SCRIPT_NAME=/mounted")


def start(tmp_path_factory: pytest.TempPathFactory, application: str, *options: str) -> Iterator[Gunicorn]:
    output = tmp_path_factory.mktemp("router") / "gunicorn.log"
    server = Gunicorn(output, "gthread", *options, application=f"tests.integration.routed:{application}")
    yield server
    server.stop()
    print(server.new_output())


@all_protocols
@pytest.mark.parametrize("server", ["inside_a_site", "mounted"])
def test_every_service_is_served(request: pytest.FixtureRequest, server: str, protocol: ProtocolType) -> None:
    gunicorn: Gunicorn = request.getfixturevalue(server)
    url = f"{gunicorn.url}/{'api/v1' if server == 'inside_a_site' else 'mounted'}"
    with EchoServiceClient(url, protocol=protocol) as echo:
        assert echo.echo(EchoRequest(payload=b"a")).payload == b"a"
        assert echo.collect([EchoRequest(payload=b"a"), EchoRequest(payload=b"b")]).payload == b"ab"
    with InteropServiceClient(url, protocol=protocol) as interop:
        assert interop.unary(InteropRequest(text="a")).text == "a"
        responses = interop.server_stream(InteropRequest(text="a", count=2))
        assert [response.number for response in responses] == [0, 1]


def test_get_is_served(inside_a_site: Gunicorn) -> None:
    with EchoServiceClient(f"{inside_a_site.url}/api/v1") as client:
        assert client.echo_safely(EchoRequest(payload=b"a"), use_get=True).payload == b"a"


@all_protocols
def test_message_reaches_handler_before_next_is_sent(
    inside_a_site: Gunicorn, channel: Channel, protocol: ProtocolType
) -> None:
    with EchoServiceClient(f"{inside_a_site.url}/api/v1", protocol=protocol) as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


@all_protocols
def test_response_reaches_client_before_next_is_asked_for(
    inside_a_site: Gunicorn, channel: Channel, protocol: ProtocolType
) -> None:
    with EchoServiceClient(f"{inside_a_site.url}/api/v1", protocol=protocol) as client:
        assert_live(client.repeat(EchoRequest(payload=b"x", times=3), headers=channel.headers), channel)


@pytest.mark.parametrize(
    "path", ["/", "/api/v1", "/echo.v1.EchoService/Echo", "/api/v1x/echo.v1.EchoService/Echo"]
)
def test_site_answers_everything_else(inside_a_site: Gunicorn, path: str) -> None:
    request = head(f"POST {path} HTTP/1.1", {"host": "test", "transfer-encoding": "chunked"})
    reply = inside_a_site.call(request + chunk(b"one, ") + chunk(b"two") + LAST_CHUNK)

    assert (reply.status, reply.body) == (200, f"|{path}|one, two".encode())


def test_request_to_no_service_is_answered_while_it_is_sent(mounted: Gunicorn) -> None:
    with mounted.connect() as connection:
        headers = {"host": "test", "transfer-encoding": "chunked"}
        connection.send(head("POST /mounted/absent.v1.AbsentService/Call HTTP/1.1", headers))
        connection.send(chunk(b"begun"))
        status, answer = connection.read_head()
        connection.send(chunk(b"and not ended"))
        body = connection.read_rest()

    assert (status, answer["content-type"]) == (404, "text/plain; charset=utf-8")
    assert body == b"unknown method /absent.v1.AbsentService/Call\n"


@pytest.fixture(scope="module")
def http2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http2Gunicorn]:
    """A server of nothing but the services, which speaks HTTP/2."""
    server = Http2Gunicorn(
        tmp_path_factory.mktemp("router") / "gunicorn.log",
        "gthread",
        application="tests.integration.routed:alone",
    )
    yield server
    server.stop()
    print(server.new_output())


@pytest.mark.parametrize("is_client_stream", [True, False], ids=["client stream", "server stream"])
def test_streams_of_grpc_are_live(
    http2_server: Http2Gunicorn, channel: Channel, is_client_stream: bool
) -> None:
    with grpcio_calls.connect(f"127.0.0.1:{http2_server.port}", None) as calls:
        if is_client_stream:
            grpcio_calls.send_one_by_one(calls, channel)
        else:
            grpcio_calls.receive_one_by_one(calls, channel)
