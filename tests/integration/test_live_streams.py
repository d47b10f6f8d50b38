"""Messages reach the handler, and the client, when they are sent.

The order of events proves it: each side sends the next message only when the other has told that it
has the last one. Were a message held back anywhere, both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import ProtocolType
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect, Outcome
from tests.integration.live import (
    NAMES,
    Step,
    assert_closed,
    assert_live,
    byte_by_byte,
    envelopes_across_chunks,
    joined,
    one_chunk_each,
    paced,
    wrap,
)
from tests.integration.servers import Gunicorn
from tests.integration.wire import END, LAST_CHUNK, chunk, envelope, envelopes, post
from tests.support import CLIENT_PROTOCOLS

STREAM = {"content-type": "application/connect+proto"}


def chunk_size_before_its_data() -> Iterator[Step]:
    for name in NAMES:
        data = chunk(wrap(name))
        size_end = data.index(b"\n") + 1
        yield [data[:size_end], data[size_end:]], [name]


def message_before_the_end_of_its_chunk() -> Iterator[Step]:
    """The two bytes that end a chunk come with the next one."""
    end_of_last = b""
    for name in NAMES:
        data = chunk(wrap(name))
        yield [end_of_last + data[:-2]], [name]
        end_of_last = data[-2:]
    yield [end_of_last], []


def envelope_over_chunks() -> Iterator[Step]:
    for name in NAMES:
        data = wrap(name)
        yield [chunk(data[:3]), chunk(data[3:7]), chunk(data[7:])], [name]


def several_envelopes_in_a_chunk() -> Iterator[Step]:
    for i in range(0, len(NAMES), 2):
        names = NAMES[i : i + 2]
        yield [chunk(b"".join(map(wrap, names)))], names


def chunk_with_extension() -> Iterator[Step]:
    for name in NAMES:
        yield [chunk(wrap(name)).replace(b"\r\n", b";part=1\r\n", 1)], [name]


@pytest.mark.parametrize(
    "steps",
    [
        one_chunk_each,
        chunk_size_before_its_data,
        message_before_the_end_of_its_chunk,
        byte_by_byte,
        envelope_over_chunks,
        several_envelopes_in_a_chunk,
        envelopes_across_chunks,
        chunk_with_extension,
    ],
    ids=lambda steps: steps.__name__,
)
def test_message_reaches_handler_before_next_is_sent(
    live_server: Gunicorn, channel: Channel, steps: Callable[[], Iterator[Step]]
) -> None:
    with live_server.connect() as connection:
        connection.send(post("Collect", {**STREAM, **channel.headers, "transfer-encoding": "chunked"}))
        assert channel.next_event() == "called"
        for pieces, names in steps():
            connection.send(*pieces)
            for name in names:
                assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert connection.read_reply().messages() == [joined()]


def test_message_reaches_handler_from_body_of_known_length(live_server: Gunicorn, channel: Channel) -> None:
    body = [wrap(name) for name in NAMES]
    with live_server.connect() as connection:
        connection.send(post("Collect", {**STREAM, **channel.headers, "content-length": len(b"".join(body))}))
        assert channel.next_event() == "called"
        for name, data in zip(NAMES, body, strict=True):
            connection.send(data[:4], data[4:])
            assert channel.next_event() == f"got {name}"
        assert channel.next_event() == "end"
        assert connection.read_reply().messages() == [joined()]


in_grpc_web = pytest.mark.parametrize(
    "dialect", [Dialect.GRPC_WEB, Dialect.GRPC_WEB_TEXT], ids=["binary", "text"]
)


@in_grpc_web
@pytest.mark.parametrize("size", [1, 3, 1000], ids=["byte by byte", "three bytes a chunk", "in one chunk"])
def test_message_reaches_handler_before_next_is_sent_in_grpc_web(
    live_server: Gunicorn, channel: Channel, dialect: Dialect, size: int
) -> None:
    headers = dialect.headers | channel.headers
    with live_server.connect() as connection:
        connection.send(post("Collect", {**headers, "transfer-encoding": "chunked"}))
        assert channel.next_event() == "called"
        for name in NAMES:
            data = dialect.encode(wrap(name))
            connection.send(*(chunk(data[i : i + size]) for i in range(0, len(data), size)))
            assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert dialect.read(connection.read_reply().body, {}) == Outcome(["".join(NAMES).encode()], None, {})


@in_grpc_web
def test_message_reaches_handler_from_body_of_known_length_in_grpc_web(
    live_server: Gunicorn, channel: Channel, dialect: Dialect
) -> None:
    body = [dialect.encode(wrap(name)) for name in NAMES]
    headers = dialect.headers | channel.headers
    with live_server.connect() as connection:
        connection.send(post("Collect", {**headers, "content-length": len(b"".join(body))}))
        assert channel.next_event() == "called"
        for name, data in zip(NAMES, body, strict=True):
            connection.send(data[:5], data[5:])
            assert channel.next_event() == f"got {name}"
        assert channel.next_event() == "end"
        assert dialect.read(connection.read_reply().body, {}) == Outcome(["".join(NAMES).encode()], None, {})


def test_message_reaches_handler_over_tls(tls_server: Gunicorn, channel: Channel) -> None:
    with tls_server.connect() as connection:
        connection.send(post("Collect", {**STREAM, **channel.headers, "transfer-encoding": "chunked"}))
        assert channel.next_event() == "called"
        for pieces, names in envelopes_across_chunks():
            connection.send(*pieces)
            for name in names:
                assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert connection.read_reply().messages() == [joined()]


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("proto_json", [False, True], ids=["proto", "json"])
def test_client_sends_message_before_it_asks_for_next(
    live_server: Gunicorn, channel: Channel, protocol: ProtocolType, proto_json: bool, compression: str | None
) -> None:
    with live_server.client(proto_json=proto_json, protocol=protocol, compression=compression) as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


def test_client_sends_message_before_it_asks_for_next_over_tls(
    tls_server: Gunicorn, channel: Channel
) -> None:
    with tls_server.client() as client:
        response = client.collect(paced(channel), headers=channel.headers)
    assert response.payload == "".join(NAMES).encode()


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_response_reaches_client_before_next_is_asked_for(
    live_server: Gunicorn, channel: Channel, size: int
) -> None:
    message = EchoResponse(payload=bytes(size)).SerializeToString()
    with live_server.connect() as connection:
        connection.send(repeat(EchoRequest(payload=bytes(size), times=3), channel))
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            if number == 0:
                connection.read_head()
            assert connection.read_envelope() == (0, message)
            channel.go_on()
        assert channel.next_event() == "closed"
        assert connection.read_envelope() == (END, b"{}")
        assert connection.read_chunk() == b""


@in_grpc_web
@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_response_reaches_client_before_next_is_asked_for_in_grpc_web(
    live_server: Gunicorn, channel: Channel, dialect: Dialect, size: int
) -> None:
    request = dialect.wrap(EchoRequest(payload=bytes(size), times=3))
    with live_server.connect() as connection:
        connection.send(post("Repeat", dialect.headers | channel.headers, request))
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            if number == 0:
                connection.read_head()
            (read,) = envelopes(dialect.decode(connection.read_chunk()))
            assert read == (0, EchoResponse(payload=bytes(size)).SerializeToString())
            channel.go_on()
        assert channel.next_event() == "closed"
        assert dialect.read(connection.read_chunk(), {}) == Outcome([], None, {})
        assert connection.read_chunk() == b""


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("proto_json", [False, True], ids=["proto", "json"])
def test_client_gives_response_before_next_is_asked_for(
    live_server: Gunicorn, channel: Channel, protocol: ProtocolType, proto_json: bool, compression: str | None
) -> None:
    with live_server.client(proto_json=proto_json, protocol=protocol, compression=compression) as client:
        assert_live(client.repeat(EchoRequest(payload=b"x", times=3), headers=channel.headers), channel)


def test_client_gives_response_before_next_is_asked_for_over_tls(
    tls_server: Gunicorn, channel: Channel
) -> None:
    with tls_server.client() as client:
        assert_live(client.repeat(EchoRequest(payload=b"x", times=3), headers=channel.headers), channel)


def repeat(request: EchoRequest, channel: Channel) -> bytes:
    return post("Repeat", {**STREAM, **channel.headers}, envelope(request.SerializeToString()))


def assert_closed_by_leaving(live_server: Gunicorn, channel: Channel, leave: str) -> None:
    with live_server.connect() as connection:
        connection.send(repeat(EchoRequest(payload=b"x", times=-1), channel))
        connection.read_head()
        connection.read_envelope()
        getattr(connection, leave)()
        channel.go_on_to_the_end()
        # The one that was read, the next one, and one that was on its way when the client left.
        assert_closed(channel, within=3)
    assert live_server.serves()


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_generator_is_closed_when_client_leaves(live_server: Gunicorn, channel: Channel, leave: str) -> None:
    assert_closed_by_leaving(live_server, channel, leave)


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_generator_is_closed_when_client_leaves_over_tls(
    tls_server: Gunicorn, channel: Channel, leave: str
) -> None:
    assert_closed_by_leaving(tls_server, channel, leave)


def test_generator_is_closed_when_client_closes_stream(live_server: Gunicorn, channel: Channel) -> None:
    request = EchoRequest(payload=b"x", times=-1)
    with live_server.client() as client, client.repeat(request, headers=channel.headers) as responses:
        assert next(responses).payload == b"x"
    channel.go_on_to_the_end()
    assert_closed(channel)
    assert live_server.serves()


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_client_that_leaves_looks_to_handler_like_no_end_of_stream(
    live_server: Gunicorn, channel: Channel, leave: str
) -> None:
    with live_server.connect() as connection:
        connection.send(post("Collect", {**STREAM, **channel.headers, "transfer-encoding": "chunked"}))
        connection.send(chunk(wrap("anna")))
        assert channel.next_event() == "called"
        assert channel.next_event() == "got anna"
        getattr(connection, leave)()
        assert channel.next_event() == "canceled"


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_handler_that_asks_is_told_that_client_has_left(
    live_server: Gunicorn, channel: Channel, leave: str
) -> None:
    headers = {"content-type": "application/proto", "wait-until-inactive": "1", **channel.headers}
    with live_server.connect() as connection:
        connection.send(post("Echo", headers, b""))
        assert channel.next_event() == "called"
        getattr(connection, leave)()
        assert channel.next_event() == "inactive"
