"""A service: its methods by path, and of each the forms in which it can be called, by content type."""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any, NoReturn, TypeAlias

from connect_sync.code import Code
from connect_sync.codec import JSON, PROTO
from connect_sync.compression import Compression, Compressions
from connect_sync.context import RequestContext
from connect_sync.endpoint import MessageOptions
from connect_sync.envelope import DEFAULT_COMPRESS_MIN_BYTES
from connect_sync.errors import ConnectError, ErrorMapping, bidi_unimplemented
from connect_sync.http import DEFAULT_READ_MAX_BYTES, Body, Request, Response, as_body
from connect_sync.interceptor import Interceptor, Interceptors
from connect_sync.method import IdempotencyLevel, Method, StreamKind
from connect_sync.protocols.connect import STREAM
from connect_sync.protocols.grpc import GRPC
from connect_sync.protocols.grpc_web import GRPC_WEB, GRPC_WEB_TEXT
from connect_sync.protocols.protocol import EnvelopedProtocol, media_type
from connect_sync.server.context import ServerContext
from connect_sync.server.endpoint import ServerEndpoint
from connect_sync.server.errors import ErrorMapper
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
        errors: ErrorMapping | None = None,
        read_max_bytes: int = DEFAULT_READ_MAX_BYTES,
        send_max_bytes: int | None = None,
        compressions: Iterable[Compression | str],
        compress_min_bytes: int = DEFAULT_COMPRESS_MIN_BYTES,
        require_connect_protocol_version: bool = False,
    ) -> None:
        """Serve ``implementation``.

        Args:
            implementation: The object whose methods are the handlers.
            methods: The methods of the service, by the names of their handlers. Bidirectional ones have
                none: they are answered with ``unimplemented``.
            interceptors: What wraps each call, from the outside in.
            errors: What exceptions become: a `Code`, or a function that makes the `ConnectError`, by the
                class of the exception. Others become ``internal``, and are logged.
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            send_max_bytes: How large a sent message may be before it is compressed, in bytes; None for no
                limit.
            compressions: The compressions to offer, or their names, in order of preference.
            compress_min_bytes: The size in bytes from which messages are compressed.
            require_connect_protocol_version: Refuse calls of Connect that do not tell the protocol's version.

        Raises:
            TypeError: ``implementation`` is a class, or lacks a handler, or has one that cannot be called
                like one; an interceptor is not one; ``errors`` maps something else.
            ValueError: A number is out of its range; two compressions share a name; a name is unknown.
        """
        self._handlers = find_handlers(implementation, methods)
        self._methods = methods
        self._interceptors = Interceptors(interceptors, ServerContext)
        self._options = MessageOptions(
            read_max_bytes=read_max_bytes,
            send_max_bytes=send_max_bytes,
            compressions=Compressions(compressions),
            compress_min_bytes=compress_min_bytes,
        )
        self._requires_version = require_connect_protocol_version
        self._routes = self._make_routes(ErrorMapper(errors or {}))

    def with_errors(self, errors: ErrorMapping) -> Service:
        """Return the same service with another mapping of exceptions. Raises TypeError for a wrong one."""
        service = copy(self)
        service._routes = service._make_routes(ErrorMapper(errors))
        return service

    def _make_routes(self, errors: ErrorMapper) -> dict[str, _Route]:
        routes = {}
        for name, method in self._methods.items():
            handler = self._handlers.get(name) or partial(_refuse_bidi, method)
            endpoint = ServerEndpoint(
                method,
                handler,
                self._interceptors,
                self._options,
                errors,
                requires_version=self._requires_version,
            )
            routes[method.path] = _Route(endpoint)
        return routes

    def __call__(self, request: Request) -> Response:
        """Answer a request.

        What goes wrong is a response, too; only exceptions that are not an Exception leave, such as
        KeyboardInterrupt.
        """
        route = self._routes.get(request.path)
        if route is None:
            return _answer_unknown(request)
        body = request.body = as_body(request.body)
        if request.method == "POST":
            content_type = request.headers.get("content-type", "")
            handle = route.post.get(content_type) or route.find(content_type)
            return route.refuse_content_type(content_type) if handle is None else handle(request, body)
        if request.method == "GET" and route.get is not None:
            return route.get(request, body)
        return plain_response(405, f"{request.method} is not allowed here", {"allow": route.allow})


class _Route:
    """A method by the forms in which it can be called."""

    def __init__(self, endpoint: ServerEndpoint) -> None:
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
        self._accept_post = ", ".join(self.post)
        self._method = method

    def _add(
        self,
        endpoint: ServerEndpoint,
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

    def refuse_content_type(self, content_type: str) -> Response:
        """Answer a POST whose content type is not served."""
        text = f"the content type must be one of {self._accept_post}, got {content_type!r}"
        codec = media_type(content_type).removeprefix("application/")
        stream_type = f"application/connect+{codec}"
        if stream_type in self.post:
            text += (
                f"; {self._method.full_name} is {self._method.kind.value}, "
                f"which takes messages in envelopes, as {stream_type}"
            )
        return plain_response(415, text, {"accept-post": self._accept_post})


# RFC 9110, section 5.6.6: a quoted value may hold semicolons.
_find_parameters = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:\\.|[^"\\])*"|[^\s;]*)').findall


def _answer_unknown(request: Request) -> Response:
    """Answer a request to a path that has no method, in the protocol in which it was made."""
    text = f"unknown method {request.path}"
    content_type = media_type(request.headers.get("content-type", ""))
    protocol = next(
        (
            known
            for known in (GRPC_WEB_TEXT, GRPC_WEB, GRPC)
            if content_type == known.content_type or content_type.startswith(f"{known.content_type}+")
        ),
        None,
    )
    if (
        protocol is None
        or request.method != "POST"
        or (protocol.has_trailers and not request.accepts_trailers)
    ):
        return plain_response(404, text)
    # gRPC over HTTP2, "Responses": every outcome of a call is HTTP 200 with a status.
    request.error = ConnectError(Code.UNIMPLEMENTED, text)
    end = protocol.end_response(request.error, None)
    data = b64encode(end.data) if protocol is GRPC_WEB_TEXT else end.data
    known = [name for codec in _CODECS for name in protocol.content_types(codec)]
    answered = content_type if content_type in known else protocol.content_type
    return Response(200, (("content-type", answered),), (data,), end.trailers)


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
