"""The service of server.py, streaming step by step, so demo.py can check that messages are sent at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from greet.v1.greet_connect import GreetServiceWSGIApplication
from greet.v1.greet_pb2 import GreetRequest, GreetResponse
from server import Authentication, Greeter

from connect_sync import RequestContext


class StepwiseGreeter(Greeter):
    """Waits for a line on standard input after each message of a stream."""

    def greet_individuals(self, request: GreetRequest, ctx: RequestContext) -> Iterator[GreetResponse]:
        """Yield each greeting, and wait for a line before the next."""
        for response in super().greet_individuals(request, ctx):
            yield response
            sys.stdin.readline()


app = GreetServiceWSGIApplication(StepwiseGreeter(), interceptors=[Authentication()])
