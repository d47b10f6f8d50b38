"""The command ``connect-sync serve``: runs an application on werkzeug's server, for development.

With ``--reload`` there are two processes, both running this module. The first holds the socket, and restarts
the second whenever that exits because of a change; it never loads the application, so that side effects of
its import happen once. The second loads and serves it.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_COMMAND = "connect-sync"

_APPLICATION = """\
the application, as for gunicorn: module:name, or module:name() for a function that returns it;
module alone means module:application
"""

_DEFAULT_HOST = "localhost"
_DEFAULT_PORT = 8000

# The address at which a local client reaches a server that listens on all addresses.
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

# Each process passes a note of what it printed to the next one, through a pair of sockets that the first
# process keeps open. Unlike files, they vanish with it, however it ends. The environment variable has their
# descriptors.
_NOTES = "CONNECT_SYNC_SERVE_NOTES"
_NOTHING_SAID = bytes(32)

_parse_target = re.compile(r"(?P<module>\w+(?:\.\w+)*)(?::(?P<name>\w+)(?P<call>\(\))?)?").fullmatch


class LoadError(Exception):
    """The application could not be loaded; the message says why, in one line.

    If the application's own code raised an exception, it is the ``__cause__``.
    """


def load(target: str) -> WSGIApplication:
    """Return the application that ``target`` names: ``module:name``, ``module:name()`` or ``module``.

    Raises:
        LoadError: There is no such module or name; the object is not callable; its code raised an exception.
    """
    match = _parse_target(target)
    if match is None:
        raise LoadError(f"the application must be given as module:name, such as server:app, got {target!r}")
    module_name, name = match["module"], match["name"] or "application"
    try:
        # Unlike importlib.import_module(), this leaves no frames in tracebacks.
        __import__(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            message = f"no module named {error.name!r}, here or on Python's path"
            if error.name == module_name and module_name.endswith(".py"):
                message += f": did you mean {module_name[:-3]}{target[len(module_name) :]}?"
            raise LoadError(message) from None
        raise LoadError(f"importing {module_name} failed") from error
    module = sys.modules[module_name]
    try:
        application: Any = getattr(module, name)
    except AttributeError:
        message = f"the module {module_name!r} has no {name!r}"
        file = getattr(module, "__file__", None)
        raise LoadError(message if file is None else f"{message} ({file})") from None
    if match["call"]:
        application = _call(application, f"{module_name}:{name}")
    if not callable(application):
        raise LoadError(f"{target} must be a WSGI application, got {_described(application)}")
    return cast("WSGIApplication", application)


def _call(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise LoadError(f"{name} must be callable, got {_described(factory)}")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise LoadError(f"{name}() failed") from error


def _described(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def main() -> None:
    """Run the command.

    The exit status is 2 if an argument is invalid, 1 if the application's code fails or the address cannot be
    listened on, and 0 after Ctrl-C or SIGTERM.
    """
    options = _parse_arguments()
    try:
        import werkzeug  # noqa: F401
    except ModuleNotFoundError:
        sys.exit(f"{_COMMAND} serve needs werkzeug: pip install 'connect-sync[werkzeug]'")
    # As gunicorn does, so that both find the same modules. For a script, Python puts its own folder there.
    sys.path.insert(0, str(Path.cwd()))
    serve = _serve_reloading if options.reload else _serve
    # Ctrl-C before the server runs, or pressed twice.
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        serve(options.application, options.host, options.port)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=_COMMAND)
    parser.add_argument("--version", action="version", version=f"{_COMMAND} {version('connect-sync')}")
    description = (
        "Serve a WSGI application on werkzeug's server. For development only: elsewhere, use gunicorn."
    )
    serve = parser.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "serve", help="serve an application for development", description=description
    )
    serve.add_argument("application", metavar="APPLICATION", help=_APPLICATION)
    serve.add_argument("--host", default=_DEFAULT_HOST, help="the name or address to listen on (%(default)s)")
    serve.add_argument(
        "--port", type=_port, default=_DEFAULT_PORT, help="the port; 0 for any free one (%(default)s)"
    )
    serve.add_argument(
        "--reload",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="restart whenever a Python file changes (the default)",
    )
    options = parser.parse_args()
    try:
        socket.getaddrinfo(options.host, None)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid host name"
        serve.error(f"argument --host: {options.host!r}: {reason}")
    return options


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() and len(text) <= 5 else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"the port must be 0 to 65535, got {text!r}")
    return port


def _serve(target: str, host: str, port: int) -> None:
    from werkzeug.serving import make_server

    _check_address(host, port)
    application = _load_or_exit(target)
    server = make_server(host, port, application, threaded=True)
    sys.stdout.write(_banner(target, application, host, server.port))
    sys.stdout.flush()
    server.serve_forever()


def _serve_reloading(target: str, host: str, port: int) -> None:
    from werkzeug.serving import is_running_from_reloader, run_simple

    from wsgi_adapters.reloader import NAME

    def run(application: WSGIApplication) -> None:
        run_simple(host, port, application, use_reloader=True, reloader_type=NAME, threaded=True)

    # Without notes, this process was started by a different reloader.
    notes = os.environ.pop(_NOTES, None)
    if is_running_from_reloader() and notes is not None:
        reading, writing = (socket.socket(fileno=int(number)) for number in notes.split())
        with reading, writing:
            application, note = _load_and_say(target, host, port, reading.recv(len(_NOTHING_SAID)))
            writing.sendall(note)
        run(application)
        return
    os.environ.pop("WERKZEUG_RUN_MAIN", None)
    _check_address(host, port)
    # It would log the address, which the second process prints better.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.set_inheritable(True)
        writing.set_inheritable(True)
        os.environ[_NOTES] = f"{reading.fileno()} {writing.fileno()}"
        writing.sendall(_NOTHING_SAID)
        run(_unavailable)


def _check_address(host: str, port: int) -> None:
    """Exit if the address cannot be listened on. werkzeug's own message would not name the command."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As werkzeug does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        sys.exit(f"{_COMMAND} serve: cannot listen on {_authority(host, port)}: {error.strerror}")


