"""The service on WSGI servers other than gunicorn: the cells of the table in docs/servers.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress

import pytest
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import ProtocolType
from tests.integration.calls import Kind as CallKind
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect
from tests.integration.live import NAMES, assert_closed, assert_live, joined, paced, wrap
from tests.integration.other_servers import KINDS, OtherServer
from tests.integration.wire import LAST_CHUNK, Connection, chunk, envelope, post
from tests.support import CLIENT_PROTOCOLS

PROTO = {"content-type": "application/proto"}
STREAM = {"content-type": "application/connect+proto"}
CHUNKED = {"transfer-encoding": "chunked"}
TIMEOUT_MS = 100
TIMEOUT = {"connect-timeout-ms": str(TIMEOUT_MS)}

protocols = pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)


def on(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test on servers, each started when it is first wanted."""
    return pytest.mark.parametrize("server", list(names), indirect=True)


everywhere = on(KINDS)
where_live = on(name for name, kind in KINDS.items() if kind.has_live_requests)
where_not_live = on(name for name, kind in KINDS.items() if not kind.has_live_requests)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, OtherServer]]:
    running: dict[str, OtherServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, running: dict[str, OtherServer]) -> Iterator[OtherServer]:
    if request.param not in running:
        running[request.param] = OtherServer(KINDS[request.param])
    yield running[request.param]
    print(running[request.param].output())


# All kinds of calls


@everywhere
@protocols
@pytest.mark.parametrize("proto_json", [False, True], ids=["proto", "json"])
@pytest.mark.parametrize("kind", CallKind, ids=lambda kind: kind.value)
def test_calls_of_each_kind(
    server: OtherServer, protocol: ProtocolType, proto_json: bool, kind: CallKind
) -> None:
    with EchoServiceClient(server.url, protocol=protocol, proto_json=proto_json) as client:
        for _ in range(3):
            assert kind.call(client) == [b"request"]


@everywhere
def test_call_by_get(server: OtherServer) -> None:
    with EchoServiceClient(server.url) as client:
        assert client.echo_safely(EchoRequest(payload=b"x"), use_get=True).payload == b"x"


@everywhere
def test_large_messages(server: OtherServer) -> None:
    payload = bytes(3 << 20)
    with EchoServiceClient(server.url) as client:
        assert client.echo(EchoRequest(payload=payload)).payload == payload
        assert client.collect([EchoRequest(payload=payload)]).payload == payload
        assert [r.payload for r in client.repeat(EchoRequest(payload=payload, times=2))] == [payload] * 2


# Live requests


@where_live
@protocols
def test_message_reaches_handler_before_next_is_sent(
    server: OtherServer, channel: Channel, protocol: ProtocolType
) -> None:
    with EchoServiceClient(server.url, protocol=protocol) as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


@where_live
def test_message_reaches_handler_from_body_of_known_length(server: OtherServer, channel: Channel) -> None:
    body = [wrap(name) for name in NAMES]
    with server.connect() as connection:
        length = len(b"".join(body))
        connection.send(post("Collect", {**STREAM, **channel.headers, "content-length": length}))
        assert channel.next_event() == "called"
        for name, data in zip(NAMES, body, strict=True):
            connection.send(data[:4], data[4:])
            assert channel.next_event() == f"got {name}"
        assert channel.next_event() == "end"
        assert connection.read_reply().messages() == [joined()]


@where_live
@pytest.mark.parametrize("size", [1, 3, 1000], ids=["byte by byte", "three bytes a chunk", "in one chunk"])
def test_message_reaches_handler_from_chunks_of_any_size(
    server: OtherServer, channel: Channel, size: int
) -> None:
    with server.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers))
        assert channel.next_event() == "called"
        for name in NAMES:
            data = wrap(name)
            connection.send(*(chunk(data[i : i + size]) for i in range(0, len(data), size)))
            assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert connection.read_reply().messages() == [joined()]


