"""The server in process: an environ in, bytes out, against bare functions that do the same work by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks import peer, service
from tests.benchmarks.calls import STREAM_LENGTH, Requests, ours, run
from tests.benchmarks.measure import Row, interleaved, on_core, print_table
from tests.benchmarks.service import Bare

theirs = Requests(peer.SERVICE, peer.Message, peer.Message.to_binary)


def main() -> None:
    """Print a table for each kind."""
    with on_core(0):
        _unary()
        _stream("Server in process, server streaming, a message", "server_stream", Bare.server_stream)
        _stream("Server in process, client streaming, a message", "client_stream", Bare.client_stream)


def _unary() -> None:
    times = interleaved(
        {
            "bare": partial(run, service.bare.unary, *ours.unary),
            "ours": partial(run, service.app, *ours.unary),
            "ours, accepting": partial(run, service.app, *ours.unary, accepting=True),
            "ours, gRPC-Web": partial(run, service.app, *ours.web_unary),
            "their bare": partial(run, peer.bare.unary, *theirs.unary),
            "theirs": partial(run, peer.app, *theirs.unary),
            "theirs, gRPC-Web": partial(run, peer.app, *theirs.web_unary),
        },
        calls=1000,
    )
    rows = [
        Row("bare function", times["bare"]),
        Row("connect-sync", times["ours"], times["bare"]),
        Row("connect-sync, compression accepted", times["ours, accepting"], times["bare"]),
        Row("connect-sync, gRPC-Web", times["ours, gRPC-Web"], times["bare"]),
        Row("bare function, connectrpc's messages", times["their bare"]),
        Row("connectrpc", times["theirs"], times["their bare"]),
        Row("connectrpc, gRPC-Web", times["theirs, gRPC-Web"], times["their bare"]),
    ]
    print_table("Server in process, one unary call", "µs", rows)


def _stream(title: str, kind: str, bare: Callable[..., Any]) -> None:
    times = interleaved(
        {
            "bare": partial(run, partial(bare, service.bare), *getattr(ours, kind)),
            "ours": partial(run, service.app, *getattr(ours, kind)),
            "ours, accepting": partial(run, service.app, *getattr(ours, kind), accepting=True),
            "their bare": partial(run, partial(bare, peer.bare), *getattr(theirs, kind)),
            "theirs": partial(run, peer.app, *getattr(theirs, kind)),
        },
        calls=3,
    )
    a_message = {name: [value / STREAM_LENGTH for value in values] for name, values in times.items()}
    rows = [
        Row("bare loop", a_message["bare"]),
        Row("connect-sync", a_message["ours"], a_message["bare"]),
        Row("connect-sync, compression accepted", a_message["ours, accepting"], a_message["bare"]),
        Row("bare loop, connectrpc's messages", a_message["their bare"]),
        Row("connectrpc", a_message["theirs"], a_message["their bare"]),
    ]
    print_table(title, "µs", rows)


if __name__ == "__main__":
    main()
