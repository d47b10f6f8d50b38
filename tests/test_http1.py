"""Heads of responses, as bytes."""

from __future__ import annotations

import io
from http.client import HTTPException
from typing import BinaryIO, cast

import pytest

from connect_sync.client.http1 import HTTP1Response


class Reader(io.BytesIO):
    """What a response is read from, which it closes when it has ended."""

    def makefile(self, mode: str) -> Reader:
        return self

    def close(self) -> None:
        pass


def read(head: bytes, body: bytes = b"", method: str = "POST") -> HTTP1Response:
    response = HTTP1Response(cast(BinaryIO, Reader(head + body)), method)
    response.begin()
    return response


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


def test_headers_are_read_in_their_order() -> None:
    response = read(with_fields(b"B: 1", b"a:2", b"b:\t 3 \t", b"c:", b"d : 4", b"e: f: g", b"h: \xe9"))

    assert response.fields == [
        *(("b", "1"), ("a", "2"), ("b", "3"), ("c", ""), ("d", "4"), ("e", "f: g"), ("h", "\xe9")),
    ]


def test_lines_may_end_without_a_carriage_return() -> None:
    assert read(b"HTTP/1.1 200 OK\na: 1\n\n").fields == [("a", "1")]


def test_folded_line_goes_on_with_the_one_before() -> None:
    assert read(with_fields(b"a: 1", b"  2", b"\t3 ", b"b: 4")).fields == [("a", "1 2 3"), ("b", "4")]


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
        (b"a: " + b"1" * 65_536,),
        (b"a: 1", b"no header"),
    ],
    ids=lambda lines: repr(lines[-1][:20]),
)
def test_malformed_headers_are_an_error(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(*lines))


def test_hundred_headers_are_not_too_many() -> None:
    assert len(read(with_fields(*[b"a: 1"] * 100)).fields) == 100


# Where the body ends


@pytest.mark.parametrize(
    "lines", [(b"content-length: 3",), (b"Content-Length: 3, 3",), (b"content-length: 3",) * 2]
)
def test_body_ends_with_its_length(lines: tuple[bytes, ...]) -> None:
    response = read(with_fields(*lines), b"abcd")

    assert (response.length, response.will_close, response.read()) == (3, False, b"abc")


@pytest.mark.parametrize(
    "length", [b"-1", b"+1", b"1.5", b"x", b"", b"1_0", b"0x1", b"1 1", b"3, 4", b"9" * 19, b"\xb2"]
)
def test_length_that_is_none_is_an_error(length: bytes) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(b"content-length: " + length))


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_chunks_count_and_not_the_length(coding: bytes) -> None:
    response = read(
        with_fields(b"transfer-encoding: " + coding, b"content-length: 1"), b"3\r\nabc\r\n0\r\n\r\n"
    )

    assert (response.chunked, response.length, response.will_close) == (True, None, True)
    assert response.read() == b"abc"


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b""])
def test_other_codings_are_an_error(coding: bytes) -> None:
    with pytest.raises(HTTPException):
        read(with_fields(b"transfer-encoding: " + coding))


@pytest.mark.parametrize(
    ("start", "method"),
    [
        (b"HTTP/1.1 200 OK\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n", "POST"),
        (b"HTTP/1.1 304 Not Modified\r\n", "GET"),
        (b"HTTP/1.1 103 Early Hints\r\n", "POST"),
    ],
)
def test_responses_that_never_have_a_body_have_none(start: bytes, method: str) -> None:
    response = read(start + b"content-length: 3\r\n\r\n", b"abc", method)

    assert (response.length, response.will_close) == (0, False)


def test_body_without_length_ends_with_the_connection() -> None:
    response = read(with_fields(), b"abc")

    assert (response.length, response.will_close, response.read()) == (None, True, b"abc")


@pytest.mark.parametrize(
    ("version", "lines", "will_close"),
    [
        (b"1.1", (), False),
        (b"1.1", (b"connection: close",), True),
        (b"1.1", (b"connection: x, Close",), True),
        (b"1.1", (b"connection: keep-alive", b"connection: close"), True),
        (b"1.1", (b"x: close",), False),
        (b"1.0", (), True),
        (b"1.0", (b"connection: Keep-Alive",), False),
        (b"1.0", (b"proxy-connection: keep-alive",), False),
    ],
)
def test_connection_is_kept_as_its_version_and_its_header_say(
    version: bytes, lines: tuple[bytes, ...], will_close: bool
) -> None:
    head = b"HTTP/" + version + with_fields(b"content-length: 0", *lines)[len(b"HTTP/1.1") :]

    assert read(head).will_close is will_close
