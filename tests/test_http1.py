"""Responses, as bytes."""

from __future__ import annotations

import io
from http.client import HTTPException

import pytest

from connect_sync.client.http1 import HTTP1Response, has_begun, without_interim_responses


def read(head: bytes, body: bytes = b"", method: str = "POST") -> HTTP1Response:
    response = HTTP1Response(io.BytesIO(head + body), method)
    response.begin()
    return response


def read_body(response: HTTP1Response) -> bytes:
    return b"".join(iter(lambda: response.read(1 << 16), b""))


def with_fields(*lines: bytes) -> bytes:
    return b"".join([b"HTTP/1.1 200 OK\r\n", *(line + b"\r\n" for line in lines), b"\r\n"])


# The status line


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.1 200 \r\n", 200),
        (b"HTTP/1.1 200\r\n", 200),
        (b"HTTP/1.1 404 Not Found\n", 404),
        (b"HTTP/1.0 503 \xe9\r\n", 503),
        (b"HTTP/1.9 999 x\r\n", 999),
    ],
)
def test_status_is_read(line: bytes, status: int) -> None:
    assert read(line + b"\r\n").status == status


@pytest.mark.parametrize(
    "line",
    [
        *(b"\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 20\r\n", b"HTTP/1.1 2000\r\n", b"HTTP/1.1 099\r\n"),
        *(b"HTTP/2 200\r\n", b"HTTP/1.1  200 OK\r\n", b"http/1.1 200 OK\r\n", b" HTTP/1.1 200 OK\r\n"),
        *(
            b"HTTP/1.1 200OK\r\n",
            b"HTTP/1.1 2\xb20 OK\r\n",
            b"HTTP/1.1 200 O\rK\r\n",
            b"x" * 100_000 + b"\r\n",
        ),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_other_lines_are_no_status(line: bytes) -> None:
    with pytest.raises(HTTPException):
        read(line + b"\r\n")


# The headers


def test_headers_are_read() -> None:
    response = read(with_fields(b"B: 1", b"a:2", b"b:\t 3 \t", b"c:", b"d : 4", b"e: f: g", b"h: \xe9"))

    assert response.headers.multi_items() == [
        *(("b", "1"), ("b", "3"), ("a", "2"), ("c", ""), ("d", "4"), ("e", "f: g"), ("h", "\xe9")),
    ]


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0"])
def test_white_space_of_other_kinds_is_part_of_a_value(space: bytes) -> None:
    assert read(with_fields(b"a: 1" + space)).headers["a"] == "1" + space.decode("latin-1")


def test_lines_may_end_without_a_carriage_return() -> None:
    assert read(b"HTTP/1.1 200 OK\na: 1\n\n").headers.multi_items() == [("a", "1")]


def test_folded_line_goes_on_with_the_one_before() -> None:
    headers = read(with_fields(b"a: 1", b"  2", b"\t3 ", b"b: 4")).headers

    assert headers.multi_items() == [("a", "1 2 3"), ("b", "4")]


def test_value_may_begin_on_the_line_behind_its_name() -> None:
    response = read(with_fields(b"transfer-encoding:", b" chunked"), b"1\r\na\r\n0\r\n\r\n")

    assert read_body(response) == b"a"


@pytest.mark.parametrize(
    "lines",
    [
        (b"no header",),
        (b": no name",),
        (b" : 1",),
        (b" a: 1",),
        (b"a: 1\r2",),
        (b"\r",),
        (b"a: 1\x002",),
        (b"a: 1",) * 101,
        (b"a: 1", *[b" 2"] * 100),
        (b"a b: 1",),
        (b"\xe9: 1",),
        (b"a\x0b: 1",),
        (b"\x0ba: 1",),
        (b"\xa0a: 1",),
        (b"a\xa0: 1",),
        (b"a: " + b"1" * 65_532,),
        (b"a: 1", b"no header"),
    ],
    ids=lambda lines: repr(lines[-1][:20]),
)
def test_malformed_headers_are_an_error(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(*lines))


def test_hundred_headers_are_not_too_many() -> None:
    assert len(read(with_fields(*[b"a: 1"] * 100)).headers.get_all("a")) == 100


def test_header_of_64_kib_is_not_too_long() -> None:
    assert len(read(with_fields(b"a: " + b"1" * 65_531)).headers["a"]) == 65_531


@pytest.mark.parametrize(
    "head",
    [
        b"x" * 1000 + b"\r\n",
        with_fields(b"x" * 1000),
        with_fields(b"transfer-encoding: " + b"x" * 1000),
        with_fields(b"content-length: " + b"x" * 1000),
    ],
    ids=["status line", "header", "transfer coding", "length"],
)
def test_little_of_what_is_malformed_stands_in_the_error(head: bytes) -> None:
    with pytest.raises(HTTPException) as caught:
        read(head)
    assert len(str(caught.value)) < 120


def test_head_that_is_cut_off_is_a_lost_connection() -> None:
    head = with_fields(b"content-length: 0")
    for end in range(1, len(head)):
        with pytest.raises(ConnectionError, match="in the middle of its head" if end >= 17 else "before"):
            read(head[:end])


def test_nothing_at_all_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionError, match=r"^the connection was closed before the response$"):
        read(b"")


def test_interim_responses_precede_the_answer() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\na: 1\r\n\r\n"

    response = read(interim * 2 + with_fields(b"b: 2"))

    assert (response.status, response.headers.multi_items()) == (200, [("b", "2")])


# Where the body ends


@pytest.mark.parametrize(
    "lines", [(b"content-length: 3",), (b"Content-Length: 3, 3",), (b"content-length: 3",) * 2]
)
def test_body_ends_with_its_length(lines: tuple[bytes, ...]) -> None:
    response = read(with_fields(*lines), b"abcd")

    assert (response.length, response.is_persistent, response.is_complete) == (3, True, False)
    assert response.read(10) == b"abc"
    assert response.is_complete
    assert response.read(10) == b""


def test_body_is_read_as_far_as_it_is_asked_for() -> None:
    response = read(with_fields(b"content-length: 3"), b"abc")

    assert [response.read(2), response.read(2)] == [b"ab", b"c"]


@pytest.mark.parametrize(
    "length", [b"-1", b"+1", b"1.5", b"x", b"", b"1_0", b"0x1", b"1 1", b"3, 4", b"3,", b"9" * 19, b"\xb2"]
)
def test_length_that_is_none_is_an_error(length: bytes) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(b"content-length: " + length))


