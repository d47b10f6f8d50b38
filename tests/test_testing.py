"""The transport in memory: what holds for a client that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from threading import get_ident
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Cancellation, Code, ConnectClient, ConnectError, RequestContext, StreamKind
from tests.support import (
    CLIENT_STREAM,
    DEFAULT_HANDLERS,
    SERVER_STREAM,
    UNARY,
    Clock,
    TextMethod,
    in_memory,
    serve,
    text,
)


def call(
    client: ConnectClient, method: TextMethod, value: str = "", cancellation: Cancellation | None = None
) -> list[str]:
    """Call ``method`` to its end, and return the values of its responses."""
    if method.kind is StreamKind.UNARY:
        return [client.call_unary(method, text(value), cancellation=cancellation).value]
    if method.kind is StreamKind.CLIENT_STREAM:
        return [client.call_client_stream(method, [text(value)], cancellation=cancellation).value]
    responses = client.call_server_stream(method, text(value), cancellation=cancellation)
    return [response.value for response in responses]


METHODS = pytest.mark.parametrize(
    "method", [UNARY, CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name
)


@METHODS
def test_handler_runs_in_the_thread_of_the_call(method: TextMethod) -> None:
    threads = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        threads.append(get_ident())
        return DEFAULT_HANDLERS[method.kind](request, ctx)

    call(in_memory(serve(method, handler)), method)

    assert threads == [get_ident()]


def test_requests_are_asked_for_when_the_handler_asks_for_them() -> None:
    log = []

    def requests() -> Iterator[StringValue]:
        for value in ("a", "b"):
            log.append(f"sends {value}")
            yield text(value)

    def handler(received: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        for request in received:
            log.append(f"got {request.value}")
        return text()

    in_memory(serve(CLIENT_STREAM, handler)).call_client_stream(CLIENT_STREAM, requests())

    assert log == ["sends a", "got a", "sends b", "got b"]


def test_requests_that_the_handler_leaves_are_not_asked_for() -> None:
    requests = iter([text("a"), text("b"), text("c")])
    client = in_memory(serve(CLIENT_STREAM, lambda received, ctx: next(received)))

    assert client.call_client_stream(CLIENT_STREAM, requests).value == "a"
    assert [request.value for request in requests] == ["b", "c"]


@pytest.mark.parametrize("error", [KeyError("mine"), ConnectError(Code.DATA_LOSS, "mine")])
def test_what_the_requests_raise_is_raised_from_the_call(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def requests() -> Iterator[StringValue]:
        yield text("a")
        raise error

    with pytest.raises(type(error), match="mine") as caught:
        in_memory(serve(CLIENT_STREAM)).call_client_stream(CLIENT_STREAM, requests())
    assert caught.value is error
    assert caplog.records == []


def test_handler_sees_that_the_requests_have_broken_off() -> None:
    seen = []

    def requests() -> Iterator[StringValue]:
        yield text("a")
        raise KeyError

    def handler(received: Iterator[StringValue], ctx: RequestContext) -> StringValue:
        try:
            list(received)
        except ConnectError as error:
            seen.append(error.code)
        return text()

    with pytest.raises(KeyError):
        in_memory(serve(CLIENT_STREAM, handler)).call_client_stream(CLIENT_STREAM, requests())
    assert seen == [Code.CANCELED]


@METHODS
def test_call_with_a_used_handle_is_canceled_before_the_handler(method: TextMethod) -> None:
    calls = []
    client = in_memory(serve(method, lambda request, ctx: calls.append(ctx)))
    cancellation = Cancellation()
    cancellation.cancel()

    with pytest.raises(ConnectError) as caught:
        call(client, method, cancellation=cancellation)
    assert caught.value.code is Code.CANCELED
    assert calls == []


@METHODS
def test_call_that_is_canceled_while_its_handler_runs_is_canceled(method: TextMethod) -> None:
    cancellation = Cancellation()

    def handler(request: Any, ctx: RequestContext) -> Any:
        cancellation.cancel()
        return DEFAULT_HANDLERS[method.kind](request, ctx)

    with pytest.raises(ConnectError) as caught:
        call(in_memory(serve(method, handler)), method, cancellation=cancellation)
    assert caught.value.code is Code.CANCELED


def test_handler_is_cleaned_up_when_its_call_was_canceled() -> None:
    cancellation = Cancellation()
    log = []

    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        try:
            cancellation.cancel()
            yield text()
        finally:
            log.append("cleaned up")

    # The error is held, and with it the frames of its traceback: nothing is closed for being garbage.
    with pytest.raises(ConnectError) as caught:
        in_memory(serve(SERVER_STREAM, handler)).call_server_stream(
            SERVER_STREAM, text(), cancellation=cancellation
        )
    assert (caught.value.code, log) == (Code.CANCELED, ["cleaned up"])


def test_handle_may_be_used_for_several_calls() -> None:
    client = in_memory(serve(UNARY))
    cancellation = Cancellation()

    assert call(client, UNARY, "a", cancellation) == ["a"]
    assert call(client, UNARY, "b", cancellation) == ["b"]


def test_deadline_of_the_client_is_that_of_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    seen = []

    def handler(request: Any, ctx: RequestContext) -> Any:
        seen.append(ctx.timeout_ms())
        return request

    in_memory(serve(UNARY, handler)).call_unary(UNARY, text(), timeout_ms=1500)

    assert seen == [pytest.approx(1500)]


def test_deadline_that_passes_in_the_handler_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def handler(request: Any, ctx: RequestContext) -> Any:
        clock.advance_ms(1501)
        return request

    with pytest.raises(ConnectError) as caught:
        in_memory(serve(UNARY, handler)).call_unary(UNARY, text(), timeout_ms=1500)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_header_written_behind_the_first_message_does_not_leave() -> None:
    def handler(request: Any, ctx: RequestContext) -> Iterator[StringValue]:
        ctx.response_headers()["in-time"] = "1"
        yield text()
        ctx.response_headers()["late"] = "1"

    stream = in_memory(serve(SERVER_STREAM, handler)).call_server_stream(SERVER_STREAM, text())
    list(stream)

    assert "in-time" in stream.response_headers()
    assert "late" not in stream.response_headers()


def test_headers_of_the_request_are_not_shared_with_the_server() -> None:
    seen = []

    class Looking:
        def on_start(self, ctx: RequestContext) -> None: ...

        def on_end(self, token: None, ctx: RequestContext, error: ConnectError | None) -> None:
            seen.append("mine" in ctx.request_headers())

    def handler(request: Any, ctx: RequestContext) -> Any:
        ctx.request_headers()["mine"] = "1"
        return request

    in_memory(serve(UNARY, handler), interceptors=[Looking()]).call_unary(UNARY, text())

    assert seen == [False]


def test_client_in_memory_may_be_closed() -> None:
    with in_memory(serve(UNARY)) as client:
        assert client.call_unary(UNARY, text("a")).value == "a"
