"""The life of a call on gunicorn, over sockets: how it starts, and how it ends.

`tests.test_lifecycle_server` has every way out in process. Here are those that depend on the server and on
what the client does with its connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest, EchoResponse
from h2.errors import ErrorCodes

from connect_sync import NotModified
from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.dialects import Dialect, Outcome
from tests.integration.http2 import Http2Connection, Http2Reply, Stream
from tests.integration.records import End, Records
from tests.integration.servers import Gunicorn, Http2Gunicorn, Servers, Tls
from tests.integration.wire import LAST_CHUNK, SERVICE, Connection, Reply, chunk, envelope, head, post

GunicornT = TypeVar("GunicornT", bound=Gunicorn)

Leave = Callable[[Http2Connection, Stream], None]

NEXT = EchoRequest(payload=b"next").SerializeToString()
REFUSE = {"refuse": "yes"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Servers]:
    servers = Servers(
        tmp_path_factory.mktemp("lifecycle"), certificates, "tests.integration.watched:application"
    )
    yield servers
    servers.stop()


@pytest.fixture(params=["gthread", "gevent"])
def http2_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Http2Gunicorn]:
    """gunicorn with HTTP/2, with each of the workers that have it."""
    yield from servers.lend_http2(request.param, Tls.NOBODY)


@pytest.fixture
def http2_connection(http2_server: Http2Gunicorn) -> Iterator[Http2Connection]:
    with http2_server.connect_http2() as connection:
        yield connection


def framing(size: int | None) -> dict[str, str]:
    """Return the header of a body of ``size`` bytes; in chunks, if that is None."""
    return {"transfer-encoding": "chunked"} if size is None else {"content-length": str(size)}


class Form(NamedTuple):
    """A method, as it is called in a protocol."""

    method: str
    dialect: Dialect | None
    """None for the unary form of Connect."""

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": "application/proto"} if self.dialect is None else self.dialect.headers

    @property
    def timeout(self) -> str:
        """The name of the header that has the timeout."""
        return "connect-timeout-ms" if self.dialect in (None, Dialect.CONNECT) else "grpc-timeout"

    @property
    def encoding(self) -> str:
        """The name of the header that has the compression."""
        if self.dialect is None:
            return "content-encoding"
        return "connect-content-encoding" if self.dialect is Dialect.CONNECT else "grpc-encoding"

    def wrap(self, message: bytes) -> bytes:
        """Return the body of a request that has one message."""
        return message if self.dialect is None else self.dialect.encode(envelope(message))

    def read(self, reply: Reply | Http2Reply) -> Outcome:
        """Read a response."""
        if self.dialect is not None:
            assert reply.status == 200
            return self.dialect.read(reply.body, reply.trailers if isinstance(reply, Http2Reply) else {})
        prefix = "trailer-"
        metadata = {
            name.removeprefix(prefix): value
            for name, value in reply.headers.items()
            if name.startswith(prefix)
        }
        if reply.status == 200:
            return Outcome([EchoResponse.FromString(reply.body).payload], None, metadata)
        return Outcome([], json.loads(reply.body)["code"], metadata)

    def __str__(self) -> str:
        name = "unary Connect" if self.dialect is None else self.dialect.name
        return f"{self.method} in {name}"


UNARY = Form("Echo", None)
FORMS = [
    UNARY,
    Form("Collect", Dialect.CONNECT),
    Form("Repeat", Dialect.CONNECT),
    Form("Echo", Dialect.GRPC_WEB),
    Form("Repeat", Dialect.GRPC_WEB_TEXT),
]
HTTP2_FORMS = [
    UNARY,
    Form("Repeat", Dialect.CONNECT),
    Form("Collect", Dialect.GRPC_WEB),
    *(Form(method, Dialect.GRPC) for method in ("Echo", "Collect", "Repeat")),
]

all_forms = pytest.mark.parametrize("form", FORMS, ids=str)
all_http2_forms = pytest.mark.parametrize("form", HTTP2_FORMS, ids=str)


def assert_serves(connection: Connection, records: Records) -> None:
    """Make one more call, whose answer has to be the next thing that comes."""
    connection.send(post(UNARY.method, UNARY.headers | records.headers, UNARY.wrap(NEXT)))
    assert UNARY.read(connection.read_reply()) == Outcome([b"next"], None, {"ended-with": "ok"})
    assert records.next().wait().code is None
    assert records.is_empty()


# Calls that are refused at their start

REFUSED = Outcome([], "unauthenticated", {"ended-with": "unauthenticated"})
REFUSAL = End("unauthenticated", "as asked", "")


def assert_serves_http2(connection: Http2Connection, records: Records) -> None:
    stream = connection.open(UNARY.method, UNARY.headers | records.headers, UNARY.wrap(NEXT), is_whole=True)
    assert UNARY.read(stream.read_reply()) == Outcome([b"next"], None, {"ended-with": "ok"})
    assert records.next().wait().code is None
    assert records.is_empty()


def smuggled(records: Records) -> bytes:
    """Return bytes that make a record if they are taken for a request."""
    return post("Echo", {"content-type": "application/proto"} | records.headers, b"")


def assert_goes_on(server: Gunicorn, connection: Connection, records: Records) -> None:
    """Make one more call, where gunicorn keeps connections; otherwise wait for the end of this one."""
    if server.worker == "sync":
        assert connection.read_rest() == b""
    else:
        assert_serves(connection, records)
    assert records.is_empty()


@all_forms
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("expects", [False, True], ids=["", "100-continue"])
def test_call_is_refused_before_its_body_comes(
    live_server: Gunicorn, records: Records, form: Form, is_chunked: bool, expects: bool
) -> None:
    body = smuggled(records) * 3
    headers = form.headers | records.headers | REFUSE | ({"expect": "100-continue"} if expects else {})
    with live_server.connect() as connection:
        connection.send(post(form.method, headers | framing(None if is_chunked else len(body))))
        if expects:
            assert connection.read_head() == (100, {})
        assert form.read(connection.read_reply()) == REFUSED
        with suppress(ConnectionError):
            connection.send(chunk(body) + LAST_CHUNK if is_chunked else body)
        assert records.next().wait().end() == REFUSAL
        assert_goes_on(live_server, connection, records)


@all_forms
@pytest.mark.parametrize("fault", ["message", "timeout", "encoding"])
def test_call_is_refused_before_its_faults_are_found(
    live_server: Gunicorn, records: Records, form: Form, fault: str
) -> None:
    faulty = {"timeout": {form.timeout: "soon"}, "encoding": {form.encoding: "none"}}.get(fault, {})
    body = form.wrap(b"\xff\xff")
    with live_server.connect() as connection:
        connection.send(post(form.method, form.headers | records.headers | REFUSE | faulty, body))
        assert form.read(connection.read_reply()) == REFUSED
        assert records.next().wait().end() == REFUSAL
        assert_goes_on(live_server, connection, records)


@all_forms
def test_call_is_refused_before_its_size_is_looked_at(
    live_server: Gunicorn, records: Records, form: Form
) -> None:
    headers = form.headers | records.headers | REFUSE | framing(1 << 40)
    with live_server.connect() as connection:
        connection.send(post(form.method, headers))
        connection.send(form.wrap(bytes(1000)) if form.dialect is None else b"\0\xff\xff\xff\xff")
        assert form.read(connection.read_reply()) == REFUSED
        connection.end()
        assert connection.read_rest() == b""
    assert records.next().wait().end() == REFUSAL


@all_forms
def test_nothing_after_malformed_chunks_of_a_refused_call_is_a_request(
    live_server: Gunicorn, records: Records, form: Form
) -> None:
    with live_server.connect() as connection:
        connection.send(post(form.method, form.headers | records.headers | REFUSE | framing(None)))
        connection.send(b"x\r\n" + smuggled(records))
        assert form.read(connection.read_reply()) == REFUSED
        assert connection.read_rest() == b""
    assert records.next().wait().end() == REFUSAL
    assert records.is_empty()


@all_http2_forms
@pytest.mark.parametrize(
    "extra",
    [{}, framing(1 << 40), {"expect": "100-continue"}],
    ids=["", "length", "100-continue"],
)
def test_call_is_refused_before_its_body_comes_over_http2(
    http2_connection: Http2Connection, records: Records, form: Form, extra: dict[str, str]
) -> None:
    stream = http2_connection.open(form.method, form.headers | records.headers | REFUSE | extra)
    assert form.read(stream.read_reply()) == REFUSED
    assert stream.interim == []
    assert stream.wait_for_reset() == ErrorCodes.NO_ERROR
    assert records.next().wait().end() == REFUSAL
    assert_serves_http2(http2_connection, records)


@all_http2_forms
@pytest.mark.parametrize("fault", ["message", "size", "timeout", "encoding"])
def test_call_is_refused_before_its_faults_are_found_over_http2(
    http2_connection: Http2Connection, records: Records, form: Form, fault: str
) -> None:
    faulty = {"timeout": {form.timeout: "soon"}, "encoding": {form.encoding: "none"}}.get(fault, {})
    body = b"\0\xff\xff\xff\xff" if fault == "size" else form.wrap(b"\xff\xff")
    headers = form.headers | records.headers | REFUSE | faulty
    stream = http2_connection.open(form.method, headers, body, is_whole=True)
    assert form.read(stream.read_reply()) == REFUSED
    assert records.next().wait().end() == REFUSAL
    assert_serves_http2(http2_connection, records)


# Clients that disconnect


all_ways_to_leave = pytest.mark.parametrize("leave", ["close", "end", "reset"])
all_streams = pytest.mark.parametrize("form", [form for form in FORMS if form.method == "Repeat"], ids=str)
all_http2_streams = pytest.mark.parametrize(
    "form", [form for form in HTTP2_FORMS if form.method == "Repeat"], ids=str
)


@all_forms
@all_ways_to_leave
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_call_ends_when_client_disconnects_within_its_request(
    live_server: Gunicorn, records: Records, form: Form, leave: str, is_chunked: bool
) -> None:
    part = form.wrap(NEXT)[:4]
    headers = form.headers | records.headers
    with live_server.connect() as connection:
        connection.send(post(form.method, headers | framing(None if is_chunked else 100)))
        connection.send(chunk(part) if is_chunked else part)
        call = records.next()
        call.wait_for_start()
        getattr(connection, leave)()
        assert call.wait().code == "canceled"
    assert live_server.serves()


def repeat(times: int, size: int = 1) -> bytes:
    """Return a request for so many messages; for a stream without an end, if that is negative."""
    return EchoRequest(payload=bytes(size), times=times).SerializeToString()


@all_streams
@all_ways_to_leave
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_call_ends_when_client_disconnects_from_a_fast_stream(
    live_server: Gunicorn, records: Records, form: Form, leave: str, size: int
) -> None:
    with live_server.connect() as connection:
        connection.send(post(form.method, form.headers | records.headers, form.wrap(repeat(-1, size))))
        connection.read_head()
        getattr(connection, leave)()
        assert records.next().wait().code == "canceled"
    assert live_server.serves()


@all_streams
@all_ways_to_leave
def test_call_ends_when_client_disconnects_from_an_idle_stream(
    live_server: Gunicorn, channel: Channel, records: Records, form: Form, leave: str
) -> None:
    with live_server.connect() as connection:
        headers = form.headers | records.headers | channel.headers
        connection.send(post(form.method, headers, form.wrap(repeat(-1))))
        connection.read_head()
        assert channel.next_event() == "asked for 0"
        getattr(connection, leave)()
        channel.go_on_to_the_end()
        assert records.next().wait().code == "canceled"
    assert live_server.serves()


@all_streams
@all_ways_to_leave
def test_call_is_canceled_though_its_handler_ends_when_client_disconnects(
    live_server: Gunicorn, records: Records, form: Form, leave: str
) -> None:
    with live_server.connect() as connection:
        headers = form.headers | records.headers | {"wait-until-inactive": "yes"}
        connection.send(post(form.method, headers, form.wrap(repeat(1))))
        connection.read_head()
        getattr(connection, leave)()
        assert records.next().wait().code == "canceled"
    assert live_server.serves()


def test_call_ends_by_its_deadline_when_its_response_is_not_read(
    keepalive_server: Gunicorn, records: Records
) -> None:
    form = Form("Repeat", Dialect.CONNECT)
    headers = form.headers | records.headers | {form.timeout: "100"}
    with keepalive_server.connect() as connection:
        connection.send(post(form.method, headers, form.wrap(repeat(-1, 1_000_000))))
        assert records.next().wait().code == "deadline_exceeded"


@pytest.fixture(params=["reset the stream", "close", "end", "reset"])
def leave_http2(request: pytest.FixtureRequest) -> Leave:
    """A way to give up a call over HTTP/2: by its stream alone, or with the connection."""

    def leave(connection: Http2Connection, stream: Stream) -> None:
        if request.param == "reset the stream":
            stream.reset()
        else:
            getattr(connection, request.param)()

    return leave


@all_http2_forms
def test_call_ends_when_client_leaves_within_its_request_over_http2(
    http2_server: Http2Gunicorn, records: Records, form: Form, leave_http2: Leave
) -> None:
    with http2_server.connect_http2() as connection:
        stream = connection.open(form.method, form.headers | records.headers, form.wrap(NEXT)[:4])
        call = records.next()
        call.wait_for_start()
        leave_http2(connection, stream)
        assert call.wait().code == "canceled"
    assert http2_server.serves()


@all_http2_streams
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_call_ends_when_client_leaves_a_fast_stream_over_http2(
    http2_server: Http2Gunicorn, records: Records, form: Form, leave_http2: Leave, size: int
) -> None:
    with http2_server.connect_http2() as connection:
        body = form.wrap(repeat(-1, size))
        stream = connection.open(form.method, form.headers | records.headers, body, is_whole=True)
        stream.read_head()
        leave_http2(connection, stream)
        assert records.next().wait().code == "canceled"
    assert http2_server.serves()


@all_http2_streams
def test_call_ends_when_client_leaves_an_idle_stream_over_http2(
    http2_server: Http2Gunicorn, channel: Channel, records: Records, form: Form, leave_http2: Leave
) -> None:
    with http2_server.connect_http2() as connection:
        headers = form.headers | records.headers | channel.headers
        stream = connection.open(form.method, headers, form.wrap(repeat(-1)), is_whole=True)
        stream.read_envelope()
        assert channel.next_event() == "asked for 0"
        leave_http2(connection, stream)
        channel.go_on_to_the_end()
        assert records.next().wait().code == "canceled"
    assert http2_server.serves()


@all_http2_streams
def test_call_is_canceled_though_its_handler_ends_when_client_leaves_over_http2(
    http2_server: Http2Gunicorn, records: Records, form: Form, leave_http2: Leave
) -> None:
    with http2_server.connect_http2() as connection:
        headers = form.headers | records.headers | {"wait-until-inactive": "yes"}
        stream = connection.open(form.method, headers, form.wrap(repeat(1)), is_whole=True)
        stream.read_envelope()
        leave_http2(connection, stream)
        assert records.next().wait().code == "canceled"
    assert http2_server.serves()


# Exceptions outside Exception


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *((UNARY, name) for name in ("CancelledError", "KeyboardInterrupt", "SystemExit", "Timeout")),
        (Form("Collect", Dialect.CONNECT), "CancelledError"),
        (Form("Repeat", Dialect.CONNECT), "Timeout"),
    ],
    ids=str,
)
def test_call_ends_when_its_handler_is_interrupted(
    live_server: Gunicorn, records: Records, form: Form, name: str
) -> None:
    headers = form.headers | records.headers | {"raise": name}
    with live_server.connect() as connection:
        connection.send(post(form.method, headers, form.wrap(repeat(2))))
        interrupted = records.next().wait()
        if live_server.worker == "gthread":
            connection.read_rest()  # this ends the worker, and gunicorn starts another
    assert interrupted.end() == End("internal", "internal error", name)
    assert interrupted.raised == name
    assert live_server.call(post("Echo", UNARY.headers | records.headers, b"")).status == 200
    following = records.next().wait()
    assert following.code is None
    assert following.is_first_in_context
    assert following.thread == interrupted.thread or live_server.worker != "sync"


@pytest.mark.parametrize(("method", "name"), [("Echo", "KeyboardInterrupt"), ("Repeat", "CancelledError")])
def test_call_ends_when_its_handler_is_interrupted_over_http2(
    http2_server: Http2Gunicorn, records: Records, method: str, name: str
) -> None:
    form = Form(method, Dialect.GRPC)
    headers = form.headers | records.headers | {"raise": name}
    with http2_server.connect_http2() as connection:
        connection.open(method, headers, form.wrap(repeat(2)), is_whole=True)
        interrupted = records.next().wait()
        if http2_server.worker == "gthread":
            connection.wait_for_end()
    assert interrupted.end() == End("internal", "internal error", name)
    assert interrupted.raised == name
    with http2_server.connect_http2() as connection:
        assert_serves_http2(connection, records)


# What the client and a middleware are told


@all_http2_forms
def test_trailing_metadata_of_on_end_is_sent(
    http2_connection: Http2Connection, records: Records, form: Form
) -> None:
    headers = form.headers | records.headers
    body = form.wrap(EchoRequest(payload=b"x", times=1).SerializeToString())
    reply = http2_connection.open(form.method, headers, body, is_whole=True).read_reply()
    assert form.read(reply) == Outcome([b"x"], None, {"ended-with": "ok"})


@pytest.fixture(scope="module")
def running_sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    yield from start_sites(Gunicorn, tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def running_http2_sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http2Gunicorn]:
    yield from start_sites(Http2Gunicorn, tmp_path_factory.mktemp("http2_sites"))


def start_sites(kind: type[GunicornT], directory: Path) -> Iterator[GunicornT]:
    server = kind(
        directory / "gunicorn.log",
        "gthread",
        *("--env", f"SITE_DATABASE={directory / 'site.sqlite3'}"),
        application="tests.integration.watched_sites:application",
    )
    yield server
    server.stop()


@pytest.fixture
def sites(running_sites: Gunicorn) -> Iterator[Gunicorn]:
    """The service alone, behind a router, inside a Flask site and inside a Django site."""
    yield running_sites
    print(running_sites.new_output())


@pytest.fixture
def http2_sites(running_http2_sites: Http2Gunicorn) -> Iterator[Http2Gunicorn]:
    """The same with HTTP/2."""
    yield running_http2_sites
    print(running_http2_sites.new_output())


all_sites = pytest.mark.parametrize("site", ["", "/router", "/flask", "/django"])


def post_to(path: str, headers: Mapping[str, object], body: bytes | None = None) -> bytes:
    framed = {} if body is None else framing(len(body))
    return head(f"POST {path} HTTP/1.1", {"host": "test", **headers, **framed}) + (body or b"")


BUG = EchoRequest(payload=b"x", times=2, error="bug").SerializeToString()


@all_sites
@all_forms
@pytest.mark.parametrize("is_bug", [False, True], ids=["error with a cause", "bug"])
def test_middleware_sees_the_error_that_on_end_got(
    sites: Gunicorn, records: Records, site: str, form: Form, is_bug: bool
) -> None:
    headers = form.headers | records.headers | ({} if is_bug else {"raise": "ConnectError"})
    body = form.wrap(BUG if is_bug else repeat(2))
    reply = sites.call(post_to(f"{site}{SERVICE}/{form.method}", headers, body))
    code = "internal" if is_bug else "aborted"
    values = [b"x" if is_bug else b"\0"] * 2 if form.method == "Repeat" else []
    assert form.read(reply) == Outcome(values, code, {"ended-with": code})
    assert "secret" not in repr(reply)
    record = records.next().wait()
    assert record.end() == (
        End("internal", "internal error", "RuntimeError")
        if is_bug
        else End("aborted", "try again", "KeyError")
    )
    assert record.is_told_before_last_chunk


# Answers that have not changed


@all_sites
def test_answer_that_has_not_changed_is_304(sites: Gunicorn, records: Records, site: str) -> None:
    query = "connect=v1&encoding=proto&base64=1&message="
    headers = {"host": "test", "if-none-match": '"1"', **records.headers}
    with sites.connect() as connection:
        connection.send(head(f"GET {site}{SERVICE}/EchoSafely?{query} HTTP/1.1", headers))
        reply = connection.read_reply(has_body=False)
        assert (reply.status, reply.headers["etag"]) == (304, '"1"')
        assert "accept-encoding" in reply.headers["vary"].lower()
        assert "content-length" not in reply.headers
        assert "transfer-encoding" not in reply.headers
        assert records.next().wait().code == "unknown"
        assert_serves(connection, records)


@all_sites
def test_client_is_told_that_the_answer_has_not_changed(sites: Gunicorn, site: str) -> None:
    with EchoServiceClient(sites.url + site) as client:
        with pytest.raises(NotModified) as caught:
            client.echo_safely(EchoRequest(), headers={"if-none-match": '"1"'}, use_get=True)
        assert (caught.value.http_status, caught.value.metadata["etag"]) == (304, '"1"')
        assert client.echo_safely(EchoRequest(payload=b"x"), use_get=True).payload == b"x"


# What is not a method

UNKNOWN = [
    *(f"{site}{SERVICE}/Absent" for site in ("", "/router", "/flask", "/django")),
    *(f"{site}/absent.v1.AbsentService/Call" for site in ("", "/router")),
]
all_unknown = pytest.mark.parametrize("path", UNKNOWN)


@all_unknown
@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "unsent"])
@all_forms
def test_unknown_method_is_unimplemented(
    sites: Gunicorn, records: Records, path: str, form: Form, is_sent: bool
) -> None:
    body = smuggled(records)
    headers = form.headers | records.headers | {"content-length": len(body)}
    with sites.connect() as connection:
        connection.send(post_to(path, headers) + (body if is_sent else b""))
        reply = connection.read_reply()
        if form.dialect in (None, Dialect.CONNECT):
            assert (reply.status, reply.headers["content-type"]) == (404, "text/plain; charset=utf-8")
        else:
            assert form.read(reply) == Outcome([], "unimplemented", {})
        if not is_sent:
            connection.send(body)
        record = records.next().wait()
        assert (record.starts, record.ends) == (0, [])
        assert_serves(connection, records)


@all_unknown
@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "unsent"])
@all_http2_forms
def test_unknown_method_is_unimplemented_over_http2(
    http2_sites: Http2Gunicorn, records: Records, path: str, form: Form, is_sent: bool
) -> None:
    headers = form.headers | records.headers | {":path": path}
    with http2_sites.connect_http2() as connection:
        stream = connection.open("Absent", headers, *([form.wrap(NEXT)] * is_sent), is_whole=is_sent)
        reply = stream.read_reply()
        if form.dialect in (None, Dialect.CONNECT):
            assert (reply.status, reply.headers["content-type"]) == (404, "text/plain; charset=utf-8")
        else:
            assert form.read(reply) == Outcome([], "unimplemented", {})
        record = records.next().wait()
        assert (record.starts, record.ends) == (0, [])
        assert_serves_http2(connection, records)
