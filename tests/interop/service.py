"""The service that clients of other makers call, as a WSGI application: see interop.proto."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from interop.v1.interop_connect import InteropService, InteropServiceWSGIApplication
from interop.v1.interop_pb2 import (
    InteropDetail,
    InteropRequest,
    InteropResponse,
    OutcomeRequest,
    OutcomeResponse,
    StartedRequest,
    StartedResponse,
)

from connect_sync import Code, ConnectError, NotModified, RequestContext

_PATIENCE = 10.0
"""How many seconds to wait for what should happen much earlier."""

_ETAG = '"1"'


class Interop(InteropService):
    def __init__(self) -> None:
        self._started: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._changed = threading.Condition()

    def unary(self, request: InteropRequest, ctx: RequestContext) -> InteropResponse:
        with self._outcome_of(request.key):
            return _answer(request, ctx)

    def unary_safely(self, request: InteropRequest, ctx: RequestContext) -> InteropResponse:
        if ctx.http_method() != "GET":
            raise ConnectError(Code.FAILED_PRECONDITION, "it was not called by GET")
        ctx.response_headers()["etag"] = _ETAG
        if ctx.request_headers().get("if-none-match") == _ETAG:
            raise NotModified
        return self.unary(request, ctx)

    def client_stream(self, request: Iterator[InteropRequest], ctx: RequestContext) -> InteropResponse:
        _echo_metadata(ctx)
        texts: list[str] = []
        with ExitStack() as stack:
            for message in request:
                if not texts:
                    stack.enter_context(self._outcome_of(message.key))
                _wait_as_asked(message, ctx)
                _fail_as_asked(message)
                texts.append(message.text)
        return InteropResponse(text=",".join(texts), number=len(texts), timeout_ms=_timeout_ms(ctx))

    def server_stream(self, request: InteropRequest, ctx: RequestContext) -> Iterator[InteropResponse]:
        _echo_metadata(ctx)
        with self._outcome_of(request.key):
            number = 0
            while number != request.count:
                yield InteropResponse(text=request.text, number=number, timeout_ms=_timeout_ms(ctx))
                number += 1
                if request.count < 0:
                    time.sleep(0.001)
            _wait_as_asked(request, ctx)
            _fail_as_asked(request)

    def started(self, request: StartedRequest, ctx: RequestContext) -> StartedResponse:
        with self._changed:
            if not self._changed.wait_for(lambda: request.key in self._started, _PATIENCE):
                raise ConnectError(Code.NOT_FOUND, f"no call {request.key!r} has started")
            return StartedResponse()

    def outcome(self, request: OutcomeRequest, ctx: RequestContext) -> OutcomeResponse:
        with self._changed:
            if not self._changed.wait_for(lambda: request.key in self._outcomes, _PATIENCE):
                raise ConnectError(Code.NOT_FOUND, f"no call {request.key!r} has ended")
            return OutcomeResponse(outcome=self._outcomes[request.key])

    @contextmanager
    def _outcome_of(self, key: str) -> Iterator[None]:
        with self._changed:
            self._started.add(key)
            self._changed.notify_all()
        outcome = "finished"
        try:
            yield
        except ConnectError as error:
            outcome = error.code.value
            raise
        except GeneratorExit:
            outcome = "closed"
            raise
        finally:
            with self._changed:
                self._outcomes[key] = outcome
                self._changed.notify_all()


def _answer(request: InteropRequest, ctx: RequestContext) -> InteropResponse:
    _echo_metadata(ctx)
    _wait_as_asked(request, ctx)
    _fail_as_asked(request)
    headers = ctx.request_headers()
    return InteropResponse(
        text=request.text,
        timeout_ms=_timeout_ms(ctx),
        request_encoding=headers.get("grpc-encoding") or headers.get("content-encoding", ""),
    )


def _echo_metadata(ctx: RequestContext) -> None:
    received = ctx.request_headers()
    for value in received.get_all("echo-ascii"):
        ctx.response_headers().add("echo-ascii", value)
        ctx.response_trailers().add("echo-trailer", value)
    for data in received.get_binary("echo-bin"):
        ctx.response_headers().add_binary("echo-bin", data)
        ctx.response_trailers().add_binary("echo-trailer-bin", data)


def _wait_as_asked(request: InteropRequest, ctx: RequestContext) -> None:
    if not request.wait:
        return
    end = time.monotonic() + _PATIENCE
    while ctx.is_active():
        if time.monotonic() > end:
            raise ConnectError(Code.ABORTED, "the client is still there")
        time.sleep(0.001)
    # Past the deadline it is not for the handler to say so.
    if ctx.timeout_ms() != 0:
        raise ConnectError(Code.CANCELED, "the client has left")


def _fail_as_asked(request: InteropRequest) -> None:
    failure = request.failure
    if failure.code:
        details = [InteropDetail(reason=failure.detail)] if failure.detail else []
        raise ConnectError(Code(failure.code), failure.message, details)


def _timeout_ms(ctx: RequestContext) -> float:
    timeout_ms = ctx.timeout_ms()
    return -1 if timeout_ms is None else timeout_ms


application = InteropServiceWSGIApplication(Interop())
