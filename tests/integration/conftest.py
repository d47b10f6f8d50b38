from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import pytest
import urllib3

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.scripted import Script, ScriptedServer, Serve
from tests.integration.servers import Gunicorn, Http2Gunicorn, Tls


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


_Key = tuple[str, Tls]
_GunicornT = TypeVar("_GunicornT", bound=Gunicorn)


# Each of gunicorn's parsers is that of a worker.
_PARSERS = {"sync": "python", "gthread": "fast", "gevent": "fast"}


class Servers:
    """The servers that tests share, each started when it is first wanted."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self._directory = directory
        self._certificates = certificates
        self._running: dict[_Key, Gunicorn] = {}
        self._running_http2: dict[_Key, Http2Gunicorn] = {}
        self._started = 0

    def lend(self, worker: str, tls: Tls = Tls.NOBODY) -> Iterator[Gunicorn]:
        """Yield a server, for one test. What it wrote is shown if the test fails."""
        return self._lend(self._running, (worker, tls), self._start)

    def lend_http2(self, worker: str, tls: Tls) -> Iterator[Http2Gunicorn]:
        """Yield a server that speaks HTTP/2, in the same way."""
        return self._lend(self._running_http2, (worker, tls), self._start_http2)

    def stop(self) -> None:
        running = [*self._running.values(), *self._running_http2.values()]
        for server in running:
            server.ask_to_stop()
        for server in running:
            server.wait_for_end()

    def _lend(
        self, running: dict[_Key, _GunicornT], key: _Key, start: Callable[[str, Tls], _GunicornT]
    ) -> Iterator[_GunicornT]:
        if key not in running:
            running[key] = start(*key)
        server = running[key]
        yield server
        if not server.serves():
            # The test has failed, and left the server's only thread where it was: the next gets a new one.
            del running[key]
            server.stop()
        print(server.new_output())

    def _start(self, worker: str, tls: Tls) -> Gunicorn:
        certificates = self._certificates_for(tls)
        return Gunicorn(
            self._output(),
            worker,
            *("--http-parser", _PARSERS[worker]),
            certificates=certificates,
            is_mutual=tls is Tls.BOTH,
        )

    def _start_http2(self, worker: str, tls: Tls) -> Http2Gunicorn:
        return Http2Gunicorn(self._output(), worker, certificates=self._certificates_for(tls))

    def _certificates_for(self, tls: Tls) -> Certificates | None:
        return None if tls is Tls.NOBODY else self._certificates

    def _output(self) -> Path:
        self._started += 1
        return self._directory / f"gunicorn-{self._started}.log"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"), certificates)
    yield servers
    servers.stop()


@pytest.fixture(params=["sync", "gthread"])
def server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """gunicorn with one thread, and with either of its workers."""
    yield from servers.lend(request.param)


@pytest.fixture(params=["sync", "gthread", "gevent"])
def live_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """gunicorn with each of its workers over HTTP/1.1."""
    yield from servers.lend(request.param)


@pytest.fixture(params=["sync", "gthread"])
def tls_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """The same over TLS."""
    yield from servers.lend(request.param, Tls.SERVER)


@pytest.fixture(params=["sync", "gthread"])
def mutual_tls_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """The same over TLS, for clients that have a certificate."""
    yield from servers.lend(request.param, Tls.BOTH)


@pytest.fixture(
    params=[(worker, tls) for tls in (Tls.NOBODY, Tls.SERVER) for worker in ("gthread", "gevent")],
    ids=lambda param: f"{param[0]}, {param[1].value}",
)
def http2_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Http2Gunicorn]:
    """gunicorn with HTTP/2, with each of the workers that have it; gthread has one thread."""
    yield from servers.lend_http2(*request.param)


@pytest.fixture
def keepalive_server(servers: Servers) -> Iterator[Gunicorn]:
    """gunicorn with one thread, and with the worker that keeps connections."""
    yield from servers.lend("gthread")


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Gunicorn]:
    """gunicorn that has served nothing yet."""
    server = Gunicorn(tmp_path / "gunicorn.log", "gthread")
    yield server
    server.stop()
    print(server.new_output())


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture
def serve(certificates: Certificates) -> Iterator[Serve]:
    """A way to start servers that follow a script."""
    with ExitStack() as stack:

        def serve(script: Script, *, is_tls: bool = False) -> ScriptedServer:
            server = ScriptedServer(script, certificates.server_context() if is_tls else None)
            return stack.enter_context(closing(server))

        yield serve


@pytest.fixture
def manager(serve: Serve, certificates: Certificates) -> Iterator[urllib3.PoolManager]:
    """Connections that are closed before the servers that `serve` has started."""
    with urllib3.PoolManager(ssl_context=certificates.client_context()) as manager:
        yield manager
