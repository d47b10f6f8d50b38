"""The service that is measured, and the same work by hand: the least that it can cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any

from benchmark.v1.benchmark_connect import BenchmarkService, BenchmarkServiceWSGIApplication
from benchmark.v1.benchmark_pb2 import Message

from connect_sync import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SERVICE = "/benchmark.v1.BenchmarkService"
ECHO, COUNT, REPEAT = (f"{SERVICE}/{name}" for name in ("Echo", "Count", "Repeat"))

PAYLOAD = b"Jane"
MESSAGE = Message(payload=PAYLOAD)

_prefix = Struct(">BI")


def wrap(payload: bytes, flags: int = 0) -> bytes:
    """Put a payload into an envelope."""
    return _prefix.pack(flags, len(payload)) + payload


class Benchmark(BenchmarkService):
    """The handlers."""

    def echo(self, request: Message, ctx: RequestContext) -> Message:
        return Message(payload=request.payload)

    def count(self, request: Iterator[Message], ctx: RequestContext) -> Message:
        number = 0
        for _ in request:
            number += 1
        return Message(number=number)

    def repeat(self, request: Message, ctx: RequestContext) -> Iterator[Message]:
        response = Message(payload=request.payload)
        for _ in range(request.number):
            yield response


app = BenchmarkServiceWSGIApplication(Benchmark())


# By hand, for Connect's proto format. What is made of messages is handed in, so that a peer's own classes are
# measured against themselves.

Parse = Callable[[bytes], Any]
Serialize = Callable[[Any], bytes]


class Bare:
    """WSGI applications that parse and serialize the same messages, and do nothing else."""

    def __init__(self, make: Callable[..., Any], parse: Parse, serialize: Serialize) -> None:
        """Take what makes, parses and serializes messages."""
        self._make = make
        self._parse = parse
        self._serialize = serialize

    def unary(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Echo."""
        request = self._parse(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        payload = self._serialize(self._make(payload=request.payload))
        start_response(
            "200 OK", [("content-type", "application/proto"), ("content-length", str(len(payload)))]
        )
        return [payload]

    def server_stream(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Repeat: a generator that yields envelopes."""
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        request = self._parse(body[_prefix.size :])
        serialize = self._serialize
        start_response("200 OK", [("content-type", "application/connect+proto")])
        response = self._make(payload=request.payload)
        for _ in range(request.number):
            yield wrap(serialize(response))
        yield wrap(b"{}", 2)

    def client_stream(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Count: a loop that splits envelopes and parses messages."""
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        parse = self._parse
        position = count = 0
        while position < len(body):
            _, size = _prefix.unpack_from(body, position)
            position += _prefix.size
            parse(body[position : position + size])
            position += size
            count += 1
        start_response("200 OK", [("content-type", "application/connect+proto")])
        return [wrap(self._serialize(self._make(number=count))) + wrap(b"{}", 2)]


bare = Bare(Message, Message.FromString, Message.SerializeToString)
bare_unary = bare.unary
