"""Apache with mod_wsgi, as Debian has it, set up as docs/servers.md says."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path

from echo.v1.echo_connect import EchoServiceClient

from connect_sync import ProtocolType
from tests.integration.http2 import Http2Connection
from tests.integration.wire import PATIENCE, Connection

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "servers.md"
ENVIRONMENT = _ROOT / "build" / "system" / "apache"
_MODULES = Path("/usr/lib/apache2/modules")

# What Apache wants beside what the page shows. `User` counts where root starts it.
_CONFIGURATION = """
ServerRoot "{directory}"
ServerName localhost
PidFile "{directory}/apache.pid"
DefaultRuntimeDir "{directory}"
ErrorLog /dev/stderr
LogLevel notice
User www-data
Group www-data
{modules}
Listen 127.0.0.1:{port}
Protocols h2c http/1.1
ServerLimit 1
StartServers 1
ThreadsPerChild 16
MaxRequestWorkers 16
MinSpareThreads 1
MaxSpareThreads 16
ThreadLimit 16
WSGISocketPrefix "{directory}/wsgi"
{shown}
"""


class Mode(Enum):
    """Where the application runs."""

    EMBEDDED = "embedded"
    """In Apache's own processes."""
    DAEMON = "daemon"
    """In processes that mod_wsgi starts for it."""


class Apache:
    """Apache with one process for the application of `apache_site`."""

    def __init__(self, mode: Mode, changes: Mapping[str, str] | None = None) -> None:
        """Start one. ``changes`` are to what the page shows: by what is there, what stands there instead."""
        with ExitStack() as stack:
            # Where root starts Apache, its processes are another user's, who can read neither the checkout
            # nor pytest's folders, if these are root's alone.
            folder = tempfile.TemporaryDirectory(prefix="connect-sync-apache-")
            directory = Path(stack.enter_context(folder))
            site = directory / "site"
            _make_site(site)
            subprocess.run(["chmod", "--recursive", "a+rX", directory], check=True)
            # A port that is bound is nobody else's. Apache can bind it too, since nobody listens there yet.
            reserved = stack.enter_context(socket.socket())
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.port: int = reserved.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
            configuration = directory / "apache.conf"
            configuration.write_text(
                _CONFIGURATION.format(
                    directory=directory,
                    modules="\n".join(map(_load, ("mpm_event", "authz_core", "reqtimeout", "http2", "wsgi"))),
                    port=self.port,
                    shown=_change(_shown(mode), {"/srv/greet": str(site), **(changes or {})}),
                )
            )
            self._log: list[str] = []
            self._process = subprocess.Popen(
                # It ends with the process of the tests, even where that is killed.
                ["setpriv", "--pdeathsig", "TERM", "apache2", "-f", configuration, "-D", "FOREGROUND"],
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(self._stop)
            self._await_start()
            self._stack = stack.pop_all()

    def connect(self) -> Connection:
        return Connection(self.port)

    def connect_http2(self) -> Http2Connection:
        return Http2Connection(self.port)

    @contextmanager
    def client(
        self, protocol: ProtocolType = ProtocolType.CONNECT, compression: str | None = None
    ) -> Iterator[EchoServiceClient]:
        """Lend a client of the service."""
        with EchoServiceClient(self.url, protocol=protocol, send_compression=compression) as client:
            yield client

    def close(self) -> None:
        """End it, and show what it has written."""
        self._stack.close()
        print("".join(self._log))

    def _await_start(self) -> None:
        """Wait until it listens, of which it tells."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if "resuming normal operations" in line:
                return
        raise AssertionError("Apache has not started:\n" + "".join(self._log))

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._log.append(self._process.communicate(timeout=PATIENCE)[1])
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise


def _load(name: str) -> str:
    return f'LoadModule {name}_module "{_MODULES}/mod_{name}.so"'


def _shown(mode: Mode) -> str:
    """Return what the page shows for that mode."""
    common, embedded, daemon = re.findall(r"```apache\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return f"{common}{embedded if mode is Mode.EMBEDDED else daemon}"


def _change(text: str, changes: Mapping[str, str]) -> str:
    for shown, real in changes.items():
        assert shown in text
        text = text.replace(shown, real)
    return text


def _make_site(site: Path) -> None:
    """Write the application with all that it imports."""
    shutil.copytree(ENVIRONMENT, site / "venv", symlinks=True)
    for name in ("connect_sync", "wsgi_adapters", "tests/integration"):
        shutil.copytree(_ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_ROOT / "tests" / "gen", site, dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("apache_site.py"), site / "server.py")
