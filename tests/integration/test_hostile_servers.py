"""Servers that refuse, break off, lie, drip, bomb and talk nonsense, against the client.

Whatever they do, the call raises the error that it should, holds no more memory than a message may, and
leaves no connection behind on which the next call would find the rest.
"""

from __future__ import annotations

import gzip
import json
import socket
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest
from urllib3.util import wait_for_read

from connect_sync import Code, ConnectError, Headers
from connect_sync.client import Lifetime
from connect_sync.client.transport import Urllib3Transport
from connect_sync.http import Request
from tests.integration.calls import (
    LIMIT,
    MESSAGE,
    STREAMS,
    Kind,
    answer,
    answer_with_another,
    chunked_answer,
    chunked_head,
    endless_requests,
    idle_connections,
)
from tests.integration.scripted import (
    Act,
    Peer,
    Script,
    ScriptedServer,
    Serve,
    acts,
    drip,
    say,
    say_and_break_off,
    say_and_leave,
    say_and_wait,
    say_for_ever,
)
from tests.integration.wire import END, LAST_CHUNK, PATIENCE, chunk, envelope, gzip_bomb, head

all_kinds = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
streams = pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.value)


def client_of(server: ScriptedServer, manager: urllib3.PoolManager) -> EchoServiceClient:
    return EchoServiceClient(server.url, pool_manager=manager)


def assert_unavailable(
    kind: Kind,
    client: EchoServiceClient,
    manager: urllib3.PoolManager,
    server: ScriptedServer,
    what: str = "",
) -> None:
    """Check that a call fails for ``what`` the server does, and keeps no connection to it."""
    error = kind.failure(client)
    assert error.code is Code.UNAVAILABLE, what
    assert error.__cause__ is not None
    assert idle_connections(manager, server.url) == []


def assert_next_call_works(kind: Kind, client: EchoServiceClient) -> None:
    assert kind.call(client) == [b"message"]


# No answer


@all_kinds
def test_nobody_listens(kind: Kind, manager: urllib3.PoolManager) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        error = kind.failure(EchoServiceClient(url, pool_manager=manager))
    assert error.code is Code.UNAVAILABLE
    assert error.__cause__ is not None
    assert idle_connections(manager, url) == []


LONG = b"x" * 100_000

NO_ANSWERS = [
    pytest.param(say_and_leave(b""), id="nothing"),
    pytest.param(say_and_break_off(b""), id="reset"),
    pytest.param(say_and_break_off(b"HTTP/1.1 200 OK\r\ncontent-"), id="reset within the head"),
    pytest.param(say_and_wait(b"SSH-2.0-OpenSSH_9.6\r\n"), id="SSH"),
    pytest.param(say_and_wait(b"220 mail.example.com ESMTP\r\n"), id="SMTP"),
    pytest.param(say_and_wait(b"\x15\x03\x03\x00\x02\x02\x46" + b"\n"), id="TLS alert"),
    pytest.param(say_and_wait(bytes(range(256)) * 10), id="all bytes"),
    pytest.param(say_and_wait(b"\n\n\n\n"), id="empty lines"),
    pytest.param(say_and_wait(b"HTTP/1.1 abc OK\r\n\r\n"), id="status that is no number"),
    pytest.param(say_and_wait(b"HTTP/1.1 20 OK\r\n\r\n"), id="status of two digits"),
    pytest.param(say_and_wait(b"HTTP/2 200\r\n\r\n"), id="version 2"),
    pytest.param(say_and_wait(b"HTTP/1.1 200 " + LONG + b"\r\n"), id="long status line"),
    pytest.param(say_and_wait(b"HTTP/1.1 200 OK\r\nx: " + LONG + b"\r\n"), id="long header"),
    pytest.param(say_and_wait(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000), id="many headers"),
    pytest.param(say_for_ever(b"HTTP/1.1 200 OK\r\nx: ", LONG), id="header without an end"),
    pytest.param(say_for_ever(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000), id="headers without an end"),
]


