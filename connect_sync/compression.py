"""Compression of messages, and decompression that stops at a limit.

A message may be small on the wire and huge once decompressed. The limit on a message's size therefore holds
during decompression: data past it is never made. A library that can stop at a size is told to; one that
stops only now and then is asked for little at a time; one that cannot stop gets data that was measured first.

gzip and deflate come with the standard library. The others need packages, and are offered if installed.
"""

from __future__ import annotations

import importlib
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from connect_sync.code import Code
from connect_sync.errors import ConnectError, MalformedError, TooLargeError, describe

if TYPE_CHECKING:
    from typing_extensions import Buffer

IDENTITY = "identity"
"""The name of no compression."""


class Compression(Protocol):
    """A way to compress messages, with a name for headers."""

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
            ConnectError: ``resource_exhausted``, before more than ``max_bytes`` and one step of at most
                64 KiB are made.
            MalformedError: The data is damaged or cut off, or there is more data after its end.
        """
        ...


class _Zlib:
    """What gzip and deflate share: the same compressed data in different wrappings."""

    name: str
    # zlib's number for the wrapping, with the largest window.
    _window_bits: int

    def __init__(self, level: int = 6) -> None:
        """Compress at ``level``: 1 is fastest, 9 smallest, 0 does not compress.

        Raises:
            ValueError: The level is out of this range.
        """
        self._level = _in_range("level", level, 0, 9)

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message; equal messages become equal bytes."""
        compressor = zlib.compressobj(self._level, zlib.DEFLATED, self._window_bits)
        return compressor.compress(data) + compressor.flush()

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message. Raises ConnectError as ``Compression.decompress`` does."""
        try:
            return self._decompress(data, max_bytes)
        except zlib.error as error:
            raise _damaged(self.name, "it is damaged") from error

    def _decompress(self, data: bytes, max_bytes: int) -> bytes:
        return _decompress_only(self.name, zlib.decompressobj(self._window_bits), data, max_bytes)


class Gzip(_Zlib):
    """gzip (RFC 1952), by the standard library. It writes one member, and reads one or several."""

    name = "gzip"
    _window_bits = 16 + zlib.MAX_WBITS

    _MAGIC = b"\x1f\x8b"
    # How much of a further member goes into its decompressor first, which copies what comes after its end.
    _FIRST_STEP = 512

    def _decompress(self, data: bytes, max_bytes: int) -> bytes:
        first = zlib.decompressobj(self._window_bits)
        result = _decompress_first(self.name, first, data, max_bytes)
        if not first.unused_data:
            return result
        # RFC 1952, section 2.2: more members may follow, whose data follows that of the first.
        whole = bytearray(result)
        position = len(data) - len(first.unused_data)
        del first, result  # what they hold would be in memory twice
        while position < len(data):
            position = self._add_member(whole, data, position, max_bytes)
        return bytes(whole)

    def _add_member(self, whole: bytearray, data: bytes, position: int, max_bytes: int) -> int:
        """Add the data of the member at ``position`` to ``whole``, and return the position after it."""
        if not data.startswith(self._MAGIC, position):
            raise _trailing_data(self.name)
        member = zlib.decompressobj(self._window_bits)
        step = self._FIRST_STEP
        while not member.eof:
            piece = data[position : position + step]
            if not piece:
                raise _damaged(self.name, "it is cut off")
            whole += member.decompress(piece, _max_length(max_bytes - len(whole)))
            if len(whole) > max_bytes:
                raise TooLargeError(max_bytes)
            position += len(piece)
            step *= 2
        return position - len(member.unused_data)


class Deflate(_Zlib):
    """deflate: zlib's format (RFC 1950; RFC 9110, section 8.4.1.2), by the standard library."""

    name = "deflate"
    _window_bits = zlib.MAX_WBITS


class Zstd:
    """zstd (RFC 8878), by the standard library from Python 3.14 on, before that by ``backports.zstd``.

    A message is one frame. Its window is at most 8 MiB (RFC 9659): a frame that asks for a larger one is
    refused before any of it is allocated.
    """

    name = "zstd"

    _MAGIC = b"\x28\xb5\x2f\xfd"
    # 8 MiB, as a power of two.
    _MAX_WINDOW_LOG = 23

    def __init__(self, level: int = 3) -> None:
        """Compress at ``level``: 1 is fastest, 19 smallest.

        zstd's higher levels make windows that a receiver may refuse.

        Raises:
            ImportError: The package is not installed: ``pip install 'connect-sync[zstd]'``.
            ValueError: The level is out of this range.
        """
        try:
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
        except ImportError as error:
            raise _absent(self.name) from error
        self._compress = zstd.compress
        self._decompressor = zstd.ZstdDecompressor
        self._error = zstd.ZstdError
        self._options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: self._MAX_WINDOW_LOG}
        self._level = _in_range("level", level, 1, 19)

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message; equal messages become equal bytes."""
        return self._compress(data, self._level)

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message. Raises ConnectError as ``Compression.decompress`` does."""
        # Anything else is a skippable frame, or one from before the RFC: some builds of the library still
        # read those, with windows of any size.
        _check_start(self.name, data, self._MAGIC)
        decompressor = self._decompressor(options=self._options)
        try:
            return _decompress_only(self.name, decompressor, data, max_bytes)
        except self._error as error:
            raise _damaged(self.name, "it is damaged, or its window is larger than 8 MiB") from error


