"""The service under test, as an application for gunicorn.

A handler tells what happens to it over a channel: a connection to the address that the call's metadata
names. A handler that gives a stream also waits there, after each message, for leave to go on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from itertools import count

from echo.v1.echo_connect import EchoService, EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Code, ConnectError, RequestContext


class Echo(EchoService):
    def echo(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        ctx.response_headers()["process"] = str(os.getpid())
        give_metadata(ctx)
        with Reporter(ctx) as reporter:
            reporter.tell("called")
            if "wait-until-inactive" in ctx.request_headers():
                while ctx.is_active():
                    time.sleep(0.001)
                reporter.tell("inactive")
            raise_as_asked(request)
            return EchoResponse(payload=request.payload)

    def echo_safely(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        return self.echo(request, ctx)

    def collect(self, request: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        payloads = []
        give_metadata(ctx)
        with Reporter(ctx) as reporter:
            reporter.tell("called")
            try:
                for message in request:
                    reporter.tell(f"got {message.payload.decode('ascii', 'replace')[:40]}")
                    raise_as_asked(message)
                    payloads.append(message.payload)
                    if message.is_last:
                        break
            except ConnectError as error:
                reporter.tell(error.code.value)
                raise
            reporter.tell("end")
        return EchoResponse(payload=b"".join(payloads))

    def repeat(self, request: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        give_metadata(ctx)
        with Reporter(ctx) as reporter:
            try:
                for number in count() if request.times < 0 else range(request.times):
                    reporter.tell(f"asked for {number}")
                    yield EchoResponse(payload=request.payload)
                    reporter.wait()
                raise_as_asked(request)
            finally:
                reporter.tell("closed")


class Reporter:
    """The handler's end of a channel; of none, where the call names none."""

    def __init__(self, ctx: RequestContext) -> None:
        address = ctx.request_headers().get("channel")
        self._socket = None
        if address is not None:
            host, _, port = address.partition(":")
            self._socket = socket.create_connection((host, int(port)))
            self._acknowledgements = self._socket.makefile("rb")
            self._is_waiting = True

    def tell(self, event: str) -> None:
        if self._socket is not None:
            self._socket.sendall(event.encode() + b"\n")

    def wait(self) -> None:
        if self._socket is not None and self._is_waiting:
            self._is_waiting = bool(self._acknowledgements.readline())

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            self._acknowledgements.close()
            self._socket.close()


def give_metadata(ctx: RequestContext) -> None:
    """Put before the messages and behind them what the call's metadata asks for."""
    wanted = ctx.request_headers()
    if "want-header" in wanted:
        ctx.response_headers()["wanted"] = wanted["want-header"]
    if "want-trailer" in wanted:
        ctx.response_trailers()["wanted"] = wanted["want-trailer"]


def raise_as_asked(request: EchoRequest) -> None:
    if request.error == "bug":
        raise RuntimeError("the secret of the handler")
    if request.error:
        raise ConnectError(Code(request.error), "as asked")


application = EchoServiceWSGIApplication(Echo())
