"""The sample in samples/users, started and called as its README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import pytest

from tests.integration.newcomer import Block, read_blocks, sort_blocks
from tests.integration.wire import LAST_CHUNK, PATIENCE, Connection, Reply, chunk, envelope, head

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLE = _ROOT / "samples" / "users"
_ADDRESS = "http://127.0.0.1:8000"

_EXAMPLES = sort_blocks(read_blocks(_SAMPLE / "README.md")).examples


class Site:
    """The sample, running."""

    def __init__(self, address: str, output: str) -> None:
        self.port = int(address.rpartition(":")[2])
        self.address = address
        self.output = output

    def log_in(self, password: str) -> tuple[str, str]:
        """Log in as a person does, and return the page that comes then, and the cookies."""
        jar = CookieJar()
        opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(jar))
        url = f"{self.address}/login/"
        opener.open(url, timeout=PATIENCE).close()
        (token,) = jar
        fields = {"username": "admin", "password": password, "csrfmiddlewaretoken": token.value or ""}
        with opener.open(url, urlencode(fields).encode(), timeout=PATIENCE) as response:
            page = response.read().decode()
        return page, "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    def call(self, method: str, message: dict[str, Any], cookies: str) -> Reply:
        """Make a unary call in JSON."""
        with Connection(self.port) as connection:
            body = json.dumps(message).encode()
            headers = {"content-type": "application/json", "content-length": len(body)}
            connection.send(request(method, headers, cookies) + body)
            return connection.read_reply()


def request(method: str, headers: dict[str, Any], cookies: str) -> bytes:
    headers = {"host": "localhost", "cookie": cookies, **headers}
    return head(f"POST /users.v1.UserService/{method} HTTP/1.1", headers)


def environment(database: Path) -> dict[str, str]:
    packages = os.pathsep.join([str(_ROOT), str(_SAMPLE / "gen")])
    return {
        **os.environ,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": packages,
        "USERS_DATABASE": str(database),
    }


@contextmanager
def serving(database: Path) -> Iterator[Site]:
    """Run what `make users` runs, on a port of its own."""
    process = subprocess.Popen(
        [sys.executable, "-u", _SAMPLE / "serve_users.py", "0"],
        # Where a machine's PORT is set, gunicorn by itself would listen there on all of its addresses.
        env={**environment(database), "GUNICORN_CMD_ARGS": "--graceful-timeout 5", "PORT": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            output = ""
            for line in process.stdout:
                output += line
                if "Listening at" in line:
                    break
            else:
                raise AssertionError(output)
            (address,) = re.findall(r"^Log in at (\S+)/ ", output, re.MULTILINE)
            assert f"Listening at: {address} " in output
            yield Site(address, output)
        finally:
            process.terminate()
            print(process.communicate(timeout=PATIENCE)[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("users") / "users.sqlite3") as site:
        yield site


def test_start_makes_the_first_user_once(tmp_path: Path) -> None:
    created = "Created the user admin, whose password is let-me-in.\n"
    with serving(tmp_path / "users.sqlite3") as site:
        assert site.output.startswith(created)
    with serving(tmp_path / "users.sqlite3") as site:
        assert created not in site.output


def test_port_that_is_taken_is_told_before_anything_is_made(tmp_path: Path) -> None:
    database = tmp_path / "users.sqlite3"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [sys.executable, _SAMPLE / "serve_users.py", str(listener.getsockname()[1])],
            env=environment(database),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout, database.exists()) == (1, "", False)
    assert done.stderr.endswith("With another port: make users PORT=8001\n")


@pytest.mark.parametrize(
    ("command", "output"), [pytest.param(*example, id=example[0].text.split()[1]) for example in _EXAMPLES]
)
def test_command_prints_what_the_readme_shows(tmp_path: Path, command: Block, output: Block) -> None:
    text = command.text.replace(".venv/bin/python", shlex.quote(sys.executable))
    database = tmp_path / "users.sqlite3"
    with serving(database) as site:
        done = subprocess.run(
            ["sh", "-c", text.replace(_ADDRESS, site.address)],
            cwd=_ROOT,
            env=environment(database),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, output.text, "")


def test_readme_has_its_example() -> None:
    assert [command.text.split()[1] for command, _ in _EXAMPLES] == ["samples/users/call_users.py"]


def test_page_behind_the_login_is_of_the_user(site: Site) -> None:
    page, _ = site.log_in("let-me-in")
    assert '<b id="me">admin</b>' in page
    refused, cookies = site.log_in("wrong")
    assert "correct username and password" in refused
    assert "sessionid" not in cookies


def test_call_of_the_page_creates_a_user(site: Site) -> None:
    _, cookies = site.log_in("let-me-in")
    reply = site.call("CreateUser", {"name": "jane", "email": "jane@example.com"}, cookies)
    assert (reply.status, json.loads(reply.body)) == (200, {"name": "jane", "email": "jane@example.com"})
    assert site.call("CreateUser", {"name": "jane"}, cookies).error()["code"] == "already_exists"


def test_calls_take_a_session(site: Site) -> None:
    reply = site.call("CreateUser", {"name": "joan"}, "sessionid=unknown")
    assert (reply.status, reply.error()["code"]) == (401, "unauthenticated")


def test_import_that_breaks_off_creates_nobody(site: Site) -> None:
    _, cookies = site.log_in("let-me-in")
    headers = {"content-type": "application/connect+json", "transfer-encoding": "chunked"}
    with Connection(site.port) as connection:
        connection.send(request("ImportUsers", headers, cookies))
        for name in ("emil", "fred"):
            connection.send(chunk(envelope(json.dumps({"name": name}).encode())))
        connection.end()
        connection.read_rest()
    with Connection(site.port) as connection:
        body = envelope(b'{"name": "emil"}') + envelope(b'{"name": "fred"}')
        connection.send(request("ImportUsers", headers, cookies), chunk(body), LAST_CHUNK)
        assert connection.read_reply().messages() == [b'{"count":2}']


def test_others_write_while_an_importer_is_in_the_middle_of_its_stream(site: Site) -> None:
    _, cookies = site.log_in("let-me-in")
    headers = {"content-type": "application/connect+json", "transfer-encoding": "chunked"}
    with Connection(site.port) as connection:
        connection.send(request("ImportUsers", headers, cookies), chunk(envelope(b'{"name": "gina"}')))
        # A login writes, too.
        _, other_cookies = site.log_in("let-me-in")
        assert site.call("CreateUser", {"name": "hugo"}, other_cookies).status == 200
        connection.send(chunk(envelope(b'{"name": "ivan"}')), LAST_CHUNK)
        assert connection.read_reply().messages() == [b'{"count":2}']


def test_import_of_too_many_creates_nobody(site: Site) -> None:
    _, cookies = site.log_in("let-me-in")
    body = b"".join(envelope(json.dumps({"name": f"user-{number}"}).encode()) for number in range(1001))
    with Connection(site.port) as connection:
        headers = {"content-type": "application/connect+json", "content-length": len(body)}
        connection.send(request("ImportUsers", headers, cookies), body)
        assert connection.read_reply().error()["code"] == "resource_exhausted"
    assert site.call("CreateUser", {"name": "user-0"}, cookies).status == 200


def test_management_commands_find_the_site(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, _SAMPLE / "manage.py", "check"],
        env=environment(tmp_path / "users.sqlite3"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
