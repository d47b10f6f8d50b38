"""The framing of streams: each message in an envelope of five bytes and a payload.

An envelope is one byte of flags, four bytes of length (unsigned, big-endian) and the payload: the same in
Connect, gRPC-Web and gRPC (Connect reference, "Streaming"; gRPC over HTTP/2, "Length-Prefixed-Message").

The reader works on the chunks that arrive, whatever their sizes. It must not be slow where a chunk holds
many envelopes (it only slices), where an envelope comes in many chunks (they are joined once, at its end),
and it must never ask for a byte more than the envelope it is in while another one might be long in coming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

from connect_sync.code import Code
from connect_sync.compression import Compression
from connect_sync.errors import ConnectError, MalformedError, TooLargeError
from connect_sync.http import READ_SIZE, Body

_PREFIX = Struct(">BI")
pack_prefix: Callable[[int, int], bytes] = _PREFIX.pack
"""Returns the bytes before a payload, for its flags and its length."""
_unpack_prefix = _PREFIX.unpack_from
PREFIX_SIZE = _PREFIX.size
"""Bytes before the payload: flags and length, 5 in all."""

COMPRESSED = 0x01
"""The flag of a payload that is compressed as the headers say. Other flags belong to the protocols."""

_FLAGS = frozenset({0, COMPRESSED, 0x02, 0x03, 0x80, 0x81})
"""The first bytes that an envelope of any protocol has: those of Connect and gRPC-Web end a stream."""

DEFAULT_COMPRESS_MIN_BYTES = 1024
"""The size in bytes from which messages are compressed by default. A smaller one fits into one packet."""


def wrap(payload: bytes, flags: int = 0, end: bytes = b"") -> bytes:
    """Put a payload into an envelope; ``end`` is what follows in the same piece."""
    prefix = pack_prefix(flags, len(payload))
    return b"".join((prefix, payload, end)) if end else prefix + payload


def compress_message(data: bytes, compression: Compression | None, min_bytes: int) -> tuple[bytes, int]:
    """Return the payload and the flags for a serialized message: compressed from ``min_bytes`` bytes on."""
    # No bytes are never compressed: see `open_payload`.
    if compression is not None and data and len(data) >= min_bytes:
        return compression.compress(data), COMPRESSED
    return data, 0


def wrap_message(data: bytes, compression: Compression | None, min_bytes: int) -> bytes:
    """Put a serialized message into an envelope, compressed from ``min_bytes`` bytes on."""
    return wrap(*compress_message(data, compression, min_bytes))


def open_payload(flags: int, payload: bytes, compression: Compression | None, max_bytes: int) -> bytes:
    """Return the message in an envelope with ``flags``, decompressed if it is compressed.

    Raises:
        ConnectError: ``internal``, if a flag is unknown, or the payload is compressed though the headers
            named no ``compression``; or what ``Compression.decompress`` raises.
    """
    if not flags:
        return payload
    if flags != COMPRESSED:
        raise ConnectError(Code.INTERNAL, f"an envelope has unknown flags: {flags:#04x}")
    if compression is None:
        raise ConnectError(Code.INTERNAL, "an envelope is compressed, but the headers name no compression")
    # Connect reference, "Streaming-Request": no bytes are never decompressed.
    return compression.decompress(payload, max_bytes) if payload else payload


def read_envelopes(body: Body, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the flags and the payload of each envelope of a body, as soon as it has arrived.

    Raises:
        ConnectError: ``resource_exhausted``, once a length above ``max_bytes`` was announced, before
            that payload is read; or what ``Body.read`` raises.
        MalformedError: The body ends inside an envelope.
    """
    chunk = b""
    end = 0
    while True:
        start = end + PREFIX_SIZE
        if start > len(chunk):
            chunk = _complete(body, chunk[end:], PREFIX_SIZE)
            end = 0
            start = PREFIX_SIZE
            if not chunk:
                return
            if len(chunk) < PREFIX_SIZE:
                raise _cut_off(chunk[0])
        flags, size = _unpack_prefix(chunk, end)
        if size > max_bytes:
            raise TooLargeError(max_bytes, size) if flags in _FLAGS else _not_an_envelope(flags)
        end = start + size
        if end > len(chunk):
            chunk = _complete(body, chunk[start:], size)
            start = 0
            end = size
            if len(chunk) < size:
                raise _cut_off(flags)
        yield flags, chunk[start:end]


def _complete(body: Body, start: bytes, size: int) -> bytes:
    """Return ``start`` and what follows it: ``size`` bytes or more, fewer only if the body ends."""
    missing = size - len(start)
    chunks = [start] if start else []
    while missing > 0:
        chunk = body.read(min(missing, READ_SIZE))
        if not chunk:
            break
        chunks.append(chunk)
        missing -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _not_an_envelope(first_byte: int) -> MalformedError:
    return MalformedError(
        "expected an envelope, which has 5 bytes of flags and length before its message, "
        f"got {bytes([first_byte])!r}: is this a message without an envelope?"
    )


def _cut_off(first_byte: int) -> MalformedError:
    if first_byte not in _FLAGS:
        return _not_an_envelope(first_byte)
    return MalformedError("the body ends inside an envelope")
