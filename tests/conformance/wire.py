"""How the runner and the programs under test talk: size-delimited messages on pipes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

from connectrpc.conformance.v1 import service_pb2
from google.protobuf.message import Message

from connect_sync import Headers

_MessageT = TypeVar("_MessageT", bound=Message)

# docs/testing_servers.md of the suite: "a network-byte-order (i.e. big-endian) 32-bit integer".
_SIZE = struct.Struct(">I")


def read_messages(stream: BinaryIO, message_class: type[_MessageT]) -> Iterator[_MessageT]:
    """Yield the messages of ``stream`` as they arrive, until it ends between two of them.

    Raises:
        EOFError: The stream ends inside a message.
    """
    while prefix := stream.read(_SIZE.size):
        if len(prefix) < _SIZE.size:
            raise EOFError("the stream ends inside the size of a message")
        (size,) = _SIZE.unpack(prefix)
        data = stream.read(size)
        if len(data) < size:
            raise EOFError("the stream ends inside a message")
        yield message_class.FromString(data)


def write_message(stream: BinaryIO, message: Message) -> None:
    """Write ``message`` to ``stream``, and see that it leaves."""
    data = message.SerializeToString()
    stream.write(_SIZE.pack(len(data)) + data)
    stream.flush()


def from_headers(headers: Headers) -> list[service_pb2.Header]:
    """Describe ``headers`` to the runner."""
    return [service_pb2.Header(name=name, value=headers.get_all(name)) for name in headers]


def to_pairs(headers: Iterable[service_pb2.Header]) -> Iterator[tuple[str, str]]:
    """Yield each pair of name and value that the runner asks for."""
    for header in headers:
        for value in header.value:
            yield header.name, value
