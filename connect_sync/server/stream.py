"""The enveloped form: messages in envelopes each way, and an end that tells how the call went.

A response with one message is made whole, its end included, before anything of it is sent. Of a stream the
head is made when the handler has given its first message or has ended, for till then it may write leading
metadata. The generator that makes the body therefore yields once before the first chunk: from there on it is
inside its own ``try``, and closing it closes the handler's generator, whenever that happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from connect_sync.code import Code
from connect_sync.codec import Codec, check_type
from connect_sync.compression import IDENTITY, Compression
from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline
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
from connect_sync.http import Body, Fields, Request, Response, close_iterator
from connect_sync.method import StreamKind
from connect_sync.protocols.protocol import EnvelopedProtocol
from connect_sync.server.endpoint import Endpoint, response_headers


class StreamHandler:
    """Answers calls of one method in one enveloped protocol, one codec and one of their content types."""

    def __init__(
        self, endpoint: Endpoint, protocol: EnvelopedProtocol, codec: Codec, content_type: str
    ) -> None:
        """Serve ``endpoint`` in ``protocol`` and ``codec``, to requests of ``content_type``."""
        method = endpoint.method
        self._endpoint = endpoint
        self._method = method
        self._call = endpoint.call
        self._protocol = protocol
        self._decode = codec.decoder(method.input)
        self._encode = codec.encoder(method.output)
        self._message_class = method.output
        self._fields: Fields = (("content-type", content_type),)
        # A bidirectional method is refused when it is called, with nothing of its body read.
        self._takes_stream = method.kind in (StreamKind.CLIENT_STREAM, StreamKind.BIDI_STREAM)
        self._gives_stream = method.kind is StreamKind.SERVER_STREAM

    def post(self, request: Request, body: Body) -> Response:
        """Answer a POST."""
        endpoint = self._endpoint
        protocol = self._protocol
        try:
            deadline, received, accepted = protocol.read_request(request.headers, endpoint.compressions)
        except ConnectError as error:
            fields = self._fields
            if error.code is Code.UNIMPLEMENTED:
                # gRPC, "Compression": a client whose compression is unknown has to hear which ones are not.
                fields = (*fields, (protocol.accept_encoding, endpoint.compressions.names or IDENTITY))
            end = protocol.end_response(error, None)
            return Response(200, fields, (end.data,), end.trailers, error)
        trailers = Headers() if protocol.has_trailers else None
        ctx = RequestContext(self._method, request, deadline)
        if deadline is not None:
            body.set_deadline(deadline)
        requests = self._read(body, received)
        chunks: Iterable[bytes]
        failure = None
        if self._gives_stream:
            chunks = self._stream(requests, accepted, deadline, ctx, trailers)
            next(chunks)
        else:
            whole, failure = self._answer(requests, accepted, deadline, ctx, trailers)
            chunks = (whole,)
        fields = self._fields
        if accepted is not None:
            fields = (*fields, (protocol.content_encoding, accepted.name))
        leading, _ = ctx.response_metadata()
        return Response(200, response_headers(leading, fields), chunks, trailers, failure)

    def _read(self, body: Body, received: Compression | None) -> Iterator[Any]:
        """Yield the messages of a request as they arrive."""
        decode = self._decode
        max_bytes = self._endpoint.read_max_bytes
        for flags, payload in read_envelopes(body, max_bytes):
            if flags:
                payload = open_payload(flags, payload, received, max_bytes)
            yield decode(payload)

    def _answer(
        self,
        requests: Iterator[Any],
        accepted: Compression | None,
        deadline: Deadline | None,
        ctx: RequestContext,
        trailers: Headers | None,
    ) -> tuple[bytes, ConnectError | None]:
        """Return the whole body of a response that has one message, and the error in it."""
        endpoint = self._endpoint
        payload = None
        error: ConnectError | None = None
        try:
            message = self._call(requests if self._takes_stream else _only(requests), ctx)
            if deadline is not None:
                deadline.check()
            check_type(message, self._message_class)
            payload = compress_message(self._encode(message), accepted, endpoint.compress_min_bytes)
        except Exception as raised:
            error = endpoint.to_connect_error(raised)
        _, metadata = ctx.response_metadata()
        end = self._end(error, metadata, trailers)
        return (end if payload is None else wrap(*payload, end)), error

    def _stream(
        self,
        requests: Iterator[Any],
        accepted: Compression | None,
        deadline: Deadline | None,
        ctx: RequestContext,
        trailers: Headers | None,
    ) -> Iterator[bytes]:
        """Yield one empty chunk when the leading metadata is complete, then the envelopes."""
        endpoint = self._endpoint
        encode = self._encode
        message_class = self._message_class
        compress_min_bytes = endpoint.compress_min_bytes
        is_started = is_abandoned = False
        responses: Any = None
        error: ConnectError | None = None
        try:
            try:
                responses = self._call(_only(requests), ctx)
                for message in responses:
                    if deadline is not None:
                        deadline.check()
                    if type(message) is not message_class:
                        check_type(message, message_class)
                    data = encode(message)
                    size = len(data)
                    if accepted is None or size < compress_min_bytes:
                        # As `wrap_message` has it, without a call for each message.
                        chunk = pack_prefix(0, size) + data
                    else:
                        chunk = wrap_message(data, accepted, compress_min_bytes)
                    if not is_started:
                        is_started = True
                        yield b""
                    yield chunk
                if deadline is not None:
                    deadline.check()
            except GeneratorExit:
                is_abandoned = True
                raise
            finally:
                # The handler's generator ends before the call does, so that its cleanup can still
                # write trailing metadata, and fail.
                close_iterator(responses)
        except Exception as raised:
            error = endpoint.to_connect_error(raised)
            if is_abandoned:
                return
        if not is_started:
            yield b""
        _, metadata = ctx.response_metadata()
        end = self._end(error, metadata, trailers)
        if end:
            yield end

    def _end(self, error: ConnectError | None, metadata: Headers | None, trailers: Headers | None) -> bytes:
        """Return the last bytes of a response, whose ``trailers`` are filled where the protocol has them."""
        end = self._protocol.end_response(error, metadata)
        if trailers is not None and end.trailers is not None:
            for name, value in end.trailers.multi_items():
                trailers.add(name, value)
        return end.data


def _only(messages: Iterator[Any]) -> Any:
    """Return the one message of a request that is not a stream."""
    message = next(messages, None)
    if message is None:
        raise ConnectError(Code.UNIMPLEMENTED, "the request has no message: it takes exactly one")
    if next(messages, None) is not None:
        raise ConnectError(Code.UNIMPLEMENTED, "the request has several messages: it takes exactly one")
    return message