class _BrotliDecompressor(Protocol):
    def process(self, data: bytes, output_buffer_limit: int) -> bytes: ...
    def can_accept_more_data(self) -> bool: ...
    def is_finished(self) -> bool: ...


class _BrotliModule(Protocol):
    # The package has no types.
    error: type[Exception]
    Decompressor: type[_BrotliDecompressor]

    def compress(self, data: bytes, *, quality: int) -> bytes: ...


class Brotli:
    """Brotli (RFC 7932), by the package ``brotli``.

    In addition to the message, the decompressor holds the window that the data asks for, at most 16 MiB.
    """

    name = "br"

    # How much goes into the decompressor at once: at every step it copies what it has not used yet.
    _STEP = 1 << 15

    def __init__(self, quality: int = 5) -> None:
        """Compress at ``quality``: 0 is fastest, 11 smallest.

        Raises:
            ImportError: The package is not installed: ``pip install 'connect-sync[br]'``.
            ValueError: The quality is out of this range.
        """
        module = cast(_BrotliModule, _import("brotli", self.name))
        # brotli before 1.2 cannot bound what it makes.
        if not hasattr(module.Decompressor, "can_accept_more_data"):
            raise _absent(self.name)
        self._brotli = module
        self._quality = _in_range("quality", quality, 0, 11)

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message; equal messages become equal bytes."""
        return self._brotli.compress(data, quality=self._quality)

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message. Raises ConnectError as ``Compression.decompress`` does."""
        decompressor = self._brotli.Decompressor()
        pieces = []
        size = position = 0
        try:
            while not decompressor.is_finished():
                step = b""
                if decompressor.can_accept_more_data():
                    step = data[position : position + self._STEP]
                    position += len(step)
                # Whatever the limit, it makes up to 32 KiB; a larger limit may be doubled.
                piece = decompressor.process(step, 1)
                if not step and not piece:
                    raise _damaged(self.name, "it is cut off")
                size += len(piece)
                if size > max_bytes:
                    raise TooLargeError(max_bytes)
                pieces.append(piece)
        except self._brotli.error as error:
            raise _damaged(self.name, "it is damaged, or there is more data after its end") from error
        if position < len(data):
            raise _trailing_data(self.name)
        return b"".join(pieces)


class _SnappyModule(Protocol):
    # The package has types only for Python 3.11 and later.
    def compress(self, data: bytes) -> Buffer: ...
    def decompress(self, data: bytes) -> Buffer: ...
    def decompress_raw_len(self, data: bytes) -> int: ...


