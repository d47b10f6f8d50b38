"""Streams that are live: each side goes on only when the other has told that it has the last message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from tests.integration.channel import Channel
from tests.integration.wire import chunk, envelope

NAMES = ["anna", "bert", "carl", "dora", "emil", "fred"]


Step = tuple[list[bytes], list[str]]
"""What a client sends, in pieces, and the messages that are then complete."""


def wrap(name: str) -> bytes:
    return envelope(EchoRequest(payload=name.encode()).SerializeToString())


def one_chunk_each() -> Iterator[Step]:
    for name in NAMES:
        yield [chunk(wrap(name))], [name]


def byte_by_byte() -> Iterator[Step]:
    for name in NAMES:
        data = chunk(wrap(name))
        yield [data[i : i + 1] for i in range(len(data))], [name]


def envelopes_across_chunks() -> Iterator[Step]:
    """Each chunk ends a message and begins the next one."""
    data = b"".join(map(wrap, NAMES))
    cuts = [len(b"".join(map(wrap, NAMES[: i + 1]))) + 3 for i in range(len(NAMES))]
    start = 0
    for name, cut in zip(NAMES, cuts, strict=True):
        yield [chunk(data[start:cut])], [name]
        start = cut


def paced(channel: Channel) -> Iterator[EchoRequest]:
    """Yield each message when the handler has told that it got the last one."""
    for name in NAMES:
        yield EchoRequest(payload=name.encode())
        if name == NAMES[0]:
            assert channel.next_event() == "called"
        assert channel.next_event() == f"got {name}"


def joined() -> bytes:
    return EchoResponse(payload="".join(NAMES).encode()).SerializeToString()


def assert_live(responses: Iterator[EchoResponse], channel: Channel) -> None:
    """Read three responses, giving leave for each when the last one is there."""
    for number, response in enumerate(responses):
        assert response.payload == b"x"
        assert channel.next_event() == f"asked for {number}"
        channel.go_on()
    assert number == 2
    assert channel.next_event() == "closed"


def assert_closed(channel: Channel, *, within: int | None = None) -> None:
    """Wait for the end of a generator that would go on for ever.

    ``within`` is for how many messages at most it may be asked before that, where this is known.
    """
    asked = 0
    for event in iter(channel.next_event, ""):
        if event == "closed":
            break
        asked += event.startswith("asked for")
    else:
        pytest.fail("the generator was not closed")
    assert within is None or asked <= within