@pytest.mark.parametrize(
    ("status", "length", "method", "is_persistent"),
    [
        (b"200 OK", b"content-length: 3", "HEAD", True),
        (b"200 OK", b"transfer-encoding: chunked", "HEAD", True),
        (b"304 Not Modified", b"content-length: 3", "GET", True),
        (b"204 No Content", b"content-length: 0", "POST", True),
        (b"204 No Content", b"content-length: 3", "POST", False),
        (b"204 No Content", b"transfer-encoding: chunked", "POST", False),
    ],
)
def test_responses_that_never_have_a_body_have_none(
    status: bytes, length: bytes, method: str, is_persistent: bool
) -> None:
    response = read(with_fields(length).replace(b"200 OK", status), b"abc", method)

    assert (response.length, response.is_complete) == (0, True)
    assert response.read(10) == b""
    assert response.is_persistent is is_persistent


def test_nothing_of_http_follows_a_switch_of_protocols() -> None:
    response = read(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")

    assert (response.status, response.is_complete, response.is_persistent) == (101, True, False)


def test_body_without_length_ends_with_the_connection() -> None:
    response = read(with_fields(), b"abc")

    assert (response.length, response.is_persistent, read_body(response)) == (None, False, b"abc")
    assert response.is_complete


def test_body_that_is_cut_off_is_a_lost_connection() -> None:
    response = read(with_fields(b"content-length: 3"), b"ab")

    assert response.read(10) == b"ab"
    with pytest.raises(ConnectionError):
        response.read(10)
    assert not response.is_complete


# Chunks


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"chunked,", b", chunked"])
def test_chunks_end_with_the_last(coding: bytes) -> None:
    response = read(with_fields(b"transfer-encoding: " + coding), b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nf")

    assert (response.length, response.is_persistent) == (None, True)
    assert [response.read(2), response.read(9), response.read(9)] == [b"ab", b"c", b"de"]
    assert not response.is_complete
    assert [response.read(9), response.read(9)] == [b"", b""]
    assert response.is_complete


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"0\r\n\r\n", b""),
        (b"000\r\n\r\n", b""),
        (b"0" * 20 + b"3\r\nabc\r\n" + b"0" * 20 + b"\r\n\r\n", b"abc"),
        (b"0A\r\nabcdefghij\r\n0\r\n\r\n", b"abcdefghij"),
        (b"3;a=b;c\r\nabc\r\n0;d\r\n\r\n", b"abc"),
        (b"3 \t;a\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\n0\r\ntrailer: x\r\nother: y\r\n\r\n", b"abc"),
    ],
)
def test_spellings_of_chunks(body: bytes, expected: bytes) -> None:
    response = read(with_fields(b"transfer-encoding: chunked"), body)

    assert read_body(response) == expected
    assert response.is_complete


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"x\r\n",
            b"\r\n",
            b"-3\r\nabc\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"1_0\r\n",
            b" 3\r\nabc\r\n",
        ),
        *(b"3\nabc\r\n", b"3\rx\r\n", b"3;a\rb\r\nabc\r\n", b"\xb3\r\n", b"f" * 16 + b"\r\n"),
        *(b"3\r\nabcd\r\n", b"3\r\nabc\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabcXX0\r\n\r\n"),
        *(
            b"0\r\nno trailer\r\n\r\n",
            b"0\r\n" + b"a: 1\r\n" * 101 + b"\r\n",
            b"3;" + b"x" * 100_000 + b"\r\n",
        ),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_malformed_chunks_are_an_error(body: bytes) -> None:
    response = read(with_fields(b"transfer-encoding: chunked"), body)

    with pytest.raises(HTTPException):
        read_body(response)
    assert not response.is_complete


