"""Clients that break off, lie, drip, bomb and smuggle, against gunicorn with one thread.

That the next request is served proves that the thread is free again. An interceptor counts the starts and the
ends of calls.
"""

from __future__ import annotations

import gzip
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.servers import Gunicorn, Servers
from tests.integration.wire import (
    END,
    LAST_CHUNK,
    SERVICE,
    Connection,
    chunk,
    envelope,
    gzip_bomb,
    head,
    post,
)
from wsgi_adapters.body import DRAIN_MAX_BYTES

PROTO = {"content-type": "application/proto"}
JSON = {"content-type": "application/json"}
STREAM = {"content-type": "application/connect+proto"}
STREAM_JSON = {"content-type": "application/connect+json"}
CHUNKED = {"transfer-encoding": "chunked"}

MESSAGE = EchoRequest(payload=b"message").SerializeToString()
ANSWER = EchoResponse(payload=b"message").SerializeToString()
GZIPPED = gzip.compress(MESSAGE)
LIMIT = 4 << 20

HTTP_STATUS = {
    "deadline_exceeded": 504,
    "internal": 500,
    "invalid_argument": 400,
    "not_found": 404,
    "resource_exhausted": 429,
    "unimplemented": 501,
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("hostile_clients")
    servers = Servers(directory, certificates, "tests.integration.watched:application")
    yield servers
    servers.stop()


# What is refused though it came whole


@pytest.mark.parametrize(
    "timeout",
    [
        *("-1", "+1", "1.5", "1e3", "1_000", "0x10", "ten", "5 5", "5, 5"),
        pytest.param("12345678901", id="eleven digits"),
    ],
)
def test_malformed_timeout_is_refused(keepalive_server: Gunicorn, timeout: str) -> None:
    headers = {"connect-timeout-ms": timeout}
    unary = keepalive_server.call(post("Echo", PROTO | headers, MESSAGE))
    assert (unary.status, unary.error()["code"]) == (400, "invalid_argument")
    stream = keepalive_server.call(post("Collect", STREAM | headers, envelope(MESSAGE)))
    assert (stream.status, stream.error()["code"]) == (200, "invalid_argument")


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        pytest.param(JSON, b"{", "invalid_argument", id="JSON that is cut"),
        pytest.param(JSON, b"", "invalid_argument", id="JSON that is empty"),
        pytest.param(JSON, b'"\xff"', "invalid_argument", id="JSON that is not UTF-8"),
        pytest.param(JSON, b"[]", "invalid_argument", id="JSON of another shape"),
        pytest.param(JSON, b"[" * 100_000, "invalid_argument", id="JSON that is nested deeply"),
        pytest.param(JSON, b'{"times":' + b"9" * 10_000 + b"}", "invalid_argument", id="JSON's huge number"),
        pytest.param(PROTO, MESSAGE[:-1], "invalid_argument", id="proto that is cut"),
        pytest.param(PROTO, b"\xff" * 20, "invalid_argument", id="proto that is none"),
        pytest.param(
            PROTO | {"content-encoding": "gzip"}, GZIPPED[:-1], "invalid_argument", id="gzip that is cut"
        ),
        pytest.param(
            PROTO | {"content-encoding": "gzip"}, GZIPPED[:5], "invalid_argument", id="gzip that is cut early"
        ),
        pytest.param(
            PROTO | {"content-encoding": "gzip"}, GZIPPED + b"x", "invalid_argument", id="gzip and more"
        ),
        pytest.param(
            PROTO | {"content-encoding": "gzip"},
            GZIPPED + GZIPPED[:-1],
            "invalid_argument",
            id="second member of gzip that is cut",
        ),
        pytest.param(
            PROTO | {"content-encoding": "gzip"}, MESSAGE, "invalid_argument", id="gzip that is none"
        ),
        pytest.param(PROTO | {"content-encoding": "no"}, MESSAGE, "unimplemented", id="unknown compression"),
        pytest.param(
            PROTO | {"connect-protocol-version": "2"}, MESSAGE, "invalid_argument", id="unknown version"
        ),
    ],
)
def test_unary_request_is_refused(
    keepalive_server: Gunicorn, headers: dict[str, str], body: bytes, code: str
) -> None:
    reply = keepalive_server.call(post("Echo", headers, body))
    assert (reply.status, reply.error()["code"]) == (HTTP_STATUS[code], code)


