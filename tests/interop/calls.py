"""The scenarios, as the client of this project goes through them with servers of other makers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
from interop.v1.interop_connect import InteropServiceClient
from interop.v1.interop_pb2 import (
    Failure,
    InteropDetail,
    InteropRequest,
    InteropResponse,
    OutcomeRequest,
    StartedRequest,
)

from connect_sync import (
    Cancellation,
    ConnectError,
    Headers,
    ProtocolType,
    ResponseMetadata,
    ResponseStream,
)
from tests.interop.scenarios import EXPECTED, Variant

_Result = dict[str, Any]

_LONG_MS = 60_000
"""A timeout that never passes."""

_METADATA = Headers({"echo-ascii": "one, two"})
_METADATA.add_binary("echo-bin", b"\x00\x01\xfe\xff")


def check(address: str, variant: Variant, scenario: str) -> None:
    """Go through a scenario with the server at ``address``, and compare what comes of it with what should."""
    with InteropServiceClient(
        address,
        protocol=ProtocolType(variant.protocol),
        proto_json=variant.format == "json",
        send_compression="gzip",
        accept_compression=["gzip"],
    ) as client:
        assert _SCENARIOS[scenario](client) == EXPECTED[scenario]


def _unary(client: InteropServiceClient) -> _Result:
    return {"text": client.unary(InteropRequest(text="hello")).text}


def _unary_get(client: InteropServiceClient) -> _Result:
    return {"text": client.unary_safely(InteropRequest(text="hello"), use_get=True).text}


def _client_stream(client: InteropServiceClient) -> _Result:
    response = client.client_stream(InteropRequest(text=text) for text in "abc")
    return {"text": response.text, "number": response.number}


def _client_stream_empty(client: InteropServiceClient) -> _Result:
    response = client.client_stream([])
    return {"text": response.text, "number": response.number}


def _server_stream(client: InteropServiceClient) -> _Result:
    return _read(client.server_stream(InteropRequest(text="x", count=3)))


def _server_stream_empty(client: InteropServiceClient) -> _Result:
    return _read(client.server_stream(InteropRequest(count=0)))


def _unary_error(client: InteropServiceClient) -> _Result:
    failure = Failure(code="not_found", message="nothing here: é, 100%", detail="why")
    return _fail(lambda: client.unary(InteropRequest(failure=failure)))


def _client_stream_error(client: InteropServiceClient) -> _Result:
    failure = Failure(code="failed_precondition", message="too late", detail="why")
    requests = [InteropRequest(text="a"), InteropRequest(failure=failure)]
    return _fail(lambda: client.client_stream(requests))


def _server_stream_error(client: InteropServiceClient) -> _Result:
    failure = Failure(code="resource_exhausted", message="no more", detail="why")
    return _read(client.server_stream(InteropRequest(count=2, failure=failure)))


def _unary_metadata(client: InteropServiceClient) -> _Result:
    return _echoed(lambda: client.unary(InteropRequest(), headers=_METADATA))


def _client_stream_metadata(client: InteropServiceClient) -> _Result:
    return _echoed(lambda: client.client_stream([InteropRequest()], headers=_METADATA))


def _server_stream_metadata(client: InteropServiceClient) -> _Result:
    return _echoed(lambda: _read(client.server_stream(InteropRequest(count=1), headers=_METADATA)))


def _unary_timeout(client: InteropServiceClient) -> _Result:
    return {"code": _fail(lambda: client.unary(InteropRequest(wait=True), timeout_ms=200))["code"]}


def _timeout_arrives(client: InteropServiceClient) -> _Result:
    timeout_ms = client.unary(InteropRequest(), timeout_ms=_LONG_MS).timeout_ms
    return {"timeout_arrived": 0 < timeout_ms <= _LONG_MS}


def _client_stream_timeout(client: InteropServiceClient) -> _Result:
    return {"code": _fail(lambda: client.client_stream(_endless(), timeout_ms=500))["code"]}


def _server_stream_timeout(client: InteropServiceClient) -> _Result:
    result = _read(client.server_stream(InteropRequest(count=2, wait=True), timeout_ms=500))
    return {"numbers": result["numbers"], "code": result["code"]}


def _cancel(client: InteropServiceClient) -> _Result:
    result = _cancel_by_leaving_block(client)
    assert _cancel_by_handle(client) == result
    return result


def _cancel_by_leaving_block(client: InteropServiceClient) -> _Result:
    key = str(uuid.uuid4())
    with client.server_stream(InteropRequest(count=-1, key=key)) as responses:
        numbers = [response.number for response in islice(responses, 3)]
    return {"numbers": numbers, "outcome": _outcome(client, key)}


def _cancel_by_handle(client: InteropServiceClient) -> _Result:
    key = str(uuid.uuid4())
    cancellation = Cancellation()
    with client.server_stream(InteropRequest(count=-1, key=key), cancellation=cancellation) as responses:
        numbers = [response.number for response in islice(responses, 3)]
        with _concurrently(cancellation.cancel):
            assert _read(responses)["code"] == "canceled"
    return {"numbers": numbers, "outcome": _outcome(client, key)}


def _unary_cancel(client: InteropServiceClient) -> _Result:
    return _cancel_started(
        client,
        lambda key, cancellation: client.unary(InteropRequest(wait=True, key=key), cancellation=cancellation),
    )


def _client_stream_cancel(client: InteropServiceClient) -> _Result:
    result = _cancel_started(
        client,
        lambda key, cancellation: client.client_stream(_endless(key), cancellation=cancellation),
    )
    assert _break_off_client_stream(client) == result
    return result


def _break_off_client_stream(client: InteropServiceClient) -> _Result:
    key = str(uuid.uuid4())

    def requests() -> Iterator[InteropRequest]:
        yield InteropRequest(key=key)
        client.started(StartedRequest(key=key))
        raise _NoMoreRequestsError

    with pytest.raises(_NoMoreRequestsError):
        client.client_stream(requests())
    return {"outcome": _outcome(client, key)}


def _compressed(client: InteropServiceClient) -> _Result:
    with ResponseMetadata() as metadata:
        response = client.unary(InteropRequest(text="z" * 20_000))
    leading = metadata.headers()
    return {
        "size": len(response.text),
        "request_encoding": response.request_encoding,
        "response_encoding": leading.get("grpc-encoding") or leading.get("content-encoding"),
    }


_SCENARIOS: dict[str, Callable[[InteropServiceClient], _Result]] = {
    "unary": _unary,
    "unary_get": _unary_get,
    "client_stream": _client_stream,
    "client_stream_empty": _client_stream_empty,
    "server_stream": _server_stream,
    "server_stream_empty": _server_stream_empty,
    "unary_error": _unary_error,
    "client_stream_error": _client_stream_error,
    "server_stream_error": _server_stream_error,
    "unary_metadata": _unary_metadata,
    "client_stream_metadata": _client_stream_metadata,
    "server_stream_metadata": _server_stream_metadata,
    "unary_timeout": _unary_timeout,
    "timeout_arrives": _timeout_arrives,
    "client_stream_timeout": _client_stream_timeout,
    "server_stream_timeout": _server_stream_timeout,
    "cancel": _cancel,
    "unary_cancel": _unary_cancel,
    "client_stream_cancel": _client_stream_cancel,
    "compressed": _compressed,
}


def _endless(key: str = "") -> Iterator[InteropRequest]:
    """Yield requests for as long as they are wanted."""
    while True:
        yield InteropRequest(key=key)
        time.sleep(0.001)


class _NoMoreRequestsError(Exception):
    """What the iterable of a client stream raises."""


def _cancel_started(client: InteropServiceClient, call: Callable[[str, Cancellation], object]) -> _Result:
    """Cancel a call from another thread, when its handler has got the key."""
    key = str(uuid.uuid4())
    cancellation = Cancellation()

    def cancel() -> None:
        try:
            client.started(StartedRequest(key=key))
        finally:
            cancellation.cancel()

    with _concurrently(cancel):
        assert _fail(lambda: call(key, cancellation))["code"] == "canceled"
    return {"outcome": _outcome(client, key)}


@contextmanager
def _concurrently(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in another thread while the block runs."""
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _outcome(client: InteropServiceClient, key: str) -> str:
    return client.outcome(OutcomeRequest(key=key)).outcome


