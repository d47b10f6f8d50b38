from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connect_sync import Code, ConnectError, Headers
from connect_sync.http import (
    READ_SIZE,
    ClosingIterator,
    IterableBody,
    Request,
    Response,
    as_body,
    close_all,
    close_iterator,
    read_whole,
)
from tests.support import ScriptedBody


class Chunks:
    """An iterable that is no iterator, and can be closed; the iterator too."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            self.closed.append("iterator")

    def close(self) -> None:
        self.closed.append("iterable")


def test_body_of_an_iterable_gives_its_chunks_one_by_one() -> None:
    body = IterableBody([b"ab", b"c"])

    assert [body.read(1), body.read(100), body.read(1)] == [b"ab", b"c", b""]


def test_body_of_an_iterable_skips_empty_chunks() -> None:
    body = IterableBody([b"", b"a", b"", b""])

    assert [body.read(1), body.read(1)] == [b"a", b""]


def test_body_of_an_iterable_asks_for_no_chunk_ahead() -> None:
    taken = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"a", b"b"):
            taken.append(chunk)
            yield chunk

    IterableBody(chunks()).read(100)

    assert taken == [b"a"]


def test_closing_a_body_closes_its_iterator_and_its_iterable() -> None:
    chunks = Chunks()
    body = IterableBody(chunks)
    body.read(1)
    body.close()

    assert chunks.closed == ["iterator", "iterable"]


def test_closing_a_body_of_a_tuple_does_nothing() -> None:
    IterableBody((b"a",)).close()


def test_iterating_a_body_gives_what_is_left_of_it() -> None:
    body = ScriptedBody(b"a", b"b", b"c")
    body.read(1)

    assert list(body) == [b"b", b"c"]


def test_body_is_taken_as_it_is() -> None:
    body = ScriptedBody(b"a")

    assert as_body(body) is body


def test_chunks_are_made_a_body() -> None:
    assert as_body((b"a",)).read(1) == b"a"


@pytest.mark.parametrize("iterator", [(), [], iter(()), None, b""])
def test_what_cannot_be_closed_is_left_alone(iterator: object) -> None:
    close_iterator(iterator)


def test_whole_body_is_its_chunks_joined() -> None:
    assert read_whole(ScriptedBody(b"ab", b"c"), 100) == b"abc"


def test_whole_body_may_be_empty() -> None:
    assert read_whole(ScriptedBody(), 100) == b""


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"b", b"c"]])
def test_whole_body_may_have_exactly_the_limit(chunks: list[bytes], length: int | None) -> None:
    assert read_whole(ScriptedBody(*chunks, length=length), 3) == b"abc"


@pytest.mark.parametrize("chunks", [[b"abcd"], [b"abc", b"d"], [b"a", b"b", b"c", b"d"]])
def test_body_beyond_the_limit_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(ConnectError) as caught:
        read_whole(ScriptedBody(*chunks), 3)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_body_announced_beyond_the_limit_is_refused_unread() -> None:
    body = ScriptedBody(b"abcd", length=4)

    with pytest.raises(ConnectError, match="a message of 4 bytes is larger than read_max_bytes, 3 bytes"):
        read_whole(body, 3)
    assert body.sizes == []


def test_body_beyond_the_limit_is_read_no_further() -> None:
    body = ScriptedBody(b"abc", b"d", b"e")

    with pytest.raises(ConnectError):
        read_whole(body, 3)
    assert body.remaining == [b"e"]


def test_no_more_is_asked_for_than_one_byte_past_the_limit() -> None:
    body = ScriptedBody(b"abc")
    read_whole(body, 10)

    assert body.sizes == [11, 8]


def test_large_body_is_asked_for_piece_by_piece() -> None:
    body = ScriptedBody(b"abc")
    read_whole(body, 10 * READ_SIZE)

    assert body.sizes == [READ_SIZE, READ_SIZE]


def test_request_is_without_query_and_peer_by_default() -> None:
    request = Request("POST", "/a", Headers())

    assert (request.query, request.peer, tuple(request.body)) == ("", None, ())


def test_response_is_without_body_by_default() -> None:
    assert tuple(Response(200, Headers()).body) == ()


# Iterators that close what they read from


class Source(Iterator[int]):
    """Numbers, and what happens after them; it counts how often it is closed."""

    def __init__(self, count: int = 2, then: BaseException | None = None) -> None:
        self._numbers = iter(range(count))
        self._then = then
        self.close_count = 0

    def __next__(self) -> int:
        for number in self._numbers:
            return number
        raise self._then or StopIteration

    def close(self) -> None:
        self.close_count += 1


def test_source_is_closed_once_at_its_end() -> None:
    source, beside = Source(), Source()
    iterator: ClosingIterator[int] = ClosingIterator(source, [beside])

    assert list(iterator) == [0, 1]
    iterator.close()
    assert (source.close_count, beside.close_count) == (1, 1)


@pytest.mark.parametrize("read_count", [0, 1])
def test_source_is_closed_once_early(read_count: int) -> None:
    source = Source()
    iterator: ClosingIterator[int] = ClosingIterator(source)
    for _ in range(read_count):
        next(iterator)
    assert source.close_count == 0
    iterator.close()
    iterator.close()

    assert source.close_count == 1


@pytest.mark.parametrize("closes_at_end", [True, False])
def test_source_is_closed_when_it_fails(closes_at_end: bool) -> None:
    error = KeyboardInterrupt()
    source = Source(0, error)
    with pytest.raises(KeyboardInterrupt) as raised:
        next(ClosingIterator(source, closes_at_end=closes_at_end))

    assert raised.value is error
    assert source.close_count == 1


def test_source_may_be_left_open_at_its_end() -> None:
    source = Source()
    iterator: ClosingIterator[int] = ClosingIterator(source, closes_at_end=False)

    assert list(iterator) == [0, 1]
    assert source.close_count == 0
    iterator.close()
    assert source.close_count == 1


def test_what_is_given_twice_is_closed_once() -> None:
    source = Source()
    ClosingIterator[int](source, [source]).close()

    assert source.close_count == 1


def test_items_are_transformed() -> None:
    assert list(ClosingIterator(Source(), transform=str)) == ["0", "1"]


def test_all_functions_of_a_source_are_called_by_the_one_that_is_given() -> None:
    called = []

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        called.append(getattr(function, "__name__", ""))
        return function(*arguments)

    assert list(ClosingIterator(Source(1), run=run)) == [0]
    assert called == ["iter", "__next__", "__next__", "close_all"]


def test_all_are_closed_though_one_of_them_fails() -> None:
    class Failing(Source):
        def close(self) -> None:
            super().close()
            raise ValueError("not closed")

    sources = [Source(), Failing(), Source()]
    with pytest.raises(ValueError, match="not closed"):
        close_all(sources)

    assert [source.close_count for source in sources] == [1, 1, 1]
