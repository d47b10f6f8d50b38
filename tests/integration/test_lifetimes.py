"""A call ends by its deadline or its cancellation, whatever it is waiting for."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from urllib3.connectionpool import HTTPConnectionPool

from connect_sync import Cancellation, Code, ConnectError, ResponseStream
from tests.integration.calls import (
    MESSAGE,
    REQUEST,
    Kind,
    answer,
    cancel_when,
    chunked_head,
    endless_requests,
    idle_connections,
    places,
)
from tests.integration.certificates import Certificates
from tests.integration.listeners import full_listener
from tests.integration.scripted import Peer, Script, Serve, acts, say, say_and_wait, say_for_ever
from tests.integration.wire import END, LAST_CHUNK, PATIENCE, chunk, envelope

all_kinds = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
plain_and_tls = pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])

TIMEOUT_MS = 100


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Check that the threads that open connections end when nothing holds them up any more."""
    yield
    for thread in connecting_threads():
        thread.join(PATIENCE)
    assert connecting_threads() == []


def connecting_threads() -> list[Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "connect-sync-connect"]


def assert_let_go(manager: urllib3.PoolManager, url: str) -> None:
    """Check that a call has given its place in the pool back, with no open connection in it."""
    assert idle_connections(manager, url) == []
    assert len(places(manager, url)) == 1


# While a connection is opened


class Stuck(NamedTuple):
    """A client that does not get as far as to send anything, and when it is where it will stay."""

    client: EchoServiceClient
    reached: Event


@pytest.fixture(params=["name", "connection", "handshake", "tunnel", "handshake in tunnel", "place"])
def stuck(
    request: pytest.FixtureRequest,
    serve: Serve,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stuck]:
    reached = Event()
    with ExitStack() as stack:
        if request.param == "name":
            is_over = Event()

            def resolve(*args: Any, **kwargs: Any) -> Any:
                reached.set()
                is_over.wait()
                raise socket.gaierror(socket.EAI_AGAIN, "the resolver gave up")

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            stack.callback(is_over.set)
            client = EchoServiceClient("http://resolved.example")
        elif request.param == "connection":
            port = stack.enter_context(full_listener())
            resolve_really = socket.getaddrinfo

            def resolve_and_tell(*args: Any, **kwargs: Any) -> Any:
                reached.set()
                return resolve_really(*args, **kwargs)

            monkeypatch.setattr(socket, "getaddrinfo", resolve_and_tell)
            client = EchoServiceClient(f"http://127.0.0.1:{port}")
        elif request.param == "handshake":
            server = serve(lambda peer: hear_and_wait(peer, reached))
            client = EchoServiceClient(server.url.replace("http", "https"))
        elif request.param == "tunnel":
            proxy = serve(acts(say_and_wait(b"", reached)))
            manager = stack.enter_context(urllib3.ProxyManager(proxy.url))
            client = EchoServiceClient("https://origin.example", pool_manager=manager)
        elif request.param == "handshake in tunnel":

            def open_tunnel(peer: Peer) -> None:
                peer.read_head()
                peer.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
                hear_and_wait(peer, reached)

            manager = stack.enter_context(urllib3.ProxyManager(serve(open_tunnel).url))
            client = EchoServiceClient("https://origin.example", pool_manager=manager)
        else:
            server = serve(acts(say_and_wait(chunked_head(Kind.SERVER_STREAM))))
            narrow = stack.enter_context(urllib3.PoolManager(maxsize=1, block=True))
            client = EchoServiceClient(server.url, pool_manager=narrow)
            stack.enter_context(client.repeat(EchoRequest()))
            reached.set()
        yield Stuck(client, reached)
        client.close()


def hear_and_wait(peer: Peer, reached: Event) -> None:
    peer.read(1)
    reached.set()
    peer.wait_for_hang_up()


@all_kinds
def test_deadline_ends_call_that_is_not_connected(kind: Kind, stuck: Stuck) -> None:
    assert kind.failure(stuck.client, timeout_ms=TIMEOUT_MS).code is Code.DEADLINE_EXCEEDED


