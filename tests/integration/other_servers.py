"""The WSGI servers that are not gunicorn, each a process that serves the application of `service`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from tests.integration.wire import PATIENCE, Connection

_ROOT = Path(__file__).resolve().parents[2]
_LAUNCH = (sys.executable, "-u", "-m", "tests.integration.launch")


class Kind(NamedTuple):
    """A server, and what can be expected of it: the row of docs/servers.md."""

    command: tuple[str, ...]
    has_live_requests: bool = True
    """Whether a message reaches its handler when it arrives, and not when the body has ended."""
    deadline_on_chunks: bool = False
    """Whether a call's deadline ends a read that waits for a chunk."""
    deadline_on_lengths: bool = False
    """Whether a call's deadline ends a read that waits for the rest of a body of known length."""
    answers_early: bool = True
    """Whether an answer leaves before the rest of a body of known length has come."""


KINDS = {
    "werkzeug": Kind((*_LAUNCH, "werkzeug"), deadline_on_chunks=True, deadline_on_lengths=True),
    "wsgiref": Kind((*_LAUNCH, "wsgiref")),
    "cheroot": Kind((*_LAUNCH, "cheroot"), answers_early=False),
    "waitress": Kind((*_LAUNCH, "waitress"), has_live_requests=False, answers_early=False),
    "uWSGI": Kind(
        (
            str(Path(sys.executable).with_name("uwsgi")),
            *("--http-socket", "127.0.0.1:0", "--module", "tests.integration.service:application"),
            *("--master", "--die-on-term", "--need-app", "--threads", "4", "--socket-timeout", "60"),
            # It closes each connection without a word, and takes no chunks above 1 MiB, unless it is told.
            *("--add-header", "Connection: close", "--chunked-input-limit", str(5 << 20)),
        ),
        deadline_on_chunks=True,
    ),
}

_announces_port = re.compile(r"(\d+)\n|.* bound to TCP address 127\.0\.0\.1:(\d+) .*\n").fullmatch


class OtherServer:
    """A server that runs."""

    def __init__(self, kind: Kind) -> None:
        """Start one, and wait for its port."""
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            kind.command,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests' / 'gen'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self._read_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._reader = Thread(target=self._read_output)
        self._reader.start()

    def connect(self) -> Connection:
        return Connection(self.port)

    def output(self) -> str:
        """Return what the server has written."""
        return "".join(self._lines)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._reader.join(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _read_port(self) -> int:
        for line in self._output_lines():
            match = _announces_port(line)
            if match is not None:
                return int(match[1] or match[2])
        raise AssertionError(f"the server has ended: {self.output()}")

    def _read_output(self) -> None:
        for _ in self._output_lines():
            pass

    def _output_lines(self) -> Iterator[str]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            self._lines.append(line)
            yield line
