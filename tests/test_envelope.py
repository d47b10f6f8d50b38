from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from connect_sync import Code, ConnectError
from connect_sync.compression import GZIP
from connect_sync.envelope import (
    DEFAULT_COMPRESS_MIN_BYTES,
    compress_message,
    open_payload,
    read_envelopes,
    wrap,
    wrap_message,
)
from connect_sync.errors import MalformedError
from connect_sync.http import IterableBody
from tests.support import ExactBody, ScriptedBody, envelope, error_of, split_envelopes


def test_envelope_is_flags_length_and_payload() -> None:
    assert wrap(b"abc", 3) == b"\x03\x00\x00\x00\x03abc"


def test_envelope_has_no_flags_by_default() -> None:
    assert wrap(b"") == b"\x00\x00\x00\x00\x00"


def test_length_is_big_endian() -> None:
    assert wrap(bytes(0x010203))[:5] == b"\x00\x00\x01\x02\x03"


# Messages, compressed from a size on


def split_one(data: bytes) -> tuple[int, bytes]:
    (only,) = split_envelopes(data)
    return only


@pytest.mark.parametrize(("size", "min_bytes"), [(1, 0), (1, 1), (10, 10), (11, 10), (2000, 0)])
def test_message_of_the_size_or_more_is_compressed(size: int, min_bytes: int) -> None:
    flags, payload = split_one(wrap_message(b"a" * size, GZIP, min_bytes))

    assert (flags, gzip.decompress(payload)) == (1, b"a" * size)


@pytest.mark.parametrize(("size", "min_bytes"), [(1, 2), (9, 10), (1023, DEFAULT_COMPRESS_MIN_BYTES)])
def test_smaller_message_is_not_compressed(size: int, min_bytes: int) -> None:
    assert wrap_message(b"a" * size, GZIP, min_bytes) == envelope(b"a" * size)


def test_empty_message_is_never_compressed() -> None:
    assert wrap_message(b"", GZIP, 0) == envelope(b"")


def test_message_without_a_compression_is_not_compressed() -> None:
    assert wrap_message(b"a" * 10, None, 0) == envelope(b"a" * 10)


@pytest.mark.parametrize("min_bytes", [0, 10])
def test_what_follows_a_message_is_in_the_same_piece_as_it_is(min_bytes: int) -> None:
    data = wrap(*compress_message(b"a", GZIP, min_bytes), b"end")

    assert data.endswith(b"end")
    split_one(data.removesuffix(b"end"))


# What an envelope holds


def test_payload_without_flags_is_the_message() -> None:
    assert open_payload(0, b"abc", GZIP, 100) == b"abc"


def test_compressed_payload_is_decompressed() -> None:
    assert open_payload(1, gzip.compress(b"abc"), GZIP, 3) == b"abc"


def test_compressed_payload_is_held_to_the_limit() -> None:
    with pytest.raises(ConnectError) as caught:
        open_payload(1, gzip.compress(b"abcd"), GZIP, 3)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_empty_payload_is_never_decompressed() -> None:
    assert open_payload(1, b"", GZIP, 100) == b""


def test_compressed_payload_needs_a_negotiated_compression() -> None:
    with pytest.raises(ConnectError, match="the headers name no compression") as caught:
        open_payload(1, gzip.compress(b"abc"), None, 100)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("flags", [0x02, 0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x81, 0xFF])
def test_reserved_flags_are_refused(flags: int) -> None:
    with pytest.raises(ConnectError, match=f"unknown flags: {flags:#04x}") as caught:
        open_payload(flags, b"abc", GZIP, 100)
    assert caught.value.code is Code.INTERNAL


# Reading


def test_empty_body_has_no_envelopes() -> None:
    assert list(read_envelopes(ScriptedBody(), 100)) == []


def test_envelopes_of_one_chunk_are_told_apart() -> None:
    body = ScriptedBody(envelope(b"abc") + envelope(b"") + envelope(b"d", 2))

    assert list(read_envelopes(body, 100)) == [(0, b"abc"), (0, b""), (2, b"d")]


def test_envelope_is_given_out_when_it_has_arrived() -> None:
    body = ScriptedBody(envelope(b"abc"), envelope(b"d"))
    next(read_envelopes(body, 100))

    assert body.remaining == [envelope(b"d")]


def test_nothing_is_read_before_it_is_asked_for() -> None:
    body = ScriptedBody(envelope(b"abc"))
    read_envelopes(body, 100)

    assert body.sizes == []


@pytest.mark.parametrize("size", [0, 1, 65_536, 200_000])
def test_no_byte_is_asked_for_beyond_the_envelope(size: int) -> None:
    body = ExactBody(envelope(bytes(size)) + envelope(b"next"))
    next(read_envelopes(body, size))

    assert body.position == 5 + size


def test_long_payload_is_asked_for_piece_by_piece() -> None:
    body = ScriptedBody(*[envelope(bytes(100_000))[:5], bytes(65_536), bytes(34_464)])
    next(read_envelopes(body, 100_000))

    assert body.sizes == [5, 65_536, 34_464]


