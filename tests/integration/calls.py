"""The kinds of calls that the client makes, and the answers that they want, for tests of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from threading import Event, Thread
from typing import Any

import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Cancellation, ConnectError
from tests.integration.wire import END, LAST_CHUNK, PATIENCE, chunk, envelope, head

LIMIT = 4 << 20
"""How large a message the client takes, if it is not told."""

MESSAGE = EchoResponse(payload=b"message").SerializeToString()

REQUEST = EchoRequest(payload=b"request", times=1)


class Kind(Enum):
    """A kind of call, by the name of its method."""

    UNARY = "Echo"
    CLIENT_STREAM = "Collect"
    SERVER_STREAM = "Repeat"

    @property
    def content_type(self) -> str:
        return "application/proto" if self is Kind.UNARY else "application/connect+proto"

    @property
    def body(self) -> bytes:
        """The body of a response that is well."""
        return self.wrap(MESSAGE)

    @property
    def unended_body(self) -> bytes:
        """The body of a response that has its message, but not the end of its stream."""
        return MESSAGE if self is Kind.UNARY else envelope(MESSAGE)

    def wrap(self, message: bytes) -> bytes:
        """Return the body of a response that holds ``message``."""
        return message if self is Kind.UNARY else envelope(message) + envelope(b"{}", END)

    def call(self, client: EchoServiceClient, request: EchoRequest = REQUEST, **options: Any) -> list[bytes]:
        """Make a call, to its end, and return what it brought."""
        if self is Kind.UNARY:
            return [client.echo(request, **options).payload]
        if self is Kind.CLIENT_STREAM:
            return [client.collect([request], **options).payload]
        with client.repeat(request, **options) as responses:
            return [response.payload for response in responses]

    def failure(
        self, client: EchoServiceClient, request: EchoRequest = REQUEST, **options: Any
    ) -> ConnectError:
        """Make a call that has to fail, and return how it did."""
        try:
            result = self.call(client, request, **options)
        except ConnectError as error:
            return error
        raise AssertionError(f"the call succeeded: {result!r}")


STREAMS = [Kind.CLIENT_STREAM, Kind.SERVER_STREAM]


def answer(kind: Kind, body: bytes | None = None, status: str = "200 OK", **headers: object) -> bytes:
    """Return a response of that kind. Of a header's name, underscores stand for hyphens."""
    body = kind.body if body is None else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        head(f"HTTP/1.1 {status}", {"content-type": kind.content_type, "content-length": len(body)} | given)
        + body
    )


def answer_with_another(kind: Kind, payload: bytes) -> tuple[bytes, bytes]:
    """Return a response whose message has ``payload``, and one to stand behind it, not asked for."""
    first = answer(kind, kind.wrap(EchoResponse(payload=payload).SerializeToString()))
    return first, answer(kind, kind.wrap(EchoResponse(payload=b"stale").SerializeToString()))


def chunked_answer(kind: Kind, *chunks: bytes) -> bytes:
    """Return a response in chunks."""
    return chunked_head(kind) + b"".join(map(chunk, chunks)) + LAST_CHUNK


def chunked_head(kind: Kind) -> bytes:
    return head("HTTP/1.1 200 OK", {"content-type": kind.content_type, "transfer-encoding": "chunked"})


def idle_connections(manager: urllib3.PoolManager, url: str) -> list[Any]:
    """Return the open connections that wait in the pool to be used again."""
    return [connection for connection in places(manager, url) if connection and not connection.is_closed]


def places(manager: urllib3.PoolManager, url: str) -> list[Any]:
    """Return the places of the pool that are not in use, with the connections in them."""
    pool = manager.connection_from_url(url).pool
    assert pool is not None
    return list(pool.queue)


def endless_requests() -> Iterator[EchoRequest]:
    while True:
        yield REQUEST


@contextmanager
def cancel_when(reached: Event) -> Iterator[Cancellation]:
    """Cancel from another thread, when ``reached`` is set."""
    cancellation = Cancellation()

    def cancel() -> None:
        reached.wait(PATIENCE)
        cancellation.cancel()

    thread = Thread(target=cancel)
    thread.start()
    try:
        yield cancellation
    finally:
        reached.set()
        thread.join()