def query(**parameters: str) -> str:
    return "&".join(f"{name}={value}" for name, value in parameters.items())


def base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        pytest.param(query(encoding="proto"), "invalid_argument", id="no message"),
        pytest.param(
            query(encoding="json", message="{}", connect="v2"), "invalid_argument", id="unknown version"
        ),
        pytest.param(
            query(encoding="json", message="{}", compression="no"), "unimplemented", id="unknown compression"
        ),
        pytest.param(
            query(encoding="proto", base64="1", message="*"), "invalid_argument", id="base64 that is none"
        ),
        pytest.param(
            query(encoding="proto", base64="1", message="A"), "invalid_argument", id="base64 that is cut"
        ),
        pytest.param(query(encoding="json", message="%7"), "invalid_argument", id="percent that is cut"),
        pytest.param(query(encoding="json", message="%ff"), "invalid_argument", id="JSON that is not UTF-8"),
        pytest.param(
            query(encoding="proto", base64="1", message=base64(MESSAGE[:-1])),
            "invalid_argument",
            id="proto that is cut",
        ),
        pytest.param(
            query(encoding="proto", base64="1", compression="gzip", message=base64(GZIPPED[:-1])),
            "invalid_argument",
            id="gzip that is cut",
        ),
    ],
)
def test_get_is_refused(keepalive_server: Gunicorn, query: str, code: str) -> None:
    request = head(f"GET {SERVICE}/EchoSafely?{query} HTTP/1.1", {"host": "test"})
    reply = keepalive_server.call(request)
    assert (reply.status, reply.error()["code"]) == (HTTP_STATUS[code], code)


GRPC_TYPES = ", ".join(
    f"application/{protocol}{codec}"
    for protocol in ("grpc-web", "grpc-web-text", "grpc")
    for codec in ("+proto", "", "+json")
)


@pytest.mark.parametrize(
    ("first_line", "headers", "status", "told"),
    [
        pytest.param("POST / HTTP/1.1", PROTO, 404, {}, id="root"),
        pytest.param(f"POST {SERVICE} HTTP/1.1", PROTO, 404, {}, id="no method"),
        pytest.param(f"POST {SERVICE}/echo HTTP/1.1", PROTO, 404, {}, id="method in lower case"),
        pytest.param(f"POST {SERVICE}/Echo/ HTTP/1.1", PROTO, 404, {}, id="slash at the end"),
        pytest.param(f"POST {SERVICE}/../Echo HTTP/1.1", PROTO, 404, {}, id="dots"),
        pytest.param(f"POST {SERVICE}/Echo%00 HTTP/1.1", PROTO, 404, {}, id="null byte"),
        pytest.param("POST /%ff%fe HTTP/1.1", PROTO, 404, {}, id="path that is not UTF-8"),
        pytest.param(f"PUT {SERVICE}/Echo HTTP/1.1", PROTO, 405, {"allow": "POST"}, id="PUT"),
        pytest.param(f"GET {SERVICE}/Echo HTTP/1.1", {}, 405, {"allow": "POST"}, id="GET"),
        pytest.param(f"GET {SERVICE}/Repeat HTTP/1.1", {}, 405, {"allow": "POST"}, id="GET of a stream"),
        pytest.param(f"DELETE {SERVICE}/EchoSafely HTTP/1.1", {}, 405, {"allow": "GET, POST"}, id="DELETE"),
        pytest.param(
            f"POST {SERVICE}/Echo HTTP/1.1",
            {},
            415,
            {"accept-post": f"application/proto, application/json, {GRPC_TYPES}"},
            id="no content type",
        ),
        pytest.param(
            f"POST {SERVICE}/Echo HTTP/1.1",
            {"content-type": "text/html"},
            415,
            {"accept-post": f"application/proto, application/json, {GRPC_TYPES}"},
            id="HTML",
        ),
        pytest.param(
            f"POST {SERVICE}/Echo HTTP/1.1",
            {"content-type": "application/json; charset=utf-16"},
            415,
            {"accept-post": f"application/proto, application/json, {GRPC_TYPES}"},
            id="other charset",
        ),
        pytest.param(f"GET {SERVICE}/EchoSafely HTTP/1.1", {}, 415, {}, id="GET of nothing"),
        pytest.param(
            f"GET {SERVICE}/EchoSafely?{query(message='{}')} HTTP/1.1", {}, 415, {}, id="GET without encoding"
        ),
        pytest.param(
            f"GET {SERVICE}/EchoSafely?{query(encoding='xml', message='{}')} HTTP/1.1",
            {},
            415,
            {},
            id="GET of an unknown encoding",
        ),
        pytest.param(
            f"POST {SERVICE}/Echo HTTP/1.1",
            STREAM,
            415,
            {"accept-post": f"application/proto, application/json, {GRPC_TYPES}"},
            id="stream to a unary method",
        ),
        pytest.param(
            f"POST {SERVICE}/Collect HTTP/1.1",
            PROTO,
            415,
            {"accept-post": f"application/connect+proto, application/connect+json, {GRPC_TYPES}"},
            id="bare message to a stream",
        ),
    ],
)
def test_request_is_no_call(
    keepalive_server: Gunicorn, first_line: str, headers: dict[str, str], status: int, told: dict[str, str]
) -> None:
    with keepalive_server.connect() as connection:
        connection.send(head(first_line, {"host": "test", "content-length": 0, **headers}))
        reply = connection.read_reply()
        assert (reply.status, reply.headers | told) == (status, reply.headers)
        assert_serves(connection)


