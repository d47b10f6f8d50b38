"""The stream of responses that a caller reads, in every way that it can be read and left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from connect_sync import Code, ConnectError, RequestContext, ResponseMetadata, ResponseStream
from tests.support import (
    OK_END,
    SERVER_STREAM,
    Handler,
    Relay,
    ScriptedBody,
    envelope,
    in_memory,
    proto,
    scripted,
    serve,
    stream_response,
    text,
)

AROUND = pytest.mark.parametrize("types", [[], [Relay], [Relay, Relay]], ids=["bare", "in one", "in two"])


class Streaming:
    """A handler that streams, and keeps how far it has come."""

    def __init__(self, *values: str, error: Exception | None = None) -> None:
        self._values = values
        self._error = error
        self.events: list[str] = []

    def __call__(self, request: Any, ctx: RequestContext) -> Iterator[Any]:
        ctx.response_headers()["leading"] = "1"
        try:
            for value in self._values:
                self.events.append(value)
                yield text(value)
            if self._error is not None:
                raise self._error
        finally:
            ctx.response_trailers()["trailing"] = "2"
            self.events.append("end")


def open_stream(handler: Handler, types: list[type[Relay]] | None = None) -> ResponseStream[Any]:
    client = in_memory(serve(SERVER_STREAM, handler), interceptors=[make() for make in types or []])
    return client.call_server_stream(SERVER_STREAM, text())


@AROUND
def test_stream_is_an_iterator_over_the_responses(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming("a", "b"), types)

    assert iter(stream) is stream
    assert [response.value for response in stream] == ["a", "b"]


@AROUND
def test_exhausted_stream_stays_exhausted(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming("a"), types)
    list(stream)

    assert list(stream) == []


@AROUND
def test_error_is_raised_once(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming("a", error=ConnectError(Code.ABORTED)), types)
    next(stream)
    with pytest.raises(ConnectError):
        next(stream)

    assert list(stream) == []


@AROUND
@pytest.mark.parametrize("read_count", [0, 1, 2])
def test_closed_stream_gives_nothing_more(read_count: int, types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming("a", "b", "c"), types)
    for _ in range(read_count):
        next(stream)
    stream.close()

    assert list(stream) == []


@AROUND
@pytest.mark.parametrize("read_count", [1, 2])
def test_closing_the_stream_closes_the_handler(read_count: int, types: list[type[Relay]]) -> None:
    handler = Streaming("a", "b", "c")
    stream = open_stream(handler, types)
    for _ in range(read_count):
        next(stream)
    stream.close()

    assert handler.events == [*"abc"[:read_count], "end"]


def test_closing_the_stream_before_it_was_read_closes_the_handler() -> None:
    handler = Streaming("a", "b")
    open_stream(handler).close()

    assert handler.events == ["a", "end"]


def test_call_within_a_generator_is_not_made_before_its_first_response_is_asked_for() -> None:
    handler = Streaming("a", "b")
    open_stream(handler, [Relay]).close()

    assert handler.events == []


def test_leaving_the_block_of_a_stream_closes_it() -> None:
    handler = Streaming("a", "b")
    with open_stream(handler) as stream:
        next(stream)

    assert handler.events == ["a", "end"]


def test_error_within_the_block_of_a_stream_closes_it() -> None:
    handler = Streaming("a", "b")
    with pytest.raises(KeyError), open_stream(handler):
        raise KeyError

    assert handler.events == ["a", "end"]


def test_closing_twice_is_closing_once() -> None:
    handler = Streaming("a", "b")
    stream = open_stream(handler)
    stream.close()
    stream.close()

    assert handler.events == ["a", "end"]


@pytest.mark.parametrize("types", [[], [Relay]], ids=["bare", "in one"])
def test_closing_the_stream_closes_the_body(types: list[type[Relay]]) -> None:
    body = ScriptedBody(envelope(proto("a")), envelope(proto("b")), OK_END)
    client, _ = scripted(stream_response(body=body), interceptors=[make() for make in types])
    stream = client.call_server_stream(SERVER_STREAM, text())
    next(stream)
    stream.close()

    assert body.close_count >= 1
    assert body.remaining == [envelope(proto("b")), OK_END]


# Metadata


@AROUND
def test_leading_metadata_is_there_before_the_stream_is_read(types: list[type[Relay]]) -> None:
    with open_stream(Streaming("a", "b"), types) as stream:
        assert stream.response_headers()["leading"] == "1"


@AROUND
def test_looking_at_the_headers_takes_no_response_away(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming("a", "b"), types)
    stream.response_headers()
    stream.response_headers()

    assert [response.value for response in stream] == ["a", "b"]


@AROUND
def test_looking_at_the_headers_of_an_empty_stream_leaves_it_empty(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming(), types)

    assert stream.response_headers()["leading"] == "1"
    assert list(stream) == []
    assert stream.response_trailers()["trailing"] == "2"


@AROUND
def test_looking_at_the_headers_of_a_failed_stream_leaves_its_error(types: list[type[Relay]]) -> None:
    stream = open_stream(Streaming(error=ConnectError(Code.ABORTED)), types)

    assert stream.response_headers()["leading"] == "1"
    with pytest.raises(ConnectError, match="aborted"):
        next(stream)
    assert list(stream) == []


@AROUND
def test_stream_may_be_closed_when_its_headers_were_looked_at(types: list[type[Relay]]) -> None:
    handler = Streaming("a", "b")
    stream = open_stream(handler, types)
    stream.response_headers()
    stream.close()

    assert list(stream) == []
    assert handler.events == ["a", "end"]


def test_error_that_the_headers_have_come_upon_is_gone_with_the_stream() -> None:
    stream = open_stream(Streaming(error=ConnectError(Code.ABORTED)), [Relay])
    stream.response_headers()
    stream.close()

    assert list(stream) == []


def test_headers_of_a_call_that_was_never_made_are_empty() -> None:
    class Answering:
        def intercept_server_stream(self, call_next: Any, request: Any, ctx: RequestContext) -> Iterator[Any]:
            return iter([text("a"), text("b")])

    client, transport = scripted(interceptors=[Answering()])
    stream = client.call_server_stream(SERVER_STREAM, text())

    assert len(stream.response_headers()) == 0
    assert [response.value for response in stream] == ["a", "b"]
    assert transport.sent == []


def test_trailing_metadata_is_empty_until_the_stream_has_ended() -> None:
    stream = open_stream(Streaming("a"))
    next(stream)
    assert len(stream.response_trailers()) == 0
    assert list(stream) == []

    assert stream.response_trailers()["trailing"] == "2"


def test_trailing_metadata_of_a_failed_stream_is_there() -> None:
    stream = open_stream(Streaming("a", error=ConnectError(Code.ABORTED)))
    next(stream)
    with pytest.raises(ConnectError):
        next(stream)

    assert stream.response_trailers()["trailing"] == "2"


def test_stream_that_is_read_in_a_block_of_metadata_leaves_its_own() -> None:
    stream = open_stream(Streaming("a"))
    with ResponseMetadata() as metadata:
        list(stream)

    assert (metadata.headers()["leading"], metadata.trailers()["trailing"]) == ("1", "2")