@all_kinds
@pytest.mark.parametrize("act", NO_ANSWERS)
def test_no_http_answer_is_unavailable(
    kind: Kind, act: Act, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(act, say(answer(kind))))
    client = client_of(server, manager)
    assert_unavailable(kind, client, manager, server)
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_answer_that_is_cut_anywhere_is_unavailable(
    kind: Kind, framing: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    whole = answer(kind) if framing == "length" else chunked_answer(kind, kind.body)
    end = len(whole)
    if framing == "chunked" and kind is not Kind.UNARY:
        # Once the end of a stream has arrived, nothing of it can be missing.
        end -= len(b"\r\n" + LAST_CHUNK)
    server = serve(acts(*(say_and_leave(whole[:i]) for i in range(end)), say(whole)))
    client = client_of(server, manager)
    for i in range(end):
        assert_unavailable(kind, client, manager, server, f"cut to {whole[:i]!r}")
    assert_next_call_works(kind, client)


@all_kinds
def test_answer_that_is_reset_within_its_body_is_unavailable(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say_and_break_off(answer(kind)[:-1]), say(answer(kind))))
    client = client_of(server, manager)
    assert_unavailable(kind, client, manager, server)
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize(
    "size", [b"", b"x", b"-5", b"+5", b"0x5", b"0_5", b"5 5", b"f" * 100_000], ids=lambda size: repr(size[:9])
)
def test_malformed_chunk_is_unavailable(
    kind: Kind, size: bytes, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say_and_leave(chunked_head(kind) + size + b"\r\n" + kind.body), say(answer(kind))))
    client = client_of(server, manager)
    assert_unavailable(kind, client, manager, server)
    assert_next_call_works(kind, client)


