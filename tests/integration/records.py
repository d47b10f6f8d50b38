"""The test's end of what `watched` tells of each call."""

from __future__ import annotations

import json
import socket
from typing import NamedTuple

from tests.integration.wire import PATIENCE


class End(NamedTuple):
    """The error of a call that failed."""

    code: str
    message: str
    cause: str
    """The name of the class of the error's cause; empty if it has none."""


class Record(NamedTuple):
    """What became of a call."""

    starts: int
    """How often ``on_start`` ran."""
    ends: list[End | None]
    """What ``on_end`` was given, each time that it ran."""
    error: End | None
    """The error in the environ."""
    is_same_error: bool
    """Whether that is the very error of ``on_end``, and ``on_end`` ran once."""
    is_told_before_last_chunk: bool
    """Whether it was in the environ before the last chunk of the response was sent."""
    is_one_thread: bool
    """Whether ``on_start`` and ``on_end`` ran in one thread, or greenlet."""
    is_one_context: bool
    """Whether a context variable that ``on_start`` set was set in ``on_end``."""
    is_first_in_context: bool
    """Whether that variable was unset before."""
    thread: str
    """The process and the thread that served the call."""
    raised: str | None
    """The name of the class of what came out of the application in place of a response."""

    def end(self) -> End | None:
        """Return how the call ended; None for a success."""
        assert (self.starts, len(self.ends)) == (1, 1), self
        assert self.is_one_thread
        assert self.is_one_context
        assert self.is_first_in_context
        assert self.is_same_error, self
        return self.ends[0]

    @property
    def code(self) -> str | None:
        """The code of the error with which the call ended."""
        end = self.end()
        return None if end is None else end.code


class Running:
    """A call that may be running."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        with sock:
            self._lines = sock.makefile("r", encoding="utf-8")

    def wait_for_start(self) -> None:
        """Wait until ``on_start`` runs."""
        assert self._lines.readline() == "start\n"

    def wait(self) -> Record:
        """Return the record, once the server is done with the response."""
        with self._lines as lines:
            *_, last = lines
        content = json.loads(last)
        content["ends"] = [end and End(*end) for end in content["ends"]]
        content["error"] = content["error"] and End(*content["error"])
        return Record(**content)


class Records:
    """Takes the records of calls, in the order in which these begin."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        host, port = self._listener.getsockname()
        self.headers = {"record": f"{host}:{port}"}

    def next(self) -> Running:
        """Return the next call."""
        sock, _ = self._listener.accept()
        return Running(sock)

    def is_empty(self) -> bool:
        """Tell, without waiting, whether no further call has begun."""
        self._listener.setblocking(False)
        try:
            self.next()
        except BlockingIOError:
            return True
        finally:
            self._listener.settimeout(PATIENCE)
        return False

    def close(self) -> None:
        self._listener.close()
