"""`connect-sync serve`, run as somebody does who develops a service."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from urllib3.util import parse_url

from tests.integration.wire import PATIENCE, Connection
from tests.toolchains import beside_python, generate

ROOT = Path(__file__).resolve().parents[2]
_SHAPES = ROOT / "tests" / "shapes"

_SHAPES_SERVER = """\
from shapes_connect import ShapesService, ShapesServiceWSGIApplication


class Shapes(ShapesService):
    def __getattribute__(self, name):
        return lambda request, ctx: request


app = ShapesServiceWSGIApplication(Shapes())
"""
"""A service that answers every request with itself."""


def write_shapes(folder: Path) -> None:
    """Write the service of `tests/shapes` into a folder, as ``server.py`` with what it imports."""
    generate(
        folder / "gen",
        _SHAPES,
        *(Path("shapes.proto"), Path("old.proto")),
        plugins=[beside_python("protoc-gen-connect-sync")],
        outputs={"python": "", "connect-sync": ""},
    )
    (folder / "server.py").write_text(_SHAPES_SERVER)


def read_commands(banner: str) -> list[str]:
    """Return the commands in a banner, as somebody copies them."""
    return [line.strip() for line in banner.splitlines() if line.startswith("    curl ")]


class Serving:
    """A running ``connect-sync serve``, its processes a group of their own, as in a terminal."""

    def __init__(self, folder: Path, *arguments: str, paths: tuple[Path, ...] = ()) -> None:
        """Start it in ``folder``; ``paths`` is where else Python looks for modules."""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [beside_python("connect-sync"), "serve", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""
        """What it has written, as far as that was waited for."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._url: str | None = None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line in which ``pattern`` is found."""
        for line in self._new_lines():
            match = re.search(pattern, line)
            if match is not None:
                return match
        raise AssertionError(f"it has ended without {pattern!r}:\n{self.output}")

    def read_banner(self) -> str:
        """Return what it says when it serves."""
        first = self.wait_for(r"^connect-sync serves \S+ at ([^ ,]+)")
        self._url = first[1]
        start = len(self.output)
        self.wait_for("Ctrl-C")
        return first.string + self.output[start:]

    @property
    def url(self) -> str:
        """Where it serves, as it has said in its banner."""
        if self._url is None:
            self.read_banner()
        assert self._url is not None
        return self._url

    @property
    def port(self) -> int:
        port = parse_url(self.url).port
        assert port is not None
        return port

    @property
    def pid(self) -> int:
        """The id of the first process."""
        return self._process.pid

    def connect(self) -> Connection:
        return Connection(self.port)

    def interrupt(self) -> None:
        """Press Ctrl-C: all processes in the foreground of a terminal get the signal."""
        self.send_signal_to_all(signal.SIGINT)

    def send_signal_to_all(self, number: signal.Signals) -> None:
        """Send a signal to all processes."""
        os.killpg(self._process.pid, number)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process alone."""
        self._process.send_signal(number)

    def wait_for_end(self) -> int:
        """Return the exit status, when nobody holds the output any more."""
        for _ in self._new_lines():
            pass
        return self._process.wait(PATIENCE)

    def _new_lines(self) -> Iterator[str]:
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"nothing more is written:\n{self.output}") from None
            if line is None:
                return
            self.output += line
            yield line

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        print(self.output)
