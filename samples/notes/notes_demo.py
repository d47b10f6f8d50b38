"""Serves the site by gunicorn, has notes_client.py call it, and serves on: `python notes_demo.py [port]`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from notes_database import USERS

HERE = Path(__file__).resolve().parent
LIMIT = 30  # Seconds for the client to make its calls, or for gunicorn to end.


def main(port: int) -> None:
    """Serve until Ctrl-C."""
    # Told to end, or left by its terminal, it ends as by Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", port)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # The socket listens before gunicorn has it: what connects meanwhile waits.
        options = ["--bind", f"fd://{listener.fileno()}", "--log-level", "warning"]
        options += ["--graceful-timeout", "5"]  # An upload that is still going on is cut then.
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE / "gen"),
            "NOTES_DATABASE": str(Path(folder, "notes.sqlite3")),
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "notes_site:create_app()"],
            cwd=HERE,
            env=environment,
            pass_fds=[listener.fileno()],
            # Ctrl-C is for this program alone, which then has gunicorn end what it is doing.
            start_new_session=True,
        )
        listener.close()  # it is gunicorn's alone: were that to end, connections would be refused
        try:
            client = subprocess.run(
                [sys.executable, HERE / "notes_client.py", address], env=environment, timeout=LIMIT
            )
            if client.returncode != 0:
                sys.exit(client.returncode)
            users = " or ".join(f"{name}, {password!r}" for name, password in USERS.items())
            print(f"\nThe site is at {address} until you press Ctrl-C. Log in as {users}.", flush=True)
            sys.exit(server.wait())
        finally:
            server.terminate()
            server.wait(LIMIT)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
        except OSError as failure:
            sys.exit(f"The site cannot be served: {failure}\nWith another port: make notes PORT=8001")
