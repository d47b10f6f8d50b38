"""The client over a real socket: a unary call, against stock urllib3 sending the same bytes.

The server is a process of its own that answers every request with the same bytes, so that what differs is
the client.
"""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing.connection import Connection
from time import process_time

import urllib3
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Cancellation, ConnectClient
from tests.benchmarks.measure import interleaved, print_table
from tests.benchmarks.service import ECHO, MESSAGE

ANSWER_BODY = MESSAGE.SerializeToString()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nserver: gunicorn\r\ndate: Sun, 01 Jan 2023 00:00:00 GMT\r\n"
    b"connection: keep-alive\r\ncontent-type: application/proto\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)


def serve(ports: Connection) -> None:
    """Answer the requests of one connection at a time, until the process is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while chunk := connection.recv(65536):
                    received += chunk
                    if received.endswith(ANSWER_BODY):
                        connection.sendall(ANSWER)
                        received = b""


def main() -> None:
    """Print a table of wall time, and one of CPU time."""
    # Each client keeps its one connection, so each has a server.
    processes = []
    ports = []
    for _ in range(2):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=serve, args=(sender,), daemon=True)
        process.start()
        processes.append(process)
        ports.append(receiver.recv())
    try:
        stock = urllib3.PoolManager()
        url = f"http://127.0.0.1:{ports[0]}{ECHO.path}"
        headers = {
            "content-type": "application/proto",
            "connect-protocol-version": "1",
            "connect-timeout-ms": "10000",
            "accept-encoding": "gzip",
        }
        cancellation = Cancellation()
        with ConnectClient(f"http://127.0.0.1:{ports[1]}") as client:
            cases = {
                "urllib3": lambda: StringValue.FromString(
                    stock.request("POST", url, body=MESSAGE.SerializeToString(), headers=headers).data
                ),
                "connect-sync": lambda: client.call_unary(ECHO, MESSAGE),
                "connect-sync, all its options": lambda: client.call_unary(
                    ECHO, MESSAGE, headers={"a": "b"}, timeout_ms=10000, cancellation=cancellation
                ),
            }
            wall = interleaved(cases, calls=300)
            print_table("Client, one unary call, wall time", "µs", wall, floor="urllib3")
            cpu = interleaved(cases, calls=300, clock=process_time)
            print_table("Client, one unary call, CPU time", "µs", cpu, floor="urllib3")
        stock.clear()
    finally:
        for process in processes:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
