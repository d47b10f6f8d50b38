"""Which family of servers a request comes from, judging by its environ, and what that family needs.

The table in docs/servers.md shows the resulting behavior.
"""

from __future__ import annotations

import importlib
import io
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from wsgi_adapters.body import (
    ChunkedBody,
    EmptyBody,
    LengthBody,
    PartlyReadBody,
    Peer,
    RequestBody,
    TerminatedBody,
    UnreadableBody,
    UwsgiChunkedBody,
    is_closed_by_peer,
)
from wsgi_adapters.gunicorn import (
    GunicornBody,
    GunicornChunkedBody,
    GunicornHttp2Body,
    restore_version,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# int() refuses numbers of several thousand digits; one of nineteen exceeds every limit.
_MAX_DIGITS = 19


def open_body(environ: WSGIEnvironment) -> RequestBody:
    """Return the body of a request, as needed for the server that ``environ`` comes from."""
    stream: Any = environ["wsgi.input"]
    stream_type = type(stream)
    opener = _openers.get(stream_type)
    if opener is None:
        opener = _openers[stream_type] = _BY_MODULE.get(stream_type.__module__, _open_any)
    return opener(environ, stream)


_Opener: TypeAlias = Callable[["WSGIEnvironment", Any], RequestBody]

_openers: dict[type[object], _Opener] = {}
"""The function that opens a body, by the class of its input, as far as that identifies the server."""


def _open_gunicorn(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    reader = stream.reader
    length: int | None = getattr(reader, "length", None)
    # Data that a middleware has read ahead is in the buffer of the input, or of the chunk reader.
    buffered: int = stream.buf.tell()
    if length is None:
        ahead: bytes = stream.read(buffered) + reader.read(reader.buf.tell())
        if reader.parser is None and not ahead:
            return PartlyReadBody()
        return GunicornChunkedBody(stream, None, ahead)
    if not buffered and str(length) == environ.get("CONTENT_LENGTH"):
        return GunicornBody(stream, length)
    announced = _content_length(environ)
    length += buffered
    if announced is not None and length < announced:
        return PartlyReadBody()
    return GunicornBody(stream, length, stream.read(buffered))


def _open_gunicorn_http2(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    restore_version(environ, stream)
    return GunicornHttp2Body(stream, _content_length(environ))


def _open_cheroot(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    # It reads the rest of a body of known length itself, but not that of chunks.
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    descriptor = stream.rfile.fileno()
    peer = Peer(
        lambda: is_closed_by_peer(descriptor), linger_fd=descriptor if is_chunked else None, keep_alive=True
    )
    if is_chunked and environ.get("wsgi.input_terminated"):
        # It buffers a chunk until it is complete, and takes trailers for the next request.
        if stream.bytes_read:
            return PartlyReadBody(peer)
        return ChunkedBody(stream.rfile, peer, stream.maxlen or None)
    return _open_plain(environ, stream, peer)


def _open_mod_wsgi(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    if not environ.get("mod_wsgi.process_group"):
        return _open_plain(environ, stream, None)
    # The application is in a process of its own.
    peer = Peer(lambda: False, forwards_request_first=True)
    if "HTTP_TRANSFER_ENCODING" in environ and _content_length(environ) is None and not _is_http1(environ):
        # Daemon processes get bodies in chunks. Over HTTP/2 a body begins with an empty piece, which becomes
        # the last chunk: to the application, the body looks complete and empty.
        return UnreadableBody(peer)
    return _open_plain(environ, stream, peer)


def _open_pyvoy(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    # Envoy, which pyvoy runs in, has removed any transfer coding without a trace.
    length = _content_length(environ)
    return TerminatedBody(stream) if length is None else LengthBody(stream, length)


def _open_django(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    # Django's runserver: if a request has both chunks and a length, it uses the length.
    return UnreadableBody() if "HTTP_TRANSFER_ENCODING" in environ else _open_plain(environ, stream, None)


_BY_MODULE: dict[str, _Opener] = {
    "gunicorn.http.body": _open_gunicorn,
    "gunicorn.http2.request": _open_gunicorn_http2,
    "cheroot.server": _open_cheroot,
    "django.core.handlers.wsgi": _open_django,
    "mod_wsgi": _open_mod_wsgi,
    "_pyvoy.wsgi": _open_pyvoy,
}


def _open_any(environ: WSGIEnvironment, stream: Any) -> RequestBody:
    """Open a body whose input does not identify the server: judge by the environ."""
    # Transfer-Encoding overrides Content-Length (RFC 9112, section 6.3).
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    if "gunicorn.http2.send_trailers" in environ:
        restore_version(environ, None)
        return _open_plain(environ, stream, None)
    if "werkzeug.socket" in environ:
        sock: socket.socket = environ["werkzeug.socket"]
        peer = Peer(lambda: is_closed_by_peer(sock.fileno()), sock=sock)
        # werkzeug's decoder receives as often as necessary, each time with the whole timeout.
        reader = getattr(stream, "_rfile", None)
        if is_chunked and reader is not None and environ.get("wsgi.input_terminated"):
            has_begun = getattr(stream, "_done", False) or getattr(stream, "_len", 0)
            return PartlyReadBody(peer) if has_begun else ChunkedBody(reader, peer)
        return _open_plain(environ, stream, peer)
    if "waitress.client_disconnected" in environ:
        return _open_plain(environ, stream, Peer(environ["waitress.client_disconnected"]))
    if "uwsgi.version" in environ:
        uwsgi = _uwsgi()
        peer = _lingering(uwsgi.connection_fd())
        return (
            UwsgiChunkedBody(uwsgi.chunked_read, peer) if is_chunked else _open_plain(environ, stream, peer)
        )
    if isinstance(stream, io.BufferedReader) and environ.get("SERVER_SOFTWARE", "").startswith("WSGIServer/"):
        # wsgiref's server: servers built on it have inputs of their own.
        peer = _lingering(stream.fileno())
        return ChunkedBody(stream, peer) if is_chunked else _open_plain(environ, stream, peer)
    return _open_plain(environ, stream, None)


def _open_plain(environ: WSGIEnvironment, stream: Any, peer: Peer | None) -> RequestBody:
    """Open a body as PEP 3333 specifies, or its widespread extension ``wsgi.input_terminated``."""
    length = _content_length(environ)
    if length is not None:
        return LengthBody(stream, length, peer)
    # From HTTP/2 on, frames mark the end of a body, with or without Content-Length.
    if environ.get("wsgi.input_terminated") or not _is_http1(environ):
        return TerminatedBody(stream, peer)
    return UnreadableBody(peer) if "HTTP_TRANSFER_ENCODING" in environ else EmptyBody(peer)


def _lingering(descriptor: int) -> Peer:
    return Peer(lambda: is_closed_by_peer(descriptor), linger_fd=descriptor)


def _is_http1(environ: WSGIEnvironment) -> bool:
    protocol: str = environ["SERVER_PROTOCOL"]
    return protocol.startswith("HTTP/1")


def _uwsgi() -> Any:
    """Return uWSGI's module, which only exists in its own processes."""
    return importlib.import_module("uwsgi")


def _content_length(environ: WSGIEnvironment) -> int | None:
    length: str | None = environ.get("CONTENT_LENGTH")
    # Servers refuse an invalid number; some leave the variable empty.
    if length and length.isdecimal():
        return int(length) if len(length) < _MAX_DIGITS else sys.maxsize
    return None
