"""Calls the greeting service in every possible way: `python client.py [address]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from greet.v1.greet_connect import GreetServiceClient
from greet.v1.greet_pb2 import GreetRequest, InvalidField

from connect_sync import ConnectError, RequestContext, ResponseMetadata


class BearerToken:
    """A client-side metadata interceptor that sends a token with every call, of any kind."""

    def __init__(self, token: str) -> None:
        """Send ``token``."""
        self._value = f"Bearer {token}"

    def on_start(self, ctx: RequestContext) -> None:
        """Add the token to the headers of the request."""
        ctx.request_headers()["authorization"] = self._value


def main(address: str) -> None:
    """Make the calls, one after the other."""
    interceptors = [BearerToken("let-me-in")]
    with GreetServiceClient(address, interceptors=interceptors, timeout_ms=10_000) as client:
        greet(client)
        greet_group(client, (line.strip() for line in sys.stdin))
        greet_individuals(client, ["Jane", "John", "Ada"])
        greet_everyone(client)
        greet_without_name(client)
    call_without_token(address)


def greet(client: GreetServiceClient) -> None:
    """Make a unary call with headers. `ResponseMetadata` holds those of the response."""
    title("Unary: Greet")
    say("-> 'Grace'")
    with ResponseMetadata() as metadata:
        response = client.greet(GreetRequest(name="Grace"), headers={"accept-language": "fr"})
    say(f"<- {response.greeting!r}, greet-version {metadata.headers()['greet-version']}")


def greet_group(client: GreetServiceClient, names: Iterable[str]) -> None:
    """Stream to the server: each message is sent when the generator yields it."""
    title("Client streaming: GreetGroup (type names, one per line, and end with Ctrl-D)")

    def requests() -> Iterator[GreetRequest]:
        for name in names:
            say(f"-> {name!r}")
            yield GreetRequest(name=name)

    response = client.greet_group(requests(), timeout_ms=300_000)
    say(f"<- {response.greeting!r}")


def greet_individuals(client: GreetServiceClient, names: Iterable[str]) -> None:
    """Stream from the server: each message is available as soon as it arrives.

    To leave such a loop early, use the stream in a `with` statement, which then cancels the call.
    """
    title("Server streaming: GreetIndividuals")
    request = GreetRequest(name=",".join(names))
    say(f"-> {request.name!r}")
    for response in client.greet_individuals(request):
        say(f"<- {response.greeting!r}")


def greet_everyone(client: GreetServiceClient) -> None:
    """Stream both ways: WSGI does not support it, so the client fails before it sends anything."""
    title("Bidirectional streaming: GreetEveryone")
    try:
        client.greet_everyone([GreetRequest(name="Alan")])
    except ConnectError as error:
        say(f"<- {error}")


def greet_without_name(client: GreetServiceClient) -> None:
    """Make a call that fails, with a code, a message for people, and details for programs."""
    title("An error with a detail")
    say("-> ''")
    try:
        client.greet(GreetRequest(name=""))
    except ConnectError as error:
        fields = [detail.value(InvalidField).field for detail in error.details]
        say(f"<- {error.code.value}: {error.message} (fields: {', '.join(fields)})")


def call_without_token(address: str) -> None:
    """Make a call of each kind, which the server refuses."""
    title("No token, no call")
    request = GreetRequest(name="Eve")
    with GreetServiceClient(address) as client:
        calls: dict[str, Callable[[], object]] = {
            "Greet": lambda: client.greet(request),
            "GreetGroup": lambda: client.greet_group([request]),
            "GreetIndividuals": lambda: list(client.greet_individuals(request)),
        }
        for name, call in calls.items():
            try:
                say(f"<- {name}: {call()}")
            except ConnectError as error:
                say(f"<- {name}: {error}")


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}", flush=True)


def say(text: str) -> None:
    """Print a line immediately, even if the output is not a terminal."""
    print(f"client  {text}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
    except ConnectError as failure:
        sys.exit(f"client  {failure}")
