"""Calls through proxies: such as pass requests on, and such as open tunnels, each with TLS and without."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from urllib.parse import urlsplit

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest
from urllib3.connection import HTTPConnection

from connect_sync import Code, ConnectError
from tests.integration.calls import (
    MESSAGE,
    Kind,
    answer,
    answer_with_another,
    cancel_when,
    chunked_head,
    endless_requests,
    idle_connections,
)
from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.scripted import HungUp, Peer, ScriptedServer, Serve, acts, say, say_and_wait
from tests.integration.servers import Gunicorn
from tests.integration.wire import PATIENCE, chunk, envelope, head

all_kinds = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)


_LITTLE_ROOM = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 << 10)]
"""What keeps a large message from leaving in one piece."""


def pass_on(peer: Peer) -> None:
    """Send a request to the server that it names, and what follows with it."""
    request, rest = peer.read_head_and_rest()
    method, target, version = request.first_line.split(" ")
    url = urlsplit(target)
    with connect(f"{url.hostname}:{url.port}") as upstream:
        upstream.sendall(head(f"{method} {url.path} {version}", request.headers) + rest)
        relay(peer.socket, upstream)


def open_tunnel(peer: Peer, before_receiving: Callable[[], None] = lambda: None) -> None:
    """Do what CONNECT asks for, with something before each receive of what the server sends."""
    request, rest = peer.read_head_and_rest()
    method, target, _ = request.first_line.split(" ")
    assert (method, rest) == ("CONNECT", b"")
    with connect(target) as upstream:
        peer.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        relay(peer.socket, upstream, before_receiving)


def connect(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def relay(
    downstream: socket.socket, upstream: socket.socket, before_receiving: Callable[[], None] = lambda: None
) -> None:
    others = {downstream: upstream, upstream: downstream}
    while True:
        # What TLS has decrypted already does not make its socket readable.
        ready = [sock for sock in others if isinstance(sock, ssl.SSLSocket) and sock.pending()]
        for sock in ready or select.select([*others], [], [])[0]:
            if sock is upstream:
                before_receiving()
            data = sock.recv(1 << 16)
            if not data:
                raise HungUp
            others[sock].sendall(data)


class Route:
    """A proxy, and the ways of calling through it."""

    def __init__(
        self,
        serve: Serve,
        certificates: Certificates,
        is_tls: bool,
        is_proxy_tls: bool,
        before_receiving: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_tls = is_tls
        script = partial(open_tunnel, before_receiving=before_receiving) if is_tls else pass_on
        self.proxy = serve(script, is_tls=is_proxy_tls)
        self._context = certificates.client_context()

    @contextmanager
    def client(self, url: str) -> Iterator[tuple[EchoServiceClient, urllib3.PoolManager]]:
        headers = urllib3.make_headers(proxy_basic_auth="user:password")
        with urllib3.ProxyManager(
            self.proxy.url,
            proxy_headers=headers,
            ssl_context=self._context,
            proxy_ssl_context=self._context,
            socket_options=_LITTLE_ROOM,
        ) as manager:
            yield EchoServiceClient(url, pool_manager=manager), manager


@pytest.fixture(params=["passes on", "tunnels", "passes on, over TLS", "tunnels, over TLS"])
def route(request: pytest.FixtureRequest, serve: Serve, certificates: Certificates) -> Route:
    """A proxy for servers without TLS, or for those with it, which it is itself reached by, or not."""
    name: str = request.param
    return Route(serve, certificates, name.startswith("tunnels"), name.endswith("over TLS"))


def serve_behind(route: Route, serve: Serve, kind: Kind) -> ScriptedServer:
    return serve(acts(say(answer(kind))), is_tls=route.is_tls)


@all_kinds
def test_call_passes_through(kind: Kind, route: Route, serve: Serve) -> None:
    server = serve_behind(route, serve, kind)
    with route.client(server.url) as (client, manager):
        for timeout_ms in (None, PATIENCE * 1000):
            assert kind.call(client, timeout_ms=timeout_ms) == [b"message"]
        assert len(idle_connections(manager, server.url)) == 1
    assert (server.connections, route.proxy.connections) == (1, 1)


@all_kinds
@pytest.mark.parametrize("is_bounded", [False, True], ids=["unbounded", "bounded"])
def test_large_message_passes_through(kind: Kind, is_bounded: bool, route: Route, serve: Serve) -> None:
    server = serve_behind(route, serve, kind)
    request = EchoRequest(payload=bytes(range(256)) * (16 << 10))
    with route.client(server.url) as (client, _):
        assert kind.call(client, request, timeout_ms=PATIENCE * 500 if is_bounded else None) == [b"message"]
    assert request.SerializeToString() in server.requests[0].body


def test_early_answer_is_heard_through_a_proxy(route: Route, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.read_chunk()
        peer.send(answer(Kind.CLIENT_STREAM, connection="close"))
        while True:
            peer.read_chunk()

    server = serve(script, is_tls=route.is_tls)
    with route.client(server.url) as (client, manager):
        assert client.collect(endless_requests()).payload == b"message"
        assert idle_connections(manager, server.url) == []


@all_kinds
@pytest.mark.parametrize("size", [9_000, 16_000, 20_000, 100_000])
def test_answer_behind_a_large_one_is_not_mistaken_for_the_next(
    kind: Kind, size: int, route: Route, serve: Serve
) -> None:
    # Within one TLS or another there may be bytes that a wait for the socket does not see.
    both = b"".join(answer_with_another(kind, bytes(size)))
    server = serve(acts(say(both), say(answer(kind))), is_tls=route.is_tls)
    with route.client(server.url) as (client, _):
        assert kind.call(client) == [bytes(size)]
        assert kind.call(client) == [b"message"]
    assert server.connections == 2


@all_kinds
def test_answer_that_a_proxy_joins_to_another_is_not_mistaken_for_the_next(
    kind: Kind, serve: Serve, certificates: Certificates
) -> None:
    # Two records of the server's TLS, in one of the proxy's.
    is_asked, is_answered = Event(), Event()

    def answer_twice(peer: Peer) -> None:
        is_asked.set()
        for response in answer_with_another(kind, bytes(9_000)):
            peer.send(response)
        is_answered.set()

    def wait_for_both() -> None:
        if is_asked.is_set():
            assert is_answered.wait(PATIENCE)

    route = Route(serve, certificates, is_tls=True, is_proxy_tls=True, before_receiving=wait_for_both)
    server = serve(acts(answer_twice, say(answer(kind))), is_tls=True)
    with route.client(server.url) as (client, _):
        assert kind.call(client) == [bytes(9_000)]
        assert kind.call(client) == [b"message"]
    assert server.connections == 2


def test_server_that_hangs_up_is_heard_through_a_proxy(route: Route, serve: Serve) -> None:
    server = serve(Peer.read_head, is_tls=route.is_tls)
    with route.client(server.url) as (client, manager):
        with pytest.raises(ConnectError) as caught:
            client.collect(endless_requests())
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.__cause__ is not None
        assert idle_connections(manager, server.url) == []


def test_proxy_is_asked_in_its_own_way(route: Route, serve: Serve) -> None:
    server = serve_behind(route, serve, Kind.UNARY)
    with route.client(server.url) as (client, _):
        client.echo(EchoRequest())
    origin = f"127.0.0.1:{server.port}"
    expected = f"CONNECT {origin}" if route.is_tls else f"POST http://{origin}/echo.v1.EchoService/Echo"
    assert route.proxy.requests[0].first_line.startswith(f"{expected} HTTP/1.")
    assert route.proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwYXNzd29yZA=="


def test_server_behind_a_tunnel_does_not_see_the_credentials_of_the_proxy(
    serve: Serve, certificates: Certificates
) -> None:
    route = Route(serve, certificates, is_tls=True, is_proxy_tls=False)
    server = serve_behind(route, serve, Kind.UNARY)
    with route.client(server.url) as (client, _):
        client.echo(EchoRequest())
    assert server.requests[0].first_line == "POST /echo.v1.EchoService/Echo HTTP/1.1"
    assert "proxy-authorization" not in server.requests[0].headers


def test_streams_are_live_through_a_proxy(
    route: Route, server: Gunicorn, tls_server: Gunicorn, channel: Channel
) -> None:
    def requests() -> Iterator[EchoRequest]:
        for number in range(3):
            yield EchoRequest(payload=b"%d" % number)
            if not number:
                assert channel.next_event() == "called"
            assert channel.next_event() == f"got {number}"

    gunicorn = tls_server if route.is_tls else server
    with route.client(gunicorn.url) as (client, _):
        assert client.collect(requests(), headers=channel.headers).payload == b"012"


@all_kinds
def test_deadline_ends_call_through_a_proxy(kind: Kind, route: Route, serve: Serve) -> None:
    server = serve(acts(say_and_wait(answer(kind)[:-1])), is_tls=route.is_tls)
    with route.client(server.url) as (client, manager):
        assert kind.failure(client, timeout_ms=200).code is Code.DEADLINE_EXCEEDED
        assert idle_connections(manager, server.url) == []


@all_kinds
def test_cancellation_ends_call_through_a_proxy(kind: Kind, route: Route, serve: Serve) -> None:
    reached = Event()
    server = serve(acts(say_and_wait(answer(kind)[:-1], reached)), is_tls=route.is_tls)
    with cancel_when(reached) as cancellation, route.client(server.url) as (client, manager):
        assert kind.failure(client, cancellation=cancellation).code is Code.CANCELED
        assert idle_connections(manager, server.url) == []


def test_stream_through_a_proxy_is_left_early(route: Route, serve: Serve) -> None:
    start = chunked_head(Kind.SERVER_STREAM) + chunk(envelope(MESSAGE))
    server = serve(acts(say_and_wait(start)), is_tls=route.is_tls)
    with route.client(server.url) as (client, manager):
        with client.repeat(EchoRequest()) as responses:
            assert next(responses).payload == b"message"
        assert idle_connections(manager, server.url) == []


@all_kinds
@pytest.mark.parametrize(
    "status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway", "504 Gateway Timeout"]
)
def test_refused_tunnel_is_unavailable(kind: Kind, status: str, serve: Serve) -> None:
    refusal = head(f"HTTP/1.1 {status}", {"content-type": "text/html", "content-length": 5}) + b"Sorry"
    proxy = serve(acts(say(refusal)))
    with urllib3.ProxyManager(proxy.url) as manager:
        client = EchoServiceClient("https://origin.example", pool_manager=manager)
        for timeout_ms in (None, PATIENCE * 1000):
            error = kind.failure(client, timeout_ms=timeout_ms)
            assert error.code is Code.UNAVAILABLE
            assert error.__cause__ is not None
        assert idle_connections(manager, "https://origin.example") == []


@all_kinds
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_unavailable(kind: Kind, scheme: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with urllib3.ProxyManager(f"http://127.0.0.1:{sock.getsockname()[1]}") as manager:
            url = f"{scheme}://origin.example"
            error = kind.failure(EchoServiceClient(url, pool_manager=manager))
            assert error.code is Code.UNAVAILABLE
            assert error.__cause__ is not None
            assert idle_connections(manager, url) == []
