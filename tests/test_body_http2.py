"""The body of a request under gunicorn's HTTP/2, and the response beside which its frames are read.

gunicorn's connection is the real one, over a pair of sockets; its client is h2.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from gunicorn.config import Config
from gunicorn.http2.connection import HTTP2ServerConnection
from gunicorn.http2.errors import HTTP2StreamError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    Event,
    InformationalResponseReceived,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes

from connect_sync import Code, ConnectError
from connect_sync.deadline import Deadline
from tests.support import Clock, error_of
from wsgi_adapters.body import SMALL_RESPONSE_BYTES, RequestBody
from wsgi_adapters.gunicorn import GunicornHttp2Body
from wsgi_adapters.servers import open_body

HEADERS = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "unit.test")]


MALFORMED = bytes([0, 0, 9, 6, 0, 0, 0, 0, 0]) + bytes(9)
"""A PING, which has 8 bytes, with 9."""


class Connection:
    """A connection to gunicorn, with a client at its other end that sends when it is told to."""

    def __init__(self) -> None:
        self.socket, server = socket.socketpair()
        # No test waits for long where nothing comes.
        self.socket.settimeout(10)
        self.server: Any = HTTP2ServerConnection(Config(), cast(Any, server), ("127.0.0.1", 5000))
        self.client = H2Connection(H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.flush()
        self.server.initiate_connection()

    def flush(self) -> None:
        """Send what the client has to say."""
        self.socket.sendall(self.client.data_to_send())

    def begin(self, stream_id: int = 1, *, ends: bool = False, **headers: str) -> None:
        """Send the head of a request."""
        self.client.send_headers(stream_id, [*HEADERS, *headers.items()], end_stream=ends)
        self.flush()

    def send(self, data: bytes, stream_id: int = 1, *, ends: bool = False) -> None:
        """Send a frame of a request's body."""
        self.client.send_data(stream_id, data, end_stream=ends)
        self.flush()

    def accept(self) -> Any:
        """Let gunicorn read until it has a request, and return the request."""
        while True:
            for request in self.server.receive_data():
                return request

    def receive(self) -> list[Event]:
        """Return what gunicorn has sent; at least a frame."""
        events = self.client.receive_data(self.socket.recv(1 << 20))
        self.flush()
        return events

    def close(self) -> None:
        self.socket.close()
        self.server.sock.close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    try:
        yield connection
    finally:
        connection.close()


def open_request(connection: Connection, **head: Any) -> tuple[Any, RequestBody]:
    """Send the head of a request, and return gunicorn's request with its body."""
    connection.begin(**head)
    request = connection.accept()
    return request, body_of(request)


def body_of(request: Any, **variables: str) -> RequestBody:
    environ = {"wsgi.input": request.body, "SERVER_PROTOCOL": "HTTP/2.0", **variables}
    return open_body(cast(Any, environ))


def code_of(body: RequestBody) -> Code | None:
    """Return the code of the error that the next read raises."""
    error = error_of(lambda: body.read(1))
    return None if error is None else error.code


# Reading


@pytest.mark.parametrize("variables", [{}, {"CONTENT_LENGTH": "3"}, {"CONTENT_LENGTH": ""}])
def test_http_2_of_gunicorn_is_recognised_by_its_input(
    connection: Connection, variables: dict[str, str]
) -> None:
    connection.begin()

    assert type(body_of(connection.accept(), **variables)) is GunicornHttp2Body


