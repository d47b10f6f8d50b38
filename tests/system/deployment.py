"""The deployment of samples/deploy on one machine: two gunicorns, nginx or Envoy in front, and clients.

What runs are the sample's own files. In those of the proxies, addresses and paths are replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest

from connect_sync import Code, ConnectError, IdempotencyLevel, ProtocolType, RequestContext
from tests.integration.certificates import Certificates
from tests.integration.wire import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "deploy"

_BACKLOG = 2048


class Port:
    """A port of this machine that no other program takes, whoever listens there, or nobody."""

    def __init__(self) -> None:
        # A socket that is bound and does not listen: who connects is refused.
        self._holder = self._bind(0)
        self.number: int = self._holder.getsockname()[1]

    def listen(self) -> socket.socket:
        """Return a socket that listens there, to be handed over to a server."""
        listener = self._bind(self.number)
        listener.listen(_BACKLOG)
        # As servers expect it of those that they are handed.
        listener.setblocking(False)
        return listener

    def close(self) -> None:
        self._holder.close()

    @staticmethod
    def _bind(number: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", number))
        return bound


class Server:
    """A server at a port of its own: a program, with all processes that it starts."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self._output = self.directory / "output.log"
        self._output.touch()
        self._port = Port()
        self.port = self._port.number
        self._process: subprocess.Popen[bytes] | None = None

    def _start(
        self, command: list[str], listener: socket.socket | None = None, cwd: Path = ROOT, **environ: str
    ) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **environ},
                pass_fds=[] if listener is None else [listener.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send_signal(self, number: signal.Signals, *, to_all: bool = False) -> None:
        """Send a signal to the program, or to all of its processes."""
        assert self._process is not None
        if to_all:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def is_running(self) -> bool:
        """Tell whether the program has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_for_end(self) -> int:
        """Return with which status the program has ended."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End all processes at once, without a word."""
        self.send_signal(signal.SIGKILL, to_all=True)
        self.wait_for_end()

    def close(self) -> None:
        if self.is_running():
            self.kill()
        self._port.close()
        # Without the calls that went well, and what Envoy could do.
        lines = [
            line for line in self.output().splitlines() if '" 200 ' not in line and "][info]" not in line
        ]
        print(f"{self.directory.name}:", *lines, sep="\n")

    def output(self) -> str:
        """Return what the program has written."""
        return self._output.read_text(errors="replace")


class Host(Server):
    """A host with gunicorn."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        """Start it; ``options`` are further ones of gunicorn's."""
        super().__init__(directory, name)
        self._options = options
        self._record = self.directory / "record"
        self._record.touch()
        self.start()

    def start(self) -> None:
        """Start gunicorn, for the first time or again."""
        self.calls_before = len(self.calls())
        with self._port.listen() as listener:
            self._start(
                [
                    *(sys.executable, "-m", "gunicorn", "--config", str(SAMPLE / "gunicorn.conf.py")),
                    *("--bind", f"fd://{listener.fileno()}", *self._options),
                    "tests.system.deployed:application",
                ],
                listener,
                PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'gen'}",
                RECORD=str(self._record),
            )

    def await_answer(self) -> None:
        """Wait until a worker has loaded the application."""
        assert urllib3.request("GET", f"http://127.0.0.1:{self.port}/healthz", timeout=PATIENCE).status == 200

    def restart(self) -> None:
        """Restart gunicorn as an operator does: let its calls end before."""
        self.send_signal(signal.SIGTERM)
        assert self.wait_for_end() == 0
        self.start()

    def calls(self) -> list[Arrival]:
        """Return the calls that have come here, and have a name."""
        return [Arrival(*line.split(" ", 3)) for line in self._record.read_text().splitlines()]


class Arrival(NamedTuple):
    """A call that has come to a host."""

    name: str
    connection: str
    """The other end of the connection that it came by."""
    forwarded_for: str
    """The client's address, as the proxy told."""
    subject: str
    """The subject of the client's certificate, as the proxy told."""


