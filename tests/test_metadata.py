from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from connect_sync import Code, ConnectClient, ConnectError, Headers, RequestContext, ResponseMetadata
from connect_sync.http import Response
from tests.support import (
    CLIENT_STREAM,
    OK_END,
    SERVER_STREAM,
    UNARY,
    error_of,
    in_memory,
    scripted,
    serve,
    stream_response,
    text,
)


def marking(request: Any, ctx: RequestContext) -> Any:
    """Answer with the request's mark as metadata, or with an error that has it."""
    mark = ctx.request_headers()["mark"]
    ctx.response_headers()["mark"] = mark
    ctx.response_trailers()["mark"] = mark
    if mark == "error":
        raise ConnectError(Code.ABORTED)
    return request


@pytest.fixture
def client() -> ConnectClient:
    return in_memory(serve(UNARY, marking))


def call(client: ConnectClient, mark: str) -> None:
    client.call_unary(UNARY, text(), headers={"mark": mark})


def mark_of(metadata: ResponseMetadata) -> tuple[str | None, str | None]:
    return metadata.headers().get("mark"), metadata.trailers().get("mark")


def test_metadata_of_a_call_is_collected(client: ConnectClient) -> None:
    with ResponseMetadata() as metadata:
        call(client, "a")

    assert mark_of(metadata) == ("a", "a")


def test_metadata_is_there_within_the_block(client: ConnectClient) -> None:
    with ResponseMetadata() as metadata:
        call(client, "a")

        assert mark_of(metadata) == ("a", "a")


def test_metadata_is_empty_before_a_call() -> None:
    with ResponseMetadata() as metadata:
        assert mark_of(metadata) == (None, None)


def test_metadata_of_the_last_call_is_kept(client: ConnectClient) -> None:
    with ResponseMetadata() as metadata:
        call(client, "a")
        call(client, "b")

    assert mark_of(metadata) == ("b", "b")


def test_metadata_of_a_failed_call_is_collected(client: ConnectClient) -> None:
    with ResponseMetadata() as metadata, pytest.raises(ConnectError):
        call(client, "error")

    assert mark_of(metadata) == ("error", "error")


def test_metadata_of_a_failed_call_is_collected_when_its_error_leaves_the_block(
    client: ConnectClient,
) -> None:
    metadata = ResponseMetadata()
    with pytest.raises(ConnectError), metadata:
        call(client, "error")

    assert mark_of(metadata) == ("error", "error")


def test_metadata_of_a_call_without_a_response_is_empty(client: ConnectClient) -> None:
    unanswered, _ = scripted(ConnectError(Code.UNAVAILABLE))
    with ResponseMetadata() as metadata:
        call(client, "a")
        with pytest.raises(ConnectError):
            call(unanswered, "b")

    assert mark_of(metadata) == (None, None)


@pytest.mark.parametrize("method", [CLIENT_STREAM, SERVER_STREAM], ids=lambda method: method.name)
@pytest.mark.parametrize("mark", ["a", "error"])
def test_metadata_of_a_stream_is_collected(method: Any, mark: str) -> None:
    def handler(request: Any, ctx: RequestContext) -> Any:
        marking(request, ctx)
        return text() if method is CLIENT_STREAM else iter([text()])

    client = in_memory(serve(method, handler))
    headers = {"mark": mark}
    with ResponseMetadata() as metadata:
        if method is CLIENT_STREAM:
            error = error_of(lambda: client.call_client_stream(method, [text()], headers=headers))
        else:
            error = error_of(lambda: list(client.call_server_stream(method, text(), headers=headers)))

    assert (error is None) is (mark == "a")
    assert mark_of(metadata) == (mark, mark)


def test_metadata_of_a_server_stream_is_there_before_it_is_read() -> None:
    client, _ = scripted(stream_response(OK_END, headers={"mark": "a"}))
    with ResponseMetadata() as metadata:
        client.call_server_stream(SERVER_STREAM, text()).close()

    assert mark_of(metadata) == ("a", None)


def test_metadata_of_a_server_stream_that_fails_outright_is_collected() -> None:
    client, _ = scripted(Response(503, Headers({"mark": "a"})))
    with ResponseMetadata() as metadata, pytest.raises(ConnectError):
        client.call_server_stream(SERVER_STREAM, text())

    assert mark_of(metadata) == ("a", None)


def test_inner_block_collects_and_the_outer_one_does_not(client: ConnectClient) -> None:
    with ResponseMetadata() as outer:
        call(client, "a")
        with ResponseMetadata() as inner:
            call(client, "b")

    assert (mark_of(outer), mark_of(inner)) == (("a", "a"), ("b", "b"))


def test_outer_block_collects_again_behind_the_inner_one(client: ConnectClient) -> None:
    with ResponseMetadata() as outer:
        with ResponseMetadata() as inner:
            call(client, "a")
        call(client, "b")

    assert (mark_of(outer), mark_of(inner)) == (("b", "b"), ("a", "a"))


def test_nothing_is_collected_outside_the_block(client: ConnectClient) -> None:
    metadata = ResponseMetadata()
    call(client, "a")
    with metadata:
        call(client, "b")
    call(client, "c")

    assert mark_of(metadata) == ("b", "b")


def test_collector_may_be_used_for_one_block_after_the_other(client: ConnectClient) -> None:
    metadata = ResponseMetadata()
    with metadata:
        call(client, "a")
    with metadata:
        call(client, "b")
    call(client, "c")

    assert mark_of(metadata) == ("b", "b")


def test_call_of_another_thread_is_not_collected(client: ConnectClient) -> None:
    with ResponseMetadata() as metadata, ThreadPoolExecutor(1) as executor:
        executor.submit(call, client, "a").result()

    assert mark_of(metadata) == (None, None)


def test_call_that_an_interceptor_makes_does_not_hide_the_outer_one() -> None:
    inner = in_memory(serve(UNARY, marking))

    class Calling:
        def intercept_unary(self, call_next: Any, request: Any, ctx: RequestContext) -> Any:
            response = call_next(request, ctx)
            call(inner, "inner")
            return response

    client = in_memory(serve(UNARY, marking), interceptors=[Calling()])
    with ResponseMetadata() as metadata:
        call(client, "outer")

    assert mark_of(metadata) == ("outer", "outer")
