"""The enveloped form: messages in envelopes each way, and an end that tells how the call went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, Generic

from connect_sync.client.call import (
    ClientContext,
    ClientSettings,
    add_response,
    call_error,
    end_deadline,
    ending,
    response_error,
    succeed,
)
from connect_sync.client.metadata import collect
from connect_sync.code import Code
from connect_sync.codec import checked
from connect_sync.compression import Compression
from connect_sync.endpoint import Endpoint
from connect_sync.envelope import open_payload, read_envelopes, wrap_message
from connect_sync.errors import ConnectError, MalformedError, TooLargeError
from connect_sync.headers import Headers
from connect_sync.http import Body, ClosingIterator, Response, as_body, close_iterator
from connect_sync.interceptor import CallHooks
from connect_sync.method import Method, OutputT
from connect_sync.protocols.protocol import EndEnvelopeProtocol


class StreamCaller:
    """Makes calls of one method in one enveloped protocol."""

    def __init__(
        self, method: Method[Any, Any], settings: ClientSettings, protocol: EndEnvelopeProtocol
    ) -> None:
        """Call ``method`` in ``protocol`` as ``settings`` say."""
        codec = settings.codec
        self._path = method.path
        self._settings = settings
        self._protocol = protocol
        self._encode = settings.options.limit(checked(codec.encoder(method.input), method.input))
        self._decode = codec.decoder(method.output)
        self._content_type = protocol.content_types(codec)[0]

    def call_unary(self, request: Any, ctx: ClientContext) -> Any:
        """Send one message, and return the one that answers it. Raises ConnectError."""
        return self._single_message(tuple(self._wrap((request,))), ctx)

    def call_client_stream(self, requests: Iterator[Any], ctx: ClientContext) -> Any:
        """Send each message when it comes, and return the one that answers them. Raises ConnectError."""
        return self._single_message(self._wrap(requests), ctx)

    def call_server_stream(self, request: Any, ctx: ClientContext) -> Iterator[Any]:
        """Send one message, and return those that answer it as they arrive. Raises ConnectError."""
        return self._send(tuple(self._wrap((request,))), ctx)

    def _single_message(self, body: Iterable[bytes], ctx: ClientContext) -> Any:
        with closing(self._send(body, ctx)) as responses:
            message = next(responses, None)
            if message is not None and next(responses, None) is None:
                return message
        count = "no message" if message is None else "several messages"
        raise ConnectError(Code.UNIMPLEMENTED, f"the response has {count}: expected exactly one")

    def _send(self, body: Iterable[bytes], ctx: ClientContext) -> ClosingIterator[Any]:
        """Send a request, and return the messages of its response as they arrive."""
        settings = self._settings
        protocol = self._protocol
        headers = settings.attempt(ctx, protocol)
        headers["content-type"] = self._content_type
        if settings.send_compression is not None:
            headers[protocol.content_encoding] = settings.send_compression.name
        response = settings.send(ctx, self._path, headers, body)
        response_body = as_body(response.body)
        try:
            ctx.set_response(response.status, response.headers)
            settings.check_head(response, response_body, protocol, ctx)
            compression = settings.find_compression(response.headers.get(protocol.content_encoding))
        except BaseException as error:
            response_body.close()
            if isinstance(error, ConnectError):
                add_response(error, response, response.headers)
            raise
        messages = self._read(response, response_body, compression, ctx)
        return ClosingIterator(messages, (response_body,))

    def _wrap(self, messages: Iterable[Any]) -> Iterator[bytes]:
        """Yield the envelope of each message."""
        encode = self._encode
        compression = self._settings.send_compression
        min_bytes = self._settings.options.compress_min_bytes
        for message in messages:
            yield wrap_message(encode(message), compression, min_bytes)

    def _read(
        self, response: Response, body: Body, compression: Compression | None, ctx: ClientContext
    ) -> Iterator[Any]:
        """Yield the messages of a response as they arrive. Raises ConnectError."""
        protocol = self._protocol
        decoder = self._decode
        check = ctx.lifetime.check
        max_bytes = self._settings.options.read_max_bytes
        end_flag = protocol.end_flag
        envelopes = read_envelopes(body, max_bytes)
        is_empty = True
        end = trailers = None
        try:
            for flags, payload in envelopes:
                check()
                is_empty = False
                message = open_payload(flags & ~end_flag, payload, compression, max_bytes)
                if flags & end_flag:
                    end = protocol.decode_end(message)
                    break
                yield decoder(message)
                check()
            if is_empty:
                end = protocol.trailers_only_end(response.headers)
            if end is None:
                raise ConnectError(Code.INTERNAL, "the response is missing its end-of-stream message")
            failure, trailers = end
            ctx.set_trailers(trailers)
            if _drain_after_end(envelopes, body, ctx):
                raise ConnectError(Code.INTERNAL, "the response has data after its end-of-stream message")
            if failure is not None:
                try:
                    raise failure
                finally:
                    # The frame would keep the error, whose traceback keeps the frame.
                    del failure, end
        except (MalformedError, TooLargeError) as fault:
            raise add_response(response_error(fault), response, response.headers) from fault
        except ConnectError as error:
            add_response(error, response, response.headers, trailers)
            raise


def _drain_after_end(envelopes: Iterator[tuple[int, bytes]], body: Body, ctx: ClientContext) -> bool:
    """Read to the end of a body whose stream has ended, so that its connection can be used again.

    Tell whether something follows the end. The result of the call is known: that the connection breaks, or is
    slow to end, does not change it.
    """
    body.set_deadline(end_deadline(ctx))
    try:
        return next(envelopes, None) is not None
    except MalformedError:
        return True
    except ConnectError:
        return False


def open_stream(endpoint: Endpoint, request: Any, ctx: ClientContext) -> ResponseStream[Any]:
    """Make a server-streaming call, and return its responses. Raises what the call does before the first."""
    if endpoint.hooks is None:
        responses = endpoint.call(request, ctx)
        return ResponseStream(ctx, iter(responses), responses)
    hooks = CallHooks(endpoint.hooks, ctx, call_error)
    with ending(hooks):
        hooks.start()
        responses = ClosingIterator(hooks.run(endpoint.call, request, ctx), run=hooks.run)
    observed = _observe(responses, hooks)
    next(observed)
    return ResponseStream(ctx, observed, responses)


def _observe(responses: Iterator[Any], hooks: CallHooks) -> Iterator[Any]:
    """Yield once before the first response, and then each of them; end the call when they end.

    A generator's cleanup runs also when it is collected as garbage.
    """
    with ending(hooks):
        yield
        # Not ``yield from``, which would close the responses while garbage is collected.
        for response in responses:  # noqa: UP028
            yield response
    succeed(hooks)


class ResponseStream(Iterator[OutputT], Generic[OutputT]):
    """An iterator over the responses of a call, each as soon as it has arrived.

    The call is over when the iterator is exhausted or has raised; before that it is given up by ``close``,
    or by leaving the stream's ``with`` block. A stream that is neither exhausted nor closed keeps its
    connection until it is collected as garbage.
    """

    def __init__(self, ctx: ClientContext, responses: Iterator[OutputT], source: object) -> None:
        """Read the responses of the call ``ctx`` from ``responses``, which come from ``source``."""
        self._ctx = ctx
        self._responses = responses
        self._source = source
        self._ahead: list[OutputT] = []
        self._error: Exception | None = None

    def response_headers(self) -> Headers:
        """Return the response's leading metadata.

        An interceptor that is a generator sends the request when its first message is asked for: this then
        waits for it.
        """
        if self._ctx.http_status is None:
            self._read_ahead()
        return self._ctx.response_headers()

    def response_trailers(self) -> Headers:
        """Return the response's trailing metadata; empty until the stream has ended."""
        return self._ctx.response_trailers()

    def close(self) -> None:
        """Give the call up, if it is not over. Its connection is closed. Idempotent."""
        self._ahead.clear()
        self._error = None
        try:
            close_iterator(self._source)
        finally:
            close_iterator(self._responses)

    def __next__(self) -> OutputT:
        """Return the next response, waiting for it.

        Raises:
            ConnectError: The call failed: with what the server answered, or with ``unavailable``,
                ``deadline_exceeded``, ``canceled``, ``resource_exhausted`` or ``internal``.
        """
        if self._ahead:
            return self._ahead.pop()
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        try:
            return next(self._responses)
        finally:
            collect(self._ctx)

    def _read_ahead(self) -> None:
        try:
            self._ahead.append(next(self._responses))
        except StopIteration:
            pass
        except Exception as error:
            self._error = error

    def __enter__(self) -> ResponseStream[OutputT]:
        """Return the stream."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the stream."""
        self.close()
