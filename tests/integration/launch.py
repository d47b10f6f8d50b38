"""Serve the application of `service` on one of the WSGI servers that are not gunicorn: ``python -m … NAME``.

The port, one that is free on loopback, is written to stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.simple_server import make_server as make_wsgiref_server

import cheroot.wsgi
from waitress.server import BaseWSGIServer, create_server
from werkzeug.serving import make_server as make_werkzeug_server

from tests.integration.service import application

_HOST = "127.0.0.1"


def serve_by_werkzeug() -> None:
    """Serve by werkzeug's development server."""
    server = make_werkzeug_server(_HOST, 0, application, threaded=True)
    _announce(server.port)
    server.serve_forever()


def serve_by_wsgiref() -> None:
    """Serve by the standard library's server, a thread for each connection."""

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    server = make_wsgiref_server(_HOST, 0, application, Server, _QuietHandler)
    _announce(server.server_port)
    server.serve_forever()


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_by_cheroot() -> None:
    """Serve by cheroot, CherryPy's server."""
    server = cheroot.wsgi.Server((_HOST, 0), application)
    server.prepare()
    _announce(server.bind_addr[1])
    server.serve()


def serve_by_waitress() -> None:
    """Serve by waitress."""
    server = create_server(application, host=_HOST, port=0, channel_request_lookahead=1)
    assert isinstance(server, BaseWSGIServer)
    assert server.socket is not None
    _announce(server.socket.getsockname()[1])
    server.run()


def _announce(port: int) -> None:
    print(port, flush=True)


_SERVERS: dict[str, Callable[[], None]] = {
    "werkzeug": serve_by_werkzeug,
    "wsgiref": serve_by_wsgiref,
    "cheroot": serve_by_cheroot,
    "waitress": serve_by_waitress,
}

if __name__ == "__main__":
    _SERVERS[sys.argv[1]]()
