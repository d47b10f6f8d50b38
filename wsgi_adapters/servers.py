"""Which family of servers a request comes from, by what its environ holds, and what that family needs.

The table in docs/servers.md says what comes of it.
"""

from __future__ import annotations

import importlib
import io
import socket
import sys
from typing import TYPE_CHECKING, Any

from wsgi_adapters.body import (
    ChunkedBody,
    Client,
    ConsumedBody,
    EmptyBody,
    LengthBody,
    RequestBody,
    TerminatedBody,
    UnreadableBody,
    UwsgiChunkedBody,
    has_left,
)
from wsgi_adapters.gunicorn import GunicornBody, GunicornHttp2Body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Python reads no numbers of more than some thousand digits; a length of nineteen is past every limit.
_MAX_DIGITS = 19


def open_body(environ: WSGIEnvironment) -> RequestBody:
    """Return the body of a request, in the way of the server that ``environ`` comes from."""
    stream: Any = environ["wsgi.input"]
    module = type(stream).__module__
    length = _content_length(environ)
    if module == "gunicorn.http.body":
        body = GunicornBody(stream)
        return ConsumedBody() if body.is_consumed(length) else body
    if module == "gunicorn.http2.request":
        return GunicornHttp2Body(stream, length)
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    client = _find_client(environ, stream, is_chunked)
    if is_chunked:
        chunks = _find_chunks(environ, stream, client)
        if chunks is not None:
            return chunks
    if length is not None:
        return LengthBody(stream, length, client)
    if (
        is_chunked
        and _is_mod_wsgi_daemon(environ, stream)
        and not environ["SERVER_PROTOCOL"].startswith("HTTP/1")
    ):
        # Daemons get bodies in chunks. HTTP/2 begins one with an empty piece, which becomes the chunk that
        # ends it: to the application it looks whole, and empty.
        return UnreadableBody(client)
    # From HTTP/2 on a body has its end in the frames, whether a length is announced or not. Envoy, around
    # pyvoy, has taken any transfer coding off, and leaves no trace of it.
    if (
        environ.get("wsgi.input_terminated")
        or not environ["SERVER_PROTOCOL"].startswith("HTTP/1")
        or module == "_pyvoy.wsgi"
    ):
        return TerminatedBody(stream, client)
    return UnreadableBody(client) if is_chunked else EmptyBody(client)


def _find_chunks(environ: WSGIEnvironment, stream: Any, client: Client | None) -> RequestBody | None:
    """Return a chunked body of a server that needs more than to be read; None for any other server.

    What the request says of its length does not count: RFC 9112, section 6.3.
    """
    if "uwsgi.version" in environ:
        return UwsgiChunkedBody(_uwsgi().chunked_read, client)
    if _is_wsgiref(environ, stream):
        return ChunkedBody(stream, client)
    is_decoded = environ.get("wsgi.input_terminated")
    if _is_cheroot(stream) and is_decoded:
        # It holds a chunk in memory until all of it is there, and leaves trailers to be the next request.
        if stream.bytes_read:
            return ConsumedBody(client)
        return ChunkedBody(stream.rfile, client, stream.maxlen or None)
    # werkzeug's own decoder receives as often as it takes, each time with the whole timeout.
    reader = getattr(stream, "_rfile", None)
    if "werkzeug.socket" in environ and is_decoded and reader is not None:
        has_begun = getattr(stream, "_done", False) or getattr(stream, "_len", 0)
        return ConsumedBody(client) if has_begun else ChunkedBody(reader, client)
    return None


def _find_client(environ: WSGIEnvironment, stream: Any, is_chunked: bool) -> Client | None:
    """Return what the server tells of the client, None where that is nothing."""
    sock: socket.socket | None = environ.get("werkzeug.socket")
    if sock is not None:
        return Client(lambda: has_left(sock.fileno()), sock=sock)
    has_disconnected = environ.get("waitress.client_disconnected")
    if has_disconnected is not None:
        return Client(has_disconnected)
    if _is_cheroot(stream):
        # It reads on itself to the end of a known length, but not of chunks.
        descriptor = stream.rfile.fileno()
        return Client(lambda: has_left(descriptor), lingers=descriptor if is_chunked else None, is_kept=True)
    if _is_mod_wsgi_daemon(environ, stream):
        return Client(lambda: False, hears_late=True)
    if _is_wsgiref(environ, stream):
        descriptor = stream.fileno()
    elif "uwsgi.version" in environ:
        descriptor = _uwsgi().connection_fd()
    else:
        return None
    return Client(lambda: has_left(descriptor), lingers=descriptor)


def _is_cheroot(stream: object) -> bool:
    return type(stream).__module__ == "cheroot.server"


def _is_mod_wsgi_daemon(environ: WSGIEnvironment, stream: object) -> bool:
    """Tell whether the server is Apache's mod_wsgi, with the application in a process of its own."""
    return type(stream).__module__ == "mod_wsgi" and bool(environ.get("mod_wsgi.process_group"))


def _is_wsgiref(environ: WSGIEnvironment, stream: object) -> bool:
    """Tell whether the server is the standard library's: those that build on it have inputs of their own."""
    software = environ.get("SERVER_SOFTWARE", "")
    return isinstance(stream, io.BufferedReader) and software.startswith("WSGIServer/")


def _uwsgi() -> Any:
    """Return uWSGI's module, which exists in its processes alone."""
    return importlib.import_module("uwsgi")


def _content_length(environ: WSGIEnvironment) -> int | None:
    length = environ.get("CONTENT_LENGTH")
    # Servers have refused what is no number; some leave the variable empty.
    if not length or not length.isdecimal():
        return None
    return int(length) if len(length) < _MAX_DIGITS else sys.maxsize