@all_kinds
def test_cancellation_ends_call_that_is_not_connected(kind: Kind, stuck: Stuck) -> None:
    with cancel_when(stuck.reached) as cancellation:
        assert kind.failure(stuck.client, cancellation=cancellation).code is Code.CANCELED


@pytest.mark.parametrize("is_canceled", [False, True], ids=["deadline", "cancellation"])
def test_place_comes_back_from_call_that_was_not_connected(
    is_canceled: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    reached, is_over = Event(), Event()

    def resolve_slowly(*args: Any, **kwargs: Any) -> Any:
        reached.set()
        is_over.wait(PATIENCE)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    server = serve(acts(say(answer(Kind.UNARY))))
    with urllib3.PoolManager(maxsize=1, block=True) as manager:
        client = EchoServiceClient(server.url, pool_manager=manager)
        if is_canceled:
            with cancel_when(reached) as cancellation:
                assert Kind.UNARY.failure(client, cancellation=cancellation).code is Code.CANCELED
        else:
            assert Kind.UNARY.failure(client, timeout_ms=TIMEOUT_MS).code is Code.DEADLINE_EXCEEDED
        is_over.set()
        assert Kind.UNARY.call(client, timeout_ms=PATIENCE * 1000) == [b"message"]


def test_attempt_that_failed_does_not_end_the_call_that_took_its_place(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    put_back = HTTPConnectionPool._put_conn
    failed = Event()

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if failed.is_set():
            return resolve(*args, **kwargs)
        failed.set()
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver gave up")

    streams: list[ResponseStream[EchoResponse]] = []

    def put_back_and_take(pool: HTTPConnectionPool, connection: Any) -> None:
        """Let another call have the place before the call that failed hears of it."""
        put_back(pool, connection)
        if not streams:
            streams.append(client.repeat(REQUEST))

    monkeypatch.setattr(socket, "getaddrinfo", fail_once)
    monkeypatch.setattr(HTTPConnectionPool, "_put_conn", put_back_and_take)
    is_over = Event()

    def stream(peer: Peer) -> None:
        peer.read_request()
        peer.send(chunked_head(Kind.SERVER_STREAM) + chunk(envelope(MESSAGE)))
        is_over.wait(PATIENCE)
        peer.send(chunk(envelope(b"{}", END)) + LAST_CHUNK)

    server = serve(stream)
    with urllib3.PoolManager(maxsize=1, block=True) as manager:
        client = EchoServiceClient(server.url, pool_manager=manager)
        error = Kind.UNARY.failure(client, timeout_ms=PATIENCE * 1000)
        assert (error.code, failed.is_set()) == (Code.UNAVAILABLE, True)
        with streams[0] as responses:
            is_over.set()
            assert [response.payload for response in responses] == [b"message"]


# While a request is sent

LARGE = EchoRequest(payload=bytes(64 << 20))


def read_nothing(reached: Event) -> Script:
    """Read the head of a request, and nothing of its body."""

    def script(peer: Peer) -> None:
        peer.read_head()
        reached.set()
        peer.wait_for_end()

    return script


@all_kinds
@plain_and_tls
def test_deadline_ends_call_that_sends(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(read_nothing(Event()), is_tls=is_tls)
    # Long enough for the handshake of TLS, also on a busy machine: it is sending that is to be ended.
    error = kind.failure(EchoServiceClient(server.url, pool_manager=manager), LARGE, timeout_ms=2000)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert_let_go(manager, server.url)


@all_kinds
@plain_and_tls
def test_cancellation_ends_call_that_sends(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    reached = Event()
    server = serve(read_nothing(reached), is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    with cancel_when(reached) as cancellation:
        assert kind.failure(client, LARGE, cancellation=cancellation).code is Code.CANCELED
    assert_let_go(manager, server.url)


def read_for_ever(peer: Peer) -> None:
    peer.read_head()
    while True:
        peer.read_chunk()


@plain_and_tls
def test_deadline_ends_requests_without_an_end(
    is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(read_for_ever, is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    with pytest.raises(ConnectError) as caught:
        client.collect(endless_requests(), timeout_ms=TIMEOUT_MS)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert_let_go(manager, server.url)


@plain_and_tls
def test_cancellation_between_requests_ends_call_at_the_next(
    is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    cancellation = Cancellation()
    given = []

    def requests() -> Iterator[EchoRequest]:
        for number, request in enumerate(endless_requests()):
            given.append(number)
            if number == 3:
                cancellation.cancel()
            yield request

    server = serve(read_for_ever, is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    with pytest.raises(ConnectError) as caught:
        client.collect(requests(), cancellation=cancellation)
    assert caught.value.code is Code.CANCELED
    assert given == [0, 1, 2, 3]
    assert_let_go(manager, server.url)


# While an answer is awaited


def unfinished_error(kind: Kind) -> bytes:
    return answer(
        kind, b'{"code":', "503 Service Unavailable", content_type="application/json", content_length=99
    )


awaited = pytest.mark.parametrize(
    "start_for",
    [
        pytest.param(lambda kind: b"", id="before the head"),
        pytest.param(lambda kind: b"HTTP/1.1 200 OK\r\n", id="within the head"),
        pytest.param(lambda kind: b"HTTP/1.1 100 Continue\r\n\r\n", id="behind an interim response"),
        pytest.param(chunked_head, id="before the body"),
        pytest.param(lambda kind: answer(kind)[:-1], id="within the body"),
        pytest.param(lambda kind: chunked_head(kind) + chunk(kind.unended_body), id="before the last chunk"),
        pytest.param(unfinished_error, id="within an error"),
    ],
)


@all_kinds
@awaited
@plain_and_tls
def test_deadline_ends_call_that_waits(
    kind: Kind, start_for: Callable[[Kind], bytes], is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say_and_wait(start_for(kind))), is_tls=is_tls)
    error = kind.failure(EchoServiceClient(server.url, pool_manager=manager), timeout_ms=TIMEOUT_MS)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert_let_go(manager, server.url)


@all_kinds
@awaited
@plain_and_tls
def test_cancellation_ends_call_that_waits(
    kind: Kind, start_for: Callable[[Kind], bytes], is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    reached = Event()
    server = serve(acts(say_and_wait(start_for(kind), reached)), is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    with cancel_when(reached) as cancellation:
        assert kind.failure(client, cancellation=cancellation).code is Code.CANCELED
    assert_let_go(manager, server.url)


# While a stream is read


@pytest.fixture(params=["between messages", "within a message", "within a prefix"])
def stream_server(request: pytest.FixtureRequest) -> Script:
    """Give one message, and not the next."""
    message = envelope(MESSAGE)
    rest = {"between messages": b"", "within a message": message[:-1], "within a prefix": message[:3]}
    return acts(say_and_wait(chunked_head(Kind.SERVER_STREAM) + chunk(message + rest[request.param])))


@plain_and_tls
def test_deadline_ends_stream(
    stream_server: Script, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(stream_server, is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    with client.repeat(EchoRequest(), timeout_ms=1000) as responses:
        assert next(responses).payload == b"message"
        with pytest.raises(ConnectError) as caught:
            next(responses)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert_let_go(manager, server.url)
        assert list(responses) == []


@plain_and_tls
def test_cancellation_ends_stream(
    stream_server: Script, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(stream_server, is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    waits = Event()
    with (
        cancel_when(waits) as cancellation,
        client.repeat(EchoRequest(), cancellation=cancellation) as responses,
    ):
        assert next(responses).payload == b"message"
        waits.set()
        with pytest.raises(ConnectError) as caught:
            next(responses)
        assert caught.value.code is Code.CANCELED
        assert_let_go(manager, server.url)
        assert list(responses) == []


def test_cancellation_ends_stream_that_does_not_wait(serve: Serve, manager: urllib3.PoolManager) -> None:
    endless = say_for_ever(chunked_head(Kind.SERVER_STREAM), chunk(envelope(MESSAGE)))
    server = serve(acts(endless))
    client = EchoServiceClient(server.url, pool_manager=manager)
    cancellation = Cancellation()
    with client.repeat(EchoRequest(), cancellation=cancellation) as responses:
        assert next(responses).payload == b"message"
        cancellation.cancel()
        with pytest.raises(ConnectError) as caught:
            next(responses)
    assert caught.value.code is Code.CANCELED
    assert_let_go(manager, server.url)


# Before and after


@all_kinds
def test_canceled_call_is_not_begun(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    server = serve(acts(say(answer(kind))))
    cancellation = Cancellation()
    cancellation.cancel()
    error = kind.failure(EchoServiceClient(server.url, pool_manager=manager), cancellation=cancellation)
    assert error.code is Code.CANCELED
    assert server.connections == 0


@all_kinds
def test_call_without_time_is_not_begun(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    server = serve(acts(say(answer(kind))))
    error = kind.failure(EchoServiceClient(server.url, pool_manager=manager), timeout_ms=1e-9)
    assert error.code is Code.DEADLINE_EXCEEDED
    assert server.connections == 0


@all_kinds
@plain_and_tls
def test_cancellation_after_the_end_does_nothing(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(answer(kind))), is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    cancellation = Cancellation()
    assert kind.call(client, cancellation=cancellation) == [b"message"]
    cancellation.cancel()
    assert kind.call(client) == [b"message"]
    assert server.connections == 1


@plain_and_tls
def test_deadline_of_a_call_does_not_hold_for_the_next_on_its_connection(
    is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    is_past = Event()

    def answer_late(peer: Peer) -> None:
        assert is_past.wait(PATIENCE)
        peer.send(answer(Kind.UNARY))

    server = serve(acts(say(answer(Kind.UNARY)), answer_late), is_tls=is_tls)
    client = EchoServiceClient(server.url, pool_manager=manager)
    timer = threading.Timer(1.0, is_past.set)
    timer.start()
    assert Kind.UNARY.call(client, timeout_ms=1000) == [b"message"]
    assert Kind.UNARY.call(client) == [b"message"]
    timer.join()
    assert server.connections == 1


@all_kinds
@pytest.mark.parametrize("timeout_ms", [(1 << 31) - 1, 1 << 31, 1 << 32, 9_999_999_999])
@pytest.mark.parametrize("size", [0, 1 << 20])
def test_longest_deadline_is_a_deadline(
    kind: Kind, timeout_ms: int, size: int, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(answer(kind))))
    client = EchoServiceClient(server.url, pool_manager=manager)
    assert kind.call(client, EchoRequest(payload=bytes(size)), timeout_ms=timeout_ms) == [b"message"]


def test_one_cancellation_ends_calls_in_many_threads(serve: Serve, manager: urllib3.PoolManager) -> None:
    kinds = [*Kind] * 4
    all_wait = threading.Barrier(len(kinds) + 1, timeout=PATIENCE)

    def script(peer: Peer) -> None:
        peer.read_request()
        all_wait.wait()
        peer.wait_for_hang_up()

    server = serve(script)
    client = EchoServiceClient(server.url, pool_manager=manager)
    cancellation = Cancellation()
    with ThreadPoolExecutor(len(kinds)) as threads:
        calls = [threads.submit(kind.failure, client, cancellation=cancellation) for kind in kinds]
        all_wait.wait()
        cancellation.cancel()
        assert {call.result().code for call in calls} == {Code.CANCELED}
    assert idle_connections(manager, server.url) == []


def test_cancellation_by_a_signal_handler_ends_call_of_its_own_thread(
    serve: Serve, manager: urllib3.PoolManager
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        # Python runs a handler when a wait is over, if the signal comes just before that wait begins.
        while not peer.has_hung_up(within=0.1):
            os.kill(os.getpid(), signal.SIGUSR1)

    server = serve(script)
    client = EchoServiceClient(server.url, pool_manager=manager)
    cancellation = Cancellation()
    before = signal.signal(signal.SIGUSR1, lambda *_: cancellation.cancel())
    try:
        assert Kind.UNARY.failure(client, cancellation=cancellation).code is Code.CANCELED
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert_let_go(manager, server.url)
