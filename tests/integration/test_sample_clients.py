"""The clients of the samples `notes` and `users`, where their site is not what they find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.scripted import Peer, Serve
from tests.integration.wire import PATIENCE, head

_SAMPLES = Path(__file__).resolve().parents[2] / "samples"

clients = pytest.mark.parametrize("client", ["notes/notes_client.py", "users/call_users.py"])


def fail(client: str, address: str) -> str:
    """Run a client, which has to fail, and return the one line that it says of it."""
    done = subprocess.run(
        [sys.executable, _SAMPLES / client, address],
        env={
            **os.environ,
            "PYTHONPATH": str(_SAMPLES / client.partition("/")[0] / "gen"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def answer(peer: Peer, status: str) -> None:
    peer.read_request()
    peer.send(head(f"HTTP/1.1 {status}", {"content-length": 0, "connection": "close"}))


@clients
def test_server_that_is_stopped_is_told(client: str, serve: Serve) -> None:
    server = serve(lambda peer: None)
    server.close()
    line = fail(client, server.url)
    assert line.startswith(
        f"The site at {server.url} has failed, or is not there: unavailable: cannot connect"
    )


@clients
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "503 Service Unavailable"])
def test_site_that_has_no_such_service_is_told(client: str, serve: Serve, status: str) -> None:
    server = serve(lambda peer: answer(peer, status))
    assert fail(client, server.url).startswith(f"The site at {server.url} has failed")


@clients
def test_site_with_a_login_of_its_own_is_told(client: str, serve: Serve) -> None:
    server = serve(lambda peer: answer(peer, "401 Unauthorized"))
    assert fail(client, server.url).endswith(": HTTP 401")


@clients
def test_site_that_ends_before_the_login_is_told(client: str, serve: Serve) -> None:
    def refuse_calls(peer: Peer) -> None:
        request = peer.read_request()
        if "/login" not in request.first_line:
            peer.send(head("HTTP/1.1 401 Unauthorized", {"content-length": 0, "connection": "close"}))

    server = serve(refuse_calls)
    assert fail(client, server.url).startswith(f"The site at {server.url} has failed")
