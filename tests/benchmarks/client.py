"""The client over a real socket: unary calls and streams.

Calls are compared with urllib3, `http.client` and a raw socket that send the same bytes, streams with those
of connectrpc.

The server is a process of its own that answers every request with the same bytes, so that what differs is the
client. grpcio's client has a server of grpcio's, and ours beside it one under gunicorn.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from time import process_time

import urllib3
from benchmark.v1.benchmark_connect import BenchmarkServiceClient
from benchmark.v1.benchmark_pb2 import Message

from connect_sync import Cancellation
from tests.benchmarks import grpc_peer, peer
from tests.benchmarks.calls import STREAM_LENGTH, response
from tests.benchmarks.measure import Row, against, interleaved, on_core, print_table
from tests.benchmarks.server import running, serving
from tests.benchmarks.service import ECHO, MESSAGE, PAYLOAD, wrap

_BODY = MESSAGE.SerializeToString()
# Those of connect-sync, in its order.
_HEADERS = {
    "user-agent": "connect-sync",
    "connect-protocol-version": "1",
    "accept-encoding": "gzip, zstd, br, snappy, deflate",
    "content-type": "application/proto",
}
_UNARY = response("proto", _BODY)
_END = wrap(b"{}", 2)
_STREAM = response("connect+proto", wrap(_BODY) * STREAM_LENGTH + _END)
_COUNT = response("connect+proto", wrap(Message(number=STREAM_LENGTH).SerializeToString()) + _END)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def _serve(ports: Connection, request_end: bytes, answer: bytes) -> None:
    """Answer one connection's requests, each of which ends with the same bytes, till the process is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                last = b""
                while chunk := connection.recv(1 << 18):
                    last = (last + chunk)[-len(request_end) :]
                    if last == request_end:
                        connection.sendall(answer)
                        last = b""


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _unary() -> None:
    """Print a table of wall time, and one of CPU time."""
    with ExitStack() as stack:
        # Each client keeps its one connection, so each has a server.
        ports = [stack.enter_context(running(_serve, _BODY, _UNARY)) for _ in range(6)]
        stock = urllib3.HTTPConnectionPool("127.0.0.1", ports[0])
        stack.callback(stock.close)
        plain = http.client.HTTPConnection("127.0.0.1", ports[1])
        stack.callback(plain.close)
        raw = stack.enter_context(socket.create_connection(("127.0.0.1", ports[2])))
        head = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
        start = f"POST {ECHO} HTTP/1.1\r\nhost: 127.0.0.1:{ports[2]}\r\n"
        request = f"{start}{head}content-length: {len(_BODY)}\r\n\r\n".encode() + _BODY
        client = stack.enter_context(BenchmarkServiceClient(_url(ports[3])))
        cancelled = Cancellation()
        bounded = stack.enter_context(BenchmarkServiceClient(_url(ports[4])))
        theirs = peer.Client(_url(ports[5]), send_compression=None)
        stack.callback(theirs.close)
        message = peer.Message(payload=PAYLOAD)

        def by_urllib3() -> Message:
            return Message.FromString(stock.urlopen("POST", ECHO, body=_BODY, headers=_HEADERS).data)

        def by_http_client() -> Message:
            plain.request("POST", ECHO, body=_BODY, headers=_HEADERS)
            return Message.FromString(plain.getresponse().read())

        def by_socket() -> Message:
            raw.sendall(request)
            return Message.FromString(raw.recv(4096).partition(b"\r\n\r\n")[2])

        cases: dict[str, Callable[[], object]] = {
            "urllib3": by_urllib3,
            "http.client": by_http_client,
            "a raw socket": by_socket,
            "connect-sync": lambda: client.echo(MESSAGE),
            "connect-sync, deadline, cancellation, metadata": lambda: bounded.echo(
                MESSAGE, headers={"a": "b"}, timeout_ms=10_000, cancellation=cancelled
            ),
            "connectrpc": lambda: theirs.echo(message),
        }
        wall = interleaved(cases, calls=200)
        cpu = interleaved(cases, calls=200, clock=process_time)
    for what, times in (("wall time", wall), ("CPU time of its process", cpu)):
        print_table(f"Client, one unary call, {what}", "µs", against("urllib3", times))


def _streams() -> None:
    """Print a table for each kind of stream: what a message costs."""
    message = peer.Message(payload=PAYLOAD)
    kinds: dict[str, tuple[bytes, bytes, Callable[..., object], Callable[..., object]]] = {
        "server streaming": (
            wrap(_BODY),
            _STREAM,
            lambda client: sum(1 for _ in client.repeat(MESSAGE)),
            lambda client: sum(1 for _ in client.repeat(message)),
        ),
        "client streaming": (
            _LAST_CHUNK,
            _COUNT,
            lambda client: client.count(MESSAGE for _ in range(STREAM_LENGTH)),
            lambda client: client.count(message for _ in range(STREAM_LENGTH)),
        ),
    }
    for kind, (request_end, answer, call, their_call) in kinds.items():
        with ExitStack() as stack:
            ports = [stack.enter_context(running(_serve, request_end, answer)) for _ in range(2)]
            client = stack.enter_context(BenchmarkServiceClient(_url(ports[0])))
            theirs = peer.Client(_url(ports[1]), send_compression=None)
            stack.callback(theirs.close)
            times = interleaved(
                {
                    "connect-sync": lambda call=call, client=client: call(client),  # type: ignore[misc]
                    "connectrpc": lambda call=their_call, client=theirs: call(client),  # type: ignore[misc]
                },
                calls=3,
            )
        a_message = {name: [value / STREAM_LENGTH for value in values] for name, values in times.items()}
        rows = [
            Row("connectrpc", a_message["connectrpc"]),
            Row("connect-sync", a_message["connect-sync"], a_message["connectrpc"]),
        ]
        print_table(f"Client, {kind}, a message", "µs", rows)


def _grpcio() -> None:
    """Print a table of calls that go to a real server and back, in ours and in grpcio's way."""
    with ExitStack() as stack:
        server = stack.enter_context(serving("service:app", "--worker-class=gthread", "--threads=8"))
        ours = stack.enter_context(BenchmarkServiceClient(_url(server.port)))
        echo = stack.enter_context(grpc_peer.client(stack.enter_context(grpc_peer.serving())))
        cases: dict[str, Callable[[], object]] = {
            "grpcio and its server": lambda: echo(MESSAGE),
            "connect-sync and gunicorn": lambda: ours.echo(MESSAGE),
        }
        times = interleaved(cases, calls=200)
    rows = against("grpcio and its server", times)
    print_table("Client and server, one unary call, wall time", "µs", rows)


def main() -> None:
    """Print the tables."""
    with on_core(0):
        _unary()
        _streams()
    # A client beside a server has another core.
    _grpcio()


if __name__ == "__main__":
    main()