class Proxy(Server):
    """A proxy in front of two hosts."""

    def __init__(self, directory: Path, configuration: str, replacements: Mapping[str, str]) -> None:
        """Take the sample's ``configuration`` with ``replacements``, each of which has to be needed."""
        super().__init__(directory, Path(configuration).stem)
        text = (SAMPLE / configuration).read_text()
        for shown, real in replacements.items():
            assert shown in text, f"{configuration} has no {shown}"
            text = text.replace(shown, real.replace("{port}", str(self.port)))
        self.configuration = self.directory / configuration
        self.configuration.write_text(text)

    def check(self) -> str:
        """Have the program check its configuration, and return what it says."""
        checked = subprocess.run(
            self._command_to_check(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout
        return checked.stdout

    def await_start(self) -> None:
        """Wait until the proxy listens, if it does not from the beginning."""

    def await_host(self, host: Host) -> None:
        """Wait, while there are calls, until the proxy knows that a host is there again."""

    def stop(self) -> str:
        """End the program, and return all that it has logged."""
        self.send_signal(signal.SIGTERM)
        assert self.wait_for_end() == 0
        return self._logs()

    def _logs(self) -> str:
        return self.output()

    def _command_to_check(self) -> list[str]:
        raise NotImplementedError


# What nginx reads before the sample's file, as in its packages for distributions.
_NGINX = """
daemon off;
worker_processes 2;
pid {0}/nginx.pid;
events {{}}
http {{
    client_body_temp_path {0}/body;
    proxy_temp_path {0}/proxy;
    fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi;
    scgi_temp_path {0}/scgi;
    include {0}/nginx.conf;
}}
"""


class Nginx(Proxy):
    client_certificates = ("# ssl_client_certificate", "# ssl_verify_client")
    get_timeout = ("proxy_read_timeout 30s", "proxy_read_timeout 1s")

    def __init__(
        self, directory: Path, hosts: list[Host], certificates: Certificates, changes: Mapping[str, str]
    ) -> None:
        first, second = hosts
        replacements = {
            **changes,
            "10.0.0.11:8000": f"127.0.0.1:{first.port}",
            "10.0.0.12:8000": f"127.0.0.1:{second.port}",
            "listen 8443": "listen 127.0.0.1:{port}",
            "/etc/nginx/tls/server.pem": str(certificates.server),
            "/etc/nginx/tls/server-key.pem": str(certificates.server),
            "/etc/nginx/tls/ca.pem": str(certificates.authority),
            "/var/log/nginx/greet.log": str(directory / "nginx" / "access.log"),
            "/var/log/nginx/greet-error.log": str(directory / "nginx" / "error.log"),
        }
        super().__init__(directory, "nginx.conf", replacements)
        self._main = self.directory / "main.conf"
        self._main.write_text(_NGINX.format(self.directory))
        with self._port.listen() as listener:
            # The variable by which nginx hands its sockets over to a newer version of itself.
            self._start(self._command(), listener, NGINX=f"{listener.fileno()};")

    def _logs(self) -> str:
        files = (self.directory / name for name in ("access.log", "error.log"))
        return "".join([self.output(), *(file.read_text(errors="replace") for file in files)])

    def _command(self) -> list[str]:
        return ["nginx", "-c", str(self._main), "-e", "stderr"]

    def _command_to_check(self) -> list[str]:
        return [*self._command(), "-t"]


class Envoy(Proxy):
    client_certificates = ("# validation_context", "#   trusted_ca", "# require_client_certificate")
    get_timeout = ("per_try_timeout: 30s", "per_try_timeout: 1s")

    def __init__(
        self, directory: Path, hosts: list[Host], certificates: Certificates, changes: Mapping[str, str]
    ) -> None:
        first, second = hosts
        address = "address: {}, port_value: {}"
        replacements = {
            **changes,
            address.format("10.0.0.11", 8000): address.format("127.0.0.1", first.port),
            address.format("10.0.0.12", 8000): address.format("127.0.0.1", second.port),
            address.format("0.0.0.0", 8443): address.format("127.0.0.1", "{port}"),
            "/etc/envoy/tls/server.pem": str(certificates.server),
            "/etc/envoy/tls/server-key.pem": str(certificates.server),
            "/etc/envoy/tls/ca.pem": str(certificates.authority),
        }
        super().__init__(directory, "envoy.yaml", replacements)
        self._start([*self._command(), "--concurrency", "2", "--disable-hot-restart"])

    def _command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("envoy")), "-c", str(self.configuration)]

    def _command_to_check(self) -> list[str]:
        return [*self._command(), "--mode", "validate"]

    def await_start(self) -> None:
        wait_until(self._listens, self)

    def await_host(self, host: Host) -> None:
        # Until it has found that the host is healthy, there are no calls.
        wait_until(lambda: len(host.calls()) > host.calls_before, host)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True


