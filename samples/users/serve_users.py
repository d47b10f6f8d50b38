"""Makes the database and a first user, and starts gunicorn: `python serve_users.py [port]`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import django
from django.core.management import call_command

NAME = "admin"
PASSWORD = "let-me-in"

# A stream keeps its thread until it ends. The generated code is in gen. A control socket would be made in the
# home directory.
GUNICORN = ["--threads=8", "--pythonpath=gen", "--no-control-socket"]

HERE = Path(__file__).resolve().parent


def main(port: int) -> None:
    """Do all that is needed before the site can be served, and serve it."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as failure:
        sys.exit(f"The site cannot be served: {failure}\nWith another port: make users PORT=8001")
    os.chdir(HERE)
    os.environ["DJANGO_SETTINGS_MODULE"] = "website.settings"
    django.setup()
    call_command("migrate", verbosity=0)
    create_first_user()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(f"Log in at {address}/ - press Ctrl-C to end.", flush=True)
    # The socket listens before gunicorn has it: what connects meanwhile waits.
    listener.set_inheritable(True)
    bind = f"--bind=fd://{listener.fileno()}"
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", bind, *GUNICORN, "website.wsgi"])


def create_first_user() -> None:
    """Create a user who is staff, where there is no user yet."""
    from django.contrib.auth.models import User
    from django.db import connections

    if not User.objects.exists():
        User.objects.create_superuser(NAME, password=PASSWORD)
        print(f"Created the user {NAME}, whose password is {PASSWORD}.", flush=True)
    connections.close_all()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
