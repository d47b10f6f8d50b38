"""Chromium, without a window, and the page that goes through the scenarios in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import urllib3
from interop.v1.interop_connect import InteropServiceClient
from interop.v1.interop_pb2 import StartedRequest

from tests.integration.servers import Gunicorn
from tests.interop.scenarios import EXPECTED, PATIENCE, Variant, leave_out_hidden

_SCRIPT = Path(__file__).resolve().parents[2] / "build" / "system" / "page.js"
_PAGE = b"""<!doctype html>
<title>interop</title>
<link rel="icon" href="data:,">
<script type="module" src="/page.js"></script>
"""

_CHROMIUM = (
    "chromium",
    "--headless",
    # The sandbox needs rights that root and containers lack; the page is our own.
    "--no-sandbox",
    # Where /dev/shm is small, as in containers, pages crash.
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    # What is written to the console, where a browser tells why it has refused a call.
    "--enable-logging=stderr",
)


class Task(NamedTuple):
    """What a page does."""

    client: str
    """``connect-web``, or ``grpc-web`` or ``grpc-web-promise`` for either client of that package."""
    service: Gunicorn
    """Who serves `tests.interop.cors_service`."""
    variant: Variant
    scenarios: Collection[str]
    mount: str = "full"
    """Below which of its paths the page calls the service."""
    with_credentials: bool = False

    @property
    def address(self) -> str:
        return f"{self.service.url}/{self.mount}"

    def to_json(self) -> str:
        """Write the task as page.js reads it."""
        return json.dumps(
            {
                "client": self.client,
                "service": self.address,
                "protocol": self.variant.protocol,
                "format": self.variant.format,
                "leftOut": [scenario for scenario in EXPECTED if scenario not in self.scenarios],
                "withCredentials": self.with_credentials,
            }
        )


class Visit(NamedTuple):
    """What came of a task."""

    outcomes: dict[str, Any]
    """Of each scenario, by its name; of ``page``, if that could not get so far."""
    console: str
    """What the browser had to say."""


class Site(ThreadingHTTPServer):
    """An origin with a page.

    It sets a cookie, which the service gets too where calls carry cookies: these do not tell ports apart.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self._browser: subprocess.Popen[str] | None = None
        self.task: Task | None = None
        self._outcomes = ""
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def visit(self, task: Task, *options: str) -> Visit:
        """Have a new browser do a task. ``options`` are further ones of Chromium's."""
        self.task = task
        self._outcomes = ""
        with _browsing(self.origin, *options) as self._browser:
            # Until the page has reported.
            _, log = self._browser.communicate(timeout=PATIENCE)
        outcomes = map(json.loads, self._outcomes.splitlines())
        return Visit(
            {outcome.pop("scenario"): outcome for outcome in outcomes},
            "\n".join(line for line in log.splitlines() if "CONSOLE" in line),
        )

    def wait_for_start(self, key: str) -> None:
        """Wait until the service has got a key."""
        assert self.task is not None
        with urllib3.PoolManager(ssl_context=self.task.service.tls) as manager:
            client = InteropServiceClient(self.task.address, pool_manager=manager)
            client.started(StartedRequest(key=key))

    def hear(self, outcomes: str) -> None:
        """Take what the page reports, and end the browser."""
        assert self._browser is not None
        self._outcomes = outcomes
        self._browser.terminate()


def read_console(address: str, lines: int) -> list[str]:
    """Have a new browser open a page, and return the first ``lines`` that this writes to the console."""
    with _browsing(address) as browser:
        assert browser.stderr is not None
        watchdog = threading.Timer(PATIENCE, browser.terminate)
        watchdog.start()
        try:
            written = map(_match_console, browser.stderr)
            return [match[1] for match in islice(filter(None, written), lines)]
        finally:
            watchdog.cancel()


_match_console = re.compile(r'\[.*:CONSOLE.*?\] "(.*)", source: .*\n').fullmatch


@contextmanager
def _browsing(address: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a browser that opens a page."""
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [*_CHROMIUM, f"--user-data-dir={profile}", *options, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            yield browser
        finally:
            if browser.poll() is None:
                os.killpg(browser.pid, signal.SIGKILL)
                browser.communicate()


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        if self.path == "/page.js":
            self._answer("text/javascript", _SCRIPT.read_bytes())
        elif self.path == "/task":
            assert self.server.task is not None
            self._answer("application/json", self.server.task.to_json().encode())
        elif self.path.startswith("/started?"):
            self.server.wait_for_start(self.path.partition("?")[2])
            self._answer("text/plain", b"")
        else:
            self._answer("text/html", _PAGE)

    def do_POST(self) -> None:
        outcomes = self.rfile.read(int(self.headers["content-length"]))
        self._answer("text/plain", b"")
        self.server.hear(outcomes.decode())

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", f"{content_type}; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("set-cookie", "visited=yes")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


# Pages do not compress requests. Compressed responses are the browser's own affair: it decompresses them, and
# keeps the header that tells of it from pages of other origins.
_HIDDEN = {"compressed": ("request_encoding", "response_encoding")}


class Browsers:
    """Browsers that go through all scenarios of a client and a variant, each pair in a browser of its own."""

    def __init__(self, site: Site, service: Gunicorn, *options: str) -> None:
        """Take whose page is visited, which service it calls, and further options of Chromium's."""
        self._site = site
        self._service = service
        self._options = options
        self._visits: dict[tuple[str, Variant], Visit] = {}

    def check(
        self, client: str, variant: Variant, scenario: str, *, left_out: Mapping[str, Collection[str]]
    ) -> None:
        """Compare what came of a scenario with what should have.

        ``left_out`` has the scenarios that the client has no way to do, by protocol.
        """
        if (client, variant) not in self._visits:
            scenarios = EXPECTED.keys() - set(left_out[variant.protocol])
            task = Task(client, self._service, variant, scenarios)
            self._visits[client, variant] = self._site.visit(task, *self._options)
        outcomes, console = self._visits[client, variant]
        print(console, self._service.new_output(), sep="\n")
        outcome = outcomes.get(scenario) or outcomes.get("page", {"crash": "not tried"})
        result = outcome.get("result", outcome)
        expected = leave_out_hidden(scenario, EXPECTED[scenario], _HIDDEN)
        assert leave_out_hidden(scenario, result, _HIDDEN) == expected