def wait_until(is_so: Callable[[], bool], server: Server) -> None:
    """Look again and again whether something is so that ``server`` brings about."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert server.is_running(), server.output()
        assert time.monotonic() < end, server.output()
        time.sleep(0.05)


class Deployment:
    """Two hosts and a proxy in front of them."""

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        proxy: type[Nginx | Envoy],
        *options: str,
        has_client_certificates: bool = False,
        has_short_get_timeout: bool = False,
    ) -> None:
        """Start them.

        ``options`` are further ones of gunicorn's, the others such as the sample's comments suggest.
        """
        self._certificates = certificates
        self.hosts: list[Host] = []
        self._servers: list[Server] = []
        changes: dict[str, str] = {}
        if has_client_certificates:
            changes = {line: line.replace("# ", "", 1) for line in proxy.client_certificates}
        if has_short_get_timeout:
            changes |= dict([proxy.get_timeout])
        try:
            for name in ("first", "second"):
                self.hosts.append(Host(directory, name, *options))
                self._servers.append(self.hosts[-1])
            for host in self.hosts:
                host.await_answer()
            self.proxy = proxy(directory, self.hosts, certificates, changes)
            self._servers.append(self.proxy)
            self.proxy.await_start()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def client(
        self, *interceptors: Any, protocol: ProtocolType = ProtocolType.CONNECT, has_certificate: bool = False
    ) -> Iterator[EchoServiceClient]:
        """Lend a client of the service, which calls the proxy."""
        context = self._certificates.client_context(certificate="known" if has_certificate else "none")
        with urllib3.PoolManager(ssl_context=context) as manager:
            yield EchoServiceClient(
                f"https://localhost:{self.proxy.port}",
                protocol=protocol,
                interceptors=interceptors,
                pool_manager=manager,
            )

    def arrivals(self) -> list[Arrival]:
        """Return the calls that have come to the hosts."""
        return [arrival for host in self.hosts for arrival in host.calls()]

    def close(self) -> None:
        for server in reversed(self._servers):
            server.close()


class Retries:
    """Makes a call again that may be repeated, as docs/interceptors.md has it, and tells why it had to."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def intercept_unary(self, call_next: Callable[..., Any], request: Any, ctx: RequestContext) -> Any:
        try:
            return call_next(request, ctx)
        except ConnectError as error:
            if ctx.method().idempotency is IdempotencyLevel.UNKNOWN or error.code is not Code.UNAVAILABLE:
                raise
            self.reasons.append(error.message)
        return call_next(request, ctx)


