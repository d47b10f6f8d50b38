"""Runs the sample: the service under gunicorn, client.py, and calls in JSON. Exits 0 on success.

Client and server print into one pipe, which preserves the order of their lines. They are shown as they
arrive, and compared with the expected lines below. In a stream, no message is created before the previous one
has been seen on the other side: a message stuck in a buffer would block the demo.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

CALLS = """
Unary: Greet
client  -> 'Grace'
server  <- 'Grace'
server  Greet by guest: ok
client  <- 'Bonjour, Grace!', greet-version v1

Client streaming: GreetGroup (type names, one per line, and end with Ctrl-D)
client  -> 'Jane'
server  <- 'Jane'
client  -> 'John'
server  <- 'John'
client  -> 'Ada'
server  <- 'Ada'
server  GreetGroup by guest: ok
client  <- 'Hello, Jane and John and Ada!'

Server streaming: GreetIndividuals
client  -> 'Jane,John,Ada'
server  <- 'Jane,John,Ada'
server  -> 'Hello, Jane!'
client  <- 'Hello, Jane!'
server  -> 'Hello, John!'
client  <- 'Hello, John!'
server  -> 'Hello, Ada!'
client  <- 'Hello, Ada!'
server  GreetIndividuals by guest: ok

Bidirectional streaming: GreetEveryone
client  <- unimplemented: greet.v1.GreetService.GreetEveryone ...

An error with a detail
client  -> ''
server  <- ''
server  Greet by guest: invalid_argument: name must not be empty
client  <- invalid_argument: name must not be empty (fields: name)

No token, no call
client  <- Greet: unauthenticated: a bearer token is required
client  <- GreetGroup: unauthenticated: a bearer token is required
client  <- GreetIndividuals: unauthenticated: a bearer token is required
"""
"""The expected output of client.py and the server, in order. Dots stand for the rest of a line."""

TYPED = {
    "Client streaming: GreetGroup (type names, one per line, and end with Ctrl-D)": "Jane\n",
    "server  <- 'Jane'": "John\n",
    "server  <- 'John'": "Ada\n",
    "server  <- 'Ada'": None,
}
"""The input typed into client.py after each line; None stands for Ctrl-D."""

STEPS = {"client  <- 'Hello, Jane!'", "client  <- 'Hello, John!'", "client  <- 'Hello, Ada!'"}
"""The lines that must appear before the server continues its stream."""

JSON_CALL = """\
server  <- 'Joan'
server  Greet by guest: ok
{tool:6}  <- {{"greeting": "Hello, Joan!"}}
"""
"""The expected output for a call in JSON."""

HERE = Path(__file__).parent
LIMIT = 30  # Seconds to wait for a line, or for an answer.
PAUSE = 0.4  # Seconds between the messages of a stream, only to make the demo easier to follow.


def main() -> None:
    """Run the demonstration."""
    # End by an exception, so that gunicorn is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with closing(Transcript()) as transcript, serving(transcript) as (server, address):
        call_by_client(transcript, server, address)
        call_in_json(transcript, address)
    print("\nEverything worked.")


class Transcript:
    """The output of the programs, shown with the milliseconds since the last title."""

    def __init__(self) -> None:
        """Open the pipe to print into."""
        reader, writer = os.pipe()
        self.output = writer
        self._lines = os.fdopen(reader, encoding="utf-8")
        self._began = time.monotonic()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.output)
        self._lines.close()

    def title(self, text: str) -> None:
        """Print a title."""
        print(text, flush=True)
        self._began = time.monotonic()

    def follow(self, expected: str) -> Iterator[str]:
        """Yield the lines as they arrive; exit if they differ from those expected, or do not arrive."""
        for pattern in expected.splitlines():
            line = self._read(pattern)
            if line[6:8] == "  ":
                print(f"{1000 * (time.monotonic() - self._began):6.0f} ms  {line}", flush=True)
            else:
                self.title(line)
            start, dots, _ = pattern.partition("...")
            if not (line.startswith(start) if dots else line == pattern):
                sys.exit(f"Expected instead: {pattern}")
            yield line

    def _read(self, pattern: str) -> str:
        def give_up(*_: object) -> None:
            sys.exit(f"Timed out waiting for: {pattern}")

        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(LIMIT)
        try:
            return self._lines.readline().rstrip("\n")
        finally:
            signal.alarm(0)


@contextmanager
def serving(transcript: Transcript) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run gunicorn on a free port, and yield it with its address."""
    # The socket listens before gunicorn takes it over: connections made meanwhile wait.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bind = f"fd://{listener.fileno()}"
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", bind, "--log-level", "warning", "demo_server:app"],
            cwd=HERE,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=transcript.output,
            text=True,
        )
    with ended(server):
        try:
            fetch(Request(address))
        except HTTPError as error:
            error.close()  # no service at this path, but gunicorn is up
        except OSError as error:
            sys.exit(f"gunicorn is not serving: {error}")
        print(f"gunicorn serves {address}", flush=True)
        yield server, address