@where_not_live
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_handler_is_called_when_the_body_has_ended(
    server: OtherServer, channel: Channel, framing: str
) -> None:
    body = b"".join(map(wrap, NAMES))
    with server.connect() as connection:
        if framing == "length":
            last = body[-1:]
            connection.send(post("Collect", {**STREAM, **channel.headers, "content-length": len(body)}))
            connection.send(body[:-1])
        else:
            last = LAST_CHUNK
            connection.send(post("Collect", STREAM | CHUNKED | channel.headers), chunk(body))
        assert not connection.is_answered(within=0.05)
        assert not channel.is_called()
        connection.send(last)
        assert connection.read_reply().messages() == [joined()]
        assert channel.next_event() == "called"


# Live responses


@everywhere
@protocols
def test_response_reaches_client_before_next_is_asked_for(
    server: OtherServer, channel: Channel, protocol: ProtocolType
) -> None:
    with EchoServiceClient(server.url, protocol=protocol) as client:
        assert_live(client.repeat(EchoRequest(payload=b"x", times=3), headers=channel.headers), channel)


@everywhere
def test_unary_answer_has_its_length(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Echo", PROTO, EchoRequest(payload=b"x").SerializeToString()))
        assert connection.read_reply().headers["content-length"] == "3"


# Clients that leave


@everywhere
@pytest.mark.parametrize("leave", ["end", "reset"])
def test_generator_is_closed_when_client_leaves(server: OtherServer, channel: Channel, leave: str) -> None:
    request = envelope(EchoRequest(payload=b"x", times=-1).SerializeToString())
    with server.connect() as connection:
        connection.send(post("Repeat", STREAM | channel.headers, request))
        connection.read_head()
        getattr(connection, leave)()
        channel.go_on_to_the_end()
        assert_closed(channel)


@everywhere
def test_handler_that_asks_is_told_that_client_has_left(server: OtherServer, channel: Channel) -> None:
    with server.connect() as connection:
        connection.send(post("Echo", PROTO | channel.headers | {"wait-until-inactive": "1"}, b""))
        assert channel.next_event() == "called"
        connection.reset()
    assert channel.next_event() == "inactive"


@everywhere
def test_handler_that_asks_is_told_that_its_deadline_has_passed(
    server: OtherServer, channel: Channel
) -> None:
    with server.connect() as connection:
        headers = PROTO | TIMEOUT | channel.headers | {"wait-until-inactive": "1"}
        connection.send(post("Echo", headers, b""))
        assert connection.read_reply().error()["code"] == "deadline_exceeded"
    assert [channel.next_event(), channel.next_event()] == ["called", "inactive"]


@where_live
@pytest.mark.parametrize("leave", ["end", "reset"])
def test_client_that_leaves_looks_to_handler_like_no_end_of_stream(
    server: OtherServer, channel: Channel, leave: str
) -> None:
    with server.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers) + chunk(wrap("anna")))
        assert channel.next_event() == "called"
        assert channel.next_event() == "got anna"
        getattr(connection, leave)()
        assert channel.next_event() == "canceled"


# Clients gone silent


@on(name for name, kind in KINDS.items() if kind.deadline_on_chunks)
def test_deadline_ends_wait_for_a_chunk(server: OtherServer, channel: Channel) -> None:
    with server.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | TIMEOUT | channel.headers) + chunk(wrap("anna")))
        assert connection.read_reply().error()["code"] == "deadline_exceeded"


@on(name for name, kind in KINDS.items() if kind.deadline_on_lengths)
def test_deadline_ends_wait_for_a_body(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Echo", {**PROTO, **TIMEOUT, "content-length": 100}))
        assert connection.read_reply().error()["code"] == "deadline_exceeded"


def assert_waits(connection: Connection) -> None:
    """Check that there is no answer when the deadline has long passed."""
    assert not connection.is_answered(within=3 * TIMEOUT_MS / 1000)


@on(name for name, kind in KINDS.items() if not kind.deadline_on_chunks)
def test_deadline_does_not_end_wait_for_a_chunk(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | TIMEOUT) + chunk(wrap("anna")))
        assert_waits(connection)


