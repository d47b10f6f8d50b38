"""A method with its handler, as the forms in which it can be called share it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from connect_sync.context import RequestContext
from connect_sync.deadline import Deadline, client_disconnected
from connect_sync.endpoint import Endpoint, MessageOptions
from connect_sync.errors import ConnectError, ContractError
from connect_sync.headers import Headers
from connect_sync.http import Fields, Request
from connect_sync.interceptor import Call, CallHooks, Interceptors
from connect_sync.method import Method, StreamKind
from connect_sync.protocols.protocol import metadata_of
from connect_sync.server.context import ServerContext
from connect_sync.server.errors import ErrorMapper


class ServerEndpoint(Endpoint):
    """A method that is served, and what its calls make of exceptions."""

    __slots__ = ("_errors", "method", "options", "requires_version")

    def __init__(
        self,
        method: Method[Any, Any],
        handler: Call[Any, Any],
        interceptors: Interceptors,
        options: MessageOptions,
        errors: ErrorMapper,
        *,
        requires_version: bool,
    ) -> None:
        """Serve ``method`` by ``handler``; for a bidirectional method, this is its refusal."""
        if method.kind is StreamKind.SERVER_STREAM:
            handler = _check_stream(handler, method)
        super().__init__(method, handler, interceptors)
        self.method: Method[Any, Any] = method
        self.options: MessageOptions = options
        self._errors = errors
        self.requires_version: bool = requires_version

    def to_connect_error(self, raised: BaseException) -> ConnectError:
        """Return what the client may know of an exception. The rest is logged."""
        return self._errors.to_connect_error(raised, self.method)

    def refuse(self, request: Request, ctx: ServerContext, problem: ConnectError) -> ConnectError:
        """End a call whose request head is malformed, and return the error to tell the client.

        Interceptors see this call too, and may refuse it for another reason than the ``problem``.

        Raises:
            BaseException: What a hook raised, if it is not an Exception.
        """
        hooks = None if self.hooks is None else CallHooks(self.hooks, ctx, self.to_connect_error)
        try:
            if hooks is not None:
                hooks.start()
            raise problem
        except BaseException as raised:
            return self.fail(request, hooks, raised)

    def succeed(self, request: Request, hooks: CallHooks) -> ConnectError | None:
        """End a call whose response can be sent, and return the error to tell the client instead, if any.

        Raises:
            BaseException: What an ``on_end`` raised, if it is not an Exception.
        """
        error = hooks.succeed()
        return None if error is None else self._report(request, error, hooks.raised)

    def fail(self, request: Request, hooks: CallHooks | None, raised: BaseException) -> ConnectError:
        """End a call with the exception ``raised``, and return the error to tell the client.

        Raises:
            BaseException: ``raised``, or what a hook raised, if it is not an Exception: it goes on to the
                server, which closes the connection or ends the process.
        """
        if hooks is None:
            return self._report(request, self.to_connect_error(raised), raised)
        error = hooks.fail(raised)
        return self._report(request, error, hooks.raised)

    def abandon(
        self, request: Request, hooks: CallHooks | None, raised: BaseException, deadline: Deadline | None
    ) -> None:
        """End a call whose client disconnected before its response had ended.

        ``raised`` is the GeneratorExit by which the server closed the response, or what the handler's cleanup
        raised in its place.

        Raises:
            BaseException: ``raised``, or what a hook raised, if it is not an Exception.
        """
        error = client_disconnected(deadline)
        error.__cause__ = raised
        if hooks is None:
            self.to_connect_error(raised)  # which logs what is to be logged
            self._report(request, error, raised)
        else:
            error = hooks.abandon(raised, error)
            self._report(request, error, hooks.raised)

    def _report(self, request: Request, error: ConnectError, raised: BaseException | None) -> ConnectError:
        """Return ``error``, recorded as the outcome of the call for middleware to find.

        Raises:
            BaseException: ``raised``, if it is not an Exception.
        """
        # An error that is raised for many calls would keep the frames of each.
        error.__traceback__ = None
        request.error = error
        if raised is not None and not isinstance(raised, Exception):
            raise raised
        return error

    def refuse_response(self, error: Exception) -> NoReturn:
        """Raise what stands for ``error``, by which a response could not be checked or encoded.

        Raises:
            ConnectError: ``error``, if it is one: the response is too large.
            ContractError: In place of any other: the service is at fault.
        """
        if isinstance(error, ConnectError):
            raise error
        raise ContractError(f"the response of {self.method.full_name} is invalid: {error}") from error


def _check_stream(handler: Call[Any, Any], method: Method[Any, Any]) -> Call[Any, Any]:
    def call(request: Any, ctx: RequestContext) -> Any:
        responses = handler(request, ctx)
        if not isinstance(responses, Iterable):
            got = "None" if responses is None else f"a {type(responses).__name__}"
            raise ContractError(
                f"the handler of {method.full_name} returned {got}: "
                "a server-streaming handler must yield its responses, or return an iterable of them"
            )
        return responses

    return call


def response_headers(leading: Headers | None, fields: Fields) -> Headers | Fields:
    """Return the headers of a response: the leading metadata that the handler wrote, and ``fields``."""
    if leading is None:
        return fields
    headers = metadata_of(leading)
    for name, value in fields:
        headers[name] = value
    return headers
