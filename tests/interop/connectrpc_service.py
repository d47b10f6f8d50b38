"""The service by PyPI's `connectrpc`, as an ASGI application.

It runs where `interop.v1` has been written by the generators that belong to that package. Type checkers see
what this project's have written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from interop.v1.interop_connect import InteropServiceASGIApplication  # type: ignore[attr-defined]
from interop.v1.interop_pb import (  # type: ignore[import-not-found]
    InteropDetail,
    InteropRequest,
    InteropResponse,
    OutcomeRequest,
    OutcomeResponse,
    StartedRequest,
    StartedResponse,
)

_Context = RequestContext[Any, Any]

_PATIENCE = 10.0
"""How many seconds to wait for what should happen much earlier."""


class Interop:
    def __init__(self) -> None:
        self._started: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._changed = asyncio.Condition()

    async def unary(self, request: InteropRequest, ctx: _Context) -> InteropResponse:
        _echo_metadata(ctx)
        async with self._outcome_of(request.key):
            await _wait_as_asked(request)
            _fail_as_asked(request)
        headers = ctx.request_headers
        return InteropResponse(
            text=request.text,
            timeout_ms=_timeout_ms(ctx),
            request_encoding=headers.get("grpc-encoding") or headers.get("content-encoding", ""),
        )

    async def unary_safely(self, request: InteropRequest, ctx: _Context) -> InteropResponse:
        if ctx.http_method != "GET":
            raise ConnectError(Code.FAILED_PRECONDITION, "it was not called by GET")
        return await self.unary(request, ctx)

    async def client_stream(self, request: AsyncIterator[InteropRequest], ctx: _Context) -> InteropResponse:
        _echo_metadata(ctx)
        texts: list[str] = []
        async with AsyncExitStack() as stack:
            async for message in request:
                if not texts:
                    await stack.enter_async_context(self._outcome_of(message.key))
                await _wait_as_asked(message)
                _fail_as_asked(message)
                texts.append(message.text)
        return InteropResponse(text=",".join(texts), number=len(texts), timeout_ms=_timeout_ms(ctx))

    async def server_stream(self, request: InteropRequest, ctx: _Context) -> AsyncIterator[InteropResponse]:
        _echo_metadata(ctx)
        async with self._outcome_of(request.key, "closed"):
            number = 0
            while number != request.count:
                yield InteropResponse(text=request.text, number=number, timeout_ms=_timeout_ms(ctx))
                number += 1
                if request.count < 0:
                    await asyncio.sleep(0.001)
            await _wait_as_asked(request)
            _fail_as_asked(request)

    async def bidi_stream(
        self, request: AsyncIterator[InteropRequest], ctx: _Context
    ) -> AsyncIterator[InteropResponse]:
        async for message in request:
            yield InteropResponse(text=message.text)

    async def started(self, request: StartedRequest, ctx: _Context) -> StartedResponse:
        async with self._changed:
            await asyncio.wait_for(
                self._changed.wait_for(lambda: request.key in self._started), timeout=_PATIENCE
            )
        return StartedResponse()

    async def outcome(self, request: OutcomeRequest, ctx: _Context) -> OutcomeResponse:
        async with self._changed:
            await asyncio.wait_for(
                self._changed.wait_for(lambda: request.key in self._outcomes), timeout=_PATIENCE
            )
        return OutcomeResponse(outcome=self._outcomes[request.key])

    @asynccontextmanager
    async def _outcome_of(self, key: str, when_left: str = "canceled") -> AsyncIterator[None]:
        """Tell how a block ends; ``when_left``: by a client that left."""
        self._started.add(key)
        async with self._changed:
            self._changed.notify_all()
        outcome = "finished"
        try:
            yield
        except ConnectError as error:
            outcome = error.code.value
            raise
        except (GeneratorExit, asyncio.CancelledError):
            outcome = when_left
            raise
        finally:
            self._outcomes[key] = outcome
            async with self._changed:
                self._changed.notify_all()


def _echo_metadata(ctx: _Context) -> None:
    received = ctx.request_headers
    for name, trailing_name in (("echo-ascii", "echo-trailer"), ("echo-bin", "echo-trailer-bin")):
        for value in received.getall(name):
            ctx.response_headers.add(name, value)
            ctx.response_trailers.add(trailing_name, value)


async def _wait_as_asked(request: InteropRequest) -> None:
    if request.wait:
        await asyncio.sleep(_PATIENCE)


def _fail_as_asked(request: InteropRequest) -> None:
    failure = request.failure
    if failure is not None:
        details = [InteropDetail(reason=failure.detail)] if failure.detail else []
        raise ConnectError(Code(failure.code), failure.message, details)


def _timeout_ms(ctx: _Context) -> float:
    timeout_ms = ctx.timeout_ms
    return -1 if timeout_ms is None else timeout_ms


application = InteropServiceASGIApplication(Interop())