def test_head_is_answered_without_a_body(keepalive_server: Gunicorn) -> None:
    with keepalive_server.connect() as connection:
        connection.send(head(f"HEAD {SERVICE}/EchoSafely HTTP/1.1", {"host": "test"}))
        reply = connection.read_reply(has_body=False)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")
        assert_serves(connection)


COMPRESSED = STREAM | {"connect-content-encoding": "gzip"}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("method", "headers", "body", "code"),
    [
        pytest.param("Collect", STREAM, envelope(MESSAGE)[:3], "invalid_argument", id="prefix that is cut"),
        pytest.param(
            "Collect", STREAM, envelope(MESSAGE)[:-1], "invalid_argument", id="envelope that is cut"
        ),
        pytest.param("Collect", STREAM, envelope(MESSAGE, 4), "internal", id="reserved flag"),
        pytest.param("Collect", STREAM, envelope(MESSAGE, 0x80), "internal", id="flag of gRPC-Web"),
        pytest.param("Collect", STREAM, envelope(b"{}", END), "internal", id="end of a response"),
        pytest.param("Collect", STREAM, envelope(MESSAGE, 1), "internal", id="compressed by nothing"),
        pytest.param(
            "Collect",
            STREAM | {"connect-content-encoding": "identity"},
            envelope(MESSAGE, 1),
            "internal",
            id="compressed by identity",
        ),
        pytest.param("Collect", COMPRESSED, envelope(GZIPPED[:-1], 1), "invalid_argument", id="gzip cut"),
        pytest.param(
            "Collect", COMPRESSED, envelope(GZIPPED + b"x", 1), "invalid_argument", id="gzip and more"
        ),
        pytest.param("Collect", COMPRESSED, envelope(MESSAGE, 1), "invalid_argument", id="gzip that is none"),
        pytest.param("Collect", STREAM, envelope(MESSAGE[:-1]), "invalid_argument", id="proto that is cut"),
        pytest.param("Collect", STREAM_JSON, envelope(b"{"), "invalid_argument", id="JSON that is cut"),
        pytest.param(
            "Collect",
            STREAM | {"connect-content-encoding": "no"},
            envelope(MESSAGE),
            "unimplemented",
            id="unknown compression",
        ),
        pytest.param("Repeat", STREAM, b"", "unimplemented", id="no message"),
        pytest.param("Repeat", STREAM, envelope(MESSAGE) * 2, "unimplemented", id="two messages"),
        pytest.param("Repeat", STREAM, envelope(MESSAGE)[:-1], "invalid_argument", id="message that is cut"),
        pytest.param("Converse", STREAM, envelope(MESSAGE), "unimplemented", id="bidirectional"),
    ],
)
def test_stream_is_refused(
    keepalive_server: Gunicorn, method: str, headers: dict[str, str], body: bytes, code: str, framing: str
) -> None:
    if framing == "length":
        request = post(method, headers, body)
    else:
        request = post(method, headers | CHUNKED) + (chunk(body) if body else b"") + LAST_CHUNK
    with keepalive_server.connect() as connection:
        connection.send(request)
        reply = connection.read_reply()
        assert (reply.status, reply.error()["code"]) == (200, code)
        assert_serves(connection)


