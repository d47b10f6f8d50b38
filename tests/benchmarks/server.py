"""The server in process: an environ in, bytes out, against bare functions that do the same work."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from connect_sync.envelope import wrap
from tests.benchmarks.measure import interleaved, print_table
from tests.benchmarks.service import COUNT, ECHO, MESSAGE, REPEAT, STREAM_LENGTH, app

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def environ(path: str, content_type: str, body: bytes) -> dict[str, Any]:
    """Return the environ of a request, as gunicorn makes it."""
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
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
    }


def ignore_head(status: str, headers: list[tuple[str, str]]) -> None:
    """Stand for a server's start_response."""


def run(application: Application, path: str, content_type: str, body: bytes) -> None:
    """Serve one request to its end."""
    chunks = application(environ(path, content_type, body), ignore_head)
    for _ in chunks:
        pass
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


def bare_unary(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Echo, by hand."""
    request = StringValue.FromString(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    payload = StringValue(value=request.value).SerializeToString()
    headers = [("content-type", "application/proto"), ("content-length", str(len(payload)))]
    start_response("200 OK", headers)
    return [payload]


def bare_server_stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Yield ready envelopes."""
    start_response("200 OK", [("content-type", "application/connect+proto")])
    for _ in range(STREAM_LENGTH):
        yield wrap(MESSAGE.SerializeToString())
    yield wrap(b"{}", 2)


def bare_client_stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Split the envelopes and parse the messages."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    position = count = 0
    while position < len(body):
        size = int.from_bytes(body[position + 1 : position + 5], "big")
        StringValue.FromString(body[position + 5 : position + 5 + size])
        position += 5 + size
        count += 1
    start_response("200 OK", [("content-type", "application/connect+proto")])
    return [wrap(Int64Value(value=count).SerializeToString()) + wrap(b"{}", 2)]


def main() -> None:
    """Print a table for each kind."""
    message = MESSAGE.SerializeToString()
    envelope = wrap(message)
    count = wrap(Int64Value(value=STREAM_LENGTH).SerializeToString())
    unary = (ECHO.path, "application/proto", message)
    client_stream = (COUNT.path, "application/connect+proto", envelope * STREAM_LENGTH)
    server_stream = (REPEAT.path, "application/connect+proto", count)

    times = interleaved(
        {"bare function": partial(run, bare_unary, *unary), "connect-sync": partial(run, app, *unary)},
        calls=2000,
    )
    print_table("Server, one unary call in process", "µs", times, floor="bare function")
    for title, bare, request in (
        ("Server streaming in process, a message", bare_server_stream, server_stream),
        ("Client streaming in process, a message", bare_client_stream, client_stream),
    ):
        cases = {
            "bare generator": partial(run, bare, *request),
            "connect-sync": partial(run, app, *request),
        }
        streams = interleaved(cases, calls=5)
        a_message = {name: [value / STREAM_LENGTH for value in values] for name, values in streams.items()}
        print_table(title, "µs", a_message, floor="bare generator")


if __name__ == "__main__":
    main()
