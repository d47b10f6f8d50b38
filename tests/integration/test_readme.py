"""The README, followed as it stands: its files are saved, its commands run, and their output is compared.

The environment that the tests run in stands for what the README says before, to install.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import pytest

from tests.integration.wire import PATIENCE

_HERE = Path(__file__).resolve().parent
_README = _HERE.parents[1] / "README.md"
_ADDRESS = "localhost:8000"


class Block(NamedTuple):
    """A fenced block of the README."""

    section: str
    file: str | None
    """The name to save it by, where the line before it says so."""
    language: str
    text: str


def read_blocks() -> list[Block]:
    pattern = r"^## (?P<section>[^\n]+)$|(?:`(?P<file>\S+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    blocks = []
    section = ""
    for match in re.finditer(pattern, _README.read_text(), re.MULTILINE | re.DOTALL):
        if match["section"]:
            section = match["section"]
        else:
            blocks.append(Block(section, match["file"], match["language"], match["text"]))
    return blocks


_BLOCKS = [block for block in read_blocks() if block.section not in ("", "Install")]
_FILES = [block for block in _BLOCKS if block.file]
_EXAMPLES = [(command, output) for command, output in pairwise(_BLOCKS) if output.language == "text"]
_PREPARATIONS = [
    block
    for block in _BLOCKS
    if block.language == "sh" and block not in [command for command, _ in _EXAMPLES]
]


class Newcomer:
    """Somebody with an empty folder, who does what the README says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._address = f"localhost:{listener.getsockname()[1]}"
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "GUNICORN_CMD_ARGS": f"--config={shlex.quote(str(_HERE / 'gunicorn.conf.py'))}",
            "NO_PROXY": "localhost",
            "no_proxy": "localhost",
        }

    def save(self, file: str, text: str) -> None:
        path = self._folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(_ADDRESS, self._address))

    def run(self, command: str) -> str:
        """Run a command to its end, and return what it has printed."""
        command = command.replace(_ADDRESS, self._address)
        if command.startswith("curl ") and shutil.which("curl") is None:
            return curl(command)
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a gunicorn, and wait until it listens."""
        server = subprocess.Popen(
            ["sh", "-c", f"exec {command.replace(_ADDRESS, self._address)}"],
            cwd=self._folder,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        output = ""
        for line in server.stderr:
            output += line
            if "Listening at" in line:
                return server
        server.wait()
        raise AssertionError(output)


def curl(command: str) -> str:
    """Do what a curl command of the README does, for want of curl."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--header")
    parser.add_argument("--data")
    parser.add_argument("--write-out", default="")
    options = parser.parse_args(shlex.split(command.replace("\\\n", ""))[1:])
    name, _, value = options.header.partition(": ")
    request = urllib.request.Request(options.url, options.data.encode(), {name: value})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response = opener.open(request, timeout=PATIENCE)
    except HTTPError as error:
        response = error
    with response:
        end = options.write_out.replace(r"\n", "\n").replace("%{http_code}", str(response.status))
        return f"{response.read().decode()}{end}"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Lend somebody who has come so far that the server runs."""
    newcomer = Newcomer(tmp_path_factory.mktemp("readme"))
    for block in _FILES:
        assert block.file is not None
        newcomer.save(block.file, block.text)
    generate, serve = _PREPARATIONS
    newcomer.run(generate.text)
    server = newcomer.start(serve.text)
    try:
        yield newcomer
    finally:
        server.send_signal(signal.SIGINT)
        try:
            _, output = server.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            _, output = server.communicate()
        print(output)


def test_every_block_is_followed() -> None:
    assert [block.file for block in _FILES] == [
        "greet/v1/greet.proto",
        "server.py",
        "client.py",
        "streams.py",
    ]
    assert [command.text.split()[0] for command in _PREPARATIONS] == ["python", "gunicorn"]
    assert [command.text.split()[0] for command, _ in _EXAMPLES] == ["python", "curl", "curl", "python"]
    assert len(_BLOCKS) == len(_FILES) + len(_PREPARATIONS) + 2 * len(_EXAMPLES)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(command.text, output.text, id=f"{command.section}, {command.text.split()[0]}")
        for command, output in _EXAMPLES
    ],
)
def test_command_prints_what_the_readme_shows(newcomer: Newcomer, command: str, output: str) -> None:
    assert newcomer.run(command).splitlines() == output.splitlines()
