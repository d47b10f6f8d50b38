"""The enveloped form: messages in envelopes each way, and an end that tells how the call went.

A response with one message is made whole, its end included, before anything of it is sent. The head of a
stream is made when the handler has given its first message or has ended, for until then it may write leading
metadata. The generator that makes the body therefore yields once before the first chunk: from there on it is
inside its own ``try``, and closing it closes the handler's generator, whenever that happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from connect_sync.code import Code
from connect_sync.codec import Codec, check_type
from connect_sync.compression import IDENTITY, Compression
from connect_sync.context import response_metadata
from connect_sync.deadline import Deadline, client_disconnected
from connect_sync.envelope import (
    compress_message,
    open_payload,
    pack_prefix,
    read_envelopes,
    wrap,
    wrap_message,
)
from connect_sync.errors import ConnectError
from connect_sync.headers import Headers
from connect_sync.http import Body, ClosingIterator, Fields, Request, Response, close_after, close_iterator
from connect_sync.interceptor import CallHooks
from connect_sync.method import StreamKind
from connect_sync.protocols.protocol import EnvelopedProtocol, ResponseEnd
from connect_sync.server.context import ServerContext
from connect_sync.server.endpoint import ServerEndpoint, response_headers


class StreamHandler:
    """Answers calls of one method in one enveloped protocol, one codec and one of their content types."""

    def __init__(
        self, endpoint: ServerEndpoint, protocol: EnvelopedProtocol, codec: Codec, content_type: str
    ) -> None:
        """Serve ``endpoint`` in ``protocol`` and ``codec``, to requests of ``content_type``."""
        method = endpoint.method
        options = endpoint.options
        self._endpoint = endpoint
        self._method = method
        self._call = endpoint.call
        self._hooks = endpoint.hooks
        self._protocol = protocol
        self._protocol_type = protocol.type
        self._compressions = options.compressions
        self._compress_min_bytes = options.compress_min_bytes
        self._read_max_bytes = options.read_max_bytes
        self._requires_version = endpoint.requires_version
        self._decode = codec.decoder(method.input)
        self._encode = options.limit(codec.encoder(method.output))
        self._message_class = method.output
        self._fields: Fields = (("content-type", content_type),)
        # A bidirectional method is refused when it is called, with nothing of its body read.
        self._takes_stream = method.kind in (StreamKind.CLIENT_STREAM, StreamKind.BIDI_STREAM)
        self._gives_stream = method.kind is StreamKind.SERVER_STREAM

    def post(self, request: Request, body: Body) -> Response:
        """Answer a POST."""
        try:
            deadline, received, accepted = self._protocol.read_request(
                request.headers, self._compressions, self._requires_version
            )
        except ConnectError as problem:
            return self._refuse(request, problem)
        ctx = ServerContext(self._method, request, deadline, self._protocol_type)
        hooks = None
        try:
            if self._hooks is not None:
                hooks = CallHooks(self._hooks, ctx, self._endpoint.to_connect_error)
                hooks.start()
            if deadline is not None:
                body.set_deadline(deadline)
        except BaseException as raised:
            return self._end_alone(self._endpoint.fail(request, hooks, raised), ctx)
        requests = self._read(body, received)
        chunks: Iterable[bytes]
        if self._gives_stream:
            trailers = Headers() if self._protocol.has_trailers else None
            chunks = self._stream(request, body, requests, accepted, deadline, ctx, hooks, trailers)
            next(chunks)
        else:
            data, trailers = self._answer(request, body, requests, accepted, deadline, ctx, hooks)
            chunks = (data,)
        fields = self._fields
        if accepted is not None:
            fields = (*fields, (self._protocol.content_encoding, accepted.name))
        leading, _ = response_metadata(ctx)
        return Response(200, response_headers(leading, fields), chunks, trailers)

    def _refuse(self, request: Request, problem: ConnectError) -> Response:
        """Answer a request whose head is malformed. Interceptors see it like any other call."""
        ctx = ServerContext(self._method, request, None, self._protocol_type)
        error = self._endpoint.refuse(request, ctx, problem)
        if error.code is not Code.UNIMPLEMENTED:
            return self._end_alone(error, ctx)
        # gRPC, "Compression": the answer to an unknown compression lists the known ones.
        return self._end_alone(
            error, ctx, ((self._protocol.accept_encoding, self._compressions.names or IDENTITY),)
        )

    def _end_alone(self, error: ConnectError, ctx: ServerContext, fields: Fields = ()) -> Response:
        """Return a response without messages."""
        leading, _ = response_metadata(ctx)
        data, trailers = self._end(error, ctx)
        return Response(200, response_headers(leading, self._fields + fields), (data,), trailers)

    def _read(self, body: Body, received: Compression | None) -> Iterator[Any]:
        """Yield the messages of a request as they arrive."""
        decode = self._decode
        max_bytes = self._read_max_bytes
        for flags, payload in read_envelopes(body, max_bytes):
            if flags:
                payload = open_payload(flags, payload, received, max_bytes)
            yield decode(payload)

    def _answer(
        self,
        request: Request,
        body: Body,
        requests: Iterator[Any],
        accepted: Compression | None,
        deadline: Deadline | None,
        ctx: ServerContext,
        hooks: CallHooks | None,
    ) -> tuple[bytes, Headers | None]:
        """Return the whole body of a response that has one message, and its trailers."""
        endpoint = self._endpoint
        try:
            message = requests if self._takes_stream else _single_message(requests)
            message = self._call(message, ctx) if hooks is None else hooks.run(self._call, message, ctx)
            if deadline is not None:
                deadline.check()
            try:
                check_type(message, self._message_class)
                payload = compress_message(self._encode(message), accepted, self._compress_min_bytes)
            except Exception as fault:
                endpoint.refuse_response(fault)
            if hooks is not None and body.is_disconnected():
                raise client_disconnected(deadline)
        except BaseException as raised:
            return self._end(endpoint.fail(request, hooks, raised), ctx)
        if hooks is not None:
            failure = endpoint.succeed(request, hooks)
            if failure is not None:
                return self._end(failure, ctx)
        data, trailers = self._end(None, ctx)
        return wrap(*payload, data), trailers

    def _stream(
        self,
        request: Request,
        body: Body,
        requests: Iterator[Any],
        accepted: Compression | None,
        deadline: Deadline | None,
        ctx: ServerContext,
        hooks: CallHooks | None,
        trailers: Headers | None,
    ) -> Iterator[bytes]:
        """Yield one empty chunk when the leading metadata is complete, then the envelopes."""
        endpoint = self._endpoint
        encode = self._encode
        message_class = self._message_class
        compress_min_bytes = self._compress_min_bytes
        is_started = is_abandoned = False
        responses: Any = None
        error: ConnectError | None = None
        try:
            try:
                message = _single_message(requests)
                if hooks is None:
                    responses = self._call(message, ctx)
                else:
                    responses = hooks.run(self._call, message, ctx)
                    responses = ClosingIterator(responses, run=hooks.run)
                for message in responses:
                    if deadline is not None:
                        deadline.check()
                    try:
                        if type(message) is not message_class:
                            check_type(message, message_class)
                        data = encode(message)
                        size = len(data)
                        if accepted is None or size < compress_min_bytes:
                            # Like `wrap_message`, without a call for each message.
                            chunk = pack_prefix(0, size) + data
                        else:
                            chunk = wrap_message(data, accepted, compress_min_bytes)
                    except Exception as fault:
                        endpoint.refuse_response(fault)
                    try:
                        if not is_started:
                            is_started = True
                            yield b""
                        yield chunk
                    except GeneratorExit:
                        is_abandoned = True
                        raise
                if deadline is not None:
                    deadline.check()
                if body.is_disconnected():
                    raise client_disconnected(deadline)  # a handler that asked may have ended for that
            except BaseException as raised:
                if is_abandoned:
                    close_iterator(responses)
                else:
                    close_after(raised, partial(close_iterator, responses))
                raise
            # The handler's generator ends before the call does, so that its cleanup can still write
            # trailing metadata, and fail.
            close_iterator(responses)
        except BaseException as raised:
            if is_abandoned:
                endpoint.abandon(request, hooks, raised, deadline)
                return
            error = endpoint.fail(request, hooks, raised)
        else:
            if hooks is not None:
                error = endpoint.succeed(request, hooks)
        if not is_started:
            yield b""
        end = self._end(error, ctx)
        if trailers is not None and end.trailers is not None:
            for name, value in end.trailers.multi_items():
                trailers.add(name, value)
        if end.data:
            yield end.data

    def _end(self, error: ConnectError | None, ctx: ServerContext) -> ResponseEnd:
        """Return the end of a response."""
        _, metadata = response_metadata(ctx)
        return self._protocol.end_response(error, metadata)


def _single_message(messages: Iterator[Any]) -> Any:
    """Return the one message of a request that is not a stream."""
    message = next(messages, None)
    if message is None:
        raise ConnectError(Code.UNIMPLEMENTED, "the request has no message: expected exactly one")
    if next(messages, None) is not None:
        raise ConnectError(Code.UNIMPLEMENTED, "the request has several messages: expected exactly one")
    return message
