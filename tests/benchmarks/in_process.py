"""The server in process: an environ in, bytes out, against bare functions that do the same work by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.v1.benchmark_pb2 import Message

from tests.benchmarks import peer, service
from tests.benchmarks.measure import Row, interleaved, print_table
from tests.benchmarks.service import PAYLOAD, Bare, wrap

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

STREAM_LENGTH = 1000

UNARY, STREAM, WEB = "application/proto", "application/connect+proto", "application/grpc-web+proto"


def environ(path: str, content_type: str, body: bytes) -> WSGIEnvironment:
    """Return the environ of a request, as servers make it."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "localhost:8000",
        "HTTP_USER_AGENT": "benchmark",
        "HTTP_CONNECT_PROTOCOL_VERSION": "1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def ignore_head(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
    """Stand for a server's start_response."""


def run(application: WSGIApplication, path: str, content_type: str, body: bytes) -> None:
    """Serve one request to its end."""
    chunks = application(environ(path, content_type, body), ignore_head)
    for _ in chunks:
        pass
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


class Requests:
    """What each method is asked in the benchmarks, in one package's messages."""

    def __init__(self, path: str, make: Callable[..., Any], serialize: Callable[[Any], bytes]) -> None:
        """Make requests to the service at ``path``."""
        message = serialize(make(payload=PAYLOAD))
        times = serialize(make(payload=PAYLOAD, number=STREAM_LENGTH))
        self.unary = (f"{path}/Echo", UNARY, message)
        self.web_unary = (f"{path}/Echo", WEB, wrap(message))
        self.server_stream = (f"{path}/Repeat", STREAM, wrap(times))
        self.client_stream = (f"{path}/Count", STREAM, wrap(message) * STREAM_LENGTH)


ours = Requests(service.SERVICE, Message, Message.SerializeToString)
theirs = Requests(peer.SERVICE, peer.Message, peer.Message.to_binary)


def main() -> None:
    """Print a table for each kind."""
    times = interleaved(
        {
            "bare": partial(run, service.bare.unary, *ours.unary),
            "ours": partial(run, service.app, *ours.unary),
            "ours, gRPC-Web": partial(run, service.app, *ours.web_unary),
            "their bare": partial(run, peer.bare.unary, *theirs.unary),
            "theirs": partial(run, peer.app, *theirs.unary),
            "theirs, gRPC-Web": partial(run, peer.app, *theirs.web_unary),
        },
        calls=1000,
    )
    rows = [
        Row("bare function", times["bare"]),
        Row("connect-sync", times["ours"], times["bare"]),
        Row("connect-sync, gRPC-Web", times["ours, gRPC-Web"], times["bare"]),
        Row("bare function, connectrpc's messages", times["their bare"]),
        Row("connectrpc", times["theirs"], times["their bare"]),
        Row("connectrpc, gRPC-Web", times["theirs, gRPC-Web"], times["their bare"]),
    ]
    print_table("Server in process, one unary call", "µs", rows)
    _stream("Server in process, server streaming, a message", "server_stream", Bare.server_stream)
    _stream("Server in process, client streaming, a message", "client_stream", Bare.client_stream)


def _stream(title: str, kind: str, bare: Callable[..., Any]) -> None:
    times = interleaved(
        {
            "bare": partial(run, partial(bare, service.bare), *getattr(ours, kind)),
            "ours": partial(run, service.app, *getattr(ours, kind)),
            "their bare": partial(run, partial(bare, peer.bare), *getattr(theirs, kind)),
            "theirs": partial(run, peer.app, *getattr(theirs, kind)),
        },
        calls=3,
    )
    a_message = {name: [value / STREAM_LENGTH for value in values] for name, values in times.items()}
    rows = [
        Row("bare loop", a_message["bare"]),
        Row("connect-sync", a_message["ours"], a_message["bare"]),
        Row("bare loop, connectrpc's messages", a_message["their bare"]),
        Row("connectrpc", a_message["theirs"], a_message["their bare"]),
    ]
    print_table(title, "µs", rows)


if __name__ == "__main__":
    main()
