"""Services as views of a Flask site, under gunicorn, with sockets by hand.

The order of events proves that streams are live: each side sends the next message only when the other has
told that it has the last one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Code, ProtocolType
from tests.integration.calls import Kind
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect, Outcome
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.integration.wire import (
    END,
    LAST_CHUNK,
    PATIENCE,
    SERVICE,
    Connection,
    chunk,
    envelope,
    post,
)
from tests.support import CLIENT_PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]

APPLICATION = "tests.integration.flask_site:application"
GRPC = Dialect.GRPC
STREAM = {"content-type": "application/connect+proto"}
NAMES = ["anna", "bert", "carl"]
X = EchoResponse(payload=b"x").SerializeToString()


@pytest.fixture(scope="module", params=["sync", "gthread"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    log = tmp_path_factory.mktemp("flask") / "gunicorn.log"
    server = Gunicorn(log, request.param, application=APPLICATION)
    yield server
    server.stop()


@pytest.fixture
def site(running: Gunicorn) -> Iterator[Gunicorn]:
    """The site under gunicorn with one thread, with either of its workers."""
    yield running
    print(running.new_output())


def wrap(name: str, *, is_last: bool = False) -> bytes:
    return envelope(EchoRequest(payload=name.encode(), is_last=is_last).SerializeToString())


def collect(channel: Channel, caller: str = "jane", **headers: str) -> bytes:
    """Return the head of a call that streams to the site in chunks."""
    framing = {"caller": caller, "transfer-encoding": "chunked"}
    return post("Collect", {**STREAM, **framing, **channel.headers, **headers})


def repeat(channel: Channel, times: int, caller: str = "jane") -> bytes:
    """Return a call by which the site streams."""
    message = EchoRequest(payload=b"x", times=times).SerializeToString()
    return post("Repeat", {**STREAM, "caller": caller, **channel.headers}, envelope(message))


# Live, both ways


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "in one chunk"])
def test_message_reaches_handler_before_next_is_sent(site: Gunicorn, channel: Channel, size: int) -> None:
    with site.connect() as connection:
        connection.send(collect(channel))
        assert channel.next_event() == "called by jane"
        for name in NAMES:
            data = wrap(name)
            connection.send(*(chunk(data[i : i + size]) for i in range(0, len(data), size)))
            assert channel.next_event() == f"got {name} from jane"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "torn down for jane"
        joined = EchoResponse(payload="".join(NAMES).encode()).SerializeToString()
        assert connection.read_reply().messages() == [joined]


def test_message_reaches_handler_from_body_of_known_length(site: Gunicorn, channel: Channel) -> None:
    body = [wrap(name) for name in NAMES]
    headers = {**STREAM, **channel.headers, "content-length": str(len(b"".join(body)))}
    with site.connect() as connection:
        connection.send(post("Collect", headers))
        assert channel.next_event() == "called by nobody"
        for name, data in zip(NAMES, body, strict=True):
            connection.send(data[:4], data[4:])
            assert channel.next_event() == f"got {name} from nobody"
        assert connection.read_reply().status == 200


@pytest.mark.parametrize("size", [1, 200_000])
def test_response_reaches_client_before_next_is_asked_for(
    site: Gunicorn, channel: Channel, size: int
) -> None:
    message = EchoRequest(payload=bytes(size), times=3).SerializeToString()
    with site.connect() as connection:
        connection.send(post("Repeat", {**STREAM, **channel.headers}, envelope(message)))
        assert channel.next_event() == "called by nobody"
        for number in range(3):
            assert channel.next_event() == f"asked for {number} by nobody"
            if number == 0:
                connection.read_head()
            assert connection.read_envelope() == (0, EchoResponse(payload=bytes(size)).SerializeToString())
            channel.go_on()
        assert channel.next_event() == f"closed at {SERVICE}/Repeat"
        assert connection.read_envelope() == (END, b"{}")
        assert connection.read_chunk() == b""
        assert channel.next_event() == "torn down for nobody"


# Ends


@pytest.mark.parametrize("leave", ["end", "reset"])
def test_handler_hears_of_a_client_that_leaves_its_stream(
    site: Gunicorn, channel: Channel, leave: str
) -> None:
    with site.connect() as connection:
        connection.send(collect(channel), chunk(wrap("anna")))
        assert channel.next_event() == "called by jane"
        assert channel.next_event() == "got anna from jane"
        getattr(connection, leave)()
        assert channel.next_event() == "canceled"
        assert channel.next_event() == "torn down for jane"
    assert site.serves()


def test_generator_is_closed_within_its_request_when_client_leaves(site: Gunicorn, channel: Channel) -> None:
    with site.connect() as connection:
        connection.send(repeat(channel, -1))
        connection.read_head()
        connection.read_envelope()
        connection.reset()
    channel.go_on_to_the_end()
    *_, closed, torn_down = iter(channel.next_event, "")
    assert (closed, torn_down) == (f"closed at {SERVICE}/Repeat", "torn down for jane")
    assert site.serves()


def test_next_request_has_a_context_of_its_own(site: Gunicorn, channel: Channel) -> None:
    """The one thread has streamed for somebody else before."""
    with site.connect() as connection:
        connection.send(repeat(channel, 1))
        channel.go_on_to_the_end()
        assert connection.read_reply().messages() == [X]
    after = Channel()
    with site.connect() as connection:
        connection.send(repeat(after, 1, caller="john"))
        after.go_on_to_the_end()
        assert connection.read_reply().messages() == [X]
    assert after.next_event() == "called by john"
    assert after.next_event() == "asked for 0 by john"
    after.close()


def test_answer_before_the_end_of_the_request_reaches_the_client(site: Gunicorn, channel: Channel) -> None:
    with site.connect() as connection:
        connection.send(collect(channel), chunk(wrap("anna", is_last=True)))
        assert connection.read_reply().messages() == [EchoResponse(payload=b"anna").SerializeToString()]
        connection.send(chunk(wrap("bert")), LAST_CHUNK)
    assert site.serves()


def test_deadline_ends_the_wait_for_a_silent_client(site: Gunicorn, channel: Channel) -> None:
    with site.connect() as connection:
        connection.send(collect(channel, **{"connect-timeout-ms": "200"}))
        assert connection.read_reply().error()["code"] == "deadline_exceeded"
    assert channel.next_event() == "called by jane"
    assert channel.next_event() == "deadline_exceeded"
    assert channel.next_event() == "torn down for jane"


# By the client


@pytest.mark.parametrize("prefix", ["", "/tenants/mine"], ids=["at the root", "below a prefix"])
@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_client_calls_a_view(site: Gunicorn, prefix: str, protocol: ProtocolType, kind: Kind) -> None:
    with EchoServiceClient(site.url + prefix, protocol=protocol, send_compression="gzip") as client:
        (payload,) = kind.call(client, EchoRequest(payload=b"x" * 5000, times=1))
    assert payload == b"x" * 5000


@pytest.mark.parametrize("protocol", CLIENT_PROTOCOLS, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("abort", Code.PERMISSION_DENIED, "members only"),
        ("redirect", Code.INTERNAL, "internal error"),
    ],
)
def test_client_is_told_of_an_abort(
    site: Gunicorn, protocol: ProtocolType, kind: Kind, error: str, code: Code, message: str
) -> None:
    with EchoServiceClient(site.url, protocol=protocol) as client:
        failure = kind.failure(client, EchoRequest(times=1, error=error))
    assert (failure.code, failure.message) == (code, message)


def test_client_calls_a_view_by_get(site: Gunicorn) -> None:
    with EchoServiceClient(site.url) as client:
        assert client.echo_safely(EchoRequest(payload=b"x"), use_get=True).payload == b"x"


def test_client_hears_of_a_method_that_is_unknown_or_elsewhere(site: Gunicorn) -> None:
    with EchoServiceClient(f"{site.url}/nowhere") as client:
        assert Kind.UNARY.failure(client).code is Code.UNIMPLEMENTED


# gRPC, and HTTP/2


@pytest.fixture(scope="module")
def running_http2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http2Gunicorn]:
    log = tmp_path_factory.mktemp("flask") / "gunicorn.log"
    server = Http2Gunicorn(log, "gthread", application=APPLICATION)
    yield server
    server.stop()


@pytest.fixture
def http2_site(running_http2: Http2Gunicorn) -> Iterator[Http2Gunicorn]:
    """The site under gunicorn with one thread, over HTTP/2."""
    yield running_http2
    print(running_http2.new_output())


def test_grpc_unary_call(http2_site: Http2Gunicorn) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x"))
    with http2_site.connect_http2() as connection:
        reply = connection.open("Echo", GRPC.headers, request, is_whole=True).read_reply()
    assert GRPC.read(reply.body, reply.trailers) == Outcome([b"x"], None, {})


def test_grpc_client_stream_is_live(http2_site: Http2Gunicorn, channel: Channel) -> None:
    with http2_site.connect_http2() as connection:
        stream = connection.open("Collect", GRPC.headers | channel.headers)
        assert channel.next_event() == "called by nobody"
        for name in NAMES:
            stream.send(wrap(name))
            assert channel.next_event() == f"got {name} from nobody"
        stream.end()
        reply = stream.read_reply()
    assert GRPC.read(reply.body, reply.trailers) == Outcome(["".join(NAMES).encode()], None, {})
    assert channel.next_event() == "torn down for nobody"


def test_grpc_server_stream_is_live(http2_site: Http2Gunicorn, channel: Channel) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=3))
    with http2_site.connect_http2() as connection:
        stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
        assert channel.next_event() == "called by nobody"
        for number in range(3):
            assert channel.next_event() == f"asked for {number} by nobody"
            assert stream.read_envelope() == (0, X)
            channel.go_on()
        reply = stream.read_reply()
    assert GRPC.read(reply.body, reply.trailers) == Outcome([], None, {})
    assert channel.next_event() == f"closed at {SERVICE}/Repeat"
    assert channel.next_event() == "torn down for nobody"


def test_generator_is_closed_within_its_request_when_client_gives_it_up(
    http2_site: Http2Gunicorn, channel: Channel
) -> None:
    request = GRPC.wrap(EchoRequest(payload=b"x", times=-1))
    with http2_site.connect_http2() as connection:
        stream = connection.open("Repeat", GRPC.headers | channel.headers, request, is_whole=True)
        assert stream.read_envelope() == (0, X)
        stream.reset()
        channel.go_on_to_the_end()
        *_, closed, torn_down = iter(channel.next_event, "")
    assert (closed, torn_down) == (f"closed at {SERVICE}/Repeat", "torn down for nobody")
    assert http2_site.serves()


# Flask's own server


@pytest.fixture
def development_port() -> Iterator[int]:
    """The port of a `flask run`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", APPLICATION, "run", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "gen")])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as output:
        lines = ""
        for line in output:
            lines += line
            if match := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                yield int(match[1])
                process.terminate()
        process.wait(PATIENCE)
    print(lines)


def test_streams_are_live_under_flask_run(development_port: int, channel: Channel) -> None:
    with Connection(development_port) as connection:
        connection.send(collect(channel))
        assert channel.next_event() == "called by jane"
        for name in NAMES:
            connection.send(chunk(wrap(name)))
            assert channel.next_event() == f"got {name} from jane"
        connection.send(LAST_CHUNK)
        assert connection.read_reply().status == 200


def test_stream_ends_under_flask_run_when_the_client_leaves(development_port: int, channel: Channel) -> None:
    with Connection(development_port) as connection:
        connection.send(repeat(channel, -1))
        connection.read_head()
        connection.read_envelope()
        connection.reset()
    channel.go_on_to_the_end()
    *_, closed, torn_down = iter(channel.next_event, "")
    assert (closed, torn_down) == (f"closed at {SERVICE}/Repeat", "torn down for jane")
