"""What tests need: a client's transport that is the server itself, with no socket between them."""

from __future__ import annotations

from connect_sync.client import Lifetime
from connect_sync.http import Request, Response, as_body
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
        """Answer a request by the service."""
        lifetime.check()
        request.body = as_body(request.body)
        response = self._service(request)
        response.body = as_body(response.body)
        return response

    def close(self) -> None:
        """Do nothing: there are no connections."""
