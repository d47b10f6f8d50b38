"""The body of a WSGI request, from servers of each family.

The servers are not there, but gunicorn's parser is: it reads from a socket that follows a script.
"""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from connect_sync import Code, ConnectError
from connect_sync.deadline import Deadline
from connect_sync.http import READ_SIZE
from tests.support import Clock
from wsgi_adapters.body import (
    DRAIN_MAX_BYTES,
    DRAIN_SILENCE_MS,
    ChunkedBody,
    EmptyBody,
    LengthBody,
    Peer,
    RequestBody,
    TerminatedBody,
    UnreadableBody,
    UwsgiChunkedBody,
    is_closed_by_peer,
)
from wsgi_adapters.gunicorn import GunicornBody
from wsgi_adapters.servers import open_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Input:
    """A ``wsgi.input`` that gives what its script says, and keeps the sizes that it is asked for."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.sizes: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.sizes.append(size)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        assert len(piece) <= size
        return piece


def environ_of(stream: object, **variables: Any) -> WSGIEnvironment:
    names = {name.replace("wsgi_", "wsgi."): value for name, value in variables.items()}
    return {"wsgi.input": stream, "SERVER_PROTOCOL": "HTTP/1.1", **names}


# Which body it is


@pytest.mark.parametrize(
    ("variables", "body_class"),
    [
        ({"CONTENT_LENGTH": "3"}, LengthBody),
        ({"CONTENT_LENGTH": "0"}, LengthBody),
        ({"CONTENT_LENGTH": "3", "wsgi_input_terminated": True}, LengthBody),
        ({"CONTENT_LENGTH": "", "wsgi_input_terminated": True}, TerminatedBody),
        ({"wsgi_input_terminated": True}, TerminatedBody),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi_input_terminated": True}, TerminatedBody),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, UnreadableBody),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, UnreadableBody),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi_input_terminated": False}, UnreadableBody),
        ({}, EmptyBody),
        ({"CONTENT_LENGTH": ""}, EmptyBody),
        ({"CONTENT_LENGTH": "-1"}, EmptyBody),
        ({"CONTENT_LENGTH": "x"}, EmptyBody),
        ({"CONTENT_LENGTH": "1.5"}, EmptyBody),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, EmptyBody),
        ({"SERVER_PROTOCOL": "HTTP/2"}, TerminatedBody),
        ({"SERVER_PROTOCOL": "HTTP/2.0"}, TerminatedBody),
        ({"SERVER_PROTOCOL": "HTTP/3"}, TerminatedBody),
        ({"SERVER_PROTOCOL": "HTTP/2", "CONTENT_LENGTH": ""}, TerminatedBody),
        ({"SERVER_PROTOCOL": "HTTP/2", "CONTENT_LENGTH": "3"}, LengthBody),
    ],
)
def test_body_is_that_of_its_server(variables: dict[str, Any], body_class: type[RequestBody]) -> None:
    assert type(open_body(environ_of(Input(), **variables))) is body_class


@pytest.mark.parametrize(("length", "expected"), [("0", 0), ("3", 3), ("003", 3), ("9" * 18, 10**18 - 1)])
def test_length_is_what_the_server_says(length: str, expected: int) -> None:
    assert open_body(environ_of(Input(), CONTENT_LENGTH=length)).length == expected


@pytest.mark.parametrize("digits", [19, 30, 5000])
def test_length_that_no_body_can_have_is_past_every_limit(digits: int) -> None:
    assert open_body(environ_of(Input(), CONTENT_LENGTH="9" * digits)).length == sys.maxsize


# No body


def test_no_body_is_read_and_empty() -> None:
    body = EmptyBody()

    assert (body.read(10), body.is_read, body.length) == (b"", True, 0)


# A body of known length


def test_body_of_known_length_is_read_exactly() -> None:
    stream = Input(b"abc", b"de")
    body = LengthBody(stream, 5)

    assert [body.read(3), body.read(100), body.read(100)] == [b"abc", b"de", b""]
    assert stream.sizes == [3, 2]


def test_body_of_known_length_may_come_in_less_than_was_asked_for() -> None:
    stream = Input(b"a", b"bc")
    body = LengthBody(stream, 3)

    assert [body.read(3), body.read(3)] == [b"a", b"bc"]
    assert stream.sizes == [3, 2]


@pytest.mark.parametrize(("read", "is_read"), [(0, False), (2, False), (3, True)])
def test_body_of_known_length_knows_whether_it_was_read(read: int, is_read: bool) -> None:
    body = LengthBody(Input(b"abc"[:read]), 3)
    if read:
        body.read(read)

    assert body.is_read is is_read


def test_body_of_length_zero_is_read_from_the_beginning() -> None:
    stream = Input()
    body = LengthBody(stream, 0)

    assert (body.is_read, body.read(10), stream.sizes) == (True, b"", [])


def test_body_that_ends_before_its_length_is_an_error() -> None:
    body = LengthBody(Input(b"ab"), 3)
    body.read(3)

    with pytest.raises(ConnectError) as caught:
        body.read(3)
    assert caught.value.code is Code.CANCELED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), Code.CANCELED),
        (ConnectionResetError(), Code.CANCELED),
        (OSError("request data read error"), Code.CANCELED),
        (ValueError("some server's own"), Code.INVALID_ARGUMENT),
    ],
)
@pytest.mark.parametrize(
    "make", [lambda stream: LengthBody(stream, 3), TerminatedBody], ids=["length", "terminated"]
)
def test_error_of_the_server_ends_the_body(make: Any, error: Exception, code: Code) -> None:
    with pytest.raises(ConnectError) as caught:
        make(Input(error)).read(3)
    assert caught.value.code is code
    assert caught.value.__cause__ is error


# A body that the server ends


def test_terminated_body_is_read_to_its_end() -> None:
    body = TerminatedBody(Input(b"abc", b"de"))

    assert [body.read(3), body.read(3), body.read(3)] == [b"abc", b"de", b""]


def test_terminated_body_is_read_exactly() -> None:
    stream = Input(b"abc")
    TerminatedBody(stream).read(3)

    assert stream.sizes == [3]


def test_terminated_body_is_not_read_beyond_its_end() -> None:
    stream = Input()
    body = TerminatedBody(stream)
    body.read(3)
    body.read(3)

    assert (body.is_read, stream.sizes) == (True, [3])


def test_terminated_body_of_which_data_was_read_may_go_on() -> None:
    body = TerminatedBody(Input(b"abc"))
    body.read(3)

    assert (body.is_read, body.length) == (False, None)


# A body that the server does not pass on


def test_unreadable_body_is_unimplemented_and_says_why() -> None:
    with pytest.raises(ConnectError, match="without Content-Length") as caught:
        UnreadableBody().read(3)
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "body", [EmptyBody(), LengthBody(Input(), 3), TerminatedBody(Input()), UnreadableBody()]
)
def test_body_without_a_socket_is_neither_bounded_nor_closed(body: RequestBody) -> None:
    body.set_deadline(Deadline(0))
    body.wrap_response(())
    body.close()


# gunicorn


class Socket:
    """The part of a socket that gunicorn receives with, which gives what its script says."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.timeout: float | None = 30.0
        self.timeouts: list[float | None] = []
        self.recv_count = 0

    def recv(self, size: int) -> bytes:
        self.recv_count += 1
        self.timeouts.append(self.timeout)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    @property
    def remaining(self) -> list[bytes | Exception]:
        return self._pieces


