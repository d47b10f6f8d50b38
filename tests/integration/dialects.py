"""The protocols in which streams can be called, by hand, for tests of all of them."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from enum import Enum
from typing import NamedTuple

from echo.v1.echo_pb2 import EchoRequest, EchoResponse

from connect_sync import Code
from tests.integration.wire import END, envelope, envelopes

_WEB_END = 0x80


class Outcome(NamedTuple):
    """What a response says, in whatever protocol."""

    payloads: list[bytes]
    code: str | None
    metadata: dict[str, str]


class Dialect(Enum):
    """A protocol, by the content type of its streams."""

    CONNECT = "application/connect+proto"
    GRPC = "application/grpc"
    GRPC_WEB = "application/grpc-web"
    GRPC_WEB_TEXT = "application/grpc-web-text"

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": self.value}

    def timeout(self, milliseconds: int) -> dict[str, str]:
        if self is Dialect.CONNECT:
            return {"connect-timeout-ms": f"{milliseconds}"}
        return {"grpc-timeout": f"{milliseconds}m"}

    def wrap(self, request: EchoRequest) -> bytes:
        return self.encode(envelope(request.SerializeToString()))

    def encode(self, data: bytes) -> bytes:
        return b64encode(data) if self is Dialect.GRPC_WEB_TEXT else data

    def decode(self, data: bytes) -> bytes:
        if self is not Dialect.GRPC_WEB_TEXT:
            return data
        # What is padded ends a piece, of which there may be several.
        return b"".join(map(b64decode, re.findall(b"[^=]+=*", data)))

    def read(self, body: bytes, trailers: dict[str, str]) -> Outcome:
        """Read a response."""
        body = self.decode(body)
        if self is Dialect.GRPC:
            messages, status = list(envelopes(body)), trailers
        else:
            assert not trailers
            *messages, (flags, end) = envelopes(body)
            if self is Dialect.CONNECT:
                assert flags == END, f"no end of the stream: {body!r}"
                return Outcome(_payloads(messages), *_read_json(end))
            assert flags == _WEB_END, f"no end of the stream: {body!r}"
            status = dict(line.split(": ", 1) for line in end.decode().splitlines())
        code = int(status["grpc-status"])
        metadata = {name: value for name, value in status.items() if not name.startswith("grpc-")}
        return Outcome(_payloads(messages), Code.from_number(code).value if code else None, metadata)


def _read_json(end: bytes) -> tuple[str | None, dict[str, str]]:
    content = json.loads(end)
    metadata = {name: ", ".join(values) for name, values in content.get("metadata", {}).items()}
    return content.get("error", {}).get("code"), metadata


def _payloads(messages: list[tuple[int, bytes]]) -> list[bytes]:
    assert not any(flags for flags, _ in messages)
    return [EchoResponse.FromString(message).payload for _, message in messages]
