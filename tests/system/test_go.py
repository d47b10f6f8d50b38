"""Connect for Go: as a client over HTTP/1.1 and HTTP/2, and as a server over HTTP/1.1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn
from tests.interop.calls import check
from tests.interop.scenarios import Client, Variant, each_cell

_PROGRAMS = Path(__file__).resolve().parents[2] / "build" / "system" / "go"


@pytest.fixture(scope="module")
def client(server: Gunicorn) -> Client:
    return Client([_PROGRAMS / "client"], server)


@each_cell({"connect": (), "grpc-web": ("unary_get",)})
def test_client(client: Client, variant: Variant, scenario: str) -> None:
    client.check(variant, scenario)


@pytest.fixture(scope="module")
def http2_client(http2_server: Gunicorn) -> Client:
    return Client([_PROGRAMS / "client", "-http2"], http2_server)


@each_cell({"connect": (), "grpc": ("unary_get",), "grpc-web": ("unary_get",)})
def test_client_over_http2(http2_client: Client, variant: Variant, scenario: str) -> None:
    http2_client.check(variant, scenario)


@pytest.fixture(scope="module")
def tls_client(http2_tls_server: Gunicorn, certificates: Certificates) -> Client:
    authority = {"SSL_CERT_FILE": str(certificates.authority)}
    return Client([_PROGRAMS / "client", "-http2"], http2_tls_server, authority)


@each_cell({"connect": (), "grpc": ("unary_get",), "grpc-web": ("unary_get",)})
def test_client_over_http2_with_tls(tls_client: Client, variant: Variant, scenario: str) -> None:
    tls_client.check(variant, scenario)


@pytest.fixture(scope="module")
def go_server() -> Iterator[str]:
    """The address of a server by Connect for Go."""
    with subprocess.Popen([_PROGRAMS / "server"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


# WSGI has no bidirectional streams, and the client refuses them by itself.
@each_cell({"connect": ("bidi",), "grpc-web": ("bidi", "unary_get")})
def test_server(go_server: str, variant: Variant, scenario: str) -> None:
    check(go_server, variant, scenario)
