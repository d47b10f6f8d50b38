"""Pages of the documentation, followed as they stand: by somebody with an empty folder."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from tests.integration.wire import PATIENCE

_HERE = Path(__file__).resolve().parent
README = _HERE.parents[1] / "README.md"
_PORTS = ("8000", "8080", "8443")
"""What listens at localhost on a page listens elsewhere here."""


class Block(NamedTuple):
    """A fenced block of a page."""

    section: str
    subsection: str
    file: str | None
    """The name to save it by, where the line before it says so."""
    language: str
    text: str


class Steps(NamedTuple):
    """What there is to do on a page."""

    files: list[Block]
    examples: list[tuple[Block, Block]]
    """Commands, each with what it prints."""
    preparations: list[Block]
    """Other commands."""


def read_blocks(page: Path) -> list[Block]:
    heading = r"^(?P<level>###?) (?P<heading>[^\n]+)$"
    block = r"(?:`(?P<file>\S+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    blocks = []
    section = subsection = ""
    for match in re.finditer(f"{heading}|{block}", page.read_text(), re.MULTILINE | re.DOTALL):
        if match["level"] == "##":
            section, subsection = match["heading"], ""
        elif match["level"]:
            subsection = match["heading"]
        else:
            blocks.append(Block(section, subsection, match["file"], match["language"], match["text"]))
    return blocks


def sort_blocks(blocks: Sequence[Block]) -> Steps:
    examples = [(command, output) for command, output in pairwise(blocks) if output.language == "text"]
    commands = [block for block in blocks if block.language == "sh"]
    return Steps(
        files=[block for block in blocks if block.file],
        examples=examples,
        preparations=[block for block in commands if block not in [command for command, _ in examples]],
    )


class Newcomer:
    """Somebody with an empty folder, who does what a page says."""

    def __init__(self, folder: Path, *programs: Path, **variables: str) -> None:
        """Take the folder, folders of programs to find by their names, and environment variables."""
        self.folder = folder
        with ExitStack() as listeners:
            sockets = [listeners.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _PORTS]
            ports = [str(listener.getsockname()[1]) for listener in sockets]
        self._ports = dict(zip(_PORTS, ports, strict=True))
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join(
                [str(Path(sys.executable).parent), *map(str, programs), os.environ["PATH"]]
            ),
            "GUNICORN_CMD_ARGS": f"--config={shlex.quote(str(_HERE / 'gunicorn.conf.py'))}",
            "NO_PROXY": "localhost",
            "no_proxy": "localhost",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }

    def move(self, folder: Path, *programs: Path, **variables: str) -> Newcomer:
        """Return somebody with another folder, who calls the same servers; ``programs`` are found first."""
        moved = copy(self)
        moved.folder = folder
        path = os.pathsep.join([*map(str, programs), self._environment["PATH"]])
        moved._environment = {**self._environment, "PATH": path, **variables}
        return moved

    def localize(self, text: str) -> str:
        """Put the ports that there are for those of the page."""
        pattern = rf"\blocalhost([: ])({'|'.join(_PORTS)})\b"
        return re.sub(pattern, lambda match: f"localhost{match[1]}{self._ports[match[2]]}", text)

    @property
    def address(self) -> str:
        """What stands for the address of the pages, as host and port."""
        return self.localize(f"localhost:{_PORTS[0]}")

    def add(self, file: str, *texts: str) -> None:
        """Put something at the end of a file, which may be new."""
        with (self.folder / file).open("a") as end:
            end.write("\n\n".join(["", *texts]))

    def save(self, files: Sequence[Block]) -> None:
        for block in files:
            assert block.file is not None
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.localize(block.text))

    def run(self, command: str) -> str:
        """Run a command to its end, and return what it has printed."""
        command = self.localize(command)
        if command.startswith("curl ") and shutil.which("curl") is None:
            return curl(command)
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Run a gunicorn or `http.server`, which listens from the beginning of the block to its end."""
        server = self._start(command)
        try:
            yield
        finally:
            # By SIGINT, the master ends its workers by SIGQUIT, whose handler in gthread may wait for a
            # lock that the thread it has interrupted holds.
            server.terminate()
            try:
                _, output = server.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                _, output = server.communicate()
            print(output)

    def _start(self, command: str) -> subprocess.Popen[str]:
        server = subprocess.Popen(
            ["sh", "-c", f"exec {self.localize(command).rstrip()} >&2"],
            cwd=self.folder,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        output = ""
        for line in server.stderr:
            output += line
            if "Listening at" in line or "Serving HTTP on" in line:
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
    headers = dict([options.header.split(": ", 1)]) if options.header else {}
    data = None if options.data is None else options.data.encode()
    request = urllib.request.Request(options.url, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        response = opener.open(request, timeout=PATIENCE)
    except HTTPError as error:
        response = error
    with response:
        end = options.write_out.replace(r"\n", "\n").replace("%{http_code}", str(response.status))
        return f"{response.read().decode()}{end}"
