from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from enum import Enum
from pathlib import Path

import pytest
import urllib3

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.scripted import Script, ScriptedServer, Serve
from tests.integration.servers import Gunicorn


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Tls(Enum):
    """Who shows a certificate."""

    NOBODY = "plain"
    SERVER = "TLS"
    BOTH = "mutual TLS"


class Servers:
    """The servers that tests share, each started when it is first wanted."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self._directory = directory
        self._certificates = certificates
        self._running: dict[tuple[str, Tls], Gunicorn] = {}
        self._started = 0

    def lend(self, worker: str, tls: Tls = Tls.NOBODY) -> Iterator[Gunicorn]:
        """Yield a server, for one test. What it wrote is shown if the test fails."""
        key = (worker, tls)
        if key not in self._running:
            self._running[key] = self._start(worker, tls)
        server = self._running[key]
        yield server
        if not server.serves():
            # The test has failed, and left the server's only thread where it was: the next gets a new one.
            del self._running[key]
            server.stop()
        print(server.new_output())

    def stop(self) -> None:
        for server in self._running.values():
            server.ask_to_stop()
        for server in self._running.values():
            server.wait_for_end()

    def _start(self, worker: str, tls: Tls) -> Gunicorn:
        self._started += 1
        output = self._directory / f"gunicorn-{self._started}.log"
        if tls is Tls.NOBODY:
            return Gunicorn(output, worker)
        certificates = self._certificates
        options = ["--certfile", str(certificates.server), "--keyfile", str(certificates.server)]
        if tls is Tls.SERVER:
            return Gunicorn(output, worker, *options, tls=certificates.client_context())
        options += ["--ca-certs", str(certificates.authority), "--cert-reqs", str(int(ssl.CERT_REQUIRED))]
        return Gunicorn(output, worker, *options, tls=certificates.client_context(certificate="known"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"), certificates)
    yield servers
    servers.stop()


@pytest.fixture(params=["sync", "gthread"])
def server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """gunicorn with one thread, and with either of its workers."""
    yield from servers.lend(request.param)


@pytest.fixture(params=["sync", "gthread"])
def tls_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """The same over TLS."""
    yield from servers.lend(request.param, Tls.SERVER)


@pytest.fixture(params=["sync", "gthread"])
def mutual_tls_server(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Gunicorn]:
    """The same over TLS, for clients that have a certificate."""
    yield from servers.lend(request.param, Tls.BOTH)


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