def call_by_client(transcript: Transcript, server: subprocess.Popen[str], address: str) -> None:
    """Run client.py and type into it, and advance the server's stream."""
    client = subprocess.Popen(
        [sys.executable, HERE / "client.py", address],
        stdin=subprocess.PIPE,
        stdout=transcript.output,
        text=True,
    )
    with ended(client):
        for line in transcript.follow(CALLS):
            if line in TYPED:
                time.sleep(PAUSE)
                type_into(client, TYPED[line])
            elif line in STEPS:
                time.sleep(PAUSE)
                type_into(server, "\n")
        if client.wait(LIMIT) != 0:
            sys.exit(f"client.py ended with status {client.returncode}")


def call_in_json(transcript: Transcript, address: str) -> None:
    """Call Greet by POST and by GET, as any HTTP client can."""
    url = f"{address}/greet.v1.GreetService/Greet"
    message = json.dumps({"name": "Joan"})
    query = urlencode({"encoding": "json", "message": message})
    headers = {"authorization": "Bearer let-me-in"}
    tool = "curl" if shutil.which("curl") else "urllib"
    call = fetch_by_curl if tool == "curl" else fetch
    for text, request in {
        "JSON by POST": Request(
            url, message.encode(), headers={**headers, "content-type": "application/json"}
        ),
        "JSON by GET": Request(f"{url}?{query}", headers=headers),
    }.items():
        transcript.title(f"\n{text}")
        answer = json.dumps(json.loads(call(request)))
        os.write(transcript.output, f"{tool:6}  <- {answer}\n".encode())
        for _ in transcript.follow(JSON_CALL.format(tool=tool)):
            pass


def fetch_by_curl(request: Request) -> bytes:
    """Send a request with curl, and return the body of the response."""
    command = ["curl", "-sS"]
    for name, value in request.header_items():
        command += ["-H", f"{name.lower()}: {value}"]
    if isinstance(request.data, bytes):
        command += ["-d", request.data.decode()]
    command.append(request.full_url)
    print(f"$ {shlex.join(command)}", flush=True)
    environ = {**os.environ, "no_proxy": "*"}
    curl = subprocess.run(command, env=environ, stdout=subprocess.PIPE, timeout=LIMIT, check=False)
    if curl.returncode != 0:
        sys.exit(f"curl ended with status {curl.returncode}")
    return curl.stdout


def fetch(request: Request) -> bytes:
    """Send a request with urllib, and return the body of the response."""
    with build_opener(ProxyHandler({})).open(request, timeout=LIMIT) as answer:
        body: bytes = answer.read()
    return body


def type_into(process: subprocess.Popen[str], text: str | None) -> None:
    """Write to the standard input of a program; None closes it."""
    assert process.stdin is not None
    if text is None:
        process.stdin.close()
    else:
        process.stdin.write(text)
        process.stdin.flush()


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Terminate a program at the end of the block, if it is still running."""
    with process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