@all_kinds
def test_trailers_without_an_end_are_refused(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    start = chunked_head(kind) + chunk(kind.unended_body) + b"0\r\n"
    server = serve(acts(say_for_ever(start, b"x: y\r\n" * 1000), say(answer(kind))))
    client = client_of(server, manager)
    assert_unavailable(kind, client, manager, server)
    assert_next_call_works(kind, client)


# Answers of something else than a Connect server

JSON = "application/json"
PAGE = b"<html><body>Sorry.</body></html>"


@all_kinds
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("204 No Content", Code.UNKNOWN),
        ("400 Bad Request", Code.INTERNAL),
        ("401 Unauthorized", Code.UNAUTHENTICATED),
        ("403 Forbidden", Code.PERMISSION_DENIED),
        ("404 Not Found", Code.UNIMPLEMENTED),
        ("405 Method Not Allowed", Code.UNKNOWN),
        ("413 Content Too Large", Code.UNKNOWN),
        ("415 Unsupported Media Type", Code.UNKNOWN),
        ("429 Too Many Requests", Code.UNAVAILABLE),
        ("500 Internal Server Error", Code.UNKNOWN),
        ("502 Bad Gateway", Code.UNAVAILABLE),
        ("503 Service Unavailable", Code.UNAVAILABLE),
        ("504 Gateway Timeout", Code.UNAVAILABLE),
        ("999", Code.UNKNOWN),
    ],
)
def test_page_of_a_proxy_is_read_by_its_status(
    kind: Kind, status: str, code: Code, serve: Serve, manager: urllib3.PoolManager
) -> None:
    body = b"" if status.startswith("204") else PAGE
    server = serve(acts(say(answer(kind, body, status, content_type="text/html")), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is code
    assert_next_call_works(kind, client)


@all_kinds
def test_page_that_is_read_to_its_end_leaves_its_connection(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    page = answer(kind, PAGE, "502 Bad Gateway", content_type="text/html")
    server = serve(acts(say(page)))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.UNAVAILABLE
    assert len(idle_connections(manager, server.url)) == 1


@all_kinds
@pytest.mark.parametrize("length", ["chunked", "endless"])
def test_page_that_does_not_end_leaves_no_connection(
    kind: Kind, length: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    start = head("HTTP/1.1 502 Bad Gateway", {"content-type": "text/html", "transfer-encoding": "chunked"})
    act = {
        "chunked": say_and_wait(start + chunk(PAGE)),
        "endless": say_for_ever(start, chunk(PAGE)),
    }[length]
    server = serve(acts(act, say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.UNAVAILABLE
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
def test_redirect_is_not_followed(
    kind: Kind, status: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    elsewhere = serve(acts(say(answer(kind))))
    server = serve(acts(say(answer(kind, b"", status, location=f"{elsewhere.url}/echo.v1.EchoService/Echo"))))
    assert kind.failure(client_of(server, manager)).code is Code.UNKNOWN
    assert len(server.requests) == 1
    assert elsewhere.connections == 0


@all_kinds
def test_connection_that_switches_protocols_is_not_used_again(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    switch = head("HTTP/1.1 101 Switching Protocols", {"connection": "upgrade", "upgrade": "other"})
    server = serve(acts(say(switch), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.UNKNOWN
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("text/html", Code.UNKNOWN),
        ("", Code.UNKNOWN),
        ("application/json", Code.INTERNAL),
        ("application/connect+json", Code.INTERNAL),
    ],
)
def test_answer_of_another_content_type_is_refused(
    kind: Kind, content_type: str, code: Code, serve: Serve, manager: urllib3.PoolManager
) -> None:
    if kind is Kind.UNARY and content_type == "application/connect+json":
        content_type = "application/json; charset=utf-8"
    if kind is not Kind.UNARY and content_type == "application/json":
        code = Code.UNKNOWN
    server = serve(acts(say(answer(kind, content_type=content_type)), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is code
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize("name", ["compress", "lz4", "gzip, gzip", "no"])
def test_answer_of_unasked_compression_is_internal(
    kind: Kind, name: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    if kind is Kind.UNARY:
        compressed = answer(kind, content_encoding=name)
    else:
        compressed = answer(kind, connect_content_encoding=name)
    server = serve(acts(say(compressed), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.INTERNAL
    assert_next_call_works(kind, client)


# Errors that are none


@all_kinds
@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(b"", "identity", id="nothing"),
        pytest.param(b"{", "identity", id="JSON that is cut"),
        pytest.param(b"[]", "identity", id="no object"),
        pytest.param(b"[" * 100_000, "identity", id="JSON that is nested deeply"),
        pytest.param(b"{}", "identity", id="no code"),
        pytest.param(b'{"code":"odd"}', "identity", id="unknown code"),
        pytest.param(b'{"code":16}', "identity", id="number as code"),
        pytest.param(b'{"code":["internal"]}', "identity", id="list as code"),
        pytest.param(b'{"message":1,"details":{"a":1}}', "identity", id="other types"),
        pytest.param(b"\xff\xfe", "identity", id="no UTF-8"),
        pytest.param(b'{"code":"internal"}', "gzip", id="gzip that is none"),
        pytest.param(gzip.compress(b'{"code":"internal"}')[:-1], "gzip", id="gzip that is cut"),
        pytest.param(b"\x1f\x9d", "compress", id="unasked compression"),
    ],
)
def test_error_that_is_malformed_is_read_by_its_status(
    kind: Kind, body: bytes, encoding: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    error = answer(
        kind,
        body,
        "503 Service Unavailable",
        content_type=JSON,
        content_encoding=encoding,
    )
    server = serve(acts(say(error), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.UNAVAILABLE
    assert_next_call_works(kind, client)


# Messages that are none


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(MESSAGE[:-1], "identity", id="proto that is cut"),
        pytest.param(b"\xff" * 20, "identity", id="proto that is none"),
        pytest.param(MESSAGE, "gzip", id="gzip that is none"),
        pytest.param(gzip.compress(MESSAGE)[:-1], "gzip", id="gzip that is cut"),
        pytest.param(gzip.compress(MESSAGE) + b"x", "gzip", id="gzip and more"),
    ],
)
def test_malformed_unary_message_is_internal(
    body: bytes, encoding: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    malformed = answer(Kind.UNARY, body, content_encoding=encoding)
    server = serve(acts(say(malformed), say(answer(Kind.UNARY))))
    client = client_of(server, manager)
    error = Kind.UNARY.failure(client)
    assert error.code is Code.INTERNAL
    assert error.__cause__ is not None
    assert_next_call_works(Kind.UNARY, client)


OK_END = envelope(b"{}", END)


def end(value: object) -> bytes:
    return envelope(json.dumps(value).encode(), END)


@streams
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", Code.INTERNAL, id="nothing"),
        pytest.param(envelope(MESSAGE), Code.INTERNAL, id="no end"),
        pytest.param(envelope(MESSAGE) + OK_END + b"x", Code.INTERNAL, id="byte behind the end"),
        pytest.param(envelope(MESSAGE) + OK_END + envelope(MESSAGE), Code.INTERNAL, id="message at the end"),
        pytest.param(envelope(MESSAGE) + OK_END * 2, Code.INTERNAL, id="two ends"),
        pytest.param(envelope(MESSAGE, 4) + OK_END, Code.INTERNAL, id="reserved flag"),
        pytest.param(envelope(MESSAGE, 0x80) + OK_END, Code.INTERNAL, id="flag of gRPC-Web"),
        pytest.param(envelope(MESSAGE) + envelope(b"{}", END | 4), Code.INTERNAL, id="end and reserved flag"),
        pytest.param(envelope(MESSAGE, 1) + OK_END, Code.INTERNAL, id="compressed by nothing"),
        pytest.param(envelope(MESSAGE[:-1]) + OK_END, Code.INTERNAL, id="proto that is cut"),
        pytest.param(envelope(MESSAGE) + envelope(b"", END), Code.INTERNAL, id="end without JSON"),
        pytest.param(envelope(MESSAGE) + envelope(b"{", END), Code.INTERNAL, id="end of cut JSON"),
        pytest.param(envelope(MESSAGE) + end([]), Code.INTERNAL, id="end is no object"),
        pytest.param(envelope(MESSAGE) + end({"error": []}), Code.INTERNAL, id="error is no object"),
        pytest.param(envelope(MESSAGE) + end({"metadata": []}), Code.INTERNAL, id="metadata is no object"),
        pytest.param(envelope(MESSAGE) + end({"error": {}}), Code.UNKNOWN, id="error without a code"),
        pytest.param(envelope(MESSAGE) + end({"error": {"code": "odd"}}), Code.UNKNOWN, id="unknown code"),
        pytest.param(end({"error": {"code": "aborted"}}), Code.ABORTED, id="error in place of a message"),
        pytest.param(bytes([0]) + b"\xff" * 4, Code.RESOURCE_EXHAUSTED, id="envelope of 4 GiB"),
    ],
)
def test_malformed_stream_is_refused(
    kind: Kind, body: bytes, code: Code, framing: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    whole = answer(kind, body) if framing == "length" else chunked_answer(kind, *filter(None, [body]))
    server = serve(acts(say(whole), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is code
    assert_next_call_works(kind, client)


@streams
def test_envelope_that_is_cut_anywhere_is_internal(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    body = kind.body
    server = serve(acts(*(say(answer(kind, body[:i])) for i in range(len(body))), say(answer(kind))))
    client = client_of(server, manager)
    for _ in range(len(body)):
        assert kind.failure(client).code is Code.INTERNAL
    assert_next_call_works(kind, client)


@pytest.mark.parametrize("messages", [0, 2, 3])
def test_client_stream_takes_exactly_one_message(
    messages: int, serve: Serve, manager: urllib3.PoolManager
) -> None:
    kind = Kind.CLIENT_STREAM
    server = serve(acts(say(answer(kind, envelope(MESSAGE) * messages + OK_END)), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client).code is Code.UNIMPLEMENTED
    assert_next_call_works(kind, client)


@streams
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(MESSAGE, id="no gzip"),
        pytest.param(gzip.compress(MESSAGE)[:-1], id="gzip that is cut"),
        pytest.param(gzip.compress(MESSAGE) + b"x", id="gzip and more"),
    ],
)
@pytest.mark.parametrize("flags", [1, 1 | END])
def test_malformed_compression_in_stream_is_internal(
    kind: Kind, payload: bytes, flags: int, serve: Serve, manager: urllib3.PoolManager
) -> None:
    whole = answer(kind, envelope(payload, flags) + OK_END, connect_content_encoding="gzip")
    server = serve(acts(say(whole), say(answer(kind))))
    client = client_of(server, manager)
    error = kind.failure(client)
    assert error.code is Code.INTERNAL
    assert error.__cause__ is not None
    assert_next_call_works(kind, client)


# Too much


@contextmanager
def flat_memory() -> Iterator[None]:
    """Check that a block needs no more memory than a few of the largest messages."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Half a GiB, in half a MiB, that would be JSON in the end."""
    return gzip_bomb(512 << 20, b'{"message":"', b'"}')


@all_kinds
def test_compressed_bomb_costs_no_memory(
    kind: Kind, bomb: bytes, serve: Serve, manager: urllib3.PoolManager
) -> None:
    if kind is Kind.UNARY:
        whole = answer(kind, bomb, content_encoding="gzip")
    else:
        whole = answer(kind, envelope(bomb, 1) + OK_END, connect_content_encoding="gzip")
    server = serve(acts(say(whole)))
    with flat_memory():
        assert kind.failure(client_of(server, manager)).code is Code.RESOURCE_EXHAUSTED


@streams
def test_compressed_bomb_as_end_of_stream_costs_no_memory(
    kind: Kind, bomb: bytes, serve: Serve, manager: urllib3.PoolManager
) -> None:
    body = envelope(MESSAGE) + envelope(bomb, END | 1)
    server = serve(acts(say(answer(kind, body, connect_content_encoding="gzip"))))
    with flat_memory():
        assert kind.failure(client_of(server, manager)).code is Code.RESOURCE_EXHAUSTED


@all_kinds
def test_compressed_bomb_as_error_costs_no_memory(
    kind: Kind, bomb: bytes, serve: Serve, manager: urllib3.PoolManager
) -> None:
    whole = answer(kind, bomb, "403 Forbidden", content_type=JSON, content_encoding="gzip")
    server = serve(acts(say(whole)))
    with flat_memory():
        assert kind.failure(client_of(server, manager)).code is Code.PERMISSION_DENIED


@all_kinds
def test_error_without_an_end_costs_no_memory(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    start = head("HTTP/1.1 403 Forbidden", {"content-type": JSON, "transfer-encoding": "chunked"})
    server = serve(acts(say_for_ever(start, chunk(LONG))))
    with flat_memory():
        assert kind.failure(client_of(server, manager)).code is Code.PERMISSION_DENIED
    assert idle_connections(manager, server.url) == []


@all_kinds
def test_message_without_an_end_costs_no_memory(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    start = chunked_head(kind)
    if kind is not Kind.UNARY:
        start += chunk(bytes([0]) + (LIMIT + 1).to_bytes(4, "big"))
    server = serve(acts(say_for_ever(start, chunk(LONG))))
    with flat_memory():
        assert kind.failure(client_of(server, manager)).code is Code.RESOURCE_EXHAUSTED
    assert idle_connections(manager, server.url) == []


def test_too_long_answer_is_refused_before_it_is_sent(serve: Serve, manager: urllib3.PoolManager) -> None:
    start = head("HTTP/1.1 200 OK", {"content-type": "application/proto", "content-length": 1 << 40})
    server = serve(acts(say_and_wait(start)))
    assert Kind.UNARY.failure(client_of(server, manager)).code is Code.RESOURCE_EXHAUSTED
    assert idle_connections(manager, server.url) == []


@streams
@pytest.mark.parametrize("size", [LIMIT + 1, (4 << 30) - 1])
def test_too_long_envelope_is_refused_before_it_is_sent(
    kind: Kind, size: int, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say_and_wait(chunked_head(kind) + chunk(bytes([0]) + size.to_bytes(4, "big")))))
    assert kind.failure(client_of(server, manager)).code is Code.RESOURCE_EXHAUSTED
    assert idle_connections(manager, server.url) == []


# Too slow

SLOW = [
    pytest.param(lambda kind: say_and_wait(b""), id="silence"),
    pytest.param(lambda kind: say_and_wait(b"HTTP/1.1 200 OK\r\n"), id="silence within the head"),
    pytest.param(lambda kind: say_and_wait(answer(kind)[:-1]), id="silence within the body"),
    pytest.param(
        lambda kind: say_and_wait(chunked_head(kind) + chunk(kind.unended_body)), id="silence before the end"
    ),
    pytest.param(lambda kind: drip(b"", b"HTTP/1.1 200 OK\r\nx: " + LONG), id="dripping head"),
    pytest.param(lambda kind: drip(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 10_000), id="dripping headers"),
    pytest.param(
        lambda kind: drip(answer(kind, b"\0\0\1\0\0", content_length=LIMIT), bytes(50_000)),
        id="dripping body",
    ),
    pytest.param(lambda kind: drip(chunked_head(kind), b"0" * 50_000), id="dripping size of a chunk"),
    pytest.param(lambda kind: drip(chunked_head(kind), chunk(b"\0\0\0\0\0") * 10_000), id="dripping chunks"),
    pytest.param(
        lambda kind: drip(chunked_head(kind) + chunk(kind.unended_body) + b"0\r\n", b"x: y\r\n" * 10_000),
        id="dripping trailers",
    ),
    pytest.param(
        lambda kind: say_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="100 Continue without an end"
    ),
    pytest.param(
        lambda kind: say_for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
        id="103 Early Hints without an end",
    ),
    pytest.param(
        lambda kind: drip(answer(kind, b"", "403 Forbidden", content_type=JSON, content_length=99999), LONG),
        id="dripping error",
    ),
]


@all_kinds
@pytest.mark.parametrize("act_for", SLOW)
def test_slow_server_is_left_at_the_deadline(
    kind: Kind, act_for: Callable[[Kind], Act], serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(act_for(kind), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client, timeout_ms=100).code is Code.DEADLINE_EXCEEDED
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


@streams
@pytest.mark.parametrize(
    "act_for",
    [
        pytest.param(lambda start: say_and_leave(start), id="cut"),
        pytest.param(lambda start: say_and_break_off(start), id="reset"),
        pytest.param(lambda start: say_and_wait(start), id="silence"),
        pytest.param(lambda start: drip(start + b"0\r\n", b"x: y\r\n" * 10_000), id="dripping trailers"),
        pytest.param(lambda start: say_for_ever(start + b"0\r\n", b"x: y\r\n" * 1000), id="endless trailers"),
    ],
)
@pytest.mark.parametrize("timeout_ms", [None, 60_000])
def test_result_stands_when_its_response_does_not_end(
    kind: Kind,
    act_for: Callable[[bytes], Act],
    timeout_ms: float | None,
    serve: Serve,
    manager: urllib3.PoolManager,
) -> None:
    denied = envelope(b'{"error": {"code": "permission_denied"}}', END)
    server = serve(acts(act_for(chunked_head(kind) + chunk(denied)), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client, timeout_ms=timeout_ms).code is Code.PERMISSION_DENIED
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


def test_stream_without_an_end_is_left_at_the_deadline(serve: Serve, manager: urllib3.PoolManager) -> None:
    kind = Kind.SERVER_STREAM
    server = serve(acts(say_for_ever(chunked_head(kind), chunk(envelope(MESSAGE))), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.failure(client, timeout_ms=100).code is Code.DEADLINE_EXCEEDED
    assert idle_connections(manager, server.url) == []


@all_kinds
def test_interim_responses_precede_the_answer(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    server = serve(acts(say(interim * 2 + answer(kind))))
    assert kind.call(client_of(server, manager)) == [b"message"]


@all_kinds
@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_interim_response_does_not_end_the_request(
    kind: Kind, interim: str, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    is_said = Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(head(f"HTTP/1.1 {interim}", {"x": "y"}) * 2)
        is_said.set()
        peer.read_body()
        peer.send(answer(kind))

    def requests() -> Iterator[EchoRequest]:
        for _ in range(3):
            assert is_said.wait(PATIENCE)
            yield large

    server = serve(script, is_tls=is_tls)
    client = client_of(server, manager)
    large = EchoRequest(payload=bytes(8 << 20))
    # The deadline is there only to end a test that fails.
    if kind is Kind.CLIENT_STREAM:
        assert client.collect(requests(), timeout_ms=PATIENCE * 500).payload == b"message"
    else:
        assert kind.call(client, large, timeout_ms=PATIENCE * 500) == [b"message"]
    assert len(idle_connections(manager, server.url)) == 1


# Too early

ERROR = answer(
    Kind.CLIENT_STREAM, envelope(b'{"error":{"code":"permission_denied"}}', END), connection="close"
)


def answer_early(then: Callable[[Peer], None]) -> Script:
    """Answer when the first message has come, and do ``then``."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.read_chunk()
        peer.send(ERROR)
        then(peer)

    return script


def read_on(peer: Peer) -> None:
    while True:
        peer.read_chunk()


def leave(peer: Peer) -> None:
    pass


@pytest.mark.parametrize("then", [read_on, leave, Peer.wait_for_hang_up], ids=lambda then: then.__name__)
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_early_answer_is_heard_before_the_end_of_the_request(
    then: Callable[[Peer], None], is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(answer_early(then), is_tls=is_tls)
    with pytest.raises(ConnectError) as caught:
        client_of(server, manager).collect(endless_requests())
    assert caught.value.code is Code.PERMISSION_DENIED
    assert idle_connections(manager, server.url) == []


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_early_success_is_a_success(is_tls: bool, serve: Serve, manager: urllib3.PoolManager) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.read_chunk()
        peer.send(answer(Kind.CLIENT_STREAM))
        peer.wait_for_hang_up()

    server = serve(script, is_tls=is_tls)
    assert client_of(server, manager).collect(endless_requests()).payload == b"message"
    assert idle_connections(manager, server.url) == []


@all_kinds
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_answer_to_a_head_is_heard_while_a_large_message_is_sent(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(kind, PAGE, "503 Service Unavailable", content_type="text/html"))
        peer.wait_for_end()

    server = serve(script, is_tls=is_tls)
    large = EchoRequest(payload=bytes(64 << 20))
    # The deadline is there only to end a test that fails.
    error = kind.failure(client_of(server, manager), large, timeout_ms=PATIENCE * 500)
    assert error.code is Code.UNAVAILABLE
    assert idle_connections(manager, server.url) == []


# What is left on a connection


def test_closed_client_connects_again_when_it_is_used(serve: Serve) -> None:
    server = serve(acts(say(answer(Kind.UNARY))))
    with EchoServiceClient(server.url) as client:
        client.echo(EchoRequest())
    assert client.echo(EchoRequest()).payload == b"message"
    client.close()
    assert server.connections == 2


def test_stream_that_is_collected_as_garbage_gives_its_place_back(serve: Serve) -> None:
    kind = Kind.SERVER_STREAM
    server = serve(acts(say_and_wait(chunked_head(kind) + chunk(envelope(MESSAGE))), say(answer(kind))))
    with urllib3.PoolManager(maxsize=1, block=True) as manager:
        client = client_of(server, manager)
        stream = client.repeat(EchoRequest(), timeout_ms=PATIENCE * 1000)
        next(stream)
        del stream
        assert kind.call(client, timeout_ms=PATIENCE * 1000) == [b"message"]


def test_place_that_another_thread_has_given_back_is_not_waited_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TakenFrom(SimpleQueue[object]):
        """What has had something in it when it was looked at."""

        def empty(self) -> bool:
            return False

    monkeypatch.setattr("connect_sync.client.transport.SimpleQueue", TakenFrom)
    server = serve(acts(say(answer(Kind.UNARY))))
    with EchoServiceClient(server.url) as client:
        assert Kind.UNARY.call(client) == [b"message"]


def test_timeout_of_the_pool_is_not_the_deadline_of_the_call() -> None:
    # Connections wait to be accepted: no handshake is answered.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with urllib3.PoolManager(timeout=urllib3.Timeout(connect=0.2)) as manager:
            client = EchoServiceClient(address, pool_manager=manager)
            with pytest.raises(ConnectError) as caught:
                client.echo(EchoRequest(), timeout_ms=PATIENCE * 1000)
    assert caught.value.code is Code.UNAVAILABLE


@all_kinds
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_idle_connection_is_used_again(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(answer(kind))), is_tls=is_tls)
    client = client_of(server, manager)
    for _ in range(5):
        assert_next_call_works(kind, client)
    assert server.connections == 1
    assert len(idle_connections(manager, server.url)) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_that_was_read_to_its_end_frees_its_connection(
    framing: str, serve: Serve, manager: urllib3.PoolManager
) -> None:
    kind = Kind.UNARY
    server = serve(acts(say(answer(kind) if framing == "length" else chunked_answer(kind, kind.body))))
    request = Request("POST", "/", Headers(), (b"",))
    response = Urllib3Transport(server.url, manager).send(request, Lifetime())
    assert idle_connections(manager, server.url) == []
    assert b"".join(response.body) == kind.body
    assert len(idle_connections(manager, server.url)) == 1


@all_kinds
def test_chunked_answer_leaves_a_connection_to_be_used_again(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    body = kind.body
    server = serve(acts(say(chunked_answer(kind, body[:3], body[3:]))))
    client = client_of(server, manager)
    for _ in range(5):
        assert_next_call_works(kind, client)
    assert server.connections == 1


@all_kinds
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_idle_connection_that_the_server_closed_is_not_used(
    kind: Kind, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say_and_leave(answer(kind))), is_tls=is_tls)
    client = client_of(server, manager)
    for number in range(1, 4):
        assert_next_call_works(kind, client)
        assert server.connections == number
        wait_until_dropped(manager, server)


def wait_until_dropped(manager: urllib3.PoolManager, server: ScriptedServer) -> None:
    for connection in idle_connections(manager, server.url):
        assert wait_for_read(connection.sock, timeout=PATIENCE)


@all_kinds
@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(lambda kind: answer(kind, connection="close"), id="connection: close"),
        pytest.param(lambda kind: answer(kind).replace(b"HTTP/1.1", b"HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(lambda kind: answer(kind) + answer(kind, kind.wrap(b"")), id="two answers"),
        pytest.param(lambda kind: answer(kind) + b"x", id="byte behind the answer"),
        pytest.param(lambda kind: chunked_answer(kind, kind.body) + b"x", id="byte behind the chunks"),
    ],
)
def test_connection_that_is_not_as_new_is_not_used_again(
    kind: Kind, whole: Callable[[Kind], bytes], serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(whole(kind)), say(answer(kind))))
    client = client_of(server, manager)
    assert kind.call(client) == [b"message"]
    assert_next_call_works(kind, client)
    assert server.connections == 2


@all_kinds
def test_answer_longer_than_it_says_is_not_mistaken_for_the_next(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    late = answer(kind, kind.wrap(b"\n\x05stale"))
    server = serve(acts(say(answer(kind, content_length=len(kind.body)) + late), say(answer(kind))))
    client = client_of(server, manager)
    assert_next_call_works(kind, client)
    assert_next_call_works(kind, client)


@all_kinds
@pytest.mark.parametrize("size", [9_000, 16_000, 20_000, 100_000])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_answer_behind_a_large_one_is_not_mistaken_for_the_next(
    kind: Kind, size: int, is_tls: bool, serve: Serve, manager: urllib3.PoolManager
) -> None:
    # Past what the reader has room for, the rest of a TLS record stays in TLS.
    both = b"".join(answer_with_another(kind, bytes(size)))
    server = serve(acts(say(both), say(answer(kind))), is_tls=is_tls)
    client = client_of(server, manager)
    assert kind.call(client) == [bytes(size)]
    assert_next_call_works(kind, client)
    assert server.connections == 2


@all_kinds
def test_bytes_that_come_to_an_idle_connection_are_not_mistaken_for_an_answer(
    kind: Kind, serve: Serve, manager: urllib3.PoolManager
) -> None:
    is_idle = Event()

    def say_more(peer: Peer) -> None:
        peer.send(answer(kind))
        assert is_idle.wait(PATIENCE)
        peer.send(answer(kind, kind.wrap(b"\n\x05stale")))

    server = serve(acts(say_more, say(answer(kind))))
    client = client_of(server, manager)
    assert_next_call_works(kind, client)
    is_idle.set()
    wait_until_dropped(manager, server)
    assert_next_call_works(kind, client)
    assert server.connections == 2


@all_kinds
def test_call_is_not_repeated(kind: Kind, serve: Serve, manager: urllib3.PoolManager) -> None:
    server = serve(acts(say(answer(kind)), say_and_leave(b""), say(answer(kind))))
    client = client_of(server, manager)
    assert_next_call_works(kind, client)
    assert kind.failure(client).code is Code.UNAVAILABLE
    assert len(server.requests) == 2


def test_stream_that_is_left_early_leaves_no_connection(serve: Serve, manager: urllib3.PoolManager) -> None:
    kind = Kind.SERVER_STREAM
    server = serve(acts(say_and_wait(chunked_head(kind) + chunk(envelope(MESSAGE))), say(answer(kind))))
    client = client_of(server, manager)
    with client.repeat(EchoRequest()) as responses:
        assert next(responses).payload == b"message"
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


def test_error_of_the_requests_leaves_no_connection(serve: Serve, manager: urllib3.PoolManager) -> None:
    def requests() -> Iterator[EchoRequest]:
        yield EchoRequest()
        raise KeyError("of the caller")

    kind = Kind.CLIENT_STREAM
    server = serve(acts(say(answer(kind))))
    client = client_of(server, manager)
    with pytest.raises(KeyError, match="of the caller"):
        client.collect(requests())
    assert idle_connections(manager, server.url) == []
    assert_next_call_works(kind, client)


@all_kinds
def test_closed_client_leaves_no_connection(kind: Kind, serve: Serve) -> None:
    left = Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(kind))
        try:
            peer.wait_for_hang_up()
        finally:
            left.set()

    server = serve(script)
    with EchoServiceClient(server.url) as client:
        assert kind.call(client) == [b"message"]
        assert not left.is_set()
    assert left.wait(PATIENCE)


def test_closed_client_leaves_the_connections_of_the_caller(
    serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(answer(Kind.UNARY))))
    for _ in range(3):
        with client_of(server, manager) as client:
            assert_next_call_works(Kind.UNARY, client)
    assert server.connections == 1


# What is left of a call


class Mark:
    """Something that a caller has in a variable."""


@all_kinds
@pytest.mark.parametrize("size", [0, 8 << 20], ids=["small request", "large request"])
@pytest.mark.parametrize(
    "start_for",
    [
        pytest.param(lambda kind: b"", id="nothing"),
        pytest.param(lambda kind: b"HTTP/1.1 200 OK\r\ncontent-", id="cut in the head"),
        pytest.param(lambda kind: b"SSH-2.0-OpenSSH_9.6\r\n", id="SSH"),
        pytest.param(lambda kind: chunked_head(kind) + b"5\r\n", id="cut in the body"),
    ],
)
def test_failed_call_keeps_nothing_of_its_caller(
    kind: Kind,
    start_for: Callable[[Kind], bytes],
    size: int,
    serve: Serve,
    manager: urllib3.PoolManager,
    without_gc: None,
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(start_for(kind))

    client = client_of(serve(script), manager)
    request = EchoRequest(payload=bytes(size))

    def call() -> weakref.ref[Mark]:
        mark = Mark()
        assert kind.failure(client, request).code is Code.UNAVAILABLE
        return weakref.ref(mark)

    assert call()() is None
