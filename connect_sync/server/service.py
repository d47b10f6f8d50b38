"""A service: its methods by path, and of each the forms in which it can be called, by content type."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from connect_sync.codec import JSON, PROTO
from connect_sync.compression import Compression, Compressions
from connect_sync.context import RequestContext
from connect_sync.envelope import DEFAULT_COMPRESS_MIN_BYTES, check_compress_min_bytes
from connect_sync.errors import bidi_unimplemented
from connect_sync.http import DEFAULT_READ_MAX_BYTES, Body, Request, Response, as_body
from connect_sync.interceptor import Call, Interceptor, check_interceptors, intercept
from connect_sync.method import IdempotencyLevel, Method, StreamKind
from connect_sync.protocols.connect import STREAM
from connect_sync.protocols.grpc import GRPC
from connect_sync.protocols.grpc_web import GRPC_WEB, GRPC_WEB_TEXT
from connect_sync.protocols.protocol import EnvelopedProtocol, media_type
from connect_sync.server.endpoint import Endpoint
from connect_sync.server.errors import ErrorMapper, ErrorMapping
from connect_sync.server.handlers import find_handlers
from connect_sync.server.plain import plain_response
from connect_sync.server.stream import StreamHandler
from connect_sync.server.text import TextHandler
from connect_sync.server.unary import GetHandler, UnaryHandler

_logger = logging.getLogger("connect_sync.server")

_CODECS = (PROTO, JSON)

Handle: TypeAlias = Callable[[Request, Body], Response]
"""Answers a request, whose body is handed in beside it as one that can be read."""


class Service:
    """Answers the requests to one service: a function from `Request` to `Response`.

    What the answers need and the calls do not change is made here, once: a call is two look-ups, by path
    and by content type, and what they lead to.
    """

    def __init__(
        self,
        implementation: object,
        methods: Mapping[str, Method[Any, Any]],
        *,
        interceptors: Iterable[Interceptor] = (),
        read_max_bytes: int = DEFAULT_READ_MAX_BYTES,
        compressions: Iterable[Compression | str],
        compress_min_bytes: int = DEFAULT_COMPRESS_MIN_BYTES,
        errors: ErrorMapping = MappingProxyType({}),
    ) -> None:
        """Serve ``implementation``.

        Args:
            implementation: The object whose methods are the handlers.
            methods: The methods of the service, by the names of their handlers. Bidirectional ones have
                none: they are answered with ``unimplemented``.
            interceptors: What wraps each call, from the outside in.
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            compressions: The compressions to offer, or their names, in order of preference.
            compress_min_bytes: From which size on messages are compressed, in bytes.
            errors: How exceptions are reported to clients, by class: a Code, or a function that takes the
                exception and returns a ConnectError. The nearest class in the MRO decides; an unmapped
                exception is logged and becomes ``internal``.

        Raises:
            TypeError: ``implementation`` is a class; a handler is missing, is a coroutine, or does not take a
                request and a context; an interceptor is none; ``errors`` has a key that is not a class
                derived from Exception, or a value that is neither a Code nor a plain function.
            ValueError: ``read_max_bytes`` is not positive, or ``compress_min_bytes`` negative; two
                compressions share a name; a name is unknown.
        """
        if read_max_bytes <= 0:
            raise ValueError(f"read_max_bytes is {read_max_bytes}: it takes a positive number of bytes")
        least = check_compress_min_bytes(compress_min_bytes)
        wrappers = check_interceptors(interceptors)
        offered = Compressions(compressions)
        mapper = ErrorMapper(errors)
        handlers = find_handlers(implementation, methods)
        self._routes = {}
        for name, method in methods.items():
            if method.kind is StreamKind.BIDI_STREAM:
                call: Call[Any, Any] = partial(_refuse_bidi, method)
            else:
                call = intercept(handlers[name], method.kind, wrappers)
            endpoint = Endpoint(method, call, read_max_bytes, offered, least, mapper)
            self._routes[method.path] = _Route(endpoint)

    def with_errors(self, errors: ErrorMapping) -> Service:
        """Return the same service with ``errors`` in place of its mapping.

        Raises:
            TypeError: A key or a value of ``errors`` is refused, as when a service is made.
        """
        mapper = ErrorMapper(errors)
        service = copy(self)
        service._routes = {
            path: _Route(replace(route.endpoint, errors=mapper)) for path, route in self._routes.items()
        }
        return service

    def __call__(self, request: Request) -> Response:
        """Answer a request. What goes wrong is a response too: no exception leaves."""
        route = self._routes.get(request.path)
        if route is None:
            return plain_response(404, f"there is no method at {request.path}")
        body = request.body = as_body(request.body)
        if request.method == "POST":
            content_type = request.headers.get("content-type", "")
            handle = route.post.get(content_type) or route.find(content_type)
            if handle is None:
                accepted = route.accept_post
                text = f"the content type is {content_type!r}, and has to be one of {accepted}"
                return plain_response(415, text, {"accept-post": accepted})
            return handle(request, body)
        if request.method == "GET" and route.get is not None:
            return route.get(request, body)
        return plain_response(405, f"{request.method} is not allowed here", {"allow": route.allow})


class _Route:
    """A method by the forms in which it can be called."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        method = endpoint.method
        self.get: Handle | None = None
        self.post: dict[str, Handle] = {}
        if method.kind is StreamKind.UNARY:
            unary = {codec.name: UnaryHandler(endpoint, codec) for codec in _CODECS}
            self.post = {handler.content_type: handler.answer for handler in unary.values()}
            if method.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS:
                self.get = GetHandler(unary)
        else:
            self._add(endpoint, STREAM)
        self._add(endpoint, GRPC_WEB)
        self._add(endpoint, GRPC_WEB_TEXT, lambda post: TextHandler(post).post)
        self._add(endpoint, GRPC, _require_trailers)
        self.allow = "POST" if self.get is None else "GET, POST"
        self.accept_post = ", ".join(self.post)

    def _add(
        self,
        endpoint: Endpoint,
        protocol: EnvelopedProtocol,
        wrap: Callable[[Handle], Handle] | None = None,
    ) -> None:
        for codec in _CODECS:
            for content_type in protocol.content_types(codec):
                post = StreamHandler(endpoint, protocol, codec, content_type).post
                self.post[content_type] = post if wrap is None else wrap(post)

    def find(self, content_type: str) -> Handle | None:
        """Return what answers to a content type in another spelling, or with parameters.

        None if its charset is not UTF-8. Other parameters are ignored (RFC 9110, section 8.3.1).
        """
        for name, value in _find_parameters(content_type.lower()):
            if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
                return None
        return self.post.get(media_type(content_type))


# RFC 9110, section 5.6.6: a quoted value may hold semicolons.
_find_parameters = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:\\.|[^"\\])*"|[^\s;]*)').findall


def _require_trailers(post: Handle) -> Handle:
    """Return a way to answer that refuses where the response cannot have trailers."""

    def handle(request: Request, body: Body) -> Response:
        if request.accepts_trailers:
            return post(request, body)
        _logger.warning("a gRPC request to %s was refused: %s", request.path, _NO_TRAILERS)
        return plain_response(501, _NO_TRAILERS)

    return handle


_NO_TRAILERS = (
    "gRPC needs HTTP trailers, and this server offers none for this request: "
    "call by Connect or gRPC-Web, or over HTTP/2 where the server speaks it"
)


def _refuse_bidi(method: Method[Any, Any], request: object, ctx: RequestContext) -> NoReturn:
    raise bidi_unimplemented(method.full_name)
