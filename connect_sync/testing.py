"""What tests need: a client's transport that is the server itself, with no socket between them."""

from __future__ import annotations

from collections.abc import Iterable

from connect_sync.client import Lifetime
from connect_sync.code import Code
from connect_sync.errors import ConnectError
from connect_sync.http import IterableBody, Request, Response, as_body
from connect_sync.server import Service


class InMemoryTransport:
    """Sends the requests of a client to a service in the same thread.

    ::

        app = GreetServiceWSGIApplication(Greeter())
        client = GreetServiceClient("http://test", transport=InMemoryTransport(app.service))

    The messages of a client's stream are asked for when the handler asks for them, those of a server's
    stream when the client does.
    """

    def __init__(self, service: Service) -> None:
        """Send requests to ``service``."""
        self._service = service

    def send(self, request: Request, lifetime: Lifetime) -> Response:
        """Answer a request by the service.

        Raises:
            ConnectError: ``canceled`` or ``deadline_exceeded``, if the lifetime ended meanwhile.
        """
        lifetime.check()
        body = _CallersBody(request.body)
        # Headers are copied, as a wire would: what one side writes later the other does not see.
        response = self._service(
            Request(request.method, request.path, request.headers.copy(), body, query=request.query)
        )
        response_body = as_body(response.body)
        try:
            lifetime.check()
            if body.error is not None:
                raise body.error
        except BaseException:
            response_body.close()
            raise
        return Response(response.status, response.headers.copy(), response_body)

    def close(self) -> None:
        """Do nothing: there are no connections."""


class _CallersBody(IterableBody):
    """The body that a caller's iterator makes: its errors are the caller's, not the server's."""

    __slots__ = ("error",)

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__(chunks)
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            return super().read(size)
        except Exception as error:
            self.error = error
            raise ConnectError(Code.CANCELED, "the client has given up") from error