class Snappy:
    """Snappy in its framing format (framing_format.txt of google/snappy), by the package ``cramjam``.

    The format has no end: a message that is cut off between two chunks is a shorter message.
    """

    name = "snappy"

    _STREAM_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
    # One byte is a chunk's type, three are the length of what follows, little-endian.
    _HEADER = struct.Struct("<I")
    # The types of chunks: the first two hold data; from the third on, those that are not known are skipped.
    _COMPRESSED, _UNCOMPRESSED, _SKIPPABLE, _IDENTIFIER = 0x00, 0x01, 0x80, 0xFF
    # What a chunk may hold, decompressed.
    _MAX_CHUNK = 1 << 16

    def __init__(self) -> None:
        """Compress as Snappy does: it has no levels.

        Raises:
            ImportError: The package is not installed: ``pip install 'connect-sync[snappy]'``.
        """
        cramjam = _import("cramjam", self.name)
        self._snappy = cast(_SnappyModule, cramjam.snappy)
        self._error = cast(type[Exception], cramjam.DecompressionError)

    def compress(self, data: bytes) -> bytes:
        """Compress a whole message; equal messages become equal bytes."""
        # cramjam returns nothing for empty data.
        return bytes(self._snappy.compress(data)) or self._STREAM_IDENTIFIER

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Decompress a whole message. Raises ConnectError as ``Compression.decompress`` does.

        The size is known from the chunks before anything is decompressed.
        """
        # Not a list: there may be many empty chunks.
        chunks = bytearray(self._STREAM_IDENTIFIER)
        size = 0
        try:
            for chunk in self._data_chunks(data):
                size += self._size(chunk)
                if size > max_bytes:
                    raise TooLargeError(max_bytes)
                chunks += chunk
            # This checks the checksums, too.
            return bytes(self._snappy.decompress(bytes(chunks)))
        except self._error as error:
            raise _damaged(self.name, "it is damaged") from error

    def _data_chunks(self, data: bytes) -> Iterator[bytes]:
        """Yield the chunks that hold data, whole; the others are checked and skipped."""
        _check_start(self.name, data, self._STREAM_IDENTIFIER)
        start = len(self._STREAM_IDENTIFIER)
        while start < len(data):
            if len(data) - start < self._HEADER.size:
                raise _damaged(self.name, "it is cut off")
            (header,) = self._HEADER.unpack_from(data, start)
            kind, length = header & 0xFF, header >> 8
            end = start + self._HEADER.size + length
            if end > len(data):
                raise _damaged(self.name, "it is cut off")
            if kind <= self._UNCOMPRESSED:
                yield data[start:end]
            elif kind < self._SKIPPABLE or (
                kind == self._IDENTIFIER and data[start:end] != self._STREAM_IDENTIFIER
            ):
                raise _damaged(self.name, "it is damaged")
            start = end

    def _size(self, chunk: bytes) -> int:
        """Return how large the data of a chunk is, decompressed."""
        # It comes after the header and a checksum.
        data = self._HEADER.size + 4
        if chunk[0] == self._COMPRESSED:
            # The size is in the first bytes, five at most.
            size = self._snappy.decompress_raw_len(chunk[data : data + 5])
        else:
            size = len(chunk) - data
        if not 0 <= size <= self._MAX_CHUNK:
            raise _damaged(self.name, "it is damaged")
        return size


class _Decompressor(Protocol):
    """What zlib and zstd both have."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompress_only(name: str, decompressor: _Decompressor, data: bytes, max_bytes: int) -> bytes:
    """Decompress data that ends with its first stream."""
    result = _decompress_first(name, decompressor, data, max_bytes)
    if decompressor.unused_data:
        raise _trailing_data(name)
    return result


def _decompress_first(name: str, decompressor: _Decompressor, data: bytes, max_bytes: int) -> bytes:
    """Decompress the first stream of the data. What follows it is in ``decompressor.unused_data``."""
    result = decompressor.decompress(data, _max_length(max_bytes))
    if len(result) > max_bytes:
        raise TooLargeError(max_bytes)
    if not decompressor.eof:
        raise _damaged(name, "it is cut off")
    return result


def _max_length(max_bytes: int) -> int:
    """Return how much a decompressor may make: one byte past the limit tells that there is more."""
    # zlib takes 0 for no limit, and no larger integer than this.
    return min(max_bytes, sys.maxsize - 1) + 1


def _check_start(name: str, data: bytes, start: bytes) -> None:
    if not data.startswith(start):
        raise _damaged(name, "it is cut off" if start.startswith(data) else "it is damaged")


def _damaged(name: str, reason: str) -> MalformedError:
    return MalformedError(f"cannot decompress the {name} data: {reason}")


def _trailing_data(name: str) -> MalformedError:
    return _damaged(name, "there is more data after its end")


def _in_range(what: str, value: int, lowest: int, highest: int) -> int:
    if not lowest <= value <= highest:
        raise ValueError(f"{what} must be from {lowest} to {highest}, got {value}")
    return value


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _absent(name) from error


def _absent(name: str) -> ImportError:
    return ImportError(f"the compression {name!r} is not installed: pip install 'connect-sync[{name}]'")