def test_chunks_that_are_cut_off_are_a_lost_connection() -> None:
    body = b"3\r\nabc\r\n0\r\na: 1\r\n\r\n"
    for end in range(len(body)):
        response = read(with_fields(b"transfer-encoding: chunked"), body[:end])
        with pytest.raises(ConnectionError):
            read_body(response)
        assert not response.is_complete


@pytest.mark.parametrize(
    "head",
    [
        with_fields(b"transfer-encoding: chunked", b"content-length: 1"),
        with_fields(b"transfer-encoding: chunked").replace(b"1.1", b"1.0"),
        with_fields(b"transfer-encoding: chunked", b"connection: keep-alive").replace(b"1.1", b"1.0"),
    ],
    ids=["beside a length", "HTTP/1.0", "HTTP/1.0, kept"],
)
def test_connection_of_doubtful_chunks_is_not_kept(head: bytes) -> None:
    response = read(head, b"3\r\nabc\r\n0\r\n\r\n")

    assert (response.length, response.is_persistent, read_body(response)) == (None, False, b"abc")


@pytest.mark.parametrize(
    "coding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"", b"\x0bchunked"]
)
def test_other_codings_are_an_error(coding: bytes) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(b"transfer-encoding: " + coding))


# The connection


@pytest.mark.parametrize(
    ("version", "lines", "is_persistent"),
    [
        (b"1.1", (), True),
        (b"1.1", (b"connection: close",), False),
        (b"1.1", (b"connection: x, Close",), False),
        (b"1.1", (b"connection: keep-alive", b"connection: close"), False),
        (b"1.1", (b"x: close",), True),
        (b"1.0", (), False),
        (b"1.0", (b"connection: Keep-Alive",), True),
        (b"1.0", (b"proxy-connection: keep-alive",), False),
    ],
)
def test_connection_is_kept_as_its_version_and_its_header_say(
    version: bytes, lines: tuple[bytes, ...], is_persistent: bool
) -> None:
    head = b"HTTP/" + version + with_fields(b"content-length: 0", *lines)[len(b"HTTP/1.1") :]

    assert read(head).is_persistent is is_persistent


# While a request is still being sent

INTERIM = b"HTTP/1.1 103 Early Hints\r\na: 1\r\n\r\n"


@pytest.mark.parametrize("rest", [b"", b"H", b"HTTP/1.1 200", INTERIM[:-1]])
def test_interim_responses_are_taken_off(rest: bytes) -> None:
    assert without_interim_responses(rest) == rest
    assert without_interim_responses(INTERIM + rest) == rest
    assert without_interim_responses(INTERIM * 3 + rest) == rest


@pytest.mark.parametrize(
    ("data", "is_answer"),
    [
        *((b"", False), (b"HTTP/1.1 20", False), (b"HTTP/1.1 200", True), (b"HTTP/1.1 101", True)),
        *((b"HTTP/1.1 100", False), (INTERIM[:-1], False), (INTERIM + b"a" * 100_000, True)),
        *((b"SSH-2.0-OpenSSH", True),),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_answer_has_begun_when_it_is_no_interim_response(data: bytes, is_answer: bool) -> None:
    assert has_begun(data) is is_answer