@on(name for name, kind in KINDS.items() if not kind.deadline_on_lengths)
def test_deadline_does_not_end_wait_for_a_body(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Echo", {**PROTO, **TIMEOUT, "content-length": 100}))
        assert_waits(connection)


# Answers to requests that were not read


@where_live
def test_answer_reaches_client_that_still_sends_chunks(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Unknown", STREAM | CHUNKED), *[chunk(bytes(1 << 20))] * 4)
        assert connection.read_reply().status == 404


@on(name for name, kind in KINDS.items() if kind.answers_early)
def test_answer_leaves_before_the_rest_of_a_body_has_come(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Unknown", {**STREAM, "content-length": 100}), b"x")
        assert connection.read_reply().status == 404


@on(name for name, kind in KINDS.items() if not kind.answers_early)
def test_answer_waits_for_the_rest_of_a_body(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Unknown", {**STREAM, "content-length": 100}), b"x")
        assert not connection.is_answered(within=0.05)
        connection.send(bytes(99))
        assert connection.read_reply().status == 404


@everywhere
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_unread_body_is_no_request(server: OtherServer, channel: Channel, framing: str) -> None:
    smuggled = post("Echo", PROTO | channel.headers, b"")
    with server.connect() as connection, suppress(ConnectionError):
        if framing == "length":
            connection.send(post("Converse", STREAM, smuggled + smuggled))
        else:
            connection.send(post("Converse", STREAM | CHUNKED) + chunk(smuggled + smuggled))
            connection.send(LAST_CHUNK)
        assert connection.read_reply().status == 200
        connection.send(post("Unknown", PROTO, b""))
        connection.end()
        connection.read_rest()
    assert not channel.is_called()


CALLS_BEHIND_CHUNKS = 12
"""More than any of the servers has threads here."""


@everywhere
def test_chunks_that_were_read_hold_up_no_other_call(server: OtherServer) -> None:
    with ExitStack() as stack:
        for _ in range(CALLS_BEHIND_CHUNKS):
            connection = stack.enter_context(server.connect())
            connection.send(post("Collect", STREAM | CHUNKED), chunk(wrap("anna")), LAST_CHUNK)
            assert connection.read_reply().messages() == [EchoResponse(payload=b"anna").SerializeToString()]
            assert not connection.is_answered(within=0) or connection.read_rest() == b""


@everywhere
@pytest.mark.parametrize(
    "end",
    [
        b"0\r\na: b\r\n\r\n",
        b"0\r\n%b\r\n",
        b"-1\r\n%b\r\n",
        b"0\r\n\r\n",
    ],
    ids=["trailers", "request for trailers", "request behind a negative size", "plain"],
)
def test_nothing_of_the_chunks_is_a_request(server: OtherServer, channel: Channel, end: bytes) -> None:
    smuggled = post("Echo", PROTO | channel.headers, b"")
    with server.connect() as connection, suppress(ConnectionError):
        connection.send(post("Collect", STREAM | CHUNKED), chunk(wrap("anna")))
        connection.send(end.replace(b"%b", smuggled))
        connection.end()
        connection.read_rest()
    assert not channel.is_called()


@everywhere
def test_chunks_count_and_not_the_length_that_is_announced_too(server: OtherServer, channel: Channel) -> None:
    smuggled = post("Echo", PROTO | channel.headers, b"")
    with server.connect() as connection, suppress(ConnectionError):
        connection.send(post("Collect", STREAM | CHUNKED | {"content-length": "0"}), smuggled)
        connection.end()
        connection.read_rest()
    assert not channel.is_called()


# What no HTTP/1.1 can carry


@everywhere
def test_grpc_is_refused_where_there_are_no_trailers(server: OtherServer) -> None:
    with server.connect() as connection:
        connection.send(post("Repeat", Dialect.GRPC.headers, envelope(b"")))
        assert connection.read_reply().status == 501
