"""The service of `service`, with a middleware and an interceptor that watch its calls.

A call with a ``record`` header, an address, is reported there: "start" when ``on_start`` runs, and a
`tests.integration.records.Record` in JSON when the server is done with the response. With ``refuse``, a call
is refused at its start; with ``raise``, its handler raises the exception of that name.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import gevent  # type: ignore[import-untyped]
from echo.v1.echo_connect import EchoServiceWSGIApplication
from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Code, ConnectError, NotModified, RequestContext
from connect_sync.http import close_iterator
from tests.integration.service import Echo
from tests.integration.wire import FAULTS_PATH
from wsgi_adapters.application import ERROR_KEY

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


# The service

_EXCEPTIONS: dict[str, BaseException] = {
    type(error).__name__: error
    for error in (asyncio.CancelledError(), gevent.Timeout(1), KeyboardInterrupt(), SystemExit(1))
}


class WatchedEcho(Echo):
    def echo(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        _raise_as_asked(ctx)
        return super().echo(request, ctx)

    def echo_safely(self, request: EchoRequest, ctx: RequestContext) -> EchoResponse:
        """Return what was sent, with a tag for caches."""
        ctx.response_headers()["etag"] = '"1"'
        if ctx.request_headers().get("if-none-match") == '"1"':
            raise NotModified
        return super().echo_safely(request, ctx)

    def collect(self, request: Iterator[EchoRequest], ctx: RequestContext) -> EchoResponse:
        response = super().collect(request, ctx)
        _raise_as_asked(ctx)
        return response

    def repeat(self, request: EchoRequest, ctx: RequestContext) -> Iterator[EchoResponse]:
        yield from super().repeat(request, ctx)
        if "wait-until-inactive" in ctx.request_headers():
            while ctx.is_active():
                time.sleep(0.001)
        _raise_as_asked(ctx)


def _raise_as_asked(ctx: RequestContext) -> None:
    name = ctx.request_headers().get("raise")
    if name == "ConnectError":
        raise ConnectError(Code.ABORTED, "try again") from KeyError("the secret of the handler")
    if name is not None:
        raise _EXCEPTIONS[name]


# What watches it


class _Watched:
    """A request, with what is known of it. It stands for its response, too."""

    def __init__(self, environ: WSGIEnvironment, end: Callable[[_Watched], None]) -> None:
        self._environ = environ
        self._end = end
        self._socket: socket.socket | None = None
        if "HTTP_RECORD" in environ:
            host, _, port = environ["HTTP_RECORD"].partition(":")
            self._socket = socket.create_connection((host, int(port)))
        self._starts = 0
        self._ends: list[ConnectError | None] = []
        self._threads: set[int] = set()
        self._is_first = True
        self._is_one_context = True
        self._content_type: str | None = None
        self._chunks: Iterable[bytes] = ()
        self._is_told = False
        self._raised: BaseException | None = None

    # By the interceptor

    def note_start(self) -> None:
        self._starts += 1
        self._threads.add(threading.get_ident())
        self._is_first = _running.get() is None
        _running.set(self)
        if self._socket is not None:
            self._socket.sendall(b"start\n")

    def note_end(self, error: ConnectError | None) -> None:
        self._ends.append(error)
        self._threads.add(threading.get_ident())
        self._is_one_context = _running.get() is self

    # By the middleware, and by the server

    def respond(self, application: WSGIApplication, start_response: StartResponse) -> Iterable[bytes]:
        """Let the application respond, and return its response."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /) -> Any:
            self._content_type = dict(headers).get("content-type", "")
            return start_response(status, headers)

        try:
            self._chunks = application(self._environ, start)
        except BaseException as raised:
            self._raised = raised
            self._end(self)
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self._is_told = ERROR_KEY in self._environ
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as raised:
            self._raised = raised
            raise

    def close(self) -> None:
        try:
            close_iterator(self._chunks)
        finally:
            self._end(self)

    # What comes of it

    def fault(self) -> str | None:
        """Return what is wrong with the hooks of the call; None if nothing is."""
        expected = self._starts
        if self._content_type is not None:
            # What is not a call gets a line of text.
            is_call = self._environ["PATH_INFO"] in _PATHS and not self._content_type.startswith("text/")
            expected = int(is_call)
        if self._starts == len(self._ends) == expected:
            return None
        request = f"{self._environ['REQUEST_METHOD']} {self._environ['PATH_INFO']}"
        return f"{request}: {self._starts} starts and {len(self._ends)} ends, expected {expected} of each"

    def report(self) -> None:
        """Send the record."""
        if self._socket is None:
            return
        error = self._environ.get(ERROR_KEY)
        record = {
            "starts": self._starts,
            "ends": [_describe(end) for end in self._ends],
            "error": _describe(error),
            "is_same_error": len(self._ends) == 1 and self._ends[0] is error,
            "is_told_before_last_chunk": self._is_told,
            "is_one_thread": len(self._threads) == 1,
            "is_one_context": self._is_one_context,
            "is_first_in_context": self._is_first,
            "thread": f"{os.getpid()}/{threading.get_ident()}",
            "raised": None if self._raised is None else type(self._raised).__name__,
        }
        with self._socket:
            self._socket.sendall(json.dumps(record).encode() + b"\n")


def _describe(error: ConnectError | None) -> tuple[str, str, str] | None:
    if error is None:
        return None
    cause = error.__cause__
    return error.code.value, error.message, "" if cause is None else type(cause).__name__


_watched: ContextVar[_Watched] = ContextVar("watched")
_running: ContextVar[_Watched | None] = ContextVar("running", default=None)


class Watching:
    """The interceptor. It sets a context variable, and never resets it."""

    def on_start(self, ctx: RequestContext) -> _Watched:
        watched = _watched.get()
        watched.note_start()
        return watched

    def on_end(self, watched: _Watched, ctx: RequestContext, error: ConnectError | None) -> None:
        watched.note_end(error)
        if "record" in ctx.request_headers():
            ctx.response_trailers()["ended-with"] = "ok" if error is None else error.code.value


class Refusing:
    """Refuses calls that ask for it."""

    def on_start(self, ctx: RequestContext) -> None:
        if "refuse" in ctx.request_headers():
            raise ConnectError(Code.UNAUTHENTICATED, "as asked")


class Watch:
    """The middleware. It answers a request to `FAULTS_PATH` itself."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._requests = 0
        self._faults: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == FAULTS_PATH:
            start_response("200 OK", [("content-type", "application/json")])
            return [json.dumps({"requests": self._requests, "faults": self._faults}).encode()]
        watched = _Watched(environ, self._end)
        token = _watched.set(watched)
        try:
            return watched.respond(self._application, start_response)
        finally:
            _watched.reset(token)

    def _end(self, watched: _Watched) -> None:
        self._requests += 1
        fault = watched.fault()
        if fault is not None:
            self._faults.append(fault)
        watched.report()


service = EchoServiceWSGIApplication(WatchedEcho(), interceptors=[Watching(), Refusing()])
_PATHS = {method.path for method in service.methods.values()}

application = Watch(service)
