"""Connect for Node.js: a client, gRPC over HTTP/2 and all else over HTTP/1.1; and a server over HTTP/1.1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn
from tests.interop.calls import check
from tests.interop.scenarios import Client, Variant, each_cell

_PROGRAMS = Path(__file__).with_name("node")


@pytest.fixture(scope="module")
def client(node: Path, server: Gunicorn) -> Client:
    return Client([node, _PROGRAMS / "client.js"], server)


@each_cell({"connect": (), "grpc-web": ("unary_get",)})
def test_client(client: Client, variant: Variant, scenario: str) -> None:
    client.check(variant, scenario)


@pytest.fixture(scope="module")
def http2_client(node: Path, http2_server: Gunicorn) -> Client:
    return Client([node, _PROGRAMS / "client.js"], http2_server)


# By HTTP/2, a client stream that is given up is ended and then reset: the handler may hear of the end alone.
_NOT_BY_GRPC = ("unary_get", "client_stream_cancel")


@each_cell({"grpc": _NOT_BY_GRPC})
def test_client_over_http2(http2_client: Client, variant: Variant, scenario: str) -> None:
    http2_client.check(variant, scenario)


@pytest.fixture(scope="module")
def tls_client(node: Path, http2_tls_server: Gunicorn, certificates: Certificates) -> Client:
    return Client(
        [node, _PROGRAMS / "client.js"],
        http2_tls_server,
        {"NODE_EXTRA_CA_CERTS": str(certificates.authority)},
    )


@each_cell({"connect": (), "grpc": _NOT_BY_GRPC, "grpc-web": ("unary_get",)})
def test_client_over_tls(tls_client: Client, variant: Variant, scenario: str) -> None:
    tls_client.check(variant, scenario)


@pytest.fixture(scope="module")
def node_server(node: Path) -> Iterator[str]:
    """The address of a server by Connect for Node.js."""
    with subprocess.Popen([node, _PROGRAMS / "server.js"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


# WSGI has no bidirectional streams, and the client refuses them by itself.
@each_cell({"connect": ("bidi",), "grpc-web": ("bidi", "unary_get")})
def test_server(node_server: str, variant: Variant, scenario: str) -> None:
    check(node_server, variant, scenario)
