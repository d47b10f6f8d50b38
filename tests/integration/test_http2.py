"""Calls over HTTP/2, under the workers of gunicorn that have it.

Where a test is about what comes afterwards, it is the next stream on the same connection that shows it:
gunicorn serves the streams of a connection one after the other, in one thread.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from time import monotonic

import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from tests.integration.channel import Channel
from tests.integration.dialects import Dialect, Outcome
from tests.integration.http2 import WINDOW, Http2Connection, Stream
from tests.integration.servers import Gunicorn, Http2Gunicorn, Tls
from tests.integration.wire import PATIENCE, envelope, post

GRPC = Dialect.GRPC
LIMIT = 4 << 20
LARGE = b"x" * (1 << 20)
NAMES = ["anna", "bert", "carl", "dora", "emil", "fred"]

Step = tuple[list[bytes], list[str]]
"""What a client sends, a frame each, and the messages that are then complete."""

all_dialects = pytest.mark.parametrize(
    "dialect", [Dialect.CONNECT, Dialect.GRPC, Dialect.GRPC_WEB], ids=lambda dialect: dialect.name
)
other_dialects = pytest.mark.parametrize(
    "dialect", [Dialect.CONNECT, Dialect.GRPC_WEB], ids=lambda dialect: dialect.name
)

over_tls = pytest.mark.parametrize(
    "http2_server",
    [("gthread", Tls.SERVER), ("gevent", Tls.SERVER)],
    ids=["gthread, TLS", "gevent, TLS"],
    indirect=True,
)
once_each = pytest.mark.parametrize(
    "http2_server",
    [("gthread", Tls.NOBODY), ("gevent", Tls.SERVER)],
    ids=["gthread, plain", "gevent, TLS"],
    indirect=True,
)
"""Each worker, and each transport, once: for what takes its time."""
in_thread = pytest.mark.parametrize("http2_server", [("gthread", Tls.NOBODY)], ids=["gthread"], indirect=True)


@pytest.fixture
def connection(http2_server: Http2Gunicorn) -> Iterator[Http2Connection]:
    with http2_server.connect_http2() as connection:
        yield connection


def read(stream: Stream, dialect: Dialect = GRPC) -> Outcome:
    """Read a response to its end."""
    reply = stream.read_reply()
    assert (reply.status, reply.headers["content-type"]) == (200, dialect.value)
    return dialect.read(reply.body, reply.trailers)


def collect(connection: Http2Connection, channel: Channel, dialect: Dialect = GRPC) -> Stream:
    """Begin to send a stream, once its handler has the first message."""
    stream = connection.open("Collect", dialect.headers | channel.headers, wrap("anna", dialect))
    assert channel.next_event() == "called"
    assert channel.next_event() == "got anna"
    return stream


def repeat(connection: Http2Connection, channel: Channel, dialect: Dialect = GRPC) -> Stream:
    """Ask for a stream without an end, and read its first message."""
    request = dialect.wrap(EchoRequest(payload=b"x", times=-1))
    stream = connection.open("Repeat", dialect.headers | channel.headers, request, is_whole=True)
    assert stream.read_envelope() == (0, EchoResponse(payload=b"x").SerializeToString())
    assert channel.next_event() == "asked for 0"
    return stream


def wrap(name: str, dialect: Dialect = GRPC) -> bytes:
    return dialect.wrap(EchoRequest(payload=name.encode()))


def assert_serves(connection: Http2Connection) -> None:
    stream = connection.open("Echo", GRPC.headers, wrap("next"), is_whole=True)
    assert read(stream) == Outcome([b"next"], None, {})


def assert_closed(channel: Channel) -> None:
    """Let a stream without an end go on, and wait until its generator is closed."""
    channel.go_on_to_the_end()
    assert "closed" in iter(channel.next_event, "")


def assert_logged_no_error(server: Http2Gunicorn) -> None:
    """Look at what the server has written, once it has served something else."""
    output = server.new_output()
    print(output)
    assert "ERROR" not in output
    assert "Traceback" not in output


# Messages, as they are sent


def one_frame_each(dialect: Dialect) -> Iterator[Step]:
    for name in NAMES:
        yield [wrap(name, dialect)], [name]


def message_over_frames(dialect: Dialect) -> Iterator[Step]:
    for name in NAMES:
        data = wrap(name, dialect)
        yield [data[i : i + 3] for i in range(0, len(data), 3)], [name]


def several_messages_in_a_frame(dialect: Dialect) -> Iterator[Step]:
    for i in range(0, len(NAMES), 2):
        names = NAMES[i : i + 2]
        yield [b"".join(wrap(name, dialect) for name in names)], names


def messages_across_frames(dialect: Dialect) -> Iterator[Step]:
    """Each frame ends a message and begins the next one."""
    start = b""
    for name, following in zip(NAMES, [*NAMES[1:], None], strict=True):
        next_start = wrap(following, dialect)[:3] if following else b""
        yield [(wrap(name, dialect) + next_start)[len(start) :]], [name]
        start = next_start


@all_dialects
@pytest.mark.parametrize(
    "steps",
    [one_frame_each, message_over_frames, several_messages_in_a_frame, messages_across_frames],
    ids=lambda steps: steps.__name__,
)
def test_message_reaches_handler_before_next_is_sent(
    connection: Http2Connection,
    channel: Channel,
    dialect: Dialect,
    steps: Callable[[Dialect], Iterator[Step]],
) -> None:
    stream = connection.open("Collect", dialect.headers | channel.headers)
    assert channel.next_event() == "called"
    for pieces, names in steps(dialect):
        stream.send(*pieces)
        for name in names:
            assert channel.next_event() == f"got {name}"
    stream.end()
    assert channel.next_event() == "end"
    assert read(stream, dialect) == Outcome(["".join(NAMES).encode()], None, {})


@all_dialects
@pytest.mark.parametrize("size", [0, 5, 3 * WINDOW])
def test_response_reaches_client_before_next_is_asked_for(
    connection: Http2Connection, channel: Channel, dialect: Dialect, size: int
) -> None:
    request = dialect.wrap(EchoRequest(payload=bytes(size), times=3))
    stream = connection.open("Repeat", dialect.headers | channel.headers, request, is_whole=True)
    for number in range(3):
        assert channel.next_event() == f"asked for {number}"
        assert stream.read_envelope() == (0, EchoResponse(payload=bytes(size)).SerializeToString())
        channel.go_on()
    assert channel.next_event() == "closed"
    assert read(stream, dialect) == Outcome([], None, {})


def test_end_of_request_may_be_trailers(connection: Http2Connection, channel: Channel) -> None:
    stream = collect(connection, channel)
    stream.end({"some": "trailer"})
    assert channel.next_event() == "end"
    assert read(stream) == Outcome([b"anna"], None, {})


def test_client_that_waits_for_leave_to_send_gets_it(connection: Http2Connection) -> None:
    stream = connection.open("Echo", GRPC.headers | {"expect": "100-continue"})
    stream.wait_for_interim()
    stream.send(wrap("anna"))
    stream.end()
    assert read(stream) == Outcome([b"anna"], None, {})
    assert stream.interim == [100]


# How a call ends


CALLS = [
    (Dialect.CONNECT, "Collect"),
    (Dialect.CONNECT, "Repeat"),
    *[(dialect, method) for dialect in (GRPC, Dialect.GRPC_WEB) for method in ("Echo", "Collect", "Repeat")],
]
all_calls = pytest.mark.parametrize(
    ("dialect", "method"), CALLS, ids=[f"{dialect.name} {method}" for dialect, method in CALLS]
)


@all_calls
def test_metadata_stands_before_the_messages_and_behind_them(
    connection: Http2Connection, dialect: Dialect, method: str
) -> None:
    headers = dialect.headers | {"want-header": "first", "want-trailer": "last"}
    request = dialect.wrap(EchoRequest(payload=b"x", times=1))
    reply = connection.open(method, headers, request, is_whole=True).read_reply()
    assert reply.headers["wanted"] == "first"
    assert dialect.read(reply.body, reply.trailers) == Outcome([b"x"], None, {"wanted": "last"})


@all_calls
def test_error_before_the_first_message_has_metadata_too(
    connection: Http2Connection, dialect: Dialect, method: str
) -> None:
    headers = dialect.headers | {"want-header": "first", "want-trailer": "last"}
    request = dialect.wrap(EchoRequest(error="not_found"))
    reply = connection.open(method, headers, request, is_whole=True).read_reply()
    assert (reply.status, reply.headers["wanted"]) == (200, "first")
    assert dialect.read(reply.body, reply.trailers) == Outcome([], "not_found", {"wanted": "last"})


@all_dialects
def test_error_stands_behind_the_messages(connection: Http2Connection, dialect: Dialect) -> None:
    request = dialect.wrap(EchoRequest(payload=b"x", times=2, error="not_found"))
    stream = connection.open("Repeat", dialect.headers, request, is_whole=True)
    assert read(stream, dialect) == Outcome([b"x", b"x"], "not_found", {})


@pytest.mark.parametrize("method", ["Echo", "Collect", "Repeat", "Converse"])
@pytest.mark.parametrize("error", ["", "not_found"])
def test_response_with_trailers_has_no_length(connection: Http2Connection, method: str, error: str) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=1, error=error))
    reply = connection.open(method, GRPC.headers, request, is_whole=True).read_reply()
    assert "grpc-status" in reply.trailers
    assert "content-length" not in reply.headers


def test_unary_call_in_connect_is_an_exchange_of_bare_messages(connection: Http2Connection) -> None:
    message = EchoRequest(payload=b"x").SerializeToString()
    headers = {"content-type": "application/proto", "want-trailer": "last"}
    reply = connection.open("Echo", headers, message, is_whole=True).read_reply()
    assert (reply.status, reply.headers["trailer-wanted"]) == (200, "last")
    assert reply.body == EchoResponse(payload=b"x").SerializeToString()
    assert_serves(connection)


def test_bug_is_told_without_its_text(connection: Http2Connection) -> None:
    stream = connection.open("Echo", GRPC.headers, GRPC.wrap(EchoRequest(error="bug")), is_whole=True)
    reply = stream.read_reply()
    assert GRPC.read(reply.body, reply.trailers) == Outcome([], "internal", {})
    assert reply.trailers["grpc-message"] == "internal error"


# Clients that give up


@all_dialects
def test_generator_is_closed_when_client_resets_the_stream(
    http2_server: Http2Gunicorn, connection: Http2Connection, channel: Channel, dialect: Dialect
) -> None:
    stream = repeat(connection, channel, dialect)
    stream.reset()
    assert_closed(channel)
    assert_serves(connection)
    assert_logged_no_error(http2_server)


def test_generator_is_closed_when_client_resets_a_stream_whose_window_is_shut(
    http2_server: Http2Gunicorn, connection: Http2Connection, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=bytes(2 * WINDOW), times=-1))
    stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
    stream.read_head()
    stream.reset()
    assert_closed(channel)
    assert_serves(connection)
    assert_logged_no_error(http2_server)


@all_dialects
def test_handler_hears_of_client_that_resets_the_stream(
    http2_server: Http2Gunicorn, connection: Http2Connection, channel: Channel, dialect: Dialect
) -> None:
    stream = collect(connection, channel, dialect)
    stream.reset()
    assert channel.next_event() == "canceled"
    assert_serves(connection)
    assert_logged_no_error(http2_server)


@pytest.mark.parametrize("leave", ["close", "end", "reset"])
def test_generator_is_closed_when_client_leaves(
    http2_server: Http2Gunicorn, channel: Channel, leave: str
) -> None:
    with http2_server.connect_http2() as connection:
        repeat(connection, channel)
        getattr(connection, leave)()
        assert_closed(channel)
    assert http2_server.serves()
    assert_logged_no_error(http2_server)


@pytest.mark.parametrize("leave", ["close", "end", "reset"])
def test_generator_is_closed_when_client_leaves_while_window_is_shut(
    http2_server: Http2Gunicorn, channel: Channel, leave: str
) -> None:
    request = GRPC.wrap(EchoRequest(payload=bytes(2 * WINDOW), times=-1))
    with http2_server.connect_http2() as connection:
        stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
        stream.read_head()
        getattr(connection, leave)()
        assert_closed(channel)
    assert http2_server.serves()
    assert_logged_no_error(http2_server)


@pytest.mark.parametrize("leave", ["close", "end", "reset"])
def test_handler_hears_of_client_that_leaves(
    http2_server: Http2Gunicorn, channel: Channel, leave: str
) -> None:
    with http2_server.connect_http2() as connection:
        collect(connection, channel)
        getattr(connection, leave)()
        assert channel.next_event() == "canceled"
    assert http2_server.serves()
    assert_logged_no_error(http2_server)


NO_FRAME = bytes(9)
"""The head of a DATA frame that belongs to no stream."""


def test_generator_is_closed_when_client_talks_nonsense(
    http2_server: Http2Gunicorn, channel: Channel
) -> None:
    with http2_server.connect_http2() as connection:
        repeat(connection, channel)
        connection.send_raw(NO_FRAME)
        assert_closed(channel)
        connection.wait_for_end()
        assert connection.end_code == ErrorCodes.PROTOCOL_ERROR
    assert http2_server.serves()
    assert_logged_no_error(http2_server)


def test_handler_hears_of_client_that_talks_nonsense(http2_server: Http2Gunicorn, channel: Channel) -> None:
    with http2_server.connect_http2() as connection:
        collect(connection, channel)
        connection.send_raw(NO_FRAME)
        assert channel.next_event() == "invalid_argument"
        connection.wait_for_end()
        assert connection.end_code == ErrorCodes.PROTOCOL_ERROR
    assert http2_server.serves()
    assert_logged_no_error(http2_server)


def test_stream_goes_on_though_client_wants_no_further_one(
    http2_server: Http2Gunicorn, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=3))
    with http2_server.connect_http2() as connection:
        stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
        stream.read_head()
        connection.send_raw(GoAwayFrame(0).serialize())
        channel.go_on_to_the_end()
        assert read(stream) == Outcome([b"x"] * 3, None, {})
        connection.wait_for_end()
    assert http2_server.serves()


# Clients that are slow

TIMEOUT_MS = 150


def test_silent_client_is_answered_by_its_deadline(connection: Http2Connection) -> None:
    stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS), wrap("anna"))
    assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


@once_each
@pytest.mark.parametrize(
    ("method", "sent"),
    [
        pytest.param("Collect", b"", id="before the body"),
        pytest.param("Collect", wrap("anna")[:-1], id="in a message"),
        pytest.param("Repeat", wrap("anna"), id="server streaming"),
    ],
)
def test_client_that_is_silent_elsewhere_is_answered_by_its_deadline(
    connection: Http2Connection, method: str, sent: bytes
) -> None:
    stream = connection.open(method, GRPC.headers | GRPC.timeout(TIMEOUT_MS), sent)
    assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


@once_each
@other_dialects
def test_silent_client_is_answered_by_its_deadline_in_other_protocols(
    connection: Http2Connection, dialect: Dialect
) -> None:
    headers = dialect.headers | dialect.timeout(TIMEOUT_MS)
    stream = connection.open("Collect", headers, wrap("anna", dialect))
    assert read(stream, dialect) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


@once_each
def test_pings_do_not_put_off_the_deadline(connection: Http2Connection) -> None:
    stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS))
    for _ in drips(connection, stream):
        connection.ping(bytes(8))
    assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


@once_each
def test_dripping_client_is_answered_by_its_deadline(connection: Http2Connection) -> None:
    stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS), b"\0\0\1\0\0")
    for _ in drips(connection, stream):
        stream.send(b"\0")
    assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


@once_each
def test_client_that_sends_without_an_end_is_answered_by_its_deadline(connection: Http2Connection) -> None:
    stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS))
    for _ in drips(connection, stream, every=0):
        stream.send_what_fits(envelope(b"") * 3000)
    assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert_serves(connection)


def drips(connection: Http2Connection, stream: Stream, *, every: float = 0.01) -> Iterator[None]:
    """Yield time and again, until the stream is over."""
    end = monotonic() + PATIENCE
    while not stream.is_over:
        assert monotonic() < end, "the stream goes on"
        yield
        connection.receive_for(every)


START_OF_RECORD = b"\x17\x03\x03\x40\x00"
"""The head of a record of TLS, which has 16 KiB."""


@over_tls
def test_unfinished_tls_record_does_not_put_off_the_deadline(http2_server: Http2Gunicorn) -> None:
    with http2_server.connect_http2() as connection:
        stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS), wrap("anna"))
        connection.send_below_tls(START_OF_RECORD)
        assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert http2_server.serves()


@over_tls
def test_dripping_tls_record_does_not_put_off_the_deadline(http2_server: Http2Gunicorn) -> None:
    with http2_server.connect_http2() as connection:
        stream = connection.open("Collect", GRPC.headers | GRPC.timeout(TIMEOUT_MS), wrap("anna"))
        connection.send_below_tls(START_OF_RECORD)
        for _ in drips(connection, stream):
            connection.send_below_tls(b"\0")
        assert read(stream) == Outcome([], "deadline_exceeded", {})
    assert http2_server.serves()


@over_tls
def test_unfinished_tls_record_does_not_hold_messages_up(
    http2_server: Http2Gunicorn, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=3))
    with http2_server.connect_http2() as connection:
        stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
        assert channel.next_event() == "asked for 0"
        connection.send_below_tls(START_OF_RECORD)
        channel.go_on_to_the_end()
        assert read(stream) == Outcome([b"x"] * 3, None, {})
    assert http2_server.serves()


# A request that names this timeout has to have come through by then: it is small, whatever its response.
ENOUGH_MS = 400
SMALL = GRPC.headers | {"grpc-encoding": "gzip", "grpc-accept-encoding": "identity"} | GRPC.timeout(ENOUGH_MS)


def squeeze(request: EchoRequest) -> bytes:
    return envelope(gzip.compress(request.SerializeToString()), 1)


@once_each
def test_client_that_shuts_the_window_frees_the_thread_by_its_deadline(
    connection: Http2Connection, channel: Channel
) -> None:
    request = squeeze(EchoRequest(payload=bytes(2 * WINDOW), times=-1))
    stream = connection.open("Repeat", SMALL | channel.headers, request, is_whole=True)
    channel.go_on_to_the_end()
    assert "closed" in iter(channel.next_event, "")
    stream.wait_for_reset()
    assert_serves(connection)


@in_thread
def test_client_that_never_opens_a_window_frees_the_thread_by_its_deadline(
    http2_server: Http2Gunicorn,
) -> None:
    message = EchoRequest(payload=b"x").SerializeToString()
    headers = {"content-type": "application/proto"} | Dialect.CONNECT.timeout(ENOUGH_MS)
    with http2_server.connect_http2(window=0) as connection:
        stream = connection.open("Echo", headers, message, is_whole=True)
        stream.wait_for_reset()
    assert http2_server.serves()


@in_thread
def test_client_that_takes_its_window_back_frees_the_thread_by_its_deadline(
    http2_server: Http2Gunicorn, channel: Channel
) -> None:
    request = squeeze(EchoRequest(payload=bytes(WINDOW // 2), times=-1))
    with http2_server.connect_http2() as connection:
        connection.catch_up()  # its first settings are acknowledged
        stream = connection.open("Repeat", SMALL | channel.headers, request, is_whole=True)
        assert channel.next_event() == "asked for 0"
        connection.shrink_windows()
        channel.go_on_to_the_end()
        assert "closed" in iter(channel.next_event, "")
        stream.wait_for_reset()
    assert http2_server.serves()


@pytest.mark.parametrize(
    ("http2_server", "every"),
    [(("gthread", Tls.NOBODY), 0.01), (("gevent", Tls.SERVER), 0)],
    ids=["slowly", "fast"],
    indirect=["http2_server"],
)
def test_client_that_opens_the_window_byte_by_byte_frees_the_thread_by_its_deadline(
    connection: Http2Connection, every: float
) -> None:
    stream = connection.open("Echo", SMALL, squeeze(EchoRequest(payload=LARGE)), is_whole=True)
    for _ in drips(connection, stream, every=every):
        stream.open_window(1)
    assert stream.reset_code is not None
    assert_serves(connection)


@once_each
def test_client_that_does_not_read_frees_the_thread_by_its_deadline(
    http2_server: Http2Gunicorn, channel: Channel
) -> None:
    # A few responses are more than sockets buffer.
    request = squeeze(EchoRequest(payload=LARGE, times=-1))
    with http2_server.connect_http2(window=1 << 30, receive_buffer=4096) as connection:
        connection.open("Repeat", SMALL | channel.headers, request, is_whole=True)
        channel.go_on_to_the_end()
        assert "closed" in iter(channel.next_event, "")
        assert http2_server.serves()


# What is larger than the windows


@all_dialects
def test_large_message_reaches_the_handler(connection: Http2Connection, dialect: Dialect) -> None:
    request = dialect.wrap(EchoRequest(payload=LARGE, error="not_found"))
    stream = connection.open("Collect", dialect.headers, request, is_whole=True)
    assert read(stream, dialect) == Outcome([], "not_found", {})


@all_dialects
def test_large_messages_reach_the_client(connection: Http2Connection, dialect: Dialect) -> None:
    request = dialect.wrap(EchoRequest(payload=LARGE, times=2))
    stream = connection.open("Repeat", dialect.headers, request, is_whole=True)
    assert read(stream, dialect) == Outcome([LARGE, LARGE], None, {})


# Several streams on a connection


@all_dialects
def test_streams_follow_one_another(connection: Http2Connection, dialect: Dialect) -> None:
    for method in ("Collect", "Repeat") * 3:
        request = dialect.wrap(EchoRequest(payload=b"x", times=1))
        stream = connection.open(method, dialect.headers, request, is_whole=True)
        assert read(stream, dialect) == Outcome([b"x"], None, {})


def test_streams_that_come_together_are_served(connection: Http2Connection) -> None:
    with connection.one_packet():
        streams = [connection.open("Echo", GRPC.headers, wrap(name), is_whole=True) for name in NAMES]
    for name, stream in zip(NAMES, streams, strict=True):
        assert read(stream) == Outcome([name.encode()], None, {})


def test_stream_that_comes_while_another_is_read_is_served_after_it(
    connection: Http2Connection, channel: Channel
) -> None:
    first = collect(connection, channel)
    second = connection.open("Collect", GRPC.headers, wrap("second"))
    first.send(wrap("bert"))
    assert channel.next_event() == "got bert"
    second.send(wrap(", too"))
    second.end()
    first.end()
    assert read(first) == Outcome([b"annabert"], None, {})
    assert read(second) == Outcome([b"second, too"], None, {})


def test_stream_that_comes_while_another_is_answered_is_served_after_it(
    connection: Http2Connection, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=3))
    first = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
    first.read_head()
    second = connection.open("Collect", GRPC.headers, wrap("second"))
    channel.go_on_to_the_end()
    assert read(first) == Outcome([b"x"] * 3, None, {})
    second.end()
    assert read(second) == Outcome([b"second"], None, {})


def test_stream_that_comes_while_the_window_of_another_is_shut_is_served_after_it(
    connection: Http2Connection,
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x" * 2 * WINDOW))
    first = connection.open("Echo", GRPC.headers, request, is_whole=True)
    first.read_head()
    second = connection.open("Collect", GRPC.headers, wrap("second"))
    assert read(first) == Outcome([b"x" * 2 * WINDOW], None, {})
    second.end()
    assert read(second) == Outcome([b"second"], None, {})


def test_large_stream_that_waits_its_turn_does_not_hold_the_other_up(
    connection: Http2Connection, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x" * 3 * WINDOW))
    first = collect(connection, channel)
    second = connection.open("Echo", GRPC.headers, request[:WINDOW])
    first.send(wrap("bert"))
    assert channel.next_event() == "got bert"
    first.end()
    assert read(first) == Outcome([b"annabert"], None, {})
    second.send(request[WINDOW:])
    second.end()
    assert read(second) == Outcome([b"x" * 3 * WINDOW], None, {})


def test_stream_that_is_reset_before_its_turn_is_not_served(
    connection: Http2Connection, channel: Channel
) -> None:
    first = connection.open("Collect", GRPC.headers, wrap("anna"))
    second = connection.open("Echo", GRPC.headers | channel.headers, wrap("second"), is_whole=True)
    second.reset()
    first.end()
    assert read(first) == Outcome([b"anna"], None, {})
    assert_serves(connection)
    assert not channel.is_called()


@pytest.mark.parametrize("http2_server", [("gevent", Tls.NOBODY), ("gevent", Tls.SERVER)], indirect=True)
def test_connection_that_waits_does_not_hold_up_those_beside_it_in_its_worker(
    http2_server: Http2Gunicorn, connection: Http2Connection, channel: Channel
) -> None:
    headers = GRPC.headers | GRPC.timeout(60_000) | channel.headers
    stream = connection.open("Collect", headers, wrap("anna"))
    assert channel.next_event() == "called"
    assert channel.next_event() == "got anna"
    assert http2_server.serves()
    stream.end()
    assert read(stream) == Outcome([b"anna"], None, {})


def test_pings_are_answered_between_messages(connection: Http2Connection, channel: Channel) -> None:
    stream = repeat(connection, channel)
    for number in range(3):
        connection.ping(b"signal %d" % number)
    channel.go_on()
    connection.wait_for_pong(b"signal 2")
    stream.reset()
    assert_closed(channel)


# What is answered early


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [
        pytest.param("Converse", b"", "unimplemented", id="bidirectional"),
        pytest.param("Converse", bytes(WINDOW), "unimplemented", id="bidirectional, and a full window"),
        pytest.param(
            "Collect", b"\0" + (LIMIT + 1).to_bytes(4, "big"), "resource_exhausted", id="too large a message"
        ),
        pytest.param("Collect", envelope(b"", 4), "internal", id="unknown flag"),
        pytest.param("Repeat", wrap("anna") * 2, "unimplemented", id="two messages"),
    ],
)
def test_answer_that_comes_before_the_end_of_the_request_is_whole(
    connection: Http2Connection, method: str, sent: bytes, code: str
) -> None:
    stream = connection.open(method, GRPC.headers, sent)
    assert read(stream) == Outcome([], code, {})
    assert stream.wait_for_reset() == ErrorCodes.NO_ERROR
    assert_serves(connection)


@other_dialects
def test_answer_that_comes_before_the_end_of_the_request_is_whole_in_other_protocols(
    connection: Http2Connection, dialect: Dialect
) -> None:
    stream = connection.open("Converse", dialect.headers)
    assert read(stream, dialect) == Outcome([], "unimplemented", {})
    assert stream.wait_for_reset() == ErrorCodes.NO_ERROR
    assert_serves(connection)


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [("Unknown", "application/proto", 404), ("Unknown", GRPC.value, 200), ("Echo", "text/plain", 415)],
)
def test_what_is_no_call_is_answered_before_its_end(
    connection: Http2Connection, method: str, content_type: str, status: int
) -> None:
    stream = connection.open(method, {"content-type": content_type})
    assert stream.read_reply().status == status
    assert stream.wait_for_reset() == ErrorCodes.NO_ERROR
    assert_serves(connection)


def test_what_is_sent_to_calls_that_were_answered_costs_later_ones_no_window(
    connection: Http2Connection,
) -> None:
    for _ in range(3):
        stream = connection.open("Converse", GRPC.headers)
        assert stream.send_what_fits(bytes(WINDOW))
        assert read(stream) == Outcome([], "unimplemented", {})
        connection.catch_up()
    assert_serves_large_message(connection)


def test_what_is_sent_to_calls_that_are_being_answered_costs_later_ones_no_window(
    connection: Http2Connection,
) -> None:
    payload = b"x" * 2 * WINDOW
    request = GRPC.wrap(EchoRequest(payload=payload, is_last=True))
    for _ in range(3):
        stream = connection.open("Collect", GRPC.headers, request)
        stream.read_head()
        assert stream.send_what_fits(bytes(WINDOW))
        assert read(stream) == Outcome([payload], None, {})
        connection.catch_up()
    assert_serves_large_message(connection)


def assert_serves_large_message(connection: Http2Connection) -> None:
    payload = b"x" * 2 * WINDOW
    request = GRPC.wrap(EchoRequest(payload=payload))
    assert read(connection.open("Echo", GRPC.headers, request, is_whole=True)) == Outcome([payload], None, {})


# gRPC without HTTP/2


@over_tls
def test_grpc_over_http_1_is_refused_by_server_that_speaks_http_2(http2_server: Http2Gunicorn) -> None:
    assert_refuses_grpc(http2_server)


def test_grpc_is_refused_by_server_that_speaks_http_1(server: Gunicorn) -> None:
    assert_refuses_grpc(server)


def assert_refuses_grpc(server: Gunicorn) -> None:
    reply = server.call(post("Echo", GRPC.headers, wrap("anna")))
    assert (reply.status, reply.headers["content-type"]) == (501, "text/plain; charset=utf-8")
    assert b"HTTP/2" in reply.body
    assert "a gRPC request to /echo.v1.EchoService/Echo was refused" in server.new_output()
