"""The service of server.py, streaming step by step, for demo.py to see that each message leaves at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from greet.v1.greet_connect import GreetServiceWSGIApplication
from greet.v1.greet_pb2 import GreetRequest, GreetResponse
from server import Authentication, Greeter

from connect_sync import RequestContext


class StepwiseGreeter(Greeter):
    """Goes on behind each message of a stream when it is told to, by a line on standard input."""

    def greet_individuals(self, request: GreetRequest, ctx: RequestContext) -> Iterator[GreetResponse]:
        """Yield a greeting, and make no other before the line has come."""
        for response in super().greet_individuals(request, ctx):
            yield response
            sys.stdin.readline()


app = GreetServiceWSGIApplication(StepwiseGreeter(), interceptors=[Authentication()])