def test_data_is_handed_over_when_it_has_arrived(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.send(b"abc")
    assert body.read(100) == b"abc"
    connection.send(b"defg")
    assert body.read(2) == b"defg"

    assert (body.is_read, body.length) == (False, None)


def test_data_that_came_with_the_head_is_handed_over_frame_by_frame(connection: Connection) -> None:
    connection.client.send_headers(1, HEADERS)
    connection.client.send_data(1, b"abc")
    connection.client.send_data(1, b"de", end_stream=True)
    connection.flush()
    body = body_of(connection.accept())

    assert [body.read(100), body.read(100), body.read(100)] == [b"abc", b"de", b""]


@pytest.mark.parametrize("last", [b"", b"de"], ids=["empty frame", "frame with data"])
def test_body_ends_by_the_frame_that_says_so(connection: Connection, last: bytes) -> None:
    _, body = open_request(connection)
    connection.send(b"abc")
    connection.send(last, ends=True)

    assert b"".join(body) == b"abc" + last
    assert (body.is_read, body.read(1)) == (True, b"")


def test_body_ends_by_trailers(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.send(b"abc")
    connection.client.send_headers(1, [("a", "1")], end_stream=True)
    connection.flush()

    assert b"".join(body) == b"abc"
    assert body.is_read


def test_request_without_a_body_has_an_empty_one(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)

    assert (body.read(1), body.is_read) == (b"", True)


def test_empty_frame_is_no_end(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.send(b"")
    connection.send(b"abc")

    assert body.read(1) == b"abc"


def test_body_larger_than_the_window_is_read(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.receive()
    sent = received = 0
    while received < 200_000:
        size = min(connection.client.local_flow_control_window(1), 16_384, 200_000 - sent)
        if size:
            connection.send(bytes(size), ends=sent + size == 200_000)
            sent += size
        else:
            assert any(isinstance(event, WindowUpdated) for event in connection.receive())
        received += len(body.read(1)) if received < sent else 0

    assert (body.read(1), body.is_read) == (b"", True)


@pytest.mark.parametrize("timeout_ms", [None, 10_000], ids=["without a deadline", "within a deadline"])
@pytest.mark.parametrize("is_deferred", [False, True], ids=["arriving", "read before"])
def test_request_is_kept_that_comes_with_the_reset_of_one_that_waits(
    connection: Connection, timeout_ms: int | None, is_deferred: bool
) -> None:
    _, body = open_request(connection)
    if timeout_ms is not None:
        body.set_deadline(Deadline(timeout_ms))
    connection.begin(3, ends=True)
    connection.send(b"a")
    assert body.read(1) == b"a"
    connection.client.reset_stream(3)
    connection.client.send_headers(5, HEADERS, end_stream=True)
    connection.client.send_data(1, b"b")
    connection.flush()
    if is_deferred:
        # As gunicorn does while it waits for the client to open its window.
        data = connection.server.sock.recv(1 << 16)
        connection.server._deferred_events.extend(connection.server.h2_conn.receive_data(data))

    assert body.read(1) == b"b"
    assert [request.stream.stream_id for request in connection.server.receive_data()] == [5]


@pytest.mark.parametrize(("read", "rest"), [(0, b"abcdefghi"), (2, b"cdefghi"), (4, b"efghi"), (9, b"")])
def test_what_a_middleware_has_read_ahead_is_read_first(
    connection: Connection, read: int, rest: bytes
) -> None:
    connection.begin()
    request = connection.accept()
    for frame in (b"abc", b"def", b"ghi"):
        connection.send(frame, ends=frame == b"ghi")
    request.body.read(read)

    assert b"".join(body_of(request)) == rest


def test_line_that_a_middleware_has_peeked_at_is_read_first(connection: Connection) -> None:
    connection.begin()
    request = connection.accept()
    connection.send(b"a\nbc", ends=True)
    request.body.readline()
    body = body_of(request)

    assert (body.is_read, body.read(100), body.read(100)) == (False, b"bc", b"")


def test_request_that_arrives_while_a_body_is_waited_for_is_kept(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.begin(3, ends=True)
    connection.send(b"abc")

    assert body.read(1) == b"abc"
    assert [request.stream.stream_id for request in connection.server.receive_data()] == [3]


def test_data_of_other_requests_is_none_of_the_body(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.begin(3)
    other = body_of(connection.accept())
    connection.send(b"other", 3)
    connection.send(b"abc")

    assert (body.read(1), other.read(1)) == (b"abc", b"other")


def test_client_that_waits_for_it_is_told_to_continue(connection: Connection) -> None:
    _, body = open_request(connection, expect="100-continue")
    # Before anybody reads, it waits.
    assert not any(isinstance(event, InformationalResponseReceived) for event in connection.receive())
    connection.send(b"abc")
    body.read(1)
    (event,) = (event for event in connection.receive() if isinstance(event, InformationalResponseReceived))

    assert (b":status", b"100") in cast(Any, event.headers)


def test_client_is_told_to_continue_only_once(connection: Connection) -> None:
    _, body = open_request(connection, expect="100-continue")
    for frame in (b"abc", b"def"):
        connection.send(frame)
        body.read(1)
    events = connection.receive()

    assert len([event for event in events if isinstance(event, InformationalResponseReceived)]) == 1


# A body that breaks off


def test_data_before_a_reset_is_read_and_then_it_is_an_error(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.send(b"abc")
    connection.client.reset_stream(1, error_code=8)
    connection.flush()

    assert body.read(1) == b"abc"
    assert code_of(body) is Code.CANCELED
    assert not body.is_read


def test_reset_of_another_stream_is_no_error(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.begin(3)
    connection.client.reset_stream(3, error_code=8)
    connection.send(b"abc", ends=True)

    assert b"".join(body) == b"abc"


def test_connection_that_is_closed_ends_the_body_by_an_error(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.socket.close()

    assert code_of(body) is Code.CANCELED


def test_connection_that_is_given_up_ends_the_body_by_an_error(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.client.close_connection(error_code=1)
    connection.flush()

    assert code_of(body) is Code.CANCELED


def test_data_that_can_no_longer_be_acknowledged_ends_the_body_by_an_error(connection: Connection) -> None:
    connection.client.send_headers(1, HEADERS)
    connection.client.send_data(1, b"abc")
    connection.flush()
    body = body_of(connection.accept())
    connection.socket.close()

    assert code_of(body) is Code.CANCELED


def test_bytes_that_are_no_http_2_end_the_body_by_an_error(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.socket.sendall(MALFORMED)

    with pytest.raises(ConnectError) as caught:
        body.read(1)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert type(caught.value.__cause__).__module__ == "gunicorn.http2.errors"


def test_stream_that_is_silent_for_as_long_as_gunicorn_waits_is_an_error(connection: Connection) -> None:
    connection.server.stream_timeout = 0.01
    _, body = open_request(connection)

    assert code_of(body) is Code.CANCELED
    assert any(isinstance(event, StreamReset) for event in connection.receive())


# The deadline


def test_wait_for_data_ends_at_the_deadline(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    _, body = open_request(connection)
    body.set_deadline(Deadline(10))

    assert code_of(body) is Code.DEADLINE_EXCEEDED


def test_data_that_arrives_in_time_is_read(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    _, body = open_request(connection)
    body.set_deadline(Deadline(10_000))
    connection.send(b"abc", ends=True)

    assert b"".join(body) == b"abc"


def test_nothing_is_received_past_the_deadline(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    _, body = open_request(connection)
    body.set_deadline(Deadline(10_000))
    connection.send(b"abc")
    clock.advance_ms(10_001)

    assert code_of(body) is Code.DEADLINE_EXCEEDED


def test_stream_goes_on_when_a_deadline_has_passed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    request, body = open_request(connection)
    body.set_deadline(Deadline(10))
    error_of(lambda: body.read(1))

    assert not request.stream.disconnected
    assert connection.server.send_response_headers(1, 200, [])


def test_frames_that_gunicorn_has_set_aside_are_not_waited_for(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    connection.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    _, body = open_request(connection)
    connection.send(b"abc")
    connection.client.increment_flow_control_window(10, stream_id=1)
    connection.flush()
    # More than the client's window: gunicorn reads frames until it may go on, and keeps those of the body.
    connection.server.send_response_headers(1, 200, [])
    assert connection.server.send_data(1, bytes(20))
    body.set_deadline(Deadline(10))

    assert body.read(1) == b"abc"


# The response


class Chunks:
    """The chunks of a response, which keep how many were asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.count += 1
            yield chunk


def test_chunks_of_the_response_are_given_in_order(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)

    assert list(body.wrap_response(Chunks(b"a", b"b", b"c"))) == [b"a", b"b", b"c"]


def test_chunk_is_not_asked_for_before_the_one_before_it_was_sent(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    chunks = Chunks(b"a", b"b")
    response = body.wrap_response(chunks)

    assert (next(response), chunks.count) == (b"a", 1)


def test_reset_by_the_client_ends_the_response(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    chunks = Chunks(b"a", b"b")
    response = body.wrap_response(chunks)
    next(response)
    connection.client.reset_stream(1, error_code=8)
    connection.flush()

    # What gunicorn takes for a client that has left, and does not log as an error.
    with pytest.raises(HTTP2StreamError):
        next(response)
    assert chunks.count == 1


def test_reset_behind_the_last_chunk_is_heard(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    response = body.wrap_response(Chunks(b"a"))
    next(response)
    connection.client.reset_stream(1, error_code=8)
    connection.flush()

    with pytest.raises(HTTP2StreamError):
        next(response)


def test_connection_that_is_closed_ends_the_response(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    response = body.wrap_response(Chunks(b"a", b"b"))
    next(response)
    connection.socket.close()

    with pytest.raises(HTTP2StreamError):
        next(response)


def test_frames_that_are_malformed_end_the_response(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    response = body.wrap_response(Chunks(b"a", b"b"))
    next(response)
    connection.socket.sendall(MALFORMED)

    with pytest.raises(HTTP2StreamError):
        next(response)


def test_reset_of_another_stream_leaves_the_response(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    response = body.wrap_response(Chunks(b"a", b"b"))
    next(response)
    connection.begin(3)
    connection.client.reset_stream(3, error_code=8)
    connection.flush()

    assert list(response) == [b"b"]


def test_request_that_arrives_beside_a_response_is_kept(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    response = body.wrap_response(Chunks(b"a", b"b"))
    next(response)
    connection.begin(3, ends=True)

    assert list(response) == [b"b"]
    assert [request.stream.stream_id for request in connection.server.receive_data()] == [3]


def test_response_does_not_wait_for_a_client_that_says_nothing(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.server.sock.settimeout(0.01)
    connection.server.stream_timeout = 0.01

    assert list(body.wrap_response(Chunks(b"a", b"b"))) == [b"a", b"b"]


def test_response_of_a_stream_that_has_gone_is_not_begun(connection: Connection) -> None:
    _, body = open_request(connection)
    connection.client.reset_stream(1, error_code=8)
    connection.flush()
    assert code_of(body) is Code.CANCELED
    chunks = Chunks(b"a")

    with pytest.raises(HTTP2StreamError):
        next(body.wrap_response(chunks))
    assert chunks.count == 0


# The end of a response that is earlier than that of its request


def test_end_of_the_request_that_is_on_its_way_is_awaited(connection: Connection) -> None:
    _, body = open_request(connection)
    response = body.wrap_response(Chunks(b"a"))
    next(response)
    connection.send(b"late", ends=True)

    assert list(response) == []
    assert body.is_read


def test_request_of_announced_length_is_not_awaited(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_adapters.gunicorn._HTTP2_END_MS", 10_000)
    connection.begin()
    body = body_of(connection.accept(), CONTENT_LENGTH="9")
    connection.send(b"late")

    assert list(body.wrap_response(Chunks(b"a"))) == [b"a"]
    assert (body.length, body.is_read) == (9, False)


def test_request_that_does_not_end_is_not_awaited_for_long(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_adapters.gunicorn._HTTP2_END_MS", 10)
    _, body = open_request(connection)

    assert list(body.wrap_response(Chunks(b"a"))) == [b"a"]
    assert not body.is_read


def test_request_that_goes_on_is_awaited_up_to_a_size(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_adapters.gunicorn._HTTP2_END_MS", 10_000)
    monkeypatch.setattr("wsgi_adapters.body.DRAIN_MAX_BYTES", 3)
    _, body = open_request(connection)
    connection.send(b"abc")

    assert list(body.wrap_response(Chunks(b"a"))) == [b"a"]
    assert not body.is_read


def test_reset_while_the_end_of_the_request_is_awaited_ends_the_response(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_adapters.gunicorn._HTTP2_END_MS", 10_000)
    _, body = open_request(connection)
    response = body.wrap_response(Chunks())
    connection.client.reset_stream(1, error_code=8)
    connection.flush()

    with pytest.raises(HTTP2StreamError):
        next(response)


# Small responses, which are left to gunicorn


def test_request_that_has_ended_leaves_nothing_but_a_small_response(connection: Connection) -> None:
    _, body = open_request(connection)
    assert not body.needs_no_close_after(10)
    connection.send(b"abc", ends=True)
    assert (body.read(100), body.is_read) == (b"abc", True)

    assert body.needs_no_close_after(10)
    assert not body.needs_no_close_after(SMALL_RESPONSE_BYTES + 1)


@pytest.mark.parametrize("room", [0, 9, 10])
def test_response_is_left_to_gunicorn_if_the_client_has_room_for_it(
    connection: Connection, room: int
) -> None:
    connection.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: room})
    _, body = open_request(connection, ends=True)
    body.read(1)

    assert body.needs_no_close_after(10) is (room == 10)


def test_response_to_a_client_that_has_left_is_not_left_to_gunicorn(connection: Connection) -> None:
    request, body = open_request(connection, ends=True)
    body.read(1)
    connection.client.reset_stream(1, error_code=8)
    connection.flush()
    connection.server.receive_data(connection.server.sock.recv(1 << 16))

    assert request.stream.disconnected
    assert not body.needs_no_close_after(10)


def test_response_is_not_left_to_gunicorn_before_the_frames_that_it_has_set_aside(
    connection: Connection,
) -> None:
    _, body = open_request(connection, ends=True)
    body.read(1)
    connection.client.reset_stream(1, error_code=8)
    connection.flush()
    data = connection.server.sock.recv(1 << 16)
    connection.server._deferred_events.extend(connection.server.h2_conn.receive_data(data))

    assert not body.needs_no_close_after(10)


def test_deadline_of_a_call_leaves_nothing_to_what_is_served_next(connection: Connection) -> None:
    _, body = open_request(connection, ends=True)
    body.set_deadline(Deadline(10))
    body.read(1)

    assert body.needs_no_close_after(10)
    assert connection.server.sock.gettimeout() == connection.server.stream_timeout


# How long gunicorn may wait for its client


def test_sends_wait_as_long_as_gunicorn_has_it_without_a_deadline(connection: Connection) -> None:
    connection.begin(ends=True)
    request = connection.accept()
    # What gunicorn leaves between two requests.
    connection.server.sock.settimeout(2)
    next(body_of(request).wrap_response(Chunks(b"a")))

    assert connection.server.sock.gettimeout() == connection.server.stream_timeout == Config().timeout


def test_sends_are_bounded_by_the_deadline_and_a_moment_for_its_error(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    _, body = open_request(connection, ends=True)
    body.set_deadline(Deadline(1500))
    clock.advance_ms(500)
    next(body.wrap_response(Chunks(b"a")))

    assert connection.server.sock.gettimeout() == pytest.approx(2.0)


def test_chunk_is_cut_to_what_the_client_makes_room_for(connection: Connection) -> None:
    connection.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2})
    _, body = open_request(connection, ends=True)
    body.set_deadline(Deadline(10_000))
    response = body.wrap_response(Chunks(b"abc"))
    connection.server.send_response_headers(1, 200, [])

    piece = next(response)
    connection.server.send_data(1, piece)
    connection.client.increment_flow_control_window(5, stream_id=1)
    connection.flush()

    assert (piece, list(response)) == (b"ab", [b"c"])


def test_client_that_makes_no_room_is_given_up_at_the_deadline(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_adapters.gunicorn.SEND_GRACE_MS", 0)
    connection.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    _, body = open_request(connection, ends=True)
    body.set_deadline(Deadline(10))

    with pytest.raises(HTTP2StreamError):
        next(body.wrap_response(Chunks(b"abc")))


@pytest.mark.parametrize("own", [30, None])
def test_socket_is_given_back_as_it_was(connection: Connection, own: float | None) -> None:
    connection.server.sock.settimeout(own)
    connection.begin(ends=True)
    (request,) = connection.server.receive_data(connection.server.sock.recv(1 << 16))
    body = body_of(request)
    body.set_deadline(Deadline(1500))
    next(body.wrap_response(Chunks(b"a", b"b")))
    body.close()
    body.close()

    assert connection.server.sock.gettimeout() == own


def test_unread_body_is_not_read_when_it_is_closed(connection: Connection) -> None:
    request, body = open_request(connection)
    connection.send(b"abc")
    body.close()

    assert request.stream.body_size == 0


@pytest.mark.parametrize("read", [1, 3])
def test_body_that_a_middleware_has_read_is_not_taken_for_a_shorter_one(
    connection: Connection, read: int
) -> None:
    connection.client.send_headers(1, [*HEADERS, ("content-length", "3")])
    connection.flush()
    request = connection.accept()
    connection.send(b"abc", ends=True)
    request.body.read(read)
    body = body_of(request, CONTENT_LENGTH="3")

    error = error_of(lambda: list(body))
    assert error is not None
    assert error.code is Code.INTERNAL
