"""The calls that are measured: their requests and responses, and how one is served without a socket."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmark.v1.benchmark_pb2 import Message
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import IterUnreader

from tests.benchmarks.service import PAYLOAD, SERVICE, wrap

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

STREAM_LENGTH = 1000
"""How many messages a stream has."""

_UNARY, _STREAM, _WEB = "application/proto", "application/connect+proto", "application/grpc-web+proto"


_ACCEPTED = dict.fromkeys(
    ("HTTP_ACCEPT_ENCODING", "HTTP_CONNECT_ACCEPT_ENCODING", "HTTP_GRPC_ACCEPT_ENCODING"),
    "gzip, zstd, br, snappy, deflate",
)


def environ(
    path: str,
    content_type: str,
    body: bytes,
    *,
    accepting: bool = False,
    make_input: Callable[[bytes], Any] = io.BytesIO,
) -> WSGIEnvironment:
    """Return the environ of a request, as servers make it, perhaps of one that takes compressed responses."""
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
        "wsgi.input": make_input(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **(_ACCEPTED if accepting else {}),
    }


def ignore_head(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
    """Stand for a server's start_response."""


def gunicorn_input(body: bytes) -> Any:
    """Return what gunicorn has for the input of a request whose body it has received."""
    return Body(LengthReader(IterUnreader([body]), len(body)))


def run(application: WSGIApplication, path: str, content_type: str, body: bytes, **options: Any) -> None:
    """Serve one request to its end, with the options of `environ`."""
    chunks = application(environ(path, content_type, body, **options), ignore_head)
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
        self.unary = (f"{path}/Echo", _UNARY, message)
        self.web_unary = (f"{path}/Echo", _WEB, wrap(message))
        self.server_stream = (f"{path}/Repeat", _STREAM, wrap(times))
        self.client_stream = (f"{path}/Count", _STREAM, wrap(message) * STREAM_LENGTH)


ours = Requests(SERVICE, Message, Message.SerializeToString)


def response(subtype: str, body: bytes) -> bytes:
    """Return a response over HTTP/1.1, under the headers that gunicorn gives one."""
    head = (
        "HTTP/1.1 200 OK\r\nserver: gunicorn\r\ndate: Sun, 01 Jan 2023 00:00:00 GMT\r\n"
        f"connection: keep-alive\r\ncontent-type: application/{subtype}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
