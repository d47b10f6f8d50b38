"""`connect-sync serve` as a process: its banner, its calls, its reloads, its end."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest

from connect_sync import Code, ConnectError
from tests.integration.channel import Channel
from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks
from tests.integration.serving import ROOT, Serving, read_commands, write_shapes
from tests.integration.wire import LAST_CHUNK, PATIENCE, Connection, chunk, envelope, post

_PAGE = ROOT / "docs" / "serve.md"
_GENERATED = ROOT / "tests" / "gen"

_ECHO = """\
from echo.v1.echo_connect import EchoService, EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoResponse


class Echo(EchoService):
    def echo(self, request, ctx):
        return EchoResponse(payload=b"first")


app = EchoServiceWSGIApplication(Echo())
"""


# The banner and its commands


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, str]]:
    """The server of `tests/shapes`, and its banner."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder)
    with Serving(folder, "server:app", "--port=0", "--no-reload", paths=(folder / "gen",)) as serving:
        yield serving, serving.read_banner()


def test_banner(shapes: tuple[Serving, str]) -> None:
    serving, banner = shapes
    lines = banner.splitlines()

    assert lines[:3] == [
        f"connect-sync serves server:app at {serving.url}, for development only",
        "",
        f"shapes.ShapesService at {serving.url}/shapes.ShapesService",
    ]
    assert lines[-2:] == ["", "Press Ctrl-C to stop it."]
    assert serving.url == f"http://localhost:{serving.port}"


def test_every_command_is_answered_with_its_own_message(shapes: tuple[Serving, str]) -> None:
    _, banner = shapes
    commands = read_commands(banner)
    assert len(commands) == 20

    for command in commands:
        sent = Sent(command)
        response = sent.send()
        assert response.status == 200, (command, response.data)
        assert is_part_of(response.json(), json.loads(sent.message)), (command, response.data)


