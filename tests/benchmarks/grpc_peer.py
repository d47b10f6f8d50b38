"""The same service by grpcio: its server, a process of its own, and its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection

import grpc
from benchmark.v1.benchmark_pb2 import Message

from tests.benchmarks.server import running

_SERVICE = "benchmark.v1.BenchmarkService"


def _echo(request: Message, ctx: grpc.ServicerContext) -> Message:
    return Message(payload=request.payload)


def _serve(ports: Connection, threads: int) -> None:
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(
            _echo, request_deserializer=Message.FromString, response_serializer=Message.SerializeToString
        )
    }
    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ports.send(port)
    server.wait_for_termination()


def serving(threads: int = 8) -> AbstractContextManager[int]:
    """Serve with a pool of threads, and yield the port."""
    return running(_serve, threads)


@contextmanager
def client(port: int) -> Iterator[Callable[[Message], Message]]:
    """Yield what calls Echo."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary(
            f"/{_SERVICE}/Echo",
            request_serializer=Message.SerializeToString,
            response_deserializer=Message.FromString,
        )