def _authority(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _load_and_say(target: str, host: str, port: int, last_note: bytes) -> tuple[WSGIApplication, bytes]:
    """Load the application, and show the banner if it differs from the one noted last.

    Returns:
        The application, or a substitute if a change has broken it; and a note for the next process.
    """
    if last_note == _NOTHING_SAID:
        application = _load_or_exit(target)
    else:
        try:
            application = load(target)
        except LoadError as error:
            _show(error)
            sys.stderr.write("Until a file changes, every request is answered with 503.\n")
            return _unavailable, last_note
    text = _banner(target, application, host, port or _inherited_port())
    note = sha256(text.encode()).digest()
    sys.stdout.write(f"Reloaded {target}\n" if note == last_note else text)
    sys.stdout.flush()
    return application, note


def _inherited_port() -> int:
    """Return the port of the first process, which was started with port 0."""
    listener = socket.fromfd(int(os.environ["WERKZEUG_SERVER_FD"]), socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        port: int = listener.getsockname()[1]
    return port


def _load_or_exit(target: str) -> WSGIApplication:
    try:
        return load(target)
    except LoadError as error:
        _show(error)
        sys.exit(2 if error.__cause__ is None else 1)


def _show(error: LoadError) -> None:
    cause = error.__cause__
    if cause is not None:
        frames = cause.__traceback__
        # The first frame is this module's.
        traceback.print_exception(cause.with_traceback(None if frames is None else frames.tb_next))
    sys.stderr.write(f"{_COMMAND} serve: {error}\n")
    sys.stderr.flush()


def _unavailable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer in place of an application that could not be loaded. Connect maps 503 to `unavailable`."""
    text = b"The application could not be loaded: see the output of connect-sync serve.\n"
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text)))]
    start_response("503 Service Unavailable", headers)
    return (text,)


def _banner(target: str, application: WSGIApplication, host: str, port: int) -> str:
    from wsgi_adapters.banner import describe

    url = f"http://{_authority(_REACHABLE.get(host, host), port)}"
    return (
        f"connect-sync serves {target} at {url}, for development only\n"
        f"{describe(application, url)}\n"
        "Press Ctrl-C to stop it.\n"
    )


if __name__ == "__main__":
    main()