def test_rest_of_a_chunk_counts_for_the_next_envelope() -> None:
    data = envelope(b"abc") + envelope(b"defg")
    body = ScriptedBody(data[:10], data[10:])
    list(read_envelopes(body, 100))

    assert body.sizes == [5, 3, 5]


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_payload_may_have_exactly_the_limit(size: int) -> None:
    assert list(read_envelopes(ScriptedBody(envelope(bytes(size))), 100)) == [(0, bytes(size))]


@pytest.mark.parametrize("size", [101, 2**31, 2**32 - 1])
def test_payload_announced_beyond_the_limit_is_refused_unread(size: int) -> None:
    body = ScriptedBody(b"\x00" + size.to_bytes(4, "big"), b"x" * 10)

    with pytest.raises(
        ConnectError, match=f"a message of {size} bytes is larger than read_max_bytes, 100"
    ) as caught:
        next(read_envelopes(body, 100))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert body.remaining == [b"x" * 10]


def test_envelopes_before_one_that_is_too_large_are_given_out() -> None:
    envelopes = read_envelopes(ScriptedBody(envelope(b"abc") + envelope(bytes(101))), 100)

    assert next(envelopes) == (0, b"abc")
    with pytest.raises(ConnectError):
        next(envelopes)


@pytest.mark.parametrize("cut", range(1, 10))
def test_body_that_ends_inside_an_envelope_is_malformed(cut: int) -> None:
    data = envelope(b"abc") + envelope(b"hello")[:cut]
    envelopes = read_envelopes(ScriptedBody(data), 100)
    next(envelopes)

    with pytest.raises(MalformedError, match="the body ends inside an envelope"):
        next(envelopes)


def test_error_of_the_body_is_passed_on() -> None:
    def chunks() -> Iterator[bytes]:
        yield envelope(b"hello")[:7]
        raise ConnectError(Code.DEADLINE_EXCEEDED, "too late")

    with pytest.raises(ConnectError, match="too late"):
        next(read_envelopes(IterableBody(chunks()), 100))


# Any sequence of envelopes in any chunks


def random_envelopes(random: Random) -> list[tuple[int, bytes]]:
    return [
        (random.randrange(256), random.randbytes(random.choice([0, 1, 4, 5, 6, random.randrange(300)])))
        for _ in range(random.randrange(8))
    ]


def random_chunks(random: Random, data: bytes) -> Iterator[bytes]:
    while data:
        size = random.choice([1, 2, 5, random.randrange(1, 50), len(data)])
        yield data[:size]
        data = data[size:]
        if not random.randrange(5):
            yield b""


def test_any_chunks_of_any_envelopes_give_the_envelopes_back() -> None:
    random = Random(5)
    for _ in range(400):
        expected = random_envelopes(random)
        data = b"".join(envelope(payload, flags) for flags, payload in expected)
        body = IterableBody(random_chunks(random, data))

        assert list(read_envelopes(body, 300)) == expected


def test_exact_reads_of_any_envelopes_give_the_envelopes_back() -> None:
    random = Random(6)
    for _ in range(200):
        expected = random_envelopes(random)
        data = b"".join(envelope(payload, flags) for flags, payload in expected)

        assert list(read_envelopes(ExactBody(data), 300)) == expected


def test_any_cut_of_any_envelopes_gives_the_whole_ones_and_is_malformed() -> None:
    random = Random(7)
    for _ in range(300):
        whole = random_envelopes(random)
        last = envelope(random.randbytes(random.randrange(100)))
        data = b"".join(envelope(payload, flags) for flags, payload in whole)
        data += last[: random.randrange(1, len(last))]
        envelopes = read_envelopes(IterableBody(random_chunks(random, data)), 300)

        assert [next(envelopes) for _ in whole] == whole
        with pytest.raises(MalformedError):
            next(envelopes)


def test_random_bytes_are_envelopes_or_a_connect_error() -> None:
    random = Random(8)
    for _ in range(1000):
        # Zeros are frequent, or hardly a length would be within the limit.
        data = bytes(random.choices(range(256), weights=[200] + [1] * 255, k=random.randrange(60)))
        read: list[tuple[int, bytes]] = []
        error = error_of(
            partial(read.extend, read_envelopes(IterableBody(random_chunks(random, data)), 1000))
        )
        rest = data[sum(5 + len(payload) for _, payload in read) :]

        assert b"".join(envelope(payload, flags) for flags, payload in read) + rest == data
        if error is None:
            assert rest == b""
        else:
            assert error.code in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize(
    "body", [b'{"name": "Jane"}', b"[1, 2, 3]", b'"Jane and John"', b"\n\x04Jane and", b"{}", b"[]", b'"a"']
)
def test_message_without_an_envelope_is_told_as_such(body: bytes) -> None:
    with pytest.raises(MalformedError, match="is this a message without an envelope"):
        list(read_envelopes(IterableBody([body]), 1000))
