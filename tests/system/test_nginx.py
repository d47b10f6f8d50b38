"""gRPC through nginx, set up as docs/grpc.md has it: each call gets a connection of its own to gunicorn."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from interop.v1.interop_pb2 import InteropRequest, InteropResponse

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn
from tests.interop import grpcio_calls

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "grpc.md"

# What nginx wants beside what the page shows.
_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, http2_server: Gunicorn
) -> Iterator[str]:
    """The address of nginx: a socket with a name, which no other process can take."""
    directory = tmp_path_factory.mktemp("nginx")
    path = directory / "nginx.socket"
    found = re.search(r"```nginx\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    assert found is not None
    servers = found[1]
    for shown, real in (
        ("127.0.0.1:8000", f"127.0.0.1:{http2_server.port}"),
        ("listen 8443", f"listen unix:{path}"),
        ("server.crt", str(certificates.server)),
        ("server.key", str(certificates.server)),
    ):
        assert shown in servers
        servers = servers.replace(shown, real)
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, servers=servers))
    with subprocess.Popen(["nginx", "-c", str(configuration), "-e", "stderr"]) as nginx:
        yield f"unix:{path}"
        nginx.terminate()


def connect(address: str, certificates: Certificates) -> grpc.Channel:
    channel = grpcio_calls.connect(address, certificates.authority.read_bytes(), "localhost")
    # nginx may still be starting.
    grpc.channel_ready_future(channel).result(timeout=60)
    return channel


@pytest.mark.parametrize("scenario", grpcio_calls.SCENARIOS)
def test_scenario(address: str, certificates: Certificates, scenario: str) -> None:
    grpcio_calls.check(lambda: connect(address, certificates), scenario)


@pytest.fixture
def channel(address: str, certificates: Certificates) -> Iterator[grpc.Channel]:
    with connect(address, certificates) as channel:
        yield channel


def test_calls_of_one_connection_run_at_once(channel: grpc.Channel) -> None:
    unary = channel.unary_unary(
        "/interop.v1.InteropService/Unary", InteropRequest.SerializeToString, InteropResponse.FromString
    )
    server_stream = channel.unary_stream(
        "/interop.v1.InteropService/ServerStream",
        InteropRequest.SerializeToString,
        InteropResponse.FromString,
    )
    endless = server_stream(InteropRequest(count=-1))
    assert next(endless).number == 0

    assert unary(InteropRequest(text="meanwhile"), timeout=60).text == "meanwhile"

    assert next(endless).number == 1
    endless.cancel()
