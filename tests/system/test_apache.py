"""The service under Apache with mod_wsgi, set up as docs/servers.md says, in both of its modes.

Embedded, the application runs in Apache's own processes. As a daemon it runs in one to which Apache hands the
whole request, before it takes anything of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import ProtocolType, ResponseMetadata
from tests.integration.calls import Kind, endless_requests
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect, Outcome
from tests.integration.http2 import Http2Connection, Stream
from tests.integration.live import (
    NAMES,
    Step,
    assert_closed,
    assert_live,
    byte_by_byte,
    envelopes_across_chunks,
    one_chunk_each,
    paced,
    wrap,
)
from tests.integration.wire import LAST_CHUNK, Connection, chunk, envelope, post
from tests.support import CLIENT_PROTOCOLS
from tests.system.apache import Apache, Mode

PROTO = {"content-type": "application/proto"}
STREAM = {"content-type": "application/connect+proto"}
CHUNKED = {"transfer-encoding": "chunked"}
LAST = envelope(EchoRequest(payload=b"anna", is_last=True).SerializeToString())
MANY = 1 << 22
"""More bytes than wait in all the buffers between a client and a handler."""

embedded = pytest.mark.parametrize("apache", [Mode.EMBEDDED], ids=["embedded"], indirect=True)
as_daemon = pytest.mark.parametrize("apache", [Mode.DAEMON], ids=["daemon"], indirect=True)
all_dialects = pytest.mark.parametrize(
    "dialect", [Dialect.CONNECT, Dialect.GRPC_WEB, Dialect.GRPC_WEB_TEXT], ids=lambda dialect: dialect.name
)
http2_dialects = pytest.mark.parametrize(
    "dialect", [Dialect.CONNECT, Dialect.GRPC_WEB], ids=lambda dialect: dialect.name
)
all_protocols = pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)


@pytest.fixture(scope="module", params=Mode, ids=lambda mode: mode.value)
def apache(request: pytest.FixtureRequest) -> Iterator[Apache]:
    with closing(Apache(request.param)) as apache:
        yield apache


@pytest.fixture(scope="module", params=Mode, ids=lambda mode: mode.value)
def impatient_apache(request: pytest.FixtureRequest) -> Iterator[Apache]:
    """One that lets its clients be silent for a second."""
    with closing(Apache(request.param, {"Timeout 60": "Timeout 1"})) as apache:
        yield apache


@pytest.fixture(scope="module", params=Mode, ids=lambda mode: mode.value)
def unprepared_apache(request: pytest.FixtureRequest) -> Iterator[Apache]:
    """One that is not told to take requests in chunks."""
    with closing(Apache(request.param, {"WSGIChunkedRequest On": ""})) as apache:
        yield apache


class Responses:
    """The messages of a response in chunks, which Apache cuts where it likes."""

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self._is_begun = False
        self._text = b""
        self._data = b""

    def read(self) -> EchoResponse:
        if not self._is_begun:
            assert self._connection.read_head()[0] == 200
            self._is_begun = True
        size = 5
        while len(self._data) < size:
            self._receive()
            size = 5 + int.from_bytes(self._data[1:5], "big")
        message, self._data = self._data[5:size], self._data[size:]
        return EchoResponse.FromString(message)

    def _receive(self) -> None:
        piece = self._connection.read_chunk()
        assert piece, f"the response has ended: {self._data!r}"
        self._text += piece
        # Of base64, four characters at a time can be decoded.
        size = len(self._text) - len(self._text) % 4 if self._dialect is Dialect.GRPC_WEB_TEXT else None
        self._data += self._dialect.decode(self._text[:size])
        self._text = b"" if size is None else self._text[size:]


# Calls


@all_protocols
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_call(apache: Apache, kind: Kind, protocol: ProtocolType, compression: str | None) -> None:
    with apache.client(protocol, compression) as client:
        assert kind.call(client, EchoRequest(payload=bytes(1 << 20), times=1)) == [bytes(1 << 20)]


def test_connection_serves_one_call_after_the_other(apache: Apache) -> None:
    with apache.connect() as connection:
        for size in (0, 10, 100_000, 0):
            message = EchoRequest(payload=bytes(size)).SerializeToString()
            connection.send(post("Echo", PROTO, message))
            reply = connection.read_reply()
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(message)))
            assert reply.body == message


def test_handler_sees_credentials(apache: Apache) -> None:
    with apache.client() as client, ResponseMetadata() as metadata:
        client.echo(EchoRequest(), headers={"authorization": "Bearer token"})
    assert metadata.headers()["credentials"] == "Bearer token"


def test_client_that_asks_before_it_sends_is_told_to(apache: Apache) -> None:
    message = EchoRequest(payload=b"x").SerializeToString()
    with apache.connect() as connection:
        connection.send(post("Echo", {**PROTO, "content-length": len(message), "expect": "100-continue"}))
        assert connection.read_head() == (100, {})
        connection.send(message)
        assert connection.read_reply().body == message


def test_client_stream_is_refused_where_apache_does_not_take_chunks(unprepared_apache: Apache) -> None:
    with unprepared_apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED) + chunk(wrap("anna")) + LAST_CHUNK)
        assert connection.read_reply().status == 411


# Live requests


def several_in_a_chunk() -> Iterator[Step]:
    yield [chunk(b"".join(map(wrap, NAMES)))], NAMES


@pytest.mark.parametrize(
    "steps",
    [one_chunk_each, byte_by_byte, several_in_a_chunk, envelopes_across_chunks],
    ids=lambda steps: steps.__name__,
)
def test_message_reaches_handler_before_next_is_sent(
    apache: Apache, channel: Channel, steps: Callable[[], Iterator[Step]]
) -> None:
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers))
        assert channel.next_event() == "called"
        for pieces, names in steps():
            connection.send(*pieces)
            for name in names:
                assert channel.next_event() == f"got {name}"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert read_outcome(connection) == Outcome(["".join(NAMES).encode()], None, {})


@all_dialects
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_message_reaches_handler_before_next_is_sent_in_dialect(
    apache: Apache, channel: Channel, dialect: Dialect, framing: str
) -> None:
    messages = [dialect.encode(wrap(name)) for name in NAMES]
    is_chunked = framing == "chunked"
    framing_headers = CHUNKED if is_chunked else {"content-length": str(len(b"".join(messages)))}
    with apache.connect() as connection:
        connection.send(post("Collect", dialect.headers | framing_headers | channel.headers))
        assert channel.next_event() == "called"
        for name, message in zip(NAMES, messages, strict=True):
            connection.send(chunk(message) if is_chunked else message)
            assert channel.next_event() == f"got {name}"
        if is_chunked:
            connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert read_outcome(connection, dialect) == Outcome(["".join(NAMES).encode()], None, {})


@all_protocols
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_message_of_client_reaches_handler_before_next_is_asked_for(
    apache: Apache, channel: Channel, protocol: ProtocolType, compression: str | None
) -> None:
    with apache.client(protocol, compression) as client:
        assert client.collect(paced(channel), headers=channel.headers).payload == "".join(NAMES).encode()


def read_outcome(connection: Connection, dialect: Dialect = Dialect.CONNECT) -> Outcome:
    reply = connection.read_reply()
    assert (reply.status, reply.headers["content-type"]) == (200, dialect.value)
    return dialect.read(reply.body, {})


# Live responses


@all_dialects
@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_response_reaches_client_before_next_is_asked_for(
    apache: Apache, channel: Channel, dialect: Dialect, size: int
) -> None:
    request = dialect.wrap(EchoRequest(payload=bytes(size), times=3))
    with apache.connect() as connection:
        connection.send(post("Repeat", dialect.headers | channel.headers, request))
        responses = Responses(connection, dialect)
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            assert responses.read().payload == bytes(size)
            channel.go_on()
        assert channel.next_event() == "closed"


@all_protocols
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_client_gives_response_before_next_is_asked_for(
    apache: Apache, channel: Channel, protocol: ProtocolType, compression: str | None
) -> None:
    request = EchoRequest(payload=b"x", times=3)
    with apache.client(protocol, compression) as client:
        assert_live(client.repeat(request, headers=channel.headers), channel)


# Clients that leave, and clients that are silent


def test_generator_is_closed_when_client_leaves(apache: Apache, channel: Channel) -> None:
    request = EchoRequest(payload=b"x", times=-1)
    with apache.client() as client, client.repeat(request, headers=channel.headers) as responses:
        assert next(responses).payload == b"x"
    channel.go_on_to_the_end()
    assert_closed(channel)


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_client_that_leaves_looks_to_handler_like_no_end_of_stream(
    apache: Apache, channel: Channel, leave: str
) -> None:
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers) + chunk(wrap("anna")))
        assert channel.next_event() == "called"
        assert channel.next_event() == "got anna"
        getattr(connection, leave)()
        assert channel.next_event() == "canceled"


def test_silent_client_is_given_up_by_apache(impatient_apache: Apache, channel: Channel) -> None:
    with impatient_apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers) + chunk(wrap("anna")))
        assert channel.next_event() == "called"
        assert channel.next_event() == "got anna"
        assert channel.next_event() == "canceled"


def test_silent_client_is_not_given_up_at_the_deadline(apache: Apache, channel: Channel) -> None:
    """mod_wsgi has nothing to bound a read by."""
    timeout = {"connect-timeout-ms": "2000"}
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers | timeout))
        assert channel.next_event() == "called"
        assert not connection.is_answered(within=2.1)
        connection.send(chunk(wrap("anna")))
        assert channel.next_event() == "deadline_exceeded"
        connection.send(LAST_CHUNK)
        assert read_outcome(connection) == Outcome([], "deadline_exceeded", {})


# Early answers

UNREAD = [
    pytest.param("Unknown", PROTO, 404, id="path"),
    pytest.param("Echo", {"content-type": "no/type"}, 415, id="content type"),
    pytest.param("Echo", PROTO | {"content-encoding": "no"}, 501, id="compression"),
    pytest.param("Converse", STREAM, 200, id="bidirectional"),
]


@pytest.mark.parametrize(("method", "headers", "status"), UNREAD)
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_call_that_is_refused_before_its_body_is_read_gets_its_answer(
    apache: Apache, method: str, headers: dict[str, str], status: int, framing: str
) -> None:
    body = bytes(MANY)
    is_chunked = framing == "chunked"
    with apache.connect() as connection:
        if is_chunked:
            connection.send(post(method, headers | CHUNKED) + chunk(body) + LAST_CHUNK)
        else:
            connection.send(post(method, headers, body))
        assert connection.read_reply().status == status


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_body_that_is_not_read_is_no_request(apache: Apache, channel: Channel, framing: str) -> None:
    smuggled = post("Echo", PROTO | channel.headers, b"") * 10
    message = EchoRequest(payload=b"x").SerializeToString()
    with apache.connect() as connection:
        if framing == "chunked":
            connection.send(post("Converse", STREAM | CHUNKED) + chunk(smuggled) + LAST_CHUNK)
        else:
            connection.send(post("Converse", STREAM, smuggled))
        connection.read_reply()
        connection.send(post("Echo", PROTO, message))
        assert connection.read_reply().body == message
    assert not channel.is_called()


@embedded
def test_early_answer_reaches_client_before_its_request_ends(apache: Apache) -> None:
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED) + chunk(LAST))
        assert read_outcome(connection) == Outcome([b"anna"], None, {})


@embedded
@all_protocols
def test_early_answer_ends_an_endless_request(apache: Apache, protocol: ProtocolType) -> None:
    def requests() -> Iterator[EchoRequest]:
        yield EchoRequest(payload=b"anna", is_last=True)
        yield from endless_requests()

    with apache.client(protocol) as client:
        assert client.collect(requests()).payload == b"anna"


@as_daemon
def test_early_answer_reaches_client_when_its_request_ends(apache: Apache, channel: Channel) -> None:
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED | channel.headers) + chunk(LAST))
        for event in ("called", "got anna", "end"):
            assert channel.next_event() == event
        connection.send(chunk(bytes(MANY)))
        assert not connection.is_answered(within=0.1)
        connection.send(LAST_CHUNK)
        assert read_outcome(connection) == Outcome([b"anna"], None, {})


@as_daemon
def test_early_answer_that_is_large_reaches_client_that_sends_on(apache: Apache) -> None:
    """Neither of Apache's processes waits for the other to take what it sends."""
    message = EchoRequest(payload=bytes(MANY // 2), is_last=True).SerializeToString()
    with apache.connect() as connection:
        connection.send(post("Collect", STREAM | CHUNKED) + chunk(envelope(message)))
        connection.send(chunk(bytes(MANY)) + LAST_CHUNK)
        assert read_outcome(connection) == Outcome([bytes(MANY // 2)], None, {})


# HTTP/2


@embedded
@http2_dialects
def test_message_reaches_handler_before_next_is_sent_over_http2(
    apache: Apache, channel: Channel, dialect: Dialect
) -> None:
    with apache.connect_http2() as connection:
        stream = connection.open("Collect", dialect.headers | channel.headers)
        assert_stream_is_live(stream, channel, dialect)


@http2_dialects
def test_message_reaches_handler_from_body_of_known_length_over_http2(
    apache: Apache, channel: Channel, dialect: Dialect
) -> None:
    length = len(b"".join(map(wrap, NAMES)))
    with apache.connect_http2() as connection:
        stream = connection.open(
            "Collect", dialect.headers | channel.headers | {"content-length": str(length)}
        )
        assert_stream_is_live(stream, channel, dialect)


def assert_stream_is_live(stream: Stream, channel: Channel, dialect: Dialect) -> None:
    assert channel.next_event() == "called"
    for name in NAMES:
        stream.send(wrap(name))
        assert channel.next_event() == f"got {name}"
    stream.end()
    assert channel.next_event() == "end"
    reply = stream.read_reply()
    assert dialect.read(reply.body, reply.trailers) == Outcome(["".join(NAMES).encode()], None, {})


@as_daemon
def test_request_whose_length_is_not_known_is_refused_over_http2(apache: Apache) -> None:
    """On its way to the daemon it would end with the first piece."""
    with apache.connect_http2() as connection:
        reply = connection.open("Collect", STREAM, wrap("anna"), is_whole=True).read_reply()
    assert Dialect.CONNECT.read(reply.body, reply.trailers) == Outcome([], "unimplemented", {})


@http2_dialects
def test_response_reaches_client_before_next_is_asked_for_over_http2(
    apache: Apache, channel: Channel, dialect: Dialect
) -> None:
    with apache.connect_http2() as connection:
        stream = repeat(connection, channel, dialect, times=3)
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            assert stream.read_envelope() == (0, EchoResponse(payload=b"x").SerializeToString())
            channel.go_on()
        assert channel.next_event() == "closed"


def test_generator_is_closed_when_client_gives_stream_up_over_http2(apache: Apache, channel: Channel) -> None:
    with apache.connect_http2() as connection:
        stream = repeat(connection, channel, Dialect.CONNECT, times=-1)
        stream.read_envelope()
        stream.reset()
        channel.go_on_to_the_end()
        assert_closed(channel)


def repeat(connection: Http2Connection, channel: Channel, dialect: Dialect, times: int) -> Stream:
    request = dialect.wrap(EchoRequest(payload=b"x", times=times))
    headers = dialect.headers | channel.headers | {"content-length": str(len(request))}
    return connection.open("Repeat", headers, request, is_whole=True)


def test_grpc_is_refused_for_want_of_trailers(apache: Apache) -> None:
    request = Dialect.GRPC.wrap(EchoRequest())
    headers = Dialect.GRPC.headers | {"content-length": str(len(request))}
    with apache.connect_http2() as connection:
        reply = connection.open("Repeat", headers, request, is_whole=True).read_reply()
    assert (reply.status, reply.trailers) == (501, {})
    assert reply.body.startswith(b"gRPC needs")
