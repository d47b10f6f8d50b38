"""HTTP and envelopes by hand, for tests that care which bytes go over a socket, and when."""

from __future__ import annotations

import gzip
import io
import json
import select
import socket
import ssl
import struct
import zlib
from collections.abc import Iterator, Mapping
from http.client import parse_headers
from typing import Any, NamedTuple

PATIENCE = 20.0
"""Seconds after which a test gives up to wait for what should come. No test depends on the number."""

END = 2
"""The flag of the envelope that ends a stream."""

SERVICE = "/echo.v1.EchoService"

FAULTS_PATH = "/faults"
"""Where `tests.integration.watched` tells, in JSON, in which calls the hooks of interceptors went wrong."""


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(payload)) + payload


def envelopes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the flags and the payloads of envelopes that are all there."""
    while data:
        flags, size = struct.unpack_from(">BI", data)
        assert len(data) >= 5 + size, f"cut off: {data!r}"
        yield flags, data[5 : 5 + size]
        data = data[5 + size :]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def head(first_line: str, headers: Mapping[str, object] | None = None) -> bytes:
    """Return the head of a request or of a response."""
    lines = [first_line, *(f"{name}: {value}" for name, value in (headers or {}).items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(method: str, headers: Mapping[str, object], body: bytes | None = None) -> bytes:
    """Return a POST to a method of the service, its length added where the body is given."""
    framing = {} if body is None else {"content-length": len(body)}
    return head(f"POST {SERVICE}/{method} HTTP/1.1", {"host": "test", **headers, **framing}) + (body or b"")


def gzip_bomb(size: int, start: bytes = b"", end: bytes = b"") -> bytes:
    """Return gzip data of ``start``, ``size`` zeros and ``end``, without ever having the zeros.

    Behind a full flush, equal blocks compress to equal bytes: one is made, and repeated.
    """
    block = bytes(1 << 20)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc = zlib.crc32(start)
    compressed = [compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)]
    compressed += [compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)] * (size >> 20)
    for _ in range(size >> 20):
        crc = zlib.crc32(block, crc)
    compressed.append(compressor.compress(end) + compressor.flush())
    crc = zlib.crc32(end, crc)
    trailer = struct.pack("<II", crc, (len(start) + size + len(end)) & 0xFFFFFFFF)
    return b"".join([gzip.compress(b"")[:10], *compressed, trailer])


class Reply(NamedTuple):
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Return the error that the response holds: of a unary call, or of a stream's end."""
        if self.headers["content-type"].startswith("application/connect+"):
            *_, (flags, payload) = envelopes(self.body)
            assert flags == END, f"no end of the stream: {self.body!r}"
            error: dict[str, Any] = json.loads(payload)["error"]
        else:
            assert self.headers["content-type"] == "application/json", self
            error = json.loads(self.body)
        return error

    def messages(self) -> list[bytes]:
        """Return the serialized messages of a stream that ended well."""
        *messages, (flags, end) = envelopes(self.body)
        assert (flags, json.loads(end)) == (END, {})
        assert not any(flags for flags, _ in messages)
        return [payload for _, payload in messages]


def connect(port: int, tls: ssl.SSLContext | None, receive_buffer: int | None) -> socket.socket:
    """Connect; ``receive_buffer`` is how many bytes may wait to be read, where it matters."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")


class Connection:
    """A client's connection, on which nothing is sent or read but what the test says."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None = None, *, receive_buffer: int | None = None
    ) -> None:
        """Connect: see `connect`."""
        self._socket = connect(port, tls, receive_buffer)
        self._reader = self._socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send each piece in a packet of its own."""
        for piece in pieces:
            self._socket.sendall(piece)

    def end(self) -> None:
        """Say that nothing more will be sent, and listen on."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave without a word more, so that what is sent here next fails."""
        self._reader.close()
        reset(self._socket)

    def is_answered(self, within: float) -> bool:
        """Tell whether something has arrived, waiting for it ``within`` seconds."""
        return bool(select.select([self._socket], [], [], within)[0])

    def read_reply(self, *, has_body: bool = True) -> Reply:
        """Read one response, and nothing behind it."""
        status, headers = self.read_head()
        if not has_body:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        elif "content-length" in headers:
            body = self._read(int(headers["content-length"]))
        else:
            body = self.read_rest()
        return Reply(status, headers, body)

    def read_head(self) -> tuple[int, dict[str, str]]:
        version, status, *_ = self._reader.readline().decode("latin-1").split(" ", 2) or ("", "")
        assert version in ("HTTP/1.1", "HTTP/1.0"), f"no response, but {version!r}"
        headers = parse_headers(self._reader)
        return int(status), {name.lower(): value for name, value in headers.items()}

    def read_chunk(self) -> bytes:
        """Read one chunk; the last one is empty."""
        size = int(self._reader.readline(), 16)
        data = self._read(size)
        assert self._read(2) == b"\r\n"
        return data

    def read_envelope(self) -> tuple[int, bytes]:
        """Read one chunk, which holds one envelope."""
        (read,) = envelopes(self.read_chunk())
        return read

    def read_rest(self) -> bytes:
        """Read what comes until the server closes the connection."""
        rest = io.BytesIO()
        try:
            while data := self._reader.read1():
                rest.write(data)
        except ConnectionResetError:
            pass  # the server had bytes left that it did not want to read
        return rest.getvalue()

    def _read(self, size: int) -> bytes:
        data = self._reader.read(size)
        assert len(data) == size, f"the response broke off: {data!r}"
        return data

    def __enter__(self) -> Connection:
        return self

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def reset(sock: socket.socket) -> None:
    """Close a socket so that the other side sees a reset, and not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