def test_banner_is_as_the_page_shows_it(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    readme = sort_blocks(read_blocks(README))
    newcomer.save(readme.files)
    (generate,) = [block for block in readme.preparations if "--connect-sync_out" in block.text]
    newcomer.run(generate.text)
    ((command, shown),) = sort_blocks(read_blocks(_PAGE)).examples
    program, *arguments = shlex.split(command.text)
    assert program == "connect-sync"

    with Serving(tmp_path, *arguments[1:], "--port=0") as serving:
        assert serving.read_banner().replace(serving.url, "http://localhost:8000") == shown.text


class Sent(NamedTuple):
    """A request, read from a curl command as a shell reads it."""

    command: str

    @property
    def options(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        parser.add_argument("url")
        parser.add_argument("--header")
        parser.add_argument("--get", action="store_true")
        parser.add_argument("--data")
        parser.add_argument("--data-urlencode")
        program, *arguments = shlex.split(self.command)
        assert program == "curl"
        return parser.parse_args(arguments)

    @property
    def message(self) -> str:
        options = self.options
        text: str = options.data_urlencode.removeprefix("message=") if options.get else options.data
        return text

    def send(self) -> urllib3.BaseHTTPResponse:
        options = self.options
        if options.get:
            fields = dict(pair.split("=", 1) for pair in (options.data, options.data_urlencode))
            return urllib3.request("GET", options.url, fields=fields, timeout=PATIENCE)
        name, _, value = options.header.partition(": ")
        return urllib3.request(
            "POST", options.url, body=options.data, headers={name: value}, timeout=PATIENCE
        )


def is_part_of(answer: Any, example: Any) -> bool:
    """Tell whether an answer holds nothing but what was sent; what is empty is not in it."""
    if isinstance(answer, dict) and isinstance(example, dict):
        return all(name in example and is_part_of(value, example[name]) for name, value in answer.items())
    return bool(answer == example)


# Reloads


class Project:
    """A folder with one module, which somebody edits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "server.py"
        self.file.write_text(_ECHO)

    def serve(self, *options: str, paths: tuple[Path, ...] = ()) -> Serving:
        return Serving(self.folder, "server:app", "--port=0", *options, paths=(_GENERATED, *paths))

    def edit(self, old: str, new: str) -> None:
        """Replace text in the module. Python takes a file of the same size and second for unchanged."""
        text = self.file.read_text()
        assert old in text
        assert len(old) != len(new)
        self.file.write_text(text.replace(old, new))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def echo(serving: Serving) -> bytes:
    with EchoServiceClient(serving.url, timeout_ms=PATIENCE * 1000) as client:
        return client.echo(EchoRequest()).payload


def test_edit_is_served(project: Project) -> None:
    with project.serve() as serving:
        assert echo(serving) == b"first"
        port = serving.port

        project.edit("first", "second")

        # A change of anything else that Python could import is a reason, too.
        serving.wait_for(r"Detected change in '.*\.py'")
        serving.wait_for("^Reloaded server:app$")
        assert echo(serving) == b"second"
        assert serving.port == port


def test_banner_is_shown_again_when_it_has_changed(project: Project) -> None:
    with project.serve() as serving:
        before = serving.read_banner()
        assert echo(serving) == b"first"

        project.edit(
            "app = EchoServiceWSGIApplication(Echo())",
            "from wsgi_adapters.router import Router\n\n"
            "app = Router([EchoServiceWSGIApplication(Echo())], prefix='/api')",
        )

        assert serving.read_banner() == before.replace("/echo.v1", "/api/echo.v1")


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit('no database')", "SystemExit: no database"),
        ("app = None", "server:app must be a WSGI application, got None"),
        ("del app", "the module 'server' has no 'app'"),
    ],
)
def test_error_of_an_edit_is_shown_and_mended(project: Project, text: str, report: str) -> None:
    with project.serve() as serving:
        assert echo(serving) == b"first"

        project.file.write_text(f"{_ECHO}{text}\n")
        serving.wait_for(report)
        serving.wait_for("Until a file changes, every request is answered with 503")
        with pytest.raises(ConnectError) as raised:
            echo(serving)
        assert raised.value.code is Code.UNAVAILABLE

        project.file.write_text(_ECHO.replace("first", "mended"))
        serving.wait_for("^Reloaded server:app$")
        assert echo(serving) == b"mended"


def test_missing_module_that_is_made_is_served(project: Project) -> None:
    with project.serve() as serving:
        assert echo(serving) == b"first"
        project.edit("class Echo", "from payloads import SECOND\n\n\nclass Echo")
        serving.wait_for("No module named 'payloads'")
        # When it answers, files are watched.
        with pytest.raises(ConnectError) as raised:
            echo(serving)
        assert raised.value.code is Code.UNAVAILABLE

        (project.folder / "payloads.py").write_text("SECOND = b'second'\n")

        serving.wait_for(r"Detected change in '.*payloads\.py'")
        serving.wait_for("^Reloaded server:app$")


def test_watchdog_is_not_taken(project: Project, tmp_path: Path) -> None:
    installed = tmp_path / "installed" / "watchdog"
    installed.mkdir(parents=True)
    for name in ("__init__.py", "observers.py"):
        (installed / name).touch()
    with project.serve(paths=(installed.parent,)) as serving:
        assert echo(serving) == b"first"

        project.edit("first", "second")

        serving.wait_for("^Reloaded server:app$")
        assert echo(serving) == b"second"


def test_peer_is_told_nothing_of_an_error(project: Project) -> None:
    with project.serve() as serving:
        assert echo(serving) == b"first"
        project.file.write_text(f"{_ECHO}raise ValueError('secret')\n")
        serving.wait_for("ValueError: secret")

        response = urllib3.request("GET", serving.url, timeout=PATIENCE)

        assert response.status == 503
        assert response.data == (
            b"The application could not be loaded: see the output of connect-sync serve.\n"
        )


def test_module_is_imported_once(project: Project) -> None:
    project.file.write_text(f"{_ECHO}print('imported', flush=True)\n")
    with project.serve() as serving:
        serving.read_banner()

        assert echo(serving) == b"first"
        assert serving.output.splitlines().count("imported") == 1


@pytest.mark.parametrize(("mode", "is_one_process"), [("--no-reload", True), ("--reload", False)])
def test_process_of_its_own_serves_where_it_is_to_be_reloaded(
    project: Project, mode: str, is_one_process: bool
) -> None:
    project.file.write_text(f"{_ECHO}import os\nprint('served by', os.getpid(), flush=True)\n")
    with project.serve(mode) as serving:
        served_by = int(serving.wait_for("^served by ([0-9]+)$")[1])

        assert (served_by == serving.pid) == is_one_process


# What ends it at once

_MODES = pytest.mark.parametrize("mode", ["--reload", "--no-reload"])


@_MODES
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent:app", "no module named 'absent', here or on Python's path"),
        ("server:absent", "the module 'server' has no 'absent' ({file})"),
    ],
)
def test_application_that_is_not_there(project: Project, mode: str, target: str, message: str) -> None:
    with Serving(project.folder, target, "--port=0", mode, paths=(_GENERATED,)) as serving:
        assert serving.wait_for_end() == 2
        assert serving.output == f"connect-sync serve: {message.format(file=project.file)}\n"


@_MODES
def test_application_whose_code_fails(project: Project, mode: str) -> None:
    project.file.write_text("def fail():\n    raise ValueError('told')\n\n\nfail()\n")
    with project.serve(mode) as serving:
        assert serving.wait_for_end() == 1
        assert serving.output.startswith("Traceback (most recent call last):\n")
        assert serving.output.count("  File ") == serving.output.count(f'  File "{project.file}"') == 2
        assert serving.output.endswith("ValueError: told\nconnect-sync serve: importing server failed\n")


@_MODES
def test_port_that_is_taken(project: Project, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with project.serve(mode, f"--port={port}") as serving:
            assert serving.wait_for_end() == 1
            assert serving.output == (
                f"connect-sync serve: cannot listen on localhost:{port}: {os.strerror(errno.EADDRINUSE)}\n"
            )


@_MODES
@pytest.mark.parametrize(("host", "shown"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "[2001:db8::1]")])
def test_address_of_another_machine(project: Project, mode: str, host: str, shown: str) -> None:
    with project.serve(mode, f"--host={host}") as serving:
        assert serving.wait_for_end() == 1
        assert serving.output.startswith(f"connect-sync serve: cannot listen on {shown}:0: ")
        assert len(serving.output.splitlines()) == 1


# Streams, and Ctrl-C


@pytest.fixture(params=["--reload", "--no-reload"])
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    """The service of `tests.integration.service`."""
    target = "tests.integration.service:application"
    with Serving(tmp_path, target, "--port=0", request.param, paths=(ROOT, _GENERATED)) as serving:
        yield serving


def test_requests_are_live(serving: Serving, channel: Channel) -> None:
    with serving.connect() as connection:
        open_client_stream(connection, channel)
        for payload in (b"one", b"two"):
            connection.send(chunk(envelope(EchoRequest(payload=payload).SerializeToString())))
            assert channel.next_event() == f"got {payload.decode()}"
        connection.send(LAST_CHUNK)
        assert channel.next_event() == "end"
        assert connection.read_reply().status == 200


def test_responses_are_live(serving: Serving, channel: Channel) -> None:
    with serving.connect() as connection:
        open_stream(connection, channel)
        for number in range(3):
            assert channel.next_event() == f"asked for {number}"
            connection.read_envelope()
            channel.go_on()


def open_client_stream(connection: Connection, channel: Channel) -> None:
    """Call a method that takes a stream, and send no message yet."""
    headers = {"content-type": "application/connect+proto", "transfer-encoding": "chunked"}
    connection.send(post("Collect", {**headers, **channel.headers}))
    assert channel.next_event() == "called"


def open_stream(connection: Connection, channel: Channel) -> None:
    """Call a method that streams without end, and read the head of its response."""
    body = envelope(EchoRequest(times=-1).SerializeToString())
    connection.send(post("Repeat", {"content-type": "application/connect+proto", **channel.headers}, body))
    status, _ = connection.read_head()
    assert status == 200


def test_handler_is_closed_when_its_client_leaves(serving: Serving, channel: Channel) -> None:
    with serving.connect() as connection:
        open_stream(connection, channel)
        connection.reset()
    channel.go_on_to_the_end()
    while (event := channel.next_event()) != "closed":
        assert event.startswith("asked for ")


def test_ctrl_c_ends_it_with_streams_open(serving: Serving, channel: Channel) -> None:
    with closing(Channel()) as other_channel, serving.connect() as sending, serving.connect() as receiving:
        open_stream(receiving, channel)
        receiving.read_envelope()
        open_client_stream(sending, other_channel)

        serving.interrupt()

        assert serving.wait_for_end() == 0
        assert receiving.read_rest() == b""
        assert sending.read_rest() == b""
    assert "Traceback" not in serving.output


@_MODES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_first_process_ends_all(project: Project, mode: str, number: signal.Signals) -> None:
    with project.serve(mode) as serving:
        assert echo(serving) == b"first"

        serving.send_signal(number)

        assert serving.wait_for_end() == 0
        assert "Traceback" not in serving.output


@_MODES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_while_it_loads(project: Project, mode: str, number: signal.Signals) -> None:
    project.file.write_text("print('loading', flush=True)\nimport threading\nthreading.Event().wait()\n")
    with project.serve(mode) as serving:
        serving.wait_for("^loading$")

        serving.send_signal_to_all(number)

        assert serving.wait_for_end() == 0
        assert "Traceback" not in serving.output


def test_reloader_of_another_program_is_not_taken_for_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    with project.serve() as serving:
        assert echo(serving) == b"first"

        project.edit("first", "second")

        serving.wait_for("^Reloaded server:app$")
        assert echo(serving) == b"second"


def test_requests_are_logged(project: Project) -> None:
    with project.serve("--no-reload") as serving:
        assert echo(serving) == b"first"

        serving.wait_for('"POST /echo.v1.EchoService/Echo HTTP/1.1" 200')
