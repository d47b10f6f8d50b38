"""What clients and servers of other makers are tried with, and what has to come of it.

A scenario is one use of `interop.v1.InteropService`. A client of another maker is a program: it takes an
address, a protocol and a format, goes through all scenarios that it can, and writes a line of JSON for
each, `{"scenario": "unary", "result": {"text": "hello"}}`; or, where it could not go through with it,
`{"scenario": "unary", "crash": "what was in the way"}`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.servers import Gunicorn

PATIENCE = 100.0
"""Seconds that a program has for all of its scenarios. No test depends on the number."""

EXPECTED: dict[str, dict[str, Any]] = {
    # Unary(text="hello")
    "unary": {"text": "hello"},
    # UnarySafely(text="hello"), by HTTP GET: only Connect has that.
    "unary_get": {"text": "hello"},
    # ClientStream of the texts a, b and c
    "client_stream": {"text": "a,b,c", "number": 3},
    # ClientStream of no message
    "client_stream_empty": {"text": "", "number": 0},
    # ServerStream(text="x", count=3)
    "server_stream": {"texts": ["x", "x", "x"], "numbers": [0, 1, 2]},
    # ServerStream(count=0)
    "server_stream_empty": {"texts": [], "numbers": []},
    # Unary with a failure of this code, message and detail; details are the reason of each InteropDetail.
    "unary_error": {"code": "not_found", "message": "nothing here: é, 100%", "details": ["why"]},
    # ClientStream of the text a, then of a failure
    "client_stream_error": {"code": "failed_precondition", "message": "too late", "details": ["why"]},
    # ServerStream(count=2) with a failure
    "server_stream_error": {
        "texts": ["", ""],
        "numbers": [0, 1],
        "code": "resource_exhausted",
        "message": "no more",
        "details": ["why"],
    },
    # A call with the metadata echo-ascii "one, two" and echo-bin 00 01 fe ff: what came as echo-ascii,
    # echo-trailer, echo-bin and echo-trailer-bin, the last two decoded and written in hexadecimal.
    "unary_metadata": {
        "ascii": "one, two",
        "trailer": "one, two",
        "bin": "0001feff",
        "trailer_bin": "0001feff",
    },
    "client_stream_metadata": {
        "ascii": "one, two",
        "trailer": "one, two",
        "bin": "0001feff",
        "trailer_bin": "0001feff",
    },
    "server_stream_metadata": {
        "ascii": "one, two",
        "trailer": "one, two",
        "bin": "0001feff",
        "trailer_bin": "0001feff",
    },
    # Unary(wait=true) with a timeout of 200 ms
    "unary_timeout": {"code": "deadline_exceeded"},
    # Unary with a timeout of 60 s: whether 0 < timeout_ms <= 60000 in the response
    "timeout_arrives": {"timeout_arrived": True},
    # ClientStream of messages without an end, with a timeout of 500 ms
    "client_stream_timeout": {"code": "deadline_exceeded"},
    # ServerStream(count=2, wait=true) with a timeout of 500 ms
    "server_stream_timeout": {"numbers": [0, 1], "code": "deadline_exceeded"},
    # ServerStream(count=-1) with a key of its own, given up after three messages; then Outcome of the key.
    # The error that a client may see for its own cancellation does not count.
    "cancel": {"numbers": [0, 1, 2], "outcome": "closed"},
    # Unary(wait=true) with a key of its own, given up when Started has told of the key; then Outcome of the
    # key. The client's own error has to be canceled.
    "unary_cancel": {"outcome": "canceled"},
    # ClientStream whose first message has a key of its own, given up in the same way before its end
    "client_stream_cancel": {"outcome": "canceled"},
    # Unary of 20000 times "z", request and response by gzip: the length of the text, and how each was
    # compressed, as the service and the header of the response say
    "compressed": {"size": 20000, "request_encoding": "gzip", "response_encoding": "gzip"},
    # BidiStream of one message
    "bidi": {"code": "unimplemented"},
}


class Variant(NamedTuple):
    """How a client speaks to a server."""

    protocol: str
    """``connect``, ``grpc``, ``grpc-web`` or ``grpc-web-text``."""
    format: str
    """``proto`` or ``json``."""

    def __str__(self) -> str:
        return f"{self.protocol}-{self.format}"


def list_scenarios(*left_out: str) -> list[str]:
    """Return the names of all scenarios but those that a client or a server has no way to do."""
    assert EXPECTED.keys() >= set(left_out), "what is left out is no scenario"
    return [scenario for scenario in EXPECTED if scenario not in left_out]


def leave_out_hidden(
    scenario: str, result: Mapping[str, Any], hidden: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """Return the part of a result that a client can tell; ``hidden`` names the rest, by scenario."""
    return {name: value for name, value in result.items() if name not in hidden.get(scenario, ())}


def each_cell(
    left_out: Mapping[str, Collection[str]], formats: Collection[str] = ("proto", "json")
) -> pytest.MarkDecorator:
    """Parametrize a test by ``variant`` and ``scenario``.

    Args:
        left_out: The protocols, each with the scenarios that the client or the server has no way to do.
        formats: The formats that go with each of them.
    """
    cells = [
        (Variant(protocol, name), scenario)
        for protocol, names in left_out.items()
        for name in formats
        for scenario in list_scenarios(*names)
    ]
    return pytest.mark.parametrize(("variant", "scenario"), cells, ids=str)


class Client:
    """A client of another maker, which is run against a server once for each variant."""

    def __init__(
        self,
        command: Sequence[str | Path],
        server: Gunicorn,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take what to run.

        Args:
            command: The program, and arguments that go before the address, the protocol and the format.
            server: What it calls.
            environment: Variables, besides those that the tests run with.
        """
        self._command = command
        self._server = server
        self._environment = {**os.environ, **(environment or {})}
        self._outcomes: dict[Variant, _Outcomes] = {}

    def check(self, variant: Variant, scenario: str, expected: dict[str, Any] | None = None) -> None:
        """Compare what came of a scenario with what should have.

        ``expected`` is for a scenario that no other client has.
        """
        if variant not in self._outcomes:
            self._outcomes[variant] = self._run(variant)
        log, results = self._outcomes[variant]
        print(log)
        expected = EXPECTED[scenario] if expected is None else expected
        assert results.get(scenario, "not tried") == {"result": expected}

    def _run(self, variant: Variant) -> _Outcomes:
        with subprocess.Popen(
            [*self._command, self._server.url, variant.protocol, variant.format],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                lines, log = process.communicate(timeout=PATIENCE)
                log += f"\nThe client ended with status {process.returncode}.\n"
            except subprocess.TimeoutExpired:
                process.kill()
                lines, log = process.communicate()
                log += "\nThe client did not end.\n"
        results = {}
        for line in lines.splitlines():
            outcome = json.loads(line)
            results[outcome.pop("scenario")] = outcome
        return _Outcomes(f"{log}\n{self._server.new_output()}", results)


def read_json(text: str) -> Iterator[Any]:
    """Yield the values of JSON that stand one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:]


class _Outcomes(NamedTuple):
    """What came of one run of a client."""

    log: str
    results: dict[str, Any]
