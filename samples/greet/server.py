"""The greeting service as a WSGI application, to be run by `gunicorn server:app`."""

from __future__ import annotations

from collections.abc import Iterator

from greet.v1.greet_connect import GreetService, GreetServiceWSGIApplication
from greet.v1.greet_pb2 import GreetRequest, GreetResponse, InvalidField

from connect_sync import Code, ConnectError, RequestContext

USERS = {"let-me-in": "guest"}
"""The users, by token. A real service stores them elsewhere."""

HELLO = {"de": "Hallo", "en": "Hello", "fr": "Bonjour"}


class Greeter(GreetService):
    """Greets, and prints messages as they are received and sent."""

    def greet(self, request: GreetRequest, ctx: RequestContext) -> GreetResponse:
        """Unary: one message in, one message out."""
        say(f"<- {request.name!r}")
        if not request.name:
            raise ConnectError(
                Code.INVALID_ARGUMENT, "name must not be empty", details=[InvalidField(field="name")]
            )
        return greeting(request.name, ctx)

    def greet_group(self, request: Iterator[GreetRequest], ctx: RequestContext) -> GreetResponse:
        """Client streaming: `request` is an iterator that waits for each message."""
        names: list[str] = []
        for message in request:
            say(f"<- {message.name!r}")
            names.append(message.name)
        return greeting(" and ".join(names), ctx)

    def greet_individuals(self, request: GreetRequest, ctx: RequestContext) -> Iterator[GreetResponse]:
        """Server streaming: a generator. Each message is sent when it is yielded."""
        say(f"<- {request.name!r}")
        for name in request.name.split(","):
            response = greeting(name, ctx)
            say(f"-> {response.greeting!r}")
            yield response

    # GreetService has no greet_everyone, which streams both ways: WSGI does not support that, and the
    # application answers calls of it with `unimplemented`.


class Authentication:
    """Requires a token, and prints how each call ended.

    This is a metadata interceptor: it wraps the call rather than its messages, so it works for every kind of
    call.
    """

    def on_start(self, ctx: RequestContext) -> str:
        """Return the user; raising a ConnectError rejects the call."""
        scheme, _, token = ctx.request_headers().get("authorization", "").partition(" ")
        user = USERS.get(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise ConnectError(Code.UNAUTHENTICATED, "a bearer token is required")
        return user

    def on_end(self, token: str, ctx: RequestContext, error: ConnectError | None) -> None:
        """Print how the call ended; `token` is the return value of `on_start`."""
        outcome = "ok" if error is None else str(error)
        say(f"{ctx.method().name} by {token}: {outcome}")


def greeting(name: str, ctx: RequestContext) -> GreetResponse:
    """Return a greeting in the caller's language, using the headers of request and response."""
    language = ctx.request_headers().get("accept-language", "")[:2]
    ctx.response_headers()["greet-version"] = "v1"
    return GreetResponse(greeting=f"{HELLO.get(language, HELLO['en'])}, {name}!")


def say(text: str) -> None:
    """Print a line immediately, even if the output is not a terminal."""
    print(f"server  {text}", flush=True)


app = GreetServiceWSGIApplication(Greeter(), interceptors=[Authentication()])
