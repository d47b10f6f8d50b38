"""A Connect service as a WSGI application: environ to request, response to body iterator (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from connect_sync.compression import DEFAULT_COMPRESSIONS, Compression
from connect_sync.envelope import DEFAULT_COMPRESS_MIN_BYTES
from connect_sync.errors import ConnectError, ErrorMapping
from connect_sync.headers import Headers, NameTuple, ValueTuple
from connect_sync.http import DEFAULT_READ_MAX_BYTES, Request, close_iterator
from connect_sync.interceptor import Interceptor
from connect_sync.method import Method
from connect_sync.server import Service
from wsgi_adapters.body import RequestBody
from wsgi_adapters.servers import open_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_ServiceT = TypeVar("_ServiceT")

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
# nginx's name for what Connect answers to a canceled call; not a registered status.
_STATUS_LINES[499] = "499 Client Closed Request"

ERROR_KEY = "connect_sync.error"
"""The environ key of a failed call's ConnectError, set before the end of the response is sent.

It is for code around the application that has to know that the call failed, which the HTTP status does not
show in every protocol. The error's ``__cause__`` is the underlying exception.
"""

_OUTER_KEY = "connect_sync.outer"
"""The key under which a copied environ holds the original."""


def copy_environ(environ: WSGIEnvironment, **changes: object) -> WSGIEnvironment:
    """Return a copy of ``environ`` with ``changes``. The error of the call is set in the original too."""
    return {**environ, **changes, _OUTER_KEY: environ}


class ConnectWSGIApplication(Generic[_ServiceT]):
    """A WSGI application that serves one Connect service.

    Generated code declares a subclass for each service. Create an instance from an object that implements
    the service, and mount it at the root or under any prefix.
    """

    path: ClassVar[str]
    """The path of the service, relative to where the application is mounted: ``/pkg.Service``."""
    methods: ClassVar[Mapping[str, Method[Any, Any]]]
    """The methods of the service, by the names of their handlers."""

    def __init__(
        self,
        service: _ServiceT,
        *,
        interceptors: Iterable[Interceptor] = (),
        errors: ErrorMapping | None = None,
        read_max_bytes: int = DEFAULT_READ_MAX_BYTES,
        send_max_bytes: int | None = None,
        compressions: Iterable[Compression | str] = DEFAULT_COMPRESSIONS,
        compress_min_bytes: int = DEFAULT_COMPRESS_MIN_BYTES,
        require_connect_protocol_version: bool = False,
    ) -> None:
        """Serve ``service``.

        Args:
            service: The object whose methods are the handlers. They may run in several threads at once.
            interceptors: The interceptors that wrap each call, outermost first.
            errors: How exceptions are reported to clients, by class: a Code, or a function that takes the
                exception and returns a ConnectError. The nearest class in the MRO decides; an unmapped
                exception is logged and becomes ``internal``. By default nothing is mapped, except inside a
                Flask or Django site, which provides its own mapping.
            read_max_bytes: The maximum size of a received message, decompressed, in bytes.
            send_max_bytes: The maximum size of a sent message, before compression, in bytes; None for no
                limit.
            compressions: The compressions to offer, or their names, in order of preference.
            compress_min_bytes: The size in bytes at and above which messages are compressed.
            require_connect_protocol_version: Whether to refuse Connect calls that do not state the protocol
                version (Connect reference, "Unary-Request").

        Raises:
            TypeError: ``service`` is a class; a handler is missing, misspelled or async, does not take a
                request and a context, or yields a single response; an interceptor is invalid;
                ``errors`` has a key that is not a class derived from Exception, or a value that is neither a
                Code nor a function.
            ValueError: A number of bytes is out of range; two compressions share a name; the name of a
                compression is unknown.
        """
        self.service: Service = Service(
            service,
            self.methods,
            interceptors=interceptors,
            errors=errors,
            read_max_bytes=read_max_bytes,
            send_max_bytes=send_max_bytes,
            compressions=compressions,
            compress_min_bytes=compress_min_bytes,
            require_connect_protocol_version=require_connect_protocol_version,
        )
        """The same service without WSGI: it maps a request to a response."""
        self._respond = self.service.__call__
        self._has_errors = errors is not None
        self._paths = frozenset(method.path for method in self.methods.values())

    def _with_default_errors(self, errors: ErrorMapping) -> ConnectWSGIApplication[_ServiceT]:
        """Return this application, or a copy that maps ``errors`` if this one was not given a mapping.

        Sites use it, since the same application may also be served elsewhere.
        """
        if self._has_errors:
            return self
        application = copy(self)
        application.service = self.service.with_errors(errors)
        application._respond = application.service.__call__
        return application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        body = open_body(environ)
        path = environ.get("PATH_INFO", "")
        if path not in self._paths:
            path = self._find_path(environ, path)
        response = self._respond(_EnvironRequest(environ, path, body))
        headers = response.fields()
        chunks = response.body
        if response.trailers is not None:
            send_trailers = _find_send_trailers(environ)
            if send_trailers is not None:
                start_response(_STATUS_LINES[response.status], headers)
                send = partial(_hand_over, response.trailers, send_trailers)
                if isinstance(chunks, tuple) and body.needs_no_close_after(sum(map(len, chunks))):
                    return _followed(chunks, send)
                return _ResponseBody(chunks, body, send)
        if not isinstance(chunks, tuple):
            body.coalesce_head(start_response(_STATUS_LINES[response.status], headers))
            return _ResponseBody(chunks, body)
        size = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
        # Without a length, a server that does not support chunks closes the connection after the response,
        # except to HEAD. That is wanted where it does not know where the request body ends: it would take the
        # rest for the next request. A 304 would need the length of the 200 (RFC 9110, section 8.6).
        if body.is_framed and response.status != 304:
            headers.append(("content-length", str(size)))
        # HEAD calls no method and gets an error. Its length is that of the text that another request would
        # get (RFC 9110, section 9.3.2).
        if response.status >= 400 and environ["REQUEST_METHOD"] == "HEAD":
            chunks, size = (), 0
        write = start_response(_STATUS_LINES[response.status], headers)
        if size:
            body.coalesce_head(write)
        return chunks if body.needs_no_close_after(size) else _ResponseBody(chunks, body)

    def _find_path(self, environ: WSGIEnvironment, path: str) -> str:
        # If the application is mounted at its own path, the service's name is in SCRIPT_NAME.
        if path.count("/") == 1 and environ.get("SCRIPT_NAME", "").endswith(self.path):
            return self.path + path
        return path


class _EnvironRequest(Request):
    """A request that reads its environ lazily."""

    __slots__ = ("_environ",)

    def __init__(self, environ: WSGIEnvironment, path: str, body: RequestBody) -> None:
        # No ``super().__init__()``: the other attributes are properties.
        self._environ = environ
        self.method = environ["REQUEST_METHOD"]
        self.path = path
        self.headers = EnvironHeaders(environ)
        self.body = body

    @property
    def error(self) -> ConnectError | None:
        """The error of a failed call. It is set in the environ and in those it was copied from."""
        error: ConnectError | None = self._environ.get(ERROR_KEY)
        return error

    @error.setter
    def error(self, error: ConnectError | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        environ: WSGIEnvironment | None = self._environ
        while environ is not None:
            environ[ERROR_KEY] = error
            environ = environ.get(_OUTER_KEY)

    @property
    def query(self) -> str:  # type: ignore[override]
        """The query string, still percent-encoded."""
        query: str = self._environ.get("QUERY_STRING", "")
        return query

    @property
    def accepts_trailers(self) -> bool:  # type: ignore[override]
        """Whether the server can send trailers in response to this request."""
        return _find_send_trailers(self._environ) is not None

    @property
    def peer(self) -> str | None:  # type: ignore[override]
        """The client's address."""
        address = self._environ.get("REMOTE_ADDR")
        if not address:
            return None
        port = self._environ.get("REMOTE_PORT")
        if not port:
            return str(address)
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class EnvironHeaders(Headers):
    """The headers of a request, read from its environ.

    The protocols look up single names, which needs no parsing; anything else parses all headers. A WSGI
    server joins the values of a repeated header with commas, so each name has one value.
    """

    __slots__ = ("_environ", "_parsed")

    def __init__(self, environ: WSGIEnvironment) -> None:
        """Take the headers from ``environ``."""
        # No ``super().__init__()``: the values are parsed later, from the environ.
        self._environ: WSGIEnvironment | None = environ

    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the value of ``name``, or ``default``."""
        environ = self._environ
        if environ is None:
            return super().get(name, default)
        key = _environ_keys[name]
        value = environ.get(key)
        if value:
            return value
        # Servers may set these two to an empty string if the request lacks them (PEP 3333).
        return default if value is None or key in _UNPREFIXED else value

    def get_many(self, names: NameTuple) -> ValueTuple:
        """Return the values of ``names``, which must not include Content-Type or Content-Length."""
        environ = self._environ
        if environ is None:
            return super().get_many(names)
        get = environ.get
        first, second, third, fourth = _environ_keys_of_many[names]
        return get(first), get(second), get(third), get(fourth)

    @property
    def _values(self) -> dict[str, list[str]]:  # type: ignore[override]
        """The values, parsed on first use. Replaces the slot of `Headers`."""
        environ = self._environ
        if environ is not None:
            values = {}
            for key, value in environ.items():
                if key.startswith("HTTP_"):
                    values[key[5:].lower().replace("_", "-")] = [value]
                elif value and key in _UNPREFIXED:
                    values[key.lower().replace("_", "-")] = [value]
            self._parsed: dict[str, list[str]] = values
            self._environ = None
        return self._parsed


_UNPREFIXED = ("CONTENT_TYPE", "CONTENT_LENGTH")


class _EnvironKeys(dict[str, str]):
    """The environ keys of headers, cached (PEP 3333; RFC 3875, section 4.1.18)."""

    _MAX = 1000

    def __missing__(self, name: str) -> str:
        if "_" in name:
            return ""  # it would be mistaken for the header with a hyphen
        key = name.upper().replace("-", "_")
        if key not in _UNPREFIXED:
            key = f"HTTP_{key}"
        if len(self) < self._MAX:
            self[name] = key
        return key


_environ_keys = _EnvironKeys()


class _EnvironKeysOfMany(dict[NameTuple, NameTuple]):
    """The environ keys of four headers at a time, cached for the headers of each protocol."""

    def __missing__(self, names: NameTuple) -> NameTuple:
        first, second, third, fourth = map(_environ_keys.__getitem__, names)
        keys = self[names] = (first, second, third, fourth)
        return keys


_environ_keys_of_many = _EnvironKeysOfMany()


class _ResponseBody:
    """The chunks of a response, and what has to happen after them.

    The server iterates over the result of ``__iter__``, with no needless layer around the chunks, and calls
    ``close`` when the response is sent or the client has disconnected (PEP 3333).
    """

    __slots__ = ("_chunks", "_request_body", "_send_trailers")

    def __init__(
        self,
        chunks: Iterable[bytes],
        request_body: RequestBody,
        send_trailers: Callable[[], None] | None = None,
    ) -> None:
        self._chunks = chunks
        self._request_body = request_body
        self._send_trailers = send_trailers

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._request_body.wrap_response(self._chunks)
        return chunks if self._send_trailers is None else _followed(chunks, self._send_trailers)

    def close(self) -> None:
        try:
            close_iterator(self._chunks)
        finally:
            self._request_body.close()


def _followed(chunks: Iterable[bytes], send_trailers: Callable[[], None]) -> Iterator[bytes]:
    """Yield the chunks, then hand over the trailers, which the server sends after the last chunk."""
    yield from chunks
    send_trailers()


def finish_response(chunks: tuple[bytes, ...], request_body: RequestBody) -> Iterable[bytes]:
    """Return the WSGI response body for an answer that did not read the request's body.

    The request body is read when the answer has been sent: otherwise the server might take it for the next
    request on the connection.
    """
    if request_body.needs_no_close_after(sum(map(len, chunks))):
        return chunks
    return _ResponseBody(chunks, request_body)


_SendTrailers: TypeAlias = Callable[[list[tuple[str, str]]], object]


def _find_send_trailers(environ: WSGIEnvironment) -> _SendTrailers | None:
    """Return the function that hands trailers to the server; None if the server cannot send any."""
    send_trailers: _SendTrailers | None = environ.get("gunicorn.http2.send_trailers")
    if send_trailers is not None:
        return send_trailers
    send_trailers = environ.get("wsgi.ext.http.send_trailers")
    # pyvoy also offers it over HTTP/1.1, but drops the trailers there.
    if send_trailers is not None and environ["SERVER_PROTOCOL"].startswith("HTTP/1"):
        return None
    return send_trailers


def _hand_over(trailers: Headers, send_trailers: _SendTrailers) -> None:
    send_trailers(trailers.multi_items())
