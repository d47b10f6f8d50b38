"""grpcio's client, and how it goes through the scenarios."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from google.protobuf.message import Message
from grpc_status import rpc_status
from interop.v1.interop_pb2 import (
    Failure,
    InteropDetail,
    InteropRequest,
    InteropResponse,
    OutcomeRequest,
    OutcomeResponse,
    StartedRequest,
    StartedResponse,
)

from tests.integration.channel import Channel
from tests.interop.scenarios import EXPECTED, leave_out_hidden, list_scenarios

_Result = dict[str, Any]

_SERVICE = "/interop.v1.InteropService"
_ECHO = "/echo.v1.EchoService"
# gRPC's core takes the header of compression out of the metadata.
_HIDDEN = {"compressed": ("response_encoding",)}
_METADATA = (("echo-ascii", "one, two"), ("echo-bin", b"\x00\x01\xfe\xff"))


def connect(address: str, authority: bytes | None = None, name: str | None = None) -> grpc.Channel:
    """Return a channel that shares its connection with no other; over TLS, if there is an authority.

    Args:
        address: Where the server is, as grpcio writes it.
        authority: Whom the client trusts to issue certificates.
        name: Whose certificate it expects, where that is not in the address.
    """
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
    if name is not None:
        options.append(("grpc.ssl_target_name_override", name))
    if authority is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options)


def check(connect: Callable[[], grpc.Channel], scenario: str) -> None:
    """Go through a scenario, and compare what comes of it with what should.

    ``connect`` makes a channel with a connection of its own.
    """
    with connect() as channel, connect() as observer:
        if scenario in _OBSERVED:
            result = _OBSERVED[scenario](channel, observer)
        else:
            result = _SCENARIOS[scenario](channel)
    assert result == leave_out_hidden(scenario, EXPECTED[scenario], _HIDDEN)


def send_one_by_one(channel: grpc.Channel, events: Channel) -> None:
    """Send messages, each when the handler has told that it has the last one."""
    requests = queue.SimpleQueue[EchoRequest | None]()
    collect = channel.stream_unary(f"{_ECHO}/Collect", EchoRequest.SerializeToString, EchoResponse.FromString)
    call = collect.future(iter(requests.get, None), metadata=tuple(events.headers.items()))
    assert events.next_event() == "called"
    for name in ("anna", "bert", "carl"):
        requests.put(EchoRequest(payload=name.encode()))
        assert events.next_event() == f"got {name}"
    requests.put(None)
    assert events.next_event() == "end"
    assert call.result().payload == b"annabertcarl"


def receive_one_by_one(channel: grpc.Channel, events: Channel) -> None:
    """Receive messages, giving leave for each when the last one is there."""
    responses = repeat(channel, events, times=3)
    for number in range(3):
        assert next(responses).payload == b"x"
        assert events.next_event() == f"asked for {number}"
        events.go_on()
    assert events.next_event() == "closed"
    assert list(responses) == []


def repeat(channel: grpc.Channel, events: Channel, times: int) -> Any:
    """Call a method that waits behind each response for leave to go on."""
    method = channel.unary_stream(f"{_ECHO}/Repeat", EchoRequest.SerializeToString, EchoResponse.FromString)
    return method(EchoRequest(payload=b"x", times=times), metadata=tuple(events.headers.items()))


def _unary(channel: grpc.Channel) -> _Result:
    return {"text": _unary_call(channel, InteropRequest(text="hello")).result().text}


def _client_stream(channel: grpc.Channel) -> _Result:
    response = _client_stream_call(channel, [InteropRequest(text=text) for text in "abc"]).result()
    return {"text": response.text, "number": response.number}


def _client_stream_empty(channel: grpc.Channel) -> _Result:
    response = _client_stream_call(channel, []).result()
    return {"text": response.text, "number": response.number}


def _server_stream(channel: grpc.Channel) -> _Result:
    return _read(_server_stream_call(channel, InteropRequest(text="x", count=3)))


def _server_stream_empty(channel: grpc.Channel) -> _Result:
    return _read(_server_stream_call(channel, InteropRequest(count=0)))


def _unary_error(channel: grpc.Channel) -> _Result:
    failure = Failure(code="not_found", message="nothing here: é, 100%", detail="why")
    return _describe(_unary_call(channel, InteropRequest(failure=failure)))


def _client_stream_error(channel: grpc.Channel) -> _Result:
    failure = Failure(code="failed_precondition", message="too late", detail="why")
    requests = [InteropRequest(text="a"), InteropRequest(failure=failure)]
    return _describe(_client_stream_call(channel, requests))


def _server_stream_error(channel: grpc.Channel) -> _Result:
    failure = Failure(code="resource_exhausted", message="no more", detail="why")
    return _read(_server_stream_call(channel, InteropRequest(count=2, failure=failure)))


def _unary_metadata(channel: grpc.Channel) -> _Result:
    return _echoed(_unary_call(channel, InteropRequest(), metadata=_METADATA))


def _client_stream_metadata(channel: grpc.Channel) -> _Result:
    return _echoed(_client_stream_call(channel, [InteropRequest()], metadata=_METADATA))


def _server_stream_metadata(channel: grpc.Channel) -> _Result:
    call = _server_stream_call(channel, InteropRequest(count=1), metadata=_METADATA)
    _read(call)
    return _echoed(call)


def _unary_timeout(channel: grpc.Channel) -> _Result:
    return {"code": _describe(_unary_call(channel, InteropRequest(wait=True), timeout=0.2))["code"]}


def _timeout_arrives(channel: grpc.Channel) -> _Result:
    # grpcio sends a timeout that it has rounded up, to a tenth of a second when it is this long.
    timeout_ms = _unary_call(channel, InteropRequest(), timeout=59.8).result().timeout_ms
    return {"timeout_arrived": 0 < timeout_ms <= 60_000}


def _client_stream_timeout(channel: grpc.Channel) -> _Result:
    return {"code": _describe(_client_stream_call(channel, _endless(), timeout=0.5))["code"]}


def _server_stream_timeout(channel: grpc.Channel) -> _Result:
    result = _read(_server_stream_call(channel, InteropRequest(count=2, wait=True), timeout=0.5))
    return {"numbers": result["numbers"], "code": result["code"]}


def _cancel(channel: grpc.Channel) -> _Result:
    key = str(uuid.uuid4())
    call = _server_stream_call(channel, InteropRequest(count=-1, key=key))
    numbers = [next(call).number for _ in range(3)]
    call.cancel()
    return {"numbers": numbers, "outcome": _outcome(channel, key)}


def _unary_cancel(channel: grpc.Channel, observer: grpc.Channel) -> _Result:
    key = str(uuid.uuid4())
    call = _unary_call(channel, InteropRequest(wait=True, key=key))
    return {"outcome": _cancel_started(channel, observer, key, call)}


def _client_stream_cancel(channel: grpc.Channel, observer: grpc.Channel) -> _Result:
    key = str(uuid.uuid4())
    call = _client_stream_call(channel, _endless(key))
    return {"outcome": _cancel_started(channel, observer, key, call)}


def _compressed(channel: grpc.Channel) -> _Result:
    request = InteropRequest(text="z" * 20_000)
    response = _unary_call(channel, request, compression=grpc.Compression.Gzip).result()
    return {"size": len(response.text), "request_encoding": response.request_encoding}


def _bidi(channel: grpc.Channel) -> _Result:
    call = _method(channel.stream_stream, "BidiStream")(iter([InteropRequest()]))
    return {"code": _read(call)["code"]}


_SCENARIOS: dict[str, Callable[[grpc.Channel], _Result]] = {
    "unary": _unary,
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
    "compressed": _compressed,
    "bidi": _bidi,
}
# These have a second channel: gunicorn serves the calls of one connection one after the other.
_OBSERVED: dict[str, Callable[[grpc.Channel, grpc.Channel], _Result]] = {
    "unary_cancel": _unary_cancel,
    "client_stream_cancel": _client_stream_cancel,
}
SCENARIOS = list_scenarios("unary_get")  # only Connect has GET


# Calls are futures, which have the response, the error and the metadata.


def _unary_call(channel: grpc.Channel, request: InteropRequest, **options: Any) -> Any:
    return _method(channel.unary_unary, "Unary").future(request, **options)


def _client_stream_call(channel: grpc.Channel, requests: Iterable[Message], **options: Any) -> Any:
    return _method(channel.stream_unary, "ClientStream").future(iter(requests), **options)


def _server_stream_call(channel: grpc.Channel, request: InteropRequest, **options: Any) -> Any:
    return _method(channel.unary_stream, "ServerStream")(request, **options)


def _method(make: Callable[..., Any], name: str) -> Any:
    return make(f"{_SERVICE}/{name}", InteropRequest.SerializeToString, InteropResponse.FromString)


def _endless(key: str = "") -> Iterator[InteropRequest]:
    """Yield requests for as long as they are wanted."""
    while True:
        yield InteropRequest(key=key)
        time.sleep(0.001)


def _cancel_started(channel: grpc.Channel, observer: grpc.Channel, key: str, call: Any) -> str:
    """Cancel a call when its handler has got the key, and return what the service tells of it."""
    started = observer.unary_unary(
        f"{_SERVICE}/Started", StartedRequest.SerializeToString, StartedResponse.FromString
    )
    started(StartedRequest(key=key))
    assert call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    return _outcome(channel, key)


def _outcome(channel: grpc.Channel, key: str) -> str:
    outcome = channel.unary_unary(
        f"{_SERVICE}/Outcome", OutcomeRequest.SerializeToString, OutcomeResponse.FromString
    )
    response: OutcomeResponse = outcome(OutcomeRequest(key=key))
    return response.outcome


def _read(call: Any) -> _Result:
    """Return what a stream gave, and how it failed if it did."""
    texts = []
    numbers = []
    try:
        for response in call:
            texts.append(response.text)
            numbers.append(response.number)
    except grpc.RpcError:
        return {"texts": texts, "numbers": numbers, **_describe(call)}
    return {"texts": texts, "numbers": numbers}


def _describe(call: Any) -> _Result:
    """Return how a call failed."""
    code: grpc.StatusCode = call.code()
    assert code is not grpc.StatusCode.OK, "the call did not fail"
    status = rpc_status.from_call(call)
    details = []
    for packed in () if status is None else status.details:
        detail = InteropDetail()
        assert packed.Unpack(detail)
        details.append(detail.reason)
    return {"code": code.name.lower(), "message": call.details(), "details": details}


def _echoed(call: Any) -> _Result:
    """Return the metadata that came back of a call."""
    leading, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    return {
        "ascii": leading["echo-ascii"],
        "trailer": trailing["echo-trailer"],
        "bin": leading["echo-bin"].hex(),
        "trailer_bin": trailing["echo-trailer-bin"].hex(),
    }