def _read(responses: ResponseStream[InteropResponse]) -> _Result:
    """Return what a stream gave, and how it failed if it did."""
    texts = []
    numbers = []
    try:
        for response in responses:
            texts.append(response.text)
            numbers.append(response.number)
    except ConnectError as error:
        return {"texts": texts, "numbers": numbers, **_describe(error)}
    return {"texts": texts, "numbers": numbers}


def _fail(call: Callable[[], object]) -> _Result:
    """Return how a call failed."""
    try:
        call()
    except ConnectError as error:
        return _describe(error)
    raise AssertionError("the call did not fail")


def _describe(error: ConnectError) -> _Result:
    details = [detail.value(InteropDetail).reason for detail in error.details]
    return {"code": error.code.value, "message": error.message, "details": details}


def _echoed(call: Callable[[], object]) -> _Result:
    """Return the metadata that came back of a call."""
    with ResponseMetadata() as metadata:
        call()
    leading, trailing = metadata.headers(), metadata.trailers()
    return {
        "ascii": leading["echo-ascii"],
        "trailer": trailing["echo-trailer"],
        "bin": _hex(leading, "echo-bin"),
        "trailer_bin": _hex(trailing, "echo-trailer-bin"),
    }


def _hex(metadata: Headers, name: str) -> str:
    return b"".join(metadata.get_binary(name)).hex()
