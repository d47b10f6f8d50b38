"""The greeting service as a WSGI application, to be run by `gunicorn server:app`."""

from __future__ import annotations

from collections.abc import Iterator

from greet.v1.greet_connect import GreetService, GreetServiceWSGIApplication
from greet.v1.greet_pb2 import GreetRequest, GreetResponse, InvalidField

from connect_sync import Code, ConnectError, RequestContext

USERS = {"let-me-in": "guest"}
"""Who may call, by token. A real service has them elsewhere."""

HELLO = {"de": "Hallo", "en": "Hello", "fr": "Bonjour"}


class Greeter(GreetService):
    """Greets, and prints the messages at the moment they come and go."""

    def greet(self, request: GreetRequest, ctx: RequestContext) -> GreetResponse:
        """Unary: a message in, a message out."""
        say(f"<- {request.name!r}")
        if not request.name:
            raise ConnectError(
                Code.INVALID_ARGUMENT, "nobody is there to be greeted", details=[InvalidField(field="name")]
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
        """Server streaming: a generator, each message of which leaves when it is yielded."""
        say(f"<- {request.name!r}")
        for name in request.name.split(","):
            response = greeting(name, ctx)
            say(f"-> {response.greeting!r}")
            yield response

    # greet_everyone, which streams both ways, is no method of GreetService: WSGI cannot carry it, and
    # the application answers `unimplemented` to those who call it.


class Authentication:
    """Lets in who has a token, and says how their calls ended.

    This is a metadata interceptor: it wraps the call rather than its messages, and so guards calls of
    every kind.
    """

    def on_start(self, ctx: RequestContext) -> str:
        """Return whose call this is; what is raised instead is the answer to it."""
        scheme, _, token = ctx.request_headers().get("authorization", "").partition(" ")
        user = USERS.get(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise ConnectError(Code.UNAUTHENTICATED, "this takes a bearer token")
        return user

    def on_end(self, token: str, ctx: RequestContext, error: ConnectError | None) -> None:
        """Say how the call ended; `token` is what `on_start` returned."""
        outcome = "ok" if error is None else str(error)
        say(f"{ctx.method().name} by {token}: {outcome}")


def greeting(name: str, ctx: RequestContext) -> GreetResponse:
    """Return a greeting in the caller's language; headers go in and out by the context."""
    language = ctx.request_headers().get("accept-language", "")[:2]
    ctx.response_headers()["greet-version"] = "v1"
    return GreetResponse(greeting=f"{HELLO.get(language, HELLO['en'])}, {name}!")


def say(text: str) -> None:
    """Print a line at once, also where the output is not a terminal."""
    print(f"server  {text}", flush=True)


app = GreetServiceWSGIApplication(Greeter(), interceptors=[Authentication()])
