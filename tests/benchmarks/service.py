"""The service that is measured: its handlers do nothing that costs."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from connect_sync import Method, RequestContext, StreamKind
from wsgi_adapters import ConnectWSGIApplication

SERVICE = "benchmark.v1.BenchmarkService"
ECHO = Method(SERVICE, "Echo", StringValue, StringValue)
COUNT = Method(SERVICE, "Count", StringValue, Int64Value, kind=StreamKind.CLIENT_STREAM)
REPEAT = Method(SERVICE, "Repeat", Int64Value, StringValue, kind=StreamKind.SERVER_STREAM)

MESSAGE = StringValue(value="Jane")
STREAM_LENGTH = 1000


class Benchmark:
    """The handlers."""

    def echo(self, request: StringValue, ctx: RequestContext) -> StringValue:
        return StringValue(value=request.value)

    def count(self, request: Iterator[StringValue], ctx: RequestContext) -> Int64Value:
        return Int64Value(value=sum(1 for _ in request))

    def repeat(self, request: Int64Value, ctx: RequestContext) -> Iterator[StringValue]:
        for _ in range(request.value):
            yield MESSAGE


class BenchmarkApplication(ConnectWSGIApplication[Benchmark]):
    """The service as a WSGI application."""

    path = f"/{SERVICE}"
    methods = {"echo": ECHO, "count": COUNT, "repeat": REPEAT}  # noqa: RUF012 - a ClassVar of its base


app = BenchmarkApplication(Benchmark())
