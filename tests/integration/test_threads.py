"""One client that many threads share, with interceptors on both sides."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest

from connect_sync import Cancellation, Code, ConnectError, RequestContext
from tests.integration.calls import places
from tests.integration.servers import Gunicorn
from tests.integration.wire import PATIENCE

THREADS = 16
CALLS = 40
PLACES = 8


@pytest.fixture
def server_of_many_threads(tmp_path: Path) -> Iterator[Gunicorn]:
    application = "tests.integration.watched:application"
    server = Gunicorn(tmp_path / "gunicorn.log", "gthread", "--threads", str(PLACES), application=application)
    yield server
    server.stop()
    print(server.new_output())


running: ContextVar[object] = ContextVar("running")


class Watching:
    """An interceptor that keeps which calls have started, and which have ended in their own context."""

    def __init__(self) -> None:
        self.started: list[object] = []
        self.ended: list[object] = []

    def on_start(self, ctx: RequestContext) -> tuple[object, Token[object]]:
        call = object()
        self.started.append(call)
        return call, running.set(call)

    def on_end(
        self, token: tuple[object, Token[object]], ctx: RequestContext, error: ConnectError | None
    ) -> None:
        call, running_token = token
        if running.get() is call:
            running.reset(running_token)  # raises in any other context
            self.ended.append(call)


def make_calls(client: EchoServiceClient, seed: int) -> int:
    """Make calls of all kinds, each with a payload of its own, and return how many ended as they should."""
    choice = random.Random(seed)
    good = 0
    for number in range(CALLS):
        payload = b"%d/%d," % (seed, number) * choice.choice([1, 10, 10_000])
        request = EchoRequest(payload=payload, times=3)
        bounds: dict[str, Any] = choice.choice(
            [{}, {"timeout_ms": PATIENCE * 1000}, {"cancellation": Cancellation()}]
        )
        kind = choice.randrange(7)
        if kind == 0:
            good += client.echo(request, **bounds).payload == payload
        elif kind == 1:
            good += client.echo_safely(request, use_get=True, **bounds).payload == payload
        elif kind == 2:
            good += client.collect([request] * 3, **bounds).payload == payload * 3
        elif kind == 3:
            with client.repeat(request, **bounds) as responses:
                good += [response.payload for response in responses] == [payload] * 3
        elif kind == 4:
            with client.repeat(request, **bounds) as responses:
                good += next(responses).payload == payload
        elif kind == 5:
            try:
                client.echo(EchoRequest(error="not_found"), **bounds)
            except ConnectError as error:
                good += error.code is Code.NOT_FOUND
        else:
            try:
                client.collect([request] * 3, timeout_ms=choice.choice([0.1, 1, 3]))
            except ConnectError as error:
                good += error.code is Code.DEADLINE_EXCEEDED
            else:
                good += 1
    return good


@pytest.mark.parametrize("proto_json", [False, True], ids=["proto", "json"])
def test_client_is_shared_by_threads(server_of_many_threads: Gunicorn, proto_json: bool) -> None:
    url = server_of_many_threads.url
    watching = Watching()
    threads_before = set(threading.enumerate())
    with urllib3.PoolManager(maxsize=PLACES, block=True) as manager:
        client = EchoServiceClient(url, pool_manager=manager, proto_json=proto_json, interceptors=[watching])
        with ThreadPoolExecutor(THREADS) as threads:
            good = list(threads.map(lambda seed: make_calls(client, seed), range(THREADS)))
        for thread in set(threading.enumerate()) - threads_before:
            thread.join(PATIENCE)
        assert good == [CALLS] * THREADS
        assert len(places(manager, url)) == PLACES
    assert set(threading.enumerate()) <= threads_before
    assert len(watching.started) == THREADS * CALLS
    assert set(watching.ended) == set(watching.started)
    assert len(watching.ended) == len(watching.started)
    assert server_of_many_threads.faults() == []