class Compressions:
    """The compressions that one side has, in its order of preference."""

    __slots__ = ("_by_name", "names")

    names: str
    """The names, as an accept header lists them, without ``identity``."""

    def __init__(self, compressions: Iterable[Compression | str], option: str = "compressions") -> None:
        """Take the compressions in order of preference. ``option`` is what errors call them.

        Raises:
            TypeError: ``compressions`` is not a list, or not all of its elements are a `Compression` or a
                name.
            ValueError: A name is unknown, is ``identity``, has other characters than ``a-z 0-9 - _ .``, or
                belongs to two compressions; or a package is not installed.
        """
        expected = f"{option} must be a list of Compressions and their names"
        if isinstance(compressions, str) or _is_compression(compressions):
            name = repr(compressions) if isinstance(compressions, str) else "…"
            raise TypeError(f"{expected}, got {describe(compressions)}: write [{name}]")
        if not isinstance(compressions, Iterable):
            raise TypeError(f"{expected}, got {describe(compressions)}")
        self._by_name: dict[str, Compression] = {}
        for element in compressions:
            compression = find_compression(element, f"each of {option}")
            if compression.name == IDENTITY:
                raise ValueError(f"a compression must have another name than {IDENTITY!r}")
            if not _is_name(compression.name):
                raise ValueError(
                    f"the name of a compression must consist of a-z 0-9 - _ ., got {compression.name!r}"
                )
            if compression.name in self._by_name:
                raise ValueError(f"two compressions are named {compression.name!r}")
            self._by_name[compression.name] = compression
        self.names = ", ".join(self._by_name)

    def find(self, name: str | None) -> Compression | None:
        """Return the compression that a peer used, None for none.

        Raises:
            ConnectError: ``unimplemented`` for an unknown name, with the names that are known.
        """
        if name is None or name == IDENTITY or not name:
            return None
        # RFC 9110, section 8.4.1: the names are case-insensitive.
        found = self._by_name.get(name) or self._by_name.get(name.lower())
        if found is not None or name.lower() == IDENTITY:
            return found
        supported = f"{self.names}, {IDENTITY}" if self.names else IDENTITY
        raise ConnectError(Code.UNIMPLEMENTED, f"unknown compression {name!r}: must be one of {supported}")

    def negotiate(self, accept: str) -> Compression | None:
        """Return the first compression of an accept header that this side has, None for none.

        The header is a list in the peer's order of preference (Connect reference, "Accept-Encoding").
        """
        # The whole header is one name in the common case.
        found = self._by_name.get(accept)
        if found is not None:
            return found
        for name in _accepted_names(accept):
            if name in self._by_name or name == IDENTITY:
                return self._by_name.get(name)
        return None

    def choose(self, accept: str, used: Compression | None) -> Compression | None:
        """Return a compression that an accept header without an order lists, None for none.

        It is the one that the peer ``used`` itself, else the first that this side has.
        """
        names = tuple(_accepted_names(accept))
        if used is not None and used.name in names:
            return used
        return next((found for name, found in self._by_name.items() if name in names), None)


def _accepted_names(accept: str) -> Iterable[str]:
    """Return the names of an accept header, in its order.

    HTTP's weights are tolerated: a weight of zero excludes a name, others are ignored.
    """
    # Clients send short headers, the same in each call. A long one is not worth caching.
    return _known_names(accept) if len(accept) <= _MAX_KNOWN else _parse_names(accept)


_MAX_KNOWN = 200


@lru_cache(maxsize=64)
def _known_names(accept: str) -> tuple[str, ...]:
    return tuple(_parse_names(accept))


def _parse_names(accept: str) -> Iterator[str]:
    for item in accept.lower().split(","):
        name, _, parameters = item.partition(";")
        if not _is_zero_weight(parameters):
            yield name.strip()


def _is_compression(value: object) -> bool:
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("name", "compress", "decompress")
    )


def find_compression(compression: Compression | str, option: str = "compression") -> Compression:
    """Return the compression with that name, or the compression itself. ``option`` is what errors call it.

    Raises:
        TypeError: ``compression`` is neither a `Compression` nor the name of one.
        ValueError: The name is unknown, or its package is not installed.
    """
    if not isinstance(compression, str):
        if not _is_compression(compression):
            raise TypeError(f"{option} must be a Compression or the name of one, got {describe(compression)}")
        return compression
    for known in DEFAULT_COMPRESSIONS:
        if known.name == compression:
            return known
    for optional in _OPTIONAL:
        if optional.name == compression:
            raise ValueError(str(_absent(compression)))
    names = ", ".join(known.name for known in DEFAULT_COMPRESSIONS)
    raise ValueError(f"unknown compression {compression!r}: must be one of {names}, or a Compression")


_is_name = re.compile(r"[a-z0-9._\-]+").fullmatch


def _is_zero_weight(parameters: str) -> bool:
    name, _, value = parameters.replace(" ", "").partition("=")
    return name == "q" and value.strip("0.") == "" and value != ""


def _installed() -> Iterator[Compression]:
    for optional in _OPTIONAL:
        with suppress(ImportError):
            yield optional()


GZIP = Gzip()

# Those that need a package. Each one's name is also that of its extra. The best come first.
_OPTIONAL = (Zstd, Brotli, Snappy)

# gzip is first, so that a package that was installed for something else does not change what is sent. deflate
# is last, since some senders omit zlib's wrapping (RFC 9110, section 8.4.1.2).
DEFAULT_COMPRESSIONS: tuple[Compression, ...] = (GZIP, *_installed(), Deflate())
"""The compressions that are offered by default: all that are installed, in order of preference."""
