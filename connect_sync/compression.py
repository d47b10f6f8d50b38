"""Compression of messages, and decompression that never makes more than it may.

A message may be small on the wire and huge behind it. The limit on a message's size therefore holds while
it is decompressed: what goes past it is never made.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from typing import Protocol

from connect_sync.code import Code
from connect_sync.errors import ConnectError, MalformedError, message_too_large

IDENTITY = "identity"
"""The name of no compression."""


class Compression(Protocol):
    """A way to compress messages, by the name that headers use."""

    @property
    def name(self) -> str:
        """The name in headers: ``gzip``."""
        ...

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message."""
        ...

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message of at most ``max_bytes`` bytes.

        Raises:
            ConnectError: ``resource_exhausted``, before more than ``max_bytes`` and one byte are made.
            MalformedError: The data is damaged, cut off, or has more behind its end.
        """
        ...


class Gzip:
    """gzip (RFC 1952), by the standard library."""

    name = "gzip"

    # zlib's number for "a gzip header and trailer, with the largest window".
    _WINDOW_BITS = 16 + zlib.MAX_WBITS

    def __init__(self, level: int = 6) -> None:
        """Compress at ``level``: 1 is fastest, 9 smallest."""
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message; equal messages become equal bytes."""
        compressor = zlib.compressobj(self._level, zlib.DEFLATED, self._WINDOW_BITS)
        return compressor.compress(data) + compressor.flush()

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message. Raises ConnectError as ``Compression.decompress`` does."""
        # A limit of zero would mean none to zlib, one above its integers would overflow.
        max_length = min(max_bytes, sys.maxsize - 1) + 1
        decompressor = zlib.decompressobj(self._WINDOW_BITS)
        try:
            result = decompressor.decompress(data, max_length)
        except zlib.error as error:
            raise _damaged(self.name, "it is damaged") from error
        if len(result) > max_bytes:
            raise message_too_large(max_bytes)
        if not decompressor.eof:
            raise _damaged(self.name, "it is cut off")
        if decompressor.unused_data:
            raise _damaged(self.name, "there is more behind its end")
        return result


def _damaged(name: str, reason: str) -> MalformedError:
    return MalformedError(f"cannot decompress the {name} data: {reason}")


class Compressions:
    """The compressions that one side has, in its order of preference."""

    __slots__ = ("_by_name", "names")

    names: str
    """The names, as an accept header lists them; ``identity`` is not among them."""

    def __init__(self, compressions: Iterable[Compression | str]) -> None:
        """Take the compressions in order of preference.

        Raises:
            ValueError: Two share a name, one is named ``identity``, or there is none of a name.
        """
        self._by_name: dict[str, Compression] = {}
        for compression in map(find_compression, compressions):
            if compression.name == IDENTITY:
                raise ValueError(f"{IDENTITY!r} is the name of no compression")
            if compression.name in self._by_name:
                raise ValueError(f"two compressions named {compression.name!r}")
            self._by_name[compression.name] = compression
        self.names = ", ".join(self._by_name)

    def find(self, name: str | None) -> Compression | None:
        """Return the compression that a peer used, None for none.

        Raises:
            ConnectError: ``unimplemented``, naming those that there are, if ``name`` is not among them.
        """
        if name is None or name == IDENTITY or not name:
            return None
        # RFC 9110, section 8.4.1: the names are case-insensitive.
        found = self._by_name.get(name) or self._by_name.get(name.lower())
        if found is not None or name.lower() == IDENTITY:
            return found
        supported = f"{self.names}, {IDENTITY}" if self.names else IDENTITY
        raise ConnectError(Code.UNIMPLEMENTED, f"unknown compression {name!r}: supported are {supported}")

    def negotiate(self, accept: str | None) -> Compression | None:
        """Return the first compression of an accept header that there is here, None for none.

        The header is a list in the peer's order of preference (Connect reference, "Accept-Encoding").
        Weights, as HTTP has them, are tolerated: one of zero excludes, others are not read.
        """
        if accept is None:
            return None
        # The whole header is one name in the common case.
        found = self._by_name.get(accept)
        if found is not None:
            return found
        for item in accept.lower().split(","):
            name, _, parameters = item.partition(";")
            if _is_zero_weight(parameters):
                continue
            name = name.strip()
            if name in self._by_name or name == IDENTITY:
                return self._by_name.get(name)
        return None


def find_compression(compression: Compression | str) -> Compression:
    """Return the compression of that name, or the compression itself.

    Raises:
        ValueError: There is none of that name.
    """
    if not isinstance(compression, str):
        return compression
    for known in DEFAULT_COMPRESSIONS:
        if known.name == compression:
            return known
    names = ", ".join(known.name for known in DEFAULT_COMPRESSIONS)
    raise ValueError(f"there is no compression {compression!r}, only {names}")


def _is_zero_weight(parameters: str) -> bool:
    name, _, value = parameters.replace(" ", "").partition("=")
    return name == "q" and value.strip("0.") == "" and value != ""


GZIP = Gzip()
DEFAULT_COMPRESSIONS: tuple[Compression, ...] = (GZIP,)
"""What is offered where nothing is said."""