# What breaks off

COLLECT = post("Collect", STREAM | CHUNKED)
ECHO = post("Echo", PROTO | CHUNKED)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(post("Echo", PROTO | {"content-length": 100}), id="unary: before the body"),
        pytest.param(post("Echo", PROTO | {"content-length": 100}) + MESSAGE, id="unary: in the body"),
        pytest.param(ECHO, id="unary: before the first chunk"),
        pytest.param(ECHO + chunk(MESSAGE)[:-4], id="unary: in a chunk"),
        pytest.param(ECHO + chunk(MESSAGE), id="unary: behind a chunk"),
        pytest.param(post("Collect", STREAM | {"content-length": 100}), id="stream: before the body"),
        pytest.param(
            post("Collect", STREAM | {"content-length": 100}) + envelope(MESSAGE)[:3],
            id="stream of known length: in a prefix",
        ),
        pytest.param(
            post("Collect", STREAM | {"content-length": 100}) + envelope(MESSAGE)[:-1],
            id="stream of known length: in an envelope",
        ),
        pytest.param(
            post("Collect", STREAM | {"content-length": 100}) + envelope(MESSAGE),
            id="stream of known length: behind an envelope",
        ),
        pytest.param(COLLECT, id="stream: before the first chunk"),
        pytest.param(COLLECT + b"1", id="stream: in a chunk's size"),
        pytest.param(COLLECT + b"10\r\n", id="stream: behind a chunk's size"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE)[:3]), id="stream: in a prefix"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE)[:-1]), id="stream: in an envelope"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE))[:-5], id="stream: in a chunk"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE))[:-2], id="stream: before a chunk's end"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE))[:-1], id="stream: in a chunk's end"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE)), id="stream: behind a chunk"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE)) + LAST_CHUNK[:3], id="stream: in the last chunk"),
        pytest.param(COLLECT + chunk(envelope(MESSAGE)) + b"0\r\nx: y\r\n", id="stream: in the trailers"),
    ],
)
def test_client_that_breaks_off_is_told(server: Gunicorn, sent: bytes) -> None:
    with server.connect() as connection:
        connection.send(sent)
        connection.end()
        assert connection.read_reply().error()["code"] == "canceled"
        assert connection.read_rest() == b""
    assert server.serves()


@pytest.mark.parametrize("request_head", [ECHO, COLLECT], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b"x\r\n", id="size that is no number"),
        pytest.param(b"-5\r\n", id="size below zero"),
        pytest.param(b"+5\r\n", id="size with a sign"),
        pytest.param(b"0x5\r\n", id="size with a prefix"),
        pytest.param(b"1_0\r\n", id="size with an underscore"),
        pytest.param(b" 5\r\n", id="size behind a space"),
        pytest.param(b"5 5\r\n", id="two sizes"),
        pytest.param(b"5;\x00\r\n", id="extension that is none"),
        pytest.param(b"5\r\n\0\0\0\0\0X\r\n", id="chunk longer than its size"),
        pytest.param(b"5\nhello\n", id="lines that end in LF"),
        pytest.param(b"0" * 20_000, id="size without an end"),
        pytest.param(b"5;x=" + b"x" * 20_000, id="extension without an end"),
        pytest.param(b"0\r\nno trailer\r\n\r\n", id="trailer that is none"),
    ],
)
def test_nothing_behind_malformed_chunks_is_a_request(
    server: Gunicorn, channel: Channel, request_head: bytes, chunks: bytes
) -> None:
    with server.connect() as connection:
        connection.send(request_head + chunks + smuggled(channel))
        assert connection.read_reply().error()["code"] == "invalid_argument"
        assert_closes(connection, smuggled(channel))
    assert server.serves()
    assert not channel.is_called()


def smuggled(channel: Channel) -> bytes:
    """Return bytes that tell on the channel if they are taken for a request."""
    return post("Echo", PROTO | channel.headers, MESSAGE)


# What is too large


def test_too_long_body_is_refused_before_it_is_sent(server: Gunicorn) -> None:
    with server.connect() as connection:
        connection.send(post("Echo", PROTO | {"content-length": LIMIT + 1}))
        reply = connection.read_reply()
        assert (reply.status, reply.error()["code"]) == (429, "resource_exhausted")


