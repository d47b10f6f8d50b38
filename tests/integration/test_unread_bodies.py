"""What answers beside a service, and reads no body, on a server that takes the rest of one for a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from cheroot.wsgi import Server
from flask import Flask

from connect_sync.health import Health
from tests.integration.service import application as echo
from tests.integration.wire import LAST_CHUNK, SERVICE, Connection, chunk, head, post
from wsgi_adapters.cors import CORSMiddleware
from wsgi_adapters.flask import register_service
from wsgi_adapters.health import Healthz

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Recorder:
    """An application that keeps what is asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.paths.append(environ["PATH_INFO"])
        start_response("200 OK", [("content-length", "0")])
        return ()


def healthz(recorder: Recorder) -> WSGIApplication:
    return Healthz(Health(), fallback=recorder)


def cors(recorder: Recorder) -> WSGIApplication:
    return CORSMiddleware(recorder, allow_origins="*")


def flask(recorder: Recorder) -> WSGIApplication:
    site = Flask(__name__)
    register_service(site, echo)

    @site.route("/smuggled")
    def smuggled() -> str:
        recorder.paths.append("/smuggled")
        return ""

    return site


class ReadingAhead:
    """A middleware that reads a part of a body."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/smuggled":
            return self._recorder(environ, start_response)
        assert environ["wsgi.input"].read(3) == b"abc"
        return echo(environ, start_response)


CHUNKED = {"transfer-encoding": "chunked"}
PREFLIGHT = {"origin": "https://example.com", "access-control-request-method": "POST"}


@pytest.mark.parametrize(
    ("make", "first_line", "headers", "status"),
    [
        pytest.param(healthz, "GET /healthz HTTP/1.1", {}, 200, id="health"),
        pytest.param(healthz, "POST /healthz HTTP/1.1", {}, 405, id="wrong method"),
        pytest.param(cors, f"OPTIONS {SERVICE}/Echo HTTP/1.1", PREFLIGHT, 204, id="preflight"),
        pytest.param(flask, f"OPTIONS {SERVICE}/Echo HTTP/1.1", {}, 200, id="Flask's OPTIONS"),
    ],
)
def test_unread_body_is_no_request(
    make: Callable[[Recorder], WSGIApplication], first_line: str, headers: dict[str, str], status: int
) -> None:
    recorder = Recorder()
    with serving(make(recorder)) as port, Connection(port) as connection:
        connection.send(head(first_line, {"host": "test", **CHUNKED, **headers}))
        assert connection.read_reply(has_body=status != 204).status == status
        with suppress(ConnectionError):
            connection.send(chunk(head("GET /smuggled HTTP/1.1", {"host": "test"})), LAST_CHUNK)
            connection.end()
        assert connection.read_rest() == b""
    assert recorder.paths == []


@pytest.mark.parametrize(
    "rest",
    [chunk(head("GET /smuggled HTTP/1.1", {"host": "test"})) + LAST_CHUNK, head("GET /smuggled HTTP/1.1")],
    ids=["chunks", "none"],
)
def test_rest_of_a_body_that_middleware_has_begun_is_no_request(rest: bytes) -> None:
    recorder = Recorder()
    with serving(ReadingAhead(recorder)) as port, Connection(port) as connection:
        connection.send(post("Collect", {"content-type": "application/connect+proto", **CHUNKED}))
        connection.send(chunk(b"abc"))
        assert connection.read_reply().error()["code"] == "internal"
        with suppress(ConnectionError):
            connection.send(rest)
            connection.end()
        assert connection.read_rest() == b""
    assert recorder.paths == []


@contextmanager
def serving(application: WSGIApplication) -> Iterator[int]:
    """Serve by cheroot, in a thread, and yield the port."""
    server = Server(("127.0.0.1", 0), application, numthreads=2)
    server.prepare()
    thread = Thread(target=server.serve)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join()
