"""Connect for Go: as a client over HTTP/1.1 and HTTP/2, and as a server over HTTP/1.1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.v1.interop_connect import InteropServiceClient
from interop.v1.interop_pb2 import InteropRequest, InteropResponse

from connect_sync import (
    Code,
    ConnectClient,
    ConnectError,
    Method,
    NotModified,
    ResponseMetadata,
)
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


# Scenarios of this client alone


@pytest.mark.parametrize("scenario", ["unknown_method", "unknown_service"])
@pytest.mark.parametrize(
    ("client_name", "protocol"),
    [
        *(("client", protocol) for protocol in ("connect", "grpc-web")),
        *(("http2_client", protocol) for protocol in ("connect", "grpc", "grpc-web")),
    ],
)
def test_what_is_unknown_is_unimplemented(
    request: pytest.FixtureRequest, client_name: str, protocol: str, scenario: str
) -> None:
    client: Client = request.getfixturevalue(client_name)
    client.check(Variant(protocol, "proto"), scenario, {"code": "unimplemented"})


@pytest.mark.parametrize("client_name", ["client", "http2_client"])
@pytest.mark.parametrize("format", ["proto", "json"])
def test_answer_that_has_not_changed(request: pytest.FixtureRequest, client_name: str, format: str) -> None:
    client: Client = request.getfixturevalue(client_name)
    expected = {"is_not_modified": True, "etag": '"1"'}
    client.check(Variant("connect", format), "not_modified", expected)


# As a server


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


def test_answer_of_server_that_has_not_changed(go_server: str) -> None:
    with InteropServiceClient(go_server) as client:
        request = InteropRequest(text="hello")
        with ResponseMetadata() as metadata:
            client.unary_safely(request, use_get=True)
        etag = metadata.headers()["etag"]
        with pytest.raises(NotModified) as caught:
            client.unary_safely(request, headers={"if-none-match": etag}, use_get=True)
    assert (caught.value.http_status, caught.value.metadata["etag"]) == (304, etag)


@pytest.mark.parametrize("service", ["interop.v1.InteropService", "absent.v1.AbsentService"])
def test_what_server_does_not_know_is_unimplemented(go_server: str, service: str) -> None:
    method = Method(service, "Absent", InteropRequest, InteropResponse)
    with ConnectClient(go_server) as client, pytest.raises(ConnectError) as caught:
        client.call_unary(method, InteropRequest())
    assert caught.value.code is Code.UNIMPLEMENTED