@pytest.mark.parametrize("size", [LIMIT + 1, (4 << 30) - 1])
@pytest.mark.parametrize("flags", [0, 1])
def test_too_long_envelope_is_refused_before_it_is_sent(server: Gunicorn, size: int, flags: int) -> None:
    with server.connect() as connection:
        connection.send(post("Collect", COMPRESSED | CHUNKED))
        connection.send(chunk(bytes([flags]) + size.to_bytes(4, "big")))
        assert connection.read_reply().error()["code"] == "resource_exhausted"


def test_too_long_body_of_unknown_length_is_refused_before_its_end(server: Gunicorn) -> None:
    with server.connect() as connection:
        connection.send(ECHO, chunk(bytes(LIMIT)), chunk(b"x"))
        reply = connection.read_reply()
        assert (reply.status, reply.error()["code"]) == (429, "resource_exhausted")


def test_message_as_large_as_the_limit_is_taken(keepalive_server: Gunicorn) -> None:
    frame = len(EchoRequest(payload=bytes(LIMIT)).SerializeToString()) - LIMIT
    message = EchoRequest(payload=bytes(LIMIT - frame)).SerializeToString()
    assert len(message) == LIMIT
    assert keepalive_server.call(post("Echo", PROTO, message)).body == message


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Half a GiB, in half a MiB."""
    return gzip_bomb(512 << 20)


def test_compressed_bomb_costs_no_memory(fresh_server: Gunicorn, bomb: bytes) -> None:
    before = fresh_server.peak_memory()
    reply = fresh_server.call(post("Echo", PROTO | {"content-encoding": "gzip"}, bomb))
    assert (reply.status, reply.error()["code"]) == (429, "resource_exhausted")
    assert fresh_server.peak_memory() - before < 4 * LIMIT


def test_compressed_bomb_in_envelope_costs_no_memory(fresh_server: Gunicorn, bomb: bytes) -> None:
    before = fresh_server.peak_memory()
    reply = fresh_server.call(post("Collect", COMPRESSED, envelope(MESSAGE) + envelope(bomb, 1)))
    assert reply.error()["code"] == "resource_exhausted"
    assert fresh_server.peak_memory() - before < 4 * LIMIT


# What is slow

TIMEOUT = {"connect-timeout-ms": "150"}
ENOUGH = {"connect-timeout-ms": "60000"}
DRIPS = 100_000


@pytest.mark.parametrize(
    ("sent", "dripped"),
    [
        pytest.param(post("Echo", PROTO | TIMEOUT | {"content-length": DRIPS}), b"\0", id="unary"),
        pytest.param(post("Echo", PROTO | TIMEOUT | CHUNKED), b"1\r\n\0\r\n", id="unary, in chunks"),
        pytest.param(
            post("Collect", STREAM | TIMEOUT | {"content-length": DRIPS}) + b"\0\0\1\0\0",
            b"\0",
            id="envelope of known length",
        ),
        pytest.param(
            post("Collect", STREAM | TIMEOUT | CHUNKED), b"5\r\n\0\0\0\0\0\r\n", id="empty messages"
        ),
        pytest.param(
            post("Collect", STREAM | TIMEOUT | CHUNKED) + b"fffff\r\n\0\0\1\0\0",
            b"\0",
            id="envelope in a chunk",
        ),
        pytest.param(post("Collect", STREAM | TIMEOUT | CHUNKED), b"0", id="size of a chunk"),
        pytest.param(post("Collect", STREAM | TIMEOUT | CHUNKED) + b"0\r\nx: ", b"y", id="trailers"),
        pytest.param(
            post("Repeat", STREAM | TIMEOUT | CHUNKED) + chunk(envelope(MESSAGE)),
            b"0",
            id="server streaming",
        ),
    ],
)
def test_dripping_client_is_answered_by_its_deadline(
    server: Gunicorn, channel: Channel, sent: bytes, dripped: bytes
) -> None:
    with server.connect() as connection:
        connection.send(sent)
        assert drip(connection, dripped), "there was no answer to all of it"
        assert connection.read_reply().error()["code"] == "deadline_exceeded"
        assert_closes(connection, smuggled(channel))
    assert server.serves()
    assert not channel.is_called()


def drip(connection: Connection, data: bytes) -> bool:
    """Send bytes one by one till there is an answer; tell whether there was one."""
    drips = (data[i % len(data)].to_bytes(1, "big") for i in range(DRIPS))
    for byte in drips:
        connection.send(byte)
        if connection.is_answered(within=0.01):
            return True
    return False


def assert_closes(connection: Connection, more: bytes) -> None:
    """Go on sending: what comes is the end of the connection, and no further response."""
    with suppress(ConnectionError):
        connection.send(more)
    assert connection.read_rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(post("Echo", PROTO | TIMEOUT | {"content-length": 100_000}), id="unary"),
        pytest.param(post("Echo", PROTO | TIMEOUT | CHUNKED), id="unary, in chunks"),
        pytest.param(post("Collect", STREAM | TIMEOUT | CHUNKED), id="stream"),
        pytest.param(
            post("Collect", STREAM | TIMEOUT | CHUNKED) + chunk(envelope(MESSAGE)), id="behind a message"
        ),
        pytest.param(
            post("Collect", STREAM | TIMEOUT | CHUNKED) + chunk(envelope(MESSAGE)[:-1]), id="in a message"
        ),
        pytest.param(post("Repeat", STREAM | TIMEOUT | CHUNKED), id="server streaming"),
    ],
)
def test_silent_client_is_answered_by_its_deadline(server: Gunicorn, channel: Channel, sent: bytes) -> None:
    with server.connect() as connection:
        connection.send(sent)
        assert connection.read_reply().error()["code"] == "deadline_exceeded"
        assert_closes(connection, smuggled(channel))
    assert server.serves()
    assert not channel.is_called()


def test_rest_of_a_body_may_come_behind_the_deadline(keepalive_server: Gunicorn) -> None:
    with keepalive_server.connect() as connection:
        connection.send(post("Echo", PROTO | TIMEOUT | {"content-length": 100}))
        reply = connection.read_reply()
        assert (reply.error()["code"], reply.headers["connection"]) == ("deadline_exceeded", "keep-alive")
        connection.send(bytes(100))
        assert_serves(connection)


def test_answer_says_that_the_connection_ends_where_the_rest_of_chunks_is_lost(
    keepalive_server: Gunicorn,
) -> None:
    with keepalive_server.connect() as connection:
        connection.send(post("Collect", STREAM | TIMEOUT | CHUNKED))
        reply = connection.read_reply()
        assert (reply.error()["code"], reply.headers["connection"]) == ("deadline_exceeded", "close")


@pytest.mark.parametrize("timeout_ms", [(1 << 31) - 1, 1 << 31, 1 << 32, 9_999_999_999])
def test_longest_timeout_is_served(server: Gunicorn, channel: Channel, timeout_ms: int) -> None:
    headers = STREAM | CHUNKED | channel.headers | {"connect-timeout-ms": timeout_ms}
    with server.connect() as connection:
        connection.send(post("Collect", headers))
        assert channel.next_event() == "called"
        connection.send(chunk(envelope(MESSAGE)) + LAST_CHUNK)
        assert connection.read_reply().messages() == [ANSWER]


def test_silent_client_is_answered_by_its_deadline_over_tls(tls_server: Gunicorn) -> None:
    with tls_server.connect() as connection:
        connection.send(post("Collect", STREAM | TIMEOUT | CHUNKED) + chunk(envelope(MESSAGE)))
        assert connection.read_reply().error()["code"] == "deadline_exceeded"
    assert tls_server.serves()


def test_refused_client_that_drips_on_does_not_keep_the_thread(server: Gunicorn) -> None:
    with server.connect() as connection:
        connection.send(head("POST / HTTP/1.1", {"host": "test", "content-length": DRIPS}))
        assert connection.read_reply().status == 404
        with suppress(ConnectionError):
            assert drip(connection, b"x"), "the connection was kept for all of it"
    assert server.serves()


def test_client_that_does_not_read_frees_the_thread_by_its_deadline(
    server: Gunicorn, channel: Channel
) -> None:
    request = EchoRequest(payload=bytes(1 << 20), times=-1).SerializeToString()
    with server.connect() as connection:
        connection.send(post("Repeat", STREAM | TIMEOUT | channel.headers, envelope(request)))
        channel.go_on_to_the_end()
        assert "closed" in iter(channel.next_event, "")
        assert server.serves()


def test_client_that_does_not_read_a_message_frees_the_thread_by_its_deadline(server: Gunicorn) -> None:
    request = EchoRequest(payload=bytes(LIMIT - 100)).SerializeToString()
    with Connection(server.port, receive_buffer=4096) as connection:
        connection.send(post("Echo", PROTO | {"connect-timeout-ms": "500"}, request))
        assert server.serves()


# What is left on a connection

KEPT = [
    pytest.param(post("Echo", PROTO, MESSAGE), 200, id="call"),
    pytest.param(post("Echo", PROTO | CHUNKED) + chunk(MESSAGE) + LAST_CHUNK, 200, id="call in chunks"),
    pytest.param(
        post("Echo", PROTO | CHUNKED) + chunk(MESSAGE) + b"0\r\nx: y\r\n\r\n", 200, id="call with trailers"
    ),
    pytest.param(post("Echo", PROTO, EchoRequest(error="bug").SerializeToString()), 500, id="bug"),
    pytest.param(post("Echo", PROTO, EchoRequest(error="not_found").SerializeToString()), 404, id="error"),
    pytest.param(post("Echo", PROTO | ENOUGH, MESSAGE), 200, id="call with a timeout"),
    pytest.param(post("Collect", STREAM, envelope(MESSAGE)), 200, id="client streaming"),
    pytest.param(
        post("Collect", STREAM | ENOUGH | CHUNKED) + chunk(envelope(MESSAGE)) + LAST_CHUNK,
        200,
        id="client streaming with a timeout",
    ),
    pytest.param(post("Repeat", STREAM, envelope(MESSAGE)), 200, id="server streaming"),
    pytest.param(
        post("Collect", STREAM, envelope(EchoRequest(is_last=True).SerializeToString()) + bytes(1000)),
        200,
        id="client streaming, not read to its end",
    ),
    pytest.param(
        post("Collect", STREAM | CHUNKED)
        + chunk(envelope(EchoRequest(is_last=True).SerializeToString()))
        + chunk(bytes(1000))
        + LAST_CHUNK,
        200,
        id="client streaming in chunks, not read to its end",
    ),
    pytest.param(post("Converse", STREAM, envelope(MESSAGE)), 200, id="bidirectional streaming"),
    pytest.param(post("Unknown", PROTO, MESSAGE), 404, id="unknown path"),
    pytest.param(
        post("Unknown", PROTO | CHUNKED) + chunk(MESSAGE) * 3 + LAST_CHUNK, 404, id="unknown path, in chunks"
    ),
    pytest.param(post("Echo", {"content-type": "no/type"}, bytes(1000)), 415, id="unknown content type"),
    pytest.param(
        post("Echo", PROTO | {"content-encoding": "no"}, bytes(1000)), 501, id="unknown compression"
    ),
    pytest.param(
        post("Echo", PROTO | {"connect-timeout-ms": "no"}, bytes(1000)), 400, id="malformed timeout"
    ),
    pytest.param(
        head(f"GET {SERVICE}/EchoSafely?encoding=json&message=%7B%7D HTTP/1.1", {"host": "test"}),
        200,
        id="GET",
    ),
    pytest.param(
        head(f"GET {SERVICE}/Echo HTTP/1.1", {"host": "test", "content-length": 4}) + b"body",
        405,
        id="GET that is not allowed, with a body",
    ),
    pytest.param(
        head(
            f"GET {SERVICE}/EchoSafely?encoding=json&message=%7B%7D HTTP/1.1",
            {"host": "test", "content-length": 4},
        )
        + b"body",
        200,
        id="GET with a body",
    ),
    pytest.param(
        head("OPTIONS * HTTP/1.1", {"host": "test", "content-length": 4}) + b"body",
        404,
        id="OPTIONS with a body",
    ),
]


@pytest.mark.parametrize(("request_bytes", "status"), KEPT)
def test_connection_serves_the_next_request(
    keepalive_server: Gunicorn, request_bytes: bytes, status: int
) -> None:
    with keepalive_server.connect() as connection:
        connection.send(request_bytes)
        assert connection.read_reply().status == status
        assert_serves(connection)


@pytest.mark.parametrize(("request_bytes", "status"), KEPT)
def test_request_that_is_sent_ahead_is_served(
    keepalive_server: Gunicorn, request_bytes: bytes, status: int
) -> None:
    with keepalive_server.connect() as connection:
        connection.send(request_bytes + post("Echo", PROTO, MESSAGE))
        assert connection.read_reply().status == status
        assert connection.read_reply().body == ANSWER


def assert_serves(connection: Connection) -> None:
    """Make one more call, whose answer has to be the next thing that comes."""
    connection.send(post("Echo", PROTO, MESSAGE))
    reply = connection.read_reply()
    assert (reply.status, reply.body) == (200, ANSWER)


UNREAD = [
    pytest.param("Unknown", PROTO, id="path"),
    pytest.param("Echo", {"content-type": "no/type"}, id="content type"),
    pytest.param("Echo", PROTO | {"content-encoding": "no"}, id="compression"),
    pytest.param("Echo", PROTO | {"connect-timeout-ms": "no"}, id="timeout"),
    pytest.param("Converse", STREAM, id="bidirectional"),
]
"""Calls that are answered with nothing of their body read."""


@pytest.mark.parametrize(("method", "headers"), UNREAD)
def test_small_unread_body_is_no_request(
    keepalive_server: Gunicorn, channel: Channel, method: str, headers: dict[str, str]
) -> None:
    with keepalive_server.connect() as connection:
        connection.send(post(method, headers, smuggled(channel) * 10))
        connection.read_reply()
        assert_serves(connection)
    assert not channel.is_called()


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("method", "headers"), UNREAD)
def test_large_unread_body_is_no_request(
    server: Gunicorn, channel: Channel, method: str, headers: dict[str, str], framing: str
) -> None:
    body = smuggled(channel) * (2 * DRAIN_MAX_BYTES // len(smuggled(channel)))
    is_chunked = framing == "chunked"
    request = post(method, headers | CHUNKED) + chunk(body) if is_chunked else post(method, headers, body)
    with server.connect() as connection, sending(connection, request):
        connection.read_reply()
        assert connection.read_rest() == b""
    assert server.serves()
    assert not channel.is_called()


LARGE = [
    pytest.param(post("Unknown", PROTO | CHUNKED), id="path"),
    pytest.param(post("Converse", STREAM | CHUNKED), id="bidirectional"),
    pytest.param(COLLECT + chunk(envelope(MESSAGE, 4)), id="reserved flag"),
    pytest.param(COLLECT + chunk(b"\0" + b"\xff" * 4), id="limit"),
]


@pytest.mark.parametrize("size", [1 << 20, 2 << 20, 4 << 20, 8 << 20])
@pytest.mark.parametrize("request_head", LARGE)
def test_answer_reaches_client_that_is_still_sending(
    server: Gunicorn, request_head: bytes, size: int
) -> None:
    with server.connect() as connection, sending(connection, request_head + chunk(bytes(size))):
        reply = connection.read_reply()
    assert reply.status == 404 or reply.error()["code"] in ("unimplemented", "internal", "resource_exhausted")


@pytest.mark.parametrize("size", [1 << 20, 2 << 20, 4 << 20, 8 << 20])
@pytest.mark.parametrize("request_head", LARGE)
def test_answer_reaches_client_that_reads_when_it_has_sent(
    server: Gunicorn, request_head: bytes, size: int
) -> None:
    with server.connect() as connection:
        with sending(connection, request_head + chunk(bytes(size))):
            pass
        reply = connection.read_reply()
    assert reply.status == 404 or reply.error()["code"] in ("unimplemented", "internal", "resource_exhausted")


@contextmanager
def sending(connection: Connection, data: bytes) -> Iterator[None]:
    """Send in another thread for the time of a block; in the end, as much as the server takes."""

    def send() -> None:
        with suppress(ConnectionError):
            connection.send(data)

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# What is no HTTP/1.1


def test_call_by_http_1_0_is_answered_and_its_connection_closed(server: Gunicorn) -> None:
    request = post("Echo", PROTO, MESSAGE).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with server.connect() as connection:
        connection.send(request)
        assert connection.read_reply().body == ANSWER
        assert connection.read_rest() == b""


def test_stream_by_http_1_0_ends_with_its_connection(server: Gunicorn) -> None:
    message = EchoRequest(payload=b"message", times=2).SerializeToString()
    with server.connect() as connection:
        connection.send(post("Repeat", STREAM, envelope(message)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        reply = connection.read_reply()
    assert "transfer-encoding" not in reply.headers
    assert reply.messages() == [ANSWER, ANSWER]


# All of the above


def test_every_call_has_had_one_start_and_one_end(servers: Servers) -> None:
    for server in servers.running:
        assert server.faults() == []
