"""nginx in front of gunicorn: for gRPC, as docs/grpc.md has it, and as a cache."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
user root;
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


@contextmanager
def running_nginx(directory: Path, servers: str) -> Iterator[None]:
    """Run nginx with these servers in its configuration."""
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, servers=servers))
    with subprocess.Popen(["nginx", "-c", str(configuration), "-e", "stderr"]) as nginx:
        try:
            yield
        finally:
            nginx.terminate()


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
    with running_nginx(directory, servers):
        yield f"unix:{path}"


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


# The cache

_REFUSED = 7
"""curl's exit status where it could not connect."""

_CACHE = """
proxy_cache_path {directory}/cache keys_zone=calls:1m;
server {{
    listen unix:{directory}/cache.socket;
    proxy_cache calls;
    proxy_cache_valid 200 1s;
    proxy_cache_revalidate on;
    add_header cache-status $upstream_cache_status;
    location / {{
        proxy_pass {url};
    }}
}}
"""


def test_cache_learns_that_an_answer_has_not_changed(tmp_path: Path, server: Gunicorn) -> None:
    query = "connect=v1&encoding=json&message=%7B%22text%22%3A%22hello%22%7D"
    url = f"http://localhost/interop.v1.InteropService/UnarySafely?{query}"
    command = ["curl", "--silent", "--include", "--unix-socket", str(tmp_path / "cache.socket"), url]

    def get() -> tuple[str, str]:
        """Return what the cache did, and the body of its response."""
        process = subprocess.run(command, capture_output=True, text=True)
        while process.returncode == _REFUSED:  # nginx is still starting
            process = subprocess.run(command, capture_output=True, text=True)
        head, _, body = process.stdout.partition("\n\n")
        (status,) = re.findall("^cache-status: (.*)$", head, re.MULTILINE)
        return status, body

    with running_nginx(tmp_path, _CACHE.format(directory=tmp_path, url=server.url)):
        status, body = get()
        assert (status, json.loads(body)["text"]) == ("MISS", "hello")
        # After a second, what is cached is stale.
        assert next(answer for answer in iter(get, None) if answer[0] != "HIT") == ("REVALIDATED", body)