class Load:
    """Threads that make calls, one after the other, until they are told to stop."""

    def __init__(self, deployment: Deployment, *, threads: int = 3) -> None:
        """Begin to call ``deployment``, by ``threads`` threads for each kind of call."""
        self._deployment = deployment
        self.retries = Retries()
        self.succeeded: dict[str, int] = {}
        self.failed: dict[str, list[str]] = {}
        self._is_over = False
        self._changed = threading.Condition()
        self._threads = []
        for kind in ("get", "post", "client stream", "server stream"):
            self.succeeded[kind] = 0
            self.failed[kind] = []
            for number in range(threads):
                name = f"{kind.replace(' ', '-')}-{number}"
                self._threads.append(threading.Thread(target=self._call, args=(kind, name)))
        for thread in self._threads:
            thread.start()

    def await_calls(self, number: int) -> None:
        """Wait until so many more calls of each kind have succeeded."""
        with self._changed:
            goals = {kind: succeeded + number for kind, succeeded in self.succeeded.items()}
            reached = self._changed.wait_for(
                lambda: all(self.succeeded[kind] >= goal for kind, goal in goals.items()), timeout=PATIENCE
            )
        assert reached, (self.succeeded, self.failed)

    def calls_that_came_twice(self) -> list[str]:
        """Return those that are not by GET, and have come to the hosts more than once."""
        arrivals = Counter(arrival.name for arrival in self._deployment.arrivals())
        return [name for name, times in arrivals.items() if times > 1 and not name.startswith("get")]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the calls, and tell of them."""
        self._is_over = True
        for thread in self._threads:
            thread.join()
        print(f"succeeded: {self.succeeded}")
        print(f"failed: {self.failed}")
        print(f"made again: {self.retries.reasons}")

    def _call(self, kind: str, thread: str) -> None:
        with self._deployment.client(self.retries) as client:
            for number in count():
                if self._is_over:
                    return
                name = f"{thread}-{number}"
                try:
                    payload = self._make(client, kind, EchoRequest(payload=name.encode()), name)
                except ConnectError as error:
                    self._note(kind, f"{error}")
                else:
                    self._note(kind, None if payload == name.encode() else f"answered with {payload!r}")

    def _note(self, kind: str, error: str | None) -> None:
        with self._changed:
            if error is None:
                self.succeeded[kind] += 1
            else:
                self.failed[kind].append(error)
            self._changed.notify_all()

    @staticmethod
    def _make(client: EchoServiceClient, kind: str, request: EchoRequest, name: str) -> bytes:
        headers = {"call": name, "slow": "yes"}
        if kind == "get":
            return client.echo_safely(request, headers=headers, use_get=True).payload
        if kind == "post":
            return client.echo(request, headers=headers).payload
        if kind == "client stream":
            half = len(request.payload) // 2
            parts = (request.payload[:half], request.payload[half:])
            return client.collect((EchoRequest(payload=part) for part in parts), headers=headers).payload
        request.times = 3
        first, *others = (response.payload for response in client.repeat(request, headers=headers))
        assert others == [first] * 2
        return first


class Image(Server):
    """What the sample's Dockerfile makes, without containers.

    Its commands run as they stand there, but for paths, which are below a directory. All stages share it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "image")
        self._root = directory / "root"
        self._workdir = self._root
        self._environ: dict[str, str] = {}
        self._command: list[str] = []
        self._ignored = (SAMPLE / "Dockerfile.dockerignore").read_text().splitlines()

    def build(self) -> None:
        """Do what the Dockerfile says."""
        lines = (SAMPLE / "Dockerfile").read_text().replace("\\\n", "").splitlines()
        for line in lines:
            instruction, _, rest = line.partition(" ")
            if instruction in ("", "#", "USER", "EXPOSE"):
                continue
            if instruction == "FROM":
                self._environ = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            elif instruction == "WORKDIR":
                self._workdir = self._below(rest)
                self._workdir.mkdir(parents=True)
            elif instruction == "ENV":
                for pair in rest.split():
                    name, _, value = pair.partition("=")
                    value = value.replace("$PATH", self._environ["PATH"])
                    self._environ[name] = self._mapped(value) if value.startswith("/") else value
            elif instruction == "COPY":
                self._copy(*rest.split())
            elif instruction == "CMD":
                self._command = json.loads(rest)
            elif instruction == "RUN":
                self._run(rest)
            else:
                raise AssertionError(f"what is {instruction}?")

    def run(self) -> str:
        """Run it, and return its address."""
        with self._port.listen() as listener:
            bind = ["--bind", f"fd://{listener.fileno()}"]
            self._start([*self._command, *bind], listener, cwd=self._workdir, **self._environ)
        return f"http://127.0.0.1:{self.port}"

    def _copy(self, *arguments: str) -> None:
        *sources, destination = arguments
        if sources[0].startswith("--from="):
            origin, sources = self._root, [source.lstrip("/") for source in sources[1:]]
        else:
            origin = ROOT
            # All is ignored, but for what is named.
            assert not [source for source in sources if f"!{source}" not in self._ignored]
        to = self._below(destination)
        for source in sources:
            path = origin / source
            if path == to:
                continue
            if path.is_dir():
                shutil.copytree(path, to, dirs_exist_ok=True)
            else:
                shutil.copy(path, to)

    def _run(self, command: str) -> None:
        if command.startswith("useradd"):
            return  # a user of this machine is not for a test to make
        environ = {**os.environ, **self._environ}
        subprocess.run(self._mapped(command), shell=True, cwd=self._workdir, env=environ, check=True)

    def _below(self, path: str) -> Path:
        return self._root / path.lstrip("/") if path.startswith("/") else self._workdir / path

    def _mapped(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(venv|protoc)\b", rf"{self._root}/\1", text)
