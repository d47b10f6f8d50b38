"""Real servers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TypeVar

import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest

from connect_sync import ProtocolType, ResponseMetadata
from tests.integration.certificates import Certificates
from tests.integration.dialects import Dialect
from tests.integration.http2 import Http2Connection
from tests.integration.wire import FAULTS_PATH, PATIENCE, Connection, Reply, head, post

_ROOT = Path(__file__).resolve().parents[2]

_DEFAULT_APPLICATION = "tests.integration.service:application"


class Tls(Enum):
    """Who shows a certificate."""

    NOBODY = "plain"
    SERVER = "TLS"
    BOTH = "mutual TLS"


class Gunicorn:
    """gunicorn with one worker process, which serves the application of `service`, or another one."""

    def __init__(
        self,
        output: Path,
        worker: str,
        *options: str,
        application: str = _DEFAULT_APPLICATION,
        certificates: Certificates | None = None,
        is_mutual: bool = False,
        packages: Path | None = None,
    ) -> None:
        """Start one, over TLS if there are ``certificates``; ``is_mutual``: for clients that have one, too.

        What is installed in the folder ``packages`` stands before what the environment has.
        Its socket is bound here, so that no other process can take the port.
        """
        self.worker = worker
        self.tls: ssl.SSLContext | None = None
        if certificates is not None:
            self.tls = certificates.client_context(certificate="known" if is_mutual else "none")
            path = str(certificates.server)
            options += ("--certfile", path, "--keyfile", path)
            if is_mutual:
                options += ("--ca-certs", str(certificates.authority))
                options += ("--cert-reqs", str(int(ssl.CERT_REQUIRED)))
        self._output = output
        self._shown = 0
        paths = [_ROOT, _ROOT / "tests" / "gen"]
        if packages is not None:
            paths.insert(0, packages)
        with socket.create_server(("127.0.0.1", 0)) as listener, output.open("wb") as log:
            # gunicorn does this also, but only when the first connections may be there already.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn"),
                    *("--config", str(Path(__file__).with_name("gunicorn.conf.py"))),
                    *("--bind", f"fd://{listener.fileno()}"),
                    *("--worker-class", worker),
                    *options,
                    application,
                ],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        # From here on the socket is gunicorn's alone: were it to end, a connection would be refused.
        self.url = f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def connect(self) -> Connection:
        return Connection(self.port, self.tls)

    @contextmanager
    def client(
        self,
        *,
        proto_json: bool = False,
        protocol: ProtocolType = ProtocolType.CONNECT,
        compression: str | None = None,
    ) -> Iterator[EchoServiceClient]:
        """Lend a client of the service."""
        with urllib3.PoolManager(ssl_context=self.tls) as manager:
            yield EchoServiceClient(
                self.url,
                proto_json=proto_json,
                protocol=protocol,
                send_compression=compression,
                pool_manager=manager,
            )

    def call(self, request: bytes) -> Reply:
        """Return the answer to a request on a connection of its own."""
        with self.connect() as connection:
            connection.send(request)
            return connection.read_reply()

    def serves(self) -> bool:
        """Tell whether a thread is free to answer."""
        try:
            return self.call(post("Echo", {"content-type": "application/proto"}, b"")).status == 200
        except (OSError, AssertionError):
            return False

    def peak_memory(self) -> int:
        """Return how many bytes of memory the worker has had at most."""
        with self.client() as client, ResponseMetadata() as metadata:
            client.echo(EchoRequest())
        status = Path("/proc", metadata.headers()["process"], "status").read_text()
        (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024

    def faults(self) -> list[str]:
        """Return in which calls hooks went wrong, of an application that `watched` watches."""
        reply = self.call(head(f"GET {FAULTS_PATH} HTTP/1.1", {"host": "test"}))
        content = json.loads(reply.body)
        assert content["requests"] > 0
        faults: list[str] = content["faults"]
        return faults

    def new_output(self) -> str:
        """Return what the server has written since this was last asked."""
        output = self._output.read_text(errors="replace")
        shown, self._shown = self._shown, len(output)
        return output[shown:]

    def stop(self) -> None:
        self.ask_to_stop()
        self.wait_for_end()

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)

    def wait_for_end(self) -> None:
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


class Http2Gunicorn(Gunicorn):
    """gunicorn that speaks HTTP/2 as well; without TLS, nothing else."""

    def __init__(
        self,
        output: Path,
        worker: str,
        *options: str,
        application: str = _DEFAULT_APPLICATION,
        certificates: Certificates | None = None,
        packages: Path | None = None,
    ) -> None:
        """Start one: see `Gunicorn`."""
        http2 = ["--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge"]
        super().__init__(
            output,
            worker,
            *http2,
            *options,
            application=application,
            certificates=certificates,
            packages=packages,
        )
        self._http2_tls = None if certificates is None else certificates.client_context(is_http2=True)

    def connect_http2(
        self, *, window: int | None = None, receive_buffer: int | None = None
    ) -> Http2Connection:
        return Http2Connection(self.port, self._http2_tls, window=window, receive_buffer=receive_buffer)

    def serves(self) -> bool:
        try:
            with self.connect_http2() as connection:
                return connection.open("Echo", Dialect.GRPC.headers, is_whole=True).read_reply().status == 200
        except (OSError, AssertionError):
            return False


_Key = tuple[str, Tls]
_GunicornT = TypeVar("_GunicornT", bound=Gunicorn)


# Each of gunicorn's parsers is that of a worker.
_PARSERS = {"sync": "python", "gthread": "fast", "gevent": "fast"}


class Servers:
    """The servers of an application that tests share, each started when it is first wanted."""

    def __init__(
        self, directory: Path, certificates: Certificates, application: str = _DEFAULT_APPLICATION
    ) -> None:
        self._directory = directory
        self._certificates = certificates
        self._application = application
        self._running: dict[_Key, Gunicorn] = {}
        self._running_http2: dict[_Key, Http2Gunicorn] = {}
        self._started = 0

    def lend(self, worker: str, tls: Tls = Tls.NOBODY) -> Iterator[Gunicorn]:
        """Yield a server, for one test. What it wrote is shown if the test fails."""
        return self._lend(self._running, (worker, tls), self._start)

    def lend_http2(self, worker: str, tls: Tls) -> Iterator[Http2Gunicorn]:
        """Yield a server that speaks HTTP/2, in the same way."""
        return self._lend(self._running_http2, (worker, tls), self._start_http2)

    @property
    def running(self) -> list[Gunicorn]:
        """Those that were started."""
        return [*self._running.values(), *self._running_http2.values()]

    def stop(self) -> None:
        for server in self.running:
            server.ask_to_stop()
        for server in self.running:
            server.wait_for_end()

    def _lend(
        self, running: dict[_Key, _GunicornT], key: _Key, start: Callable[[str, Tls], _GunicornT]
    ) -> Iterator[_GunicornT]:
        if key not in running:
            running[key] = start(*key)
        server = running[key]
        yield server
        if not server.serves():
            # The test has failed, and left the server's only thread where it was: the next gets a new one.
            del running[key]
            server.stop()
        print(server.new_output())

    def _start(self, worker: str, tls: Tls) -> Gunicorn:
        certificates = self._certificates_for(tls)
        return Gunicorn(
            self._output(),
            worker,
            *("--http-parser", _PARSERS[worker]),
            application=self._application,
            certificates=certificates,
            is_mutual=tls is Tls.BOTH,
        )

    def _start_http2(self, worker: str, tls: Tls) -> Http2Gunicorn:
        return Http2Gunicorn(
            self._output(),
            worker,
            application=self._application,
            certificates=self._certificates_for(tls),
        )

    def _certificates_for(self, tls: Tls) -> Certificates | None:
        return None if tls is Tls.NOBODY else self._certificates

    def _output(self) -> Path:
        self._started += 1
        return self._directory / f"gunicorn-{self._started}.log"