class Connection:
    """A connection to gunicorn, and the body of its first request as gunicorn gives it to an application."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        head = f"POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n".encode()
        self.socket = Socket(head, *pieces)
        self.parser: Any = RequestParser(Config(), cast(Any, self.socket), ("127.0.0.1", 5000))
        self.input: Any = next(self.parser).body
        self.body = open_body(
            environ_of(
                self.input,
                wsgi_input_terminated=True,
                **(
                    {"HTTP_TRANSFER_ENCODING": "chunked"}
                    if length is None
                    else {"CONTENT_LENGTH": str(length)}
                ),
            )
        )

    def says_that_it_closes(self) -> bool:
        """Tell whether the head of a response that gunicorn begins now would say so."""
        return bool(self.parser.mesg.should_close())

    def can_go_on(self) -> bool:
        """Tell whether gunicorn finds its place for the next request."""
        self.socket.remaining.append(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n")
        try:
            return bool(next(self.parser).path == "/next")
        except (OSError, StopIteration):
            return False


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


def test_gunicorn_is_recognised_by_its_input() -> None:
    assert type(Connection(length=0).body) is GunicornBody


def test_request_without_body_is_read_under_gunicorn() -> None:
    connection = Connection(length=0)
    body = open_body(environ_of(connection.input, wsgi_input_terminated=True))

    assert (body.is_read, body.read(10), connection.socket.recv_count) == (True, b"", 1)


def test_chunk_is_handed_over_when_it_has_arrived() -> None:
    connection = Connection(chunk(b"abc"), chunk(b"d"), LAST)

    assert connection.body.read(5) == b"abc"
    assert connection.socket.remaining == [chunk(b"d"), LAST]


def test_chunks_are_read_to_their_end() -> None:
    connection = Connection(chunk(b"abc") + chunk(b"d"), LAST)

    assert b"".join(connection.body) == b"abcd"
    assert (connection.body.is_read, connection.body.length) == (True, None)
    assert connection.can_go_on()


def test_piece_of_a_chunk_is_handed_over_when_it_has_arrived() -> None:
    connection = Connection(b"5\r\nab", b"cde\r\n", LAST)

    assert connection.body.read(5) == b"ab"
    assert connection.body.read(3) == b"cde"


def test_size_of_a_chunk_without_its_data_is_no_end() -> None:
    connection = Connection(b"3\r\n", b"abc\r\n", LAST)

    assert connection.body.read(5) == b"abc"


def test_what_a_middleware_has_read_ahead_of_chunks_is_read_first() -> None:
    connection = Connection(chunk(b"abcdef") + chunk(b"ghi"), LAST)
    connection.input.readline(2)
    body = open_body(environ_of(connection.input, HTTP_TRANSFER_ENCODING="chunked"))

    assert b"".join(body) == b"cdefghi"


@pytest.mark.parametrize("data", [b"abcdef\nghi", b"abcdef\n" + b"x" * 3000])
def test_what_is_left_of_chunks_behind_a_line_is_read(data: bytes) -> None:
    connection = Connection(chunk(data), LAST)
    assert connection.input.readline() == b"abcdef\n"
    body = open_body(environ_of(connection.input, HTTP_TRANSFER_ENCODING="chunked"))

    assert b"".join(body) == data.removeprefix(b"abcdef\n")


@pytest.mark.parametrize("announced", ["4", "0"])
def test_what_a_middleware_leaves_of_a_body_of_known_length_is_read(announced: str) -> None:
    connection = Connection(b"abcdefg", length=7)
    connection.input.read(3)
    body = open_body(environ_of(connection.input, CONTENT_LENGTH=announced))

    assert (body.length, b"".join(body)) == (4, b"defg")


@pytest.mark.parametrize("read", [1, 3, -1])
def test_body_of_known_length_that_a_middleware_has_read_is_not_taken_for_an_empty_one(read: int) -> None:
    connection = Connection(b"abc", length=3)
    connection.input.read(read)
    body = open_body(environ_of(connection.input, CONTENT_LENGTH="3"))

    with pytest.raises(ConnectError, match="middleware") as caught:
        body.read(5)
    assert caught.value.code is Code.INTERNAL


def test_chunks_that_a_middleware_has_read_to_their_end_are_not_taken_for_an_empty_body() -> None:
    connection = Connection(chunk(b"abc"), LAST)
    connection.input.read()
    body = open_body(environ_of(connection.input, HTTP_TRANSFER_ENCODING="chunked"))

    with pytest.raises(ConnectError, match="middleware") as caught:
        body.read(5)
    assert caught.value.code is Code.INTERNAL


def test_body_of_known_length_is_read_exactly_under_gunicorn() -> None:
    connection = Connection(b"abc", b"de", length=5)

    assert connection.body.read(3) == b"abc"
    assert connection.socket.remaining == [b"de"]
    assert connection.body.read(100) == b"de"
    assert (connection.body.read(1), connection.body.is_read, connection.body.length) == (b"", True, 5)


@pytest.mark.parametrize(
    ("pieces", "length", "code"),
    [
        ((), None, Code.CANCELED),
        ((chunk(b"abc"),), None, Code.CANCELED),
        ((b"5\r\nab",), None, Code.CANCELED),
        ((b"x\r\nab",), None, Code.INVALID_ARGUMENT),
        ((b"3\r\nabcd\r\n",), None, Code.INVALID_ARGUMENT),
        ((ConnectionResetError(),), None, Code.CANCELED),
        ((), 3, Code.CANCELED),
        ((b"a",), 3, Code.CANCELED),
        ((ConnectionResetError(),), 3, Code.CANCELED),
    ],
)
def test_body_that_breaks_off_under_gunicorn_is_an_error_and_ends_the_connection(
    pieces: tuple[bytes | Exception, ...], length: int | None, code: Code
) -> None:
    connection = Connection(*pieces, length=length)

    with pytest.raises(ConnectError) as caught:
        list(connection.body)
    assert caught.value.code is code
    assert connection.body.is_read
    assert not connection.can_go_on()


BOTH = pytest.mark.parametrize("length", [None, 3], ids=["chunked", "length"])


@BOTH
def test_receive_is_bounded_by_the_deadline(length: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    connection = Connection(chunk(b"abc") + LAST if length is None else b"abc", length=length)
    connection.body.set_deadline(Deadline(1500))
    clock.advance_ms(500)
    connection.body.read(3)

    assert connection.socket.timeouts[1] == pytest.approx(1.0)


@BOTH
@pytest.mark.parametrize("how", ["silent", "late"])
def test_body_that_does_not_arrive_in_time_is_deadline_exceeded(
    length: int | None, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    connection = Connection(TimeoutError(), length=length)
    connection.body.set_deadline(Deadline(1500))
    if how == "late":
        clock.advance_ms(1501)

    with pytest.raises(ConnectError) as caught:
        connection.body.read(3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert connection.socket.recv_count == (2 if how == "silent" else 1)


def test_chunks_that_do_not_arrive_in_time_end_the_connection() -> None:
    connection = Connection(chunk(b"abc"), TimeoutError(), LAST)
    connection.body.set_deadline(Deadline(1500))
    connection.body.read(3)
    with pytest.raises(ConnectError):
        connection.body.read(3)

    assert connection.says_that_it_closes()
    connection.body.close()
    assert not connection.can_go_on()


def test_body_of_known_length_may_end_behind_its_deadline() -> None:
    connection = Connection(b"a", TimeoutError(), b"bc", length=3)
    connection.body.set_deadline(Deadline(1500))
    connection.body.read(1)
    with pytest.raises(ConnectError):
        connection.body.read(2)

    assert not connection.says_that_it_closes()
    connection.body.close()
    assert connection.can_go_on()


@BOTH
def test_socket_is_given_back_as_it_was_when_the_body_has_ended(length: int | None) -> None:
    connection = Connection(chunk(b"abc") + LAST if length is None else b"abc", length=length)
    connection.body.set_deadline(Deadline(1500))
    list(connection.body)

    assert connection.parser.unreader.sock is connection.socket
    assert connection.socket.timeout == 30.0


@BOTH
def test_socket_is_given_back_as_it_was_when_the_deadline_has_passed(length: int | None) -> None:
    connection = Connection(TimeoutError(), length=length)
    connection.body.set_deadline(Deadline(1500))
    with pytest.raises(ConnectError):
        connection.body.read(3)
    connection.body.close()

    assert connection.parser.unreader.sock is connection.socket
    assert connection.socket.timeout == 30.0


def test_deadline_behind_the_end_of_the_body_leaves_the_socket_alone() -> None:
    connection = Connection(length=0)
    connection.body.set_deadline(Deadline(1500))

    assert connection.parser.unreader.sock is connection.socket
    assert connection.socket.timeout == 30.0


def test_deadline_may_be_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    connection = Connection(chunk(b"abc"), LAST)
    connection.body.set_deadline(Deadline(1000))
    connection.body.set_deadline(Deadline(5000))
    connection.body.read(3)

    assert connection.socket.timeouts[1] == pytest.approx(5.0)


# What is left of a body when the response is done


@BOTH
def test_rest_of_the_body_is_read_so_that_the_connection_can_go_on(length: int | None) -> None:
    connection = Connection(*([chunk(b"abc"), LAST] if length is None else [b"a", b"bc"]), length=length)
    connection.body.close()

    assert (connection.body.is_read, connection.socket.remaining) == (True, [])
    assert connection.socket.timeout == 30.0
    assert connection.can_go_on()


def test_body_that_was_read_is_closed_without_another_receive() -> None:
    connection = Connection(b"abc", length=3)
    connection.body.read(3)
    connection.body.close()
    connection.body.close()

    assert connection.socket.recv_count == 2


def endless(size: int) -> Iterator[bytes]:
    piece = bytes(8192)
    for _ in range(size // len(piece) + 2):
        yield chunk(piece)


def test_rest_of_the_body_is_read_only_up_to_a_bound() -> None:
    connection = Connection(*endless(2 * DRAIN_MAX_BYTES))
    connection.body.close()
    left = sum(len(piece) for piece in connection.socket.remaining if isinstance(piece, bytes))

    assert DRAIN_MAX_BYTES - READ_SIZE < left < DRAIN_MAX_BYTES + READ_SIZE
    assert not connection.can_go_on()


@BOTH
def test_rest_of_the_body_is_waited_for_only_up_to_a_bound(
    length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    connection = Connection(TimeoutError(), length=length)
    connection.body.close()

    assert connection.socket.timeouts[1] == pytest.approx(1.0)
    assert connection.socket.timeout == 30.0
    assert not connection.can_go_on()


@pytest.mark.parametrize(("pieces", "can_go_on"), [(4, True), (8, False)])
def test_rest_of_the_body_is_read_on_while_it_comes_up_to_a_bound(
    pieces: int, can_go_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    connection = Connection(*[chunk(b"abc")] * pieces, LAST)

    def recv(size: int) -> bytes:
        clock.advance_ms(DRAIN_SILENCE_MS - 100)
        return Socket.recv(connection.socket, size)

    monkeypatch.setattr(connection.socket, "recv", recv)
    connection.body.close()

    assert connection.can_go_on() is can_go_on


def test_rest_of_a_body_that_breaks_off_ends_the_connection() -> None:
    connection = Connection(chunk(b"abc"))
    connection.body.close()

    assert not connection.can_go_on()


# The sends of the response


@BOTH
@pytest.mark.parametrize("is_read", [True, False])
def test_sends_are_bounded_by_the_deadline_and_a_moment_for_its_error(
    length: int | None, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    connection = Connection(chunk(b"abc") + LAST if length is None else b"abc", length=length)
    connection.body.set_deadline(Deadline(1500))
    if is_read:
        list(connection.body)
    clock.advance_ms(500)
    connection.body.wrap_response(())

    assert connection.socket.timeout == pytest.approx(2.0)
    connection.body.close()
    assert connection.socket.timeout == 30.0


def test_sends_of_a_call_without_a_deadline_are_not_bounded() -> None:
    connection = Connection(chunk(b"abc") + LAST)
    connection.body.wrap_response(())

    assert connection.socket.timeout == 30.0


def test_sends_behind_a_body_of_which_a_part_was_read_are_unbounded_again_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch)
    connection = Connection(chunk(b"abc"), chunk(b"d"), LAST)
    connection.body.set_deadline(Deadline(1500))
    connection.body.read(3)
    connection.body.wrap_response(())
    connection.body.close()

    assert connection.socket.timeout == 30.0
    assert connection.can_go_on()


def test_input_of_a_byte_stream_is_read_to_its_length() -> None:
    body = open_body(environ_of(io.BytesIO(b"abcdef"), CONTENT_LENGTH="4"))

    assert b"".join(body) == b"abcd"


# Chunks that the server leaves to the application


def chunks_of(data: bytes) -> ChunkedBody:
    return ChunkedBody(io.BufferedReader(cast(Any, io.BytesIO(data))))


@pytest.mark.parametrize(
    "data",
    [
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"3;a=b\r\nabc\r\n0002 ;c\r\nde\r\n0\r\n\r\n",
        b"3\r\nabc\r\n2\r\nde\r\n0\r\na: b\r\nc: d\r\n\r\n",
        b"5\r\nabcde\r\n0\r\n\r\nPOST / HTTP/1.1\r\n",
    ],
    ids=["plain", "extensions", "trailers", "a request behind it"],
)
def test_chunks_left_to_the_application_are_read_to_their_end(data: bytes) -> None:
    body = chunks_of(data)

    assert b"".join(body) == b"abcde"
    assert (body.is_read, body.read(1)) == (True, b"")


def test_chunk_is_read_no_further_than_was_asked_for() -> None:
    body = chunks_of(b"3\r\nabc\r\n0\r\n\r\n")

    assert [body.read(2), body.read(2), body.read(2)] == [b"ab", b"c", b""]


@pytest.mark.parametrize(
    "data",
    [
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n",
        b"f" * 16 + b"\r\n",
        b"3;" + b"a" * 10_000 + b"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_malformed_chunks_are_an_invalid_argument(data: bytes) -> None:
    with pytest.raises(ConnectError) as caught:
        list(chunks_of(data))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "data",
    [b"", b"3", b"3\r", b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r\n", b"0\r\n", b"0\r\na: b\r\n"],
    ids=repr,
)
def test_chunks_that_are_cut_off_are_canceled(data: bytes) -> None:
    with pytest.raises(ConnectError) as caught:
        list(chunks_of(data))
    assert caught.value.code is Code.CANCELED


@pytest.mark.parametrize(("remaining_ms", "code"), [(20, Code.DEADLINE_EXCEEDED), (500, Code.CANCELED)])
def test_client_that_leaves_just_before_the_deadline_has_left_for_its_sake(
    remaining_ms: int, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    connection = Connection(chunk(b"abc"))
    connection.body.set_deadline(Deadline(1500))
    connection.body.read(3)
    clock.advance_ms(1500 - remaining_ms)

    with pytest.raises(ConnectError) as caught:
        connection.body.read(3)
    assert caught.value.code is code


# What servers tell of a client


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection: the server's, the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def test_client_that_is_silent_has_not_left(pair: tuple[socket.socket, socket.socket]) -> None:
    assert not is_closed_by_peer(pair[0].fileno())


@pytest.mark.parametrize("leave", ["close", "end", "close behind bytes"])
def test_client_that_has_closed_its_half_has_left(
    pair: tuple[socket.socket, socket.socket], leave: str
) -> None:
    server, client = pair
    if leave == "close behind bytes":
        client.send(b"a")
    client.shutdown(socket.SHUT_WR)
    if leave != "end":
        client.close()
    # The end of a connection over loopback is there when the call that makes it returns.
    assert is_closed_by_peer(server.fileno())


def test_closed_socket_has_nobody_behind_it(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()

    assert is_closed_by_peer(pair[0].fileno())


def test_response_ends_when_its_client_has_left() -> None:
    is_gone = False
    body = EmptyBody(Peer(lambda: is_gone))
    response = body.wrap_response([b"a", b"b", b"c"])
    assert [next(response), next(response)] == [b"a", b"b"]
    is_gone = True

    with pytest.raises(BrokenPipeError):
        next(response)


def test_connection_is_read_on_before_it_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    body = LengthBody(Input(), 100, Peer(lambda: False, linger_fd=server.fileno()))
    client.send(b"a" * 60)
    client.shutdown(socket.SHUT_WR)
    body.close()

    assert server.recv(1) == b""


def test_connection_that_would_be_kept_has_to_end_where_the_body_has_not(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    client.shutdown(socket.SHUT_WR)
    client_of_body = Peer(lambda: False, linger_fd=server.fileno(), keep_alive=True)

    with pytest.raises(BrokenPipeError):
        TerminatedBody(Input(b"a"), client_of_body).close()


def test_body_that_was_read_ends_no_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    LengthBody(Input(), 0, Peer(lambda: False, linger_fd=pair[0].fileno(), keep_alive=True)).close()


@pytest.mark.parametrize("is_bounded", [False, True])
def test_response_is_not_all_that_is_left_while_the_socket_has_the_timeout_of_a_call(
    pair: tuple[socket.socket, socket.socket], is_bounded: bool
) -> None:
    server, _ = pair
    server.settimeout(30)
    body = LengthBody(Input(b"ab"), 2, Peer(lambda: False, sock=server))
    if is_bounded:
        body.set_deadline(Deadline(1500))
    body.read(2)

    assert body.is_read
    assert body.needs_no_close_after(10) is not is_bounded
    body.close()
    assert server.gettimeout() == 30


def test_deadline_bounds_the_reads_and_the_sends_of_a_socket(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    server, _ = pair
    server.settimeout(30)
    body = LengthBody(Input(b"ab", TimeoutError()), 3, Peer(lambda: False, sock=server))
    body.set_deadline(Deadline(1500))
    clock.advance_ms(500)
    body.read(2)
    assert server.gettimeout() == pytest.approx(1.0)
    with pytest.raises(ConnectError) as caught:
        body.read(1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    body.wrap_response([])
    assert server.gettimeout() == pytest.approx(2.0)
    body.close()
    assert server.gettimeout() == 30


def test_failure_behind_the_deadline_is_the_deadline_s(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Slow(Input):
        def read(self, size: int, /) -> bytes:
            clock.advance_ms(2000)
            raise OSError("some server's own timeout")

    body = LengthBody(Slow(), 3)
    body.set_deadline(Deadline(1500))

    with pytest.raises(ConnectError) as caught:
        body.read(3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


# uWSGI


def test_uwsgi_is_told_how_many_seconds_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls: list[tuple[int, ...]] = []

    def read_chunk(*arguments: int) -> bytes:
        calls.append(arguments)
        return b"abc" if len(calls) < 3 else b""

    body = UwsgiChunkedBody(read_chunk)
    body.read(1)
    body.set_deadline(Deadline(1500))
    body.read(1)
    clock.advance_ms(1000)

    assert (body.read(1), body.is_read, body.read(1)) == (b"", True, b"")
    assert calls == [(), (2,), (1,)]


# Apache's mod_wsgi


def test_server_that_takes_no_response_before_the_request_has_ended_is_given_none() -> None:
    stream = Input(b"abc")
    body = TerminatedBody(stream, Peer(lambda: False, forwards_request_first=True))

    assert list(body.wrap_response([b"a"])) == [b"a"]
    assert body.is_read
