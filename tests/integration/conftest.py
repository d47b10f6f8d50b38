from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import urllib3

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.records import Records
from tests.integration.scripted import Script, ScriptedServer, Serve
from tests.integration.servers import Gunicorn, Http2Gunicorn, Servers, Tls


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


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
def records() -> Iterator[Records]:
    records = Records()
    yield records
    records.close()


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
