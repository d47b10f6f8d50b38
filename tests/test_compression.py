from __future__ import annotations

import gzip
import importlib
import re
import subprocess
import sys
import tracemalloc
import zlib
from functools import partial
from pathlib import Path
from random import Random

import pytest

from connect_sync import Code, ConnectError
from connect_sync.compression import (
    DEFAULT_COMPRESSIONS,
    GZIP,
    Brotli,
    Compression,
    Compressions,
    Deflate,
    Gzip,
    Snappy,
    Zstd,
    find_compression,
)
from connect_sync.errors import MalformedError
from tests.support import error_of


class Reverse:
    """A compression that is easy to tell from others."""

    def __init__(self, name: str = "reverse") -> None:
        self.name = name

    def compress(self, data: bytes) -> bytes:
        return data[::-1]

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        return data[::-1]


REVERSE = Reverse()

ROOT = Path(__file__).resolve().parent.parent

GREETINGS = b"Hello, Jane! " * 20
NUMBERS = b"".join(b"%d," % n for n in range(2000))
MANY_NUMBERS = b"".join(b"%d," % n for n in range(60_000))
NOISE = Random(1).randbytes(300_000)

of_each = pytest.mark.parametrize(
    "compression",
    [Gzip(), Deflate(), Zstd(), Brotli(), Snappy()],
    ids=lambda compression: compression.name,
)


# Each of them


@of_each
@pytest.mark.parametrize(
    "data",
    [b"", b"a", GREETINGS, MANY_NUMBERS, bytes(1_000_000), NOISE[:100], NOISE, NOISE[:100_000] * 3],
    ids=["empty", "byte", "small", "numbers", "zeros", "small noise", "noise", "repeated noise"],
)
def test_what_was_compressed_is_decompressed(compression: Compression, data: bytes) -> None:
    assert compression.decompress(compression.compress(data), len(data)) == data


@of_each
def test_repetition_becomes_small(compression: Compression) -> None:
    assert len(compression.compress(GREETINGS)) < len(GREETINGS) / 4


@of_each
def test_noise_becomes_little_larger(compression: Compression) -> None:
    assert len(compression.compress(NOISE)) < len(NOISE) * 1.001


@pytest.mark.parametrize("kind", [Gzip, Deflate, Zstd, Brotli, Snappy])
def test_equal_data_is_compressed_to_equal_bytes(kind: type[Gzip | Deflate | Zstd | Brotli | Snappy]) -> None:
    one, another = kind(), kind()

    first = one.compress(NUMBERS)

    assert one.compress(NUMBERS) == first
    assert another.compress(NUMBERS) == first


# Written by others: Go's compress/gzip and compress/zlib, andybalholm/brotli 1.2.8, klauspost/compress 1.20.3
# (zstd, and s2 in its mode for Snappy) and golang/snappy 1.0.0, each at its default level; the second of a
# pair was flushed half-way.
@pytest.mark.parametrize(
    ("name", "data"),
    [
        (
            "gzip",
            "1f8b08000000000000fff248cdc9c9d751f04acc4b555418a11c40000000ffff544b125404010000",
        ),
        (
            "gzip",
            "1f8b08000000000000fff248cdc9c9d751f04acc4b555418100e000000ffff1a780e200000ffff544b125404010000",
        ),
        ("deflate", "789cf248cdc9c9d751f04acc4b555418a11c40000000fffff00a4fed"),
        ("deflate", "789cf248cdc9c9d751f04acc4b555418100e000000ffff1a780e200000fffff00a4fed"),
        ("zstd", "28b52ffd44000400ad00006848656c6c6f2c204a616e65212001540d042b7408c698f3f3"),
        (
            "zstd",
            "28b52ffd0468ac00006848656c6c6f2c204a616e65212001540d042a120245000000015400062a1f0fc698f3f3",
        ),
        ("br", "1b030100c4318ef47d825b6c582f4576abe6e3acc584f42300"),
        ("br", "8b400000c4318ef47d825b6c582f4572abe6e3ac3d21fd08110800400220020b8003"),
        (
            "snappy",
            "ff060000734e6150705900200000041fcd1b84023048656c6c6f2c204a616e652120fe0d00fe0d00fe0d00da0d00",
        ),
        (
            "snappy",
            "ff060000734e61507059001a00007274821182013048656c6c6f2c204a616e652120fe0d00d20d00001a0000"
            "7274821182013048656c6c6f2c204a616e652120fe0d00d20d00",
        ),
        (
            "snappy",
            "ff060000734e6150705900220000041fcd1b84023048656c6c6f2c204a616e652120ee0d00ee0d00ee0d00ee0d00"
            "0d0d",
        ),
    ],
)
def test_what_others_compress_is_decompressed(name: str, data: str) -> None:
    assert find_compression(name).decompress(bytes.fromhex(data), len(GREETINGS)) == GREETINGS


# The limit


@of_each
@pytest.mark.parametrize("data", [b"a" * 1000, NOISE[:1000], NOISE], ids=["small", "small noise", "noise"])
def test_data_one_byte_past_the_limit_is_refused(compression: Compression, data: bytes) -> None:
    compressed = compression.compress(data)

    assert compression.decompress(compressed, len(data)) == data
    with pytest.raises(ConnectError, match=f"read_max_bytes, {len(data) - 1} bytes") as caught:
        compression.decompress(compressed, len(data) - 1)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@of_each
def test_limit_may_be_above_what_memory_could_hold(compression: Compression) -> None:
    assert compression.decompress(compression.compress(b"a"), 2**70) == b"a"


@of_each
def test_limit_of_nothing_lets_nothing_through(compression: Compression) -> None:
    assert compression.decompress(compression.compress(b""), 0) == b""
    with pytest.raises(ConnectError, match="read_max_bytes, 0 bytes"):
        compression.decompress(compression.compress(b"a"), 0)


@of_each
def test_bomb_is_refused_at_the_limit_and_one_step(compression: Compression) -> None:
    bomb = compression.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ConnectError, match="read_max_bytes, 1000000 bytes"):
            compression.decompress(bomb, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Pieces are held twice while they are joined; zlib holds what is left of the bomb, too.
    assert peak < 2 * 1_000_000 + 65_536 + 100_000


# Prints by how many KiB the peak of the process's memory grows, that of libraries in C included.
MEASURE = """
import sys

from connect_sync.compression import find_compression
from connect_sync.errors import ConnectError


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


compression = find_compression(sys.argv[1])
bomb = sys.stdin.buffer.read()
compression.decompress(compression.compress(bytes(10_000)), 10_000)
before = peak()
try:
    compression.decompress(bomb, 10_000)
except ConnectError as error:
    print(peak() - before, error.code.value)
"""


# 64 MiB of zeros, with the largest window.
BROTLI_BOMB = bytes.fromhex(
    "cfffff7f002400e2b14072effff9ffff0f8004401c1680eefd3fffffff01900088c302d0bdffe7ffff3f001200715800baf7ff03"
)


# What libraries hold beside the data: Brotli's window of 16 MiB, and a smaller one while it grows.
@pytest.mark.parametrize(
    ("name", "beside"), [("gzip", 0), ("deflate", 0), ("zstd", 0), ("br", 40 << 10), ("snappy", 0)]
)
def test_bomb_takes_no_more_memory_than_the_limit_and_the_window(name: str, beside: int) -> None:
    bomb = BROTLI_BOMB if name == "br" else find_compression(name).compress(bytes(64 << 20))

    program = [sys.executable, "-c", MEASURE, name]
    run = subprocess.run(program, input=bomb, cwd=ROOT, capture_output=True, check=True)

    grown, code = run.stdout.split()
    assert code == b"resource_exhausted"
    assert int(grown) < beside + 1024


# Damage


@of_each
@pytest.mark.parametrize("data", [GREETINGS, NOISE[:200]], ids=["greetings", "noise"])
def test_every_cut_is_found(compression: Compression, data: bytes) -> None:
    whole = compression.compress(data)
    # Snappy's stream identifier alone is an empty message.
    cuts = [size for size in range(len(whole)) if (compression.name, size) != ("snappy", 10)]

    for size in cuts:
        with pytest.raises(MalformedError, match=f"the {compression.name} data: it is cut off"):
            compression.decompress(whole[:size], 1000)


@of_each
def test_cut_of_large_data_is_found(compression: Compression) -> None:
    whole = compression.compress(NOISE)

    for cut in (1, 2, 1000, 40_000, 150_000, 290_000):
        with pytest.raises(MalformedError, match="cut off"):
            compression.decompress(whole[:-cut], len(NOISE))


@of_each
@pytest.mark.parametrize("more", [b"x", b"\x00", b"\xff", NOISE[:100], NOISE])
@pytest.mark.parametrize("data", [b"", GREETINGS, NOISE], ids=["empty", "greetings", "noise"])
def test_bytes_after_the_end_are_refused(compression: Compression, data: bytes, more: bytes) -> None:
    # To Snappy they are a chunk, and not a valid one.
    reason = "cut off|damaged" if compression.name == "snappy" else "more data after its end"

    with pytest.raises(MalformedError, match=reason):
        compression.decompress(compression.compress(data) + more, len(data))


@pytest.mark.parametrize("compression", [Deflate(), Zstd(), Brotli()], ids=lambda each: each.name)
def test_second_stream_is_refused(compression: Compression) -> None:
    whole = compression.compress(b"hello")

    with pytest.raises(MalformedError, match="more data after its end"):
        compression.decompress(whole + whole, 1000)


@of_each
def test_other_data_is_malformed(compression: Compression) -> None:
    for data in (b"hello, hello", bytes(20), b"\xff" * 20):
        with pytest.raises(MalformedError):
            compression.decompress(data, 1000)


@of_each
@pytest.mark.parametrize("data", [GREETINGS, NOISE[:50]], ids=["greetings", "noise"])
def test_every_flipped_bit_is_refused_or_harmless(compression: Compression, data: bytes) -> None:
    whole = compression.compress(data)
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            try:
                result = compression.decompress(bytes(flipped), len(data))
            except ConnectError:
                continue
            assert len(result) <= len(data)


@of_each
def test_random_damage_is_refused_or_harmless(compression: Compression) -> None:
    random = Random(3)
    for _ in range(500):
        data = bytearray(compression.compress(random.randbytes(random.randrange(60))))
        for _ in range(random.randrange(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            result = compression.decompress(bytes(data), 50)
        except ConnectError:
            continue
        assert len(result) <= 50


# gzip and deflate


@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_gzip_and_deflate_are_those_of_the_standard_library(size: int) -> None:
    data = NOISE[:size]

    assert gzip.decompress(Gzip().compress(data)) == data
    assert Gzip().decompress(gzip.compress(data), size) == data
    assert zlib.decompress(Deflate().compress(data)) == data
    assert Deflate().decompress(zlib.compress(data), size) == data


VALID = gzip.compress(b"hello")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "damaged"),
        (b"\x1f\x8b", "cut off"),
        (VALID[:-1], "cut off"),
        (VALID[:12], "cut off"),
        (VALID[:-5] + b"\x00" + VALID[-4:], "damaged"),
        (VALID + b"x", "more data after its end"),
        (zlib.compress(b"hello"), "damaged"),
    ],
    ids=["no gzip", "head", "without last byte", "half", "wrong checksum", "one more", "zlib"],
)
@pytest.mark.parametrize("before", [b"", VALID, VALID * 2], ids=["first", "second", "third"])
def test_gzip_member_that_is_not_whole_is_malformed(before: bytes, data: bytes, reason: str) -> None:
    # What does not begin like a member is not one, but trailing data, except at the start.
    if before and not data.startswith(b"\x1f\x8b"):
        reason = "more data after its end"

    with pytest.raises(MalformedError, match=reason):
        GZIP.decompress(before + data, 1000)


# Written at level 0, members of 489 and 1,513 bytes end where the first and the second step of reading do.
@pytest.mark.parametrize("size", [0, 1, 488, 489, 490, 1512, 1513, 1514, 100_000])
def test_members_of_gzip_are_one_message(size: int) -> None:
    noise = NOISE[:size]
    members = [gzip.compress(part, compresslevel=level) for level in (0, 6) for part in (b"", noise, b"a")]

    assert Gzip().decompress(b"".join(members), 2 * (size + 1)) == (noise + b"a") * 2


def test_limit_is_for_all_members_of_gzip() -> None:
    data = gzip.compress(GREETINGS) * 3

    assert GZIP.decompress(data, 3 * len(GREETINGS)) == GREETINGS * 3
    with pytest.raises(ConnectError, match=f"read_max_bytes, {3 * len(GREETINGS) - 1} bytes") as caught:
        GZIP.decompress(data, 3 * len(GREETINGS) - 1)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [gzip.compress(bytes(300_000)) * 200, gzip.compress(b"ab") * 40_000])
def test_bomb_of_many_gzip_members_takes_no_more_memory_than_the_limit(data: bytes) -> None:
    limit = 1_000_000
    tracemalloc.start()
    try:
        error = error_of(partial(GZIP.decompress, data, limit))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert error is None or error.code is Code.RESOURCE_EXHAUSTED
    assert peak < 2 * limit + 65_536 + 100_000


def test_many_empty_members_of_gzip_are_read_in_linear_time() -> None:
    # In quadratic time this takes longer than the test may.
    assert GZIP.decompress(gzip.compress(b"") * 500_000, 0) == b""


def test_deflate_without_its_wrapping_is_damaged() -> None:
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)

    with pytest.raises(MalformedError, match="damaged"):
        Deflate().decompress(bare.compress(b"hello") + bare.flush(), 1000)


# Levels


@pytest.mark.parametrize(("kind", "window_bits"), [(Gzip, 31), (Deflate, 15)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_level_of_zlib_is_settable(kind: type[Gzip | Deflate], window_bits: int, level: int) -> None:
    compressor = zlib.compressobj(level, wbits=window_bits)

    assert kind(level).compress(NUMBERS) == compressor.compress(NUMBERS) + compressor.flush()


def test_higher_levels_make_less() -> None:
    assert len(Zstd(19).compress(NUMBERS)) < len(Zstd(1).compress(NUMBERS))
    assert len(Brotli(11).compress(NUMBERS)) < len(Brotli(0).compress(NUMBERS))


@pytest.mark.parametrize(("kind", "level"), [(Gzip, 6), (Deflate, 6), (Zstd, 3), (Brotli, 5)])
def test_level_has_a_default(kind: type[Gzip | Deflate | Zstd | Brotli], level: int) -> None:
    assert kind().compress(NUMBERS) == kind(level).compress(NUMBERS)


@pytest.mark.parametrize(
    ("kind", "level", "levels"),
    [
        (Gzip, -1, "0 to 9"),
        (Gzip, 10, "0 to 9"),
        (Deflate, 10, "0 to 9"),
        (Zstd, 0, "1 to 19"),
        (Zstd, 20, "1 to 19"),
        (Brotli, -1, "0 to 11"),
        (Brotli, 12, "0 to 11"),
    ],
)
def test_level_that_there_is_not_is_refused(
    kind: type[Gzip | Deflate | Zstd | Brotli], level: int, levels: str
) -> None:
    with pytest.raises(ValueError, match=f"must be from {levels}, got {level}"):
        kind(level)


# zstd: frames are written by RFC 8878, section 3.1

ZSTD_MAGIC = bytes.fromhex("28b52ffd")
EMPTY_LAST_BLOCK = b"\x01\x00\x00"
SKIPPABLE_FRAME = bytes.fromhex("502a4d18 02000000") + b"ab"


def test_window_of_zstd_may_be_8_mib() -> None:
    # The window's descriptor: an exponent above 10, and eighths beside it.
    assert Zstd().decompress(ZSTD_MAGIC + b"\x00" + bytes([13 << 3]) + EMPTY_LAST_BLOCK, 0) == b""


@pytest.mark.parametrize("descriptor", [13 << 3 | 1, 14 << 3, 17 << 3, 31 << 3 | 7])
def test_larger_window_of_zstd_is_refused(descriptor: int) -> None:
    frame = ZSTD_MAGIC + b"\x00" + bytes([descriptor]) + EMPTY_LAST_BLOCK

    with pytest.raises(MalformedError, match="its window is larger than 8 MiB"):
        Zstd().decompress(frame, 2**70)


def test_window_of_zstd_that_is_its_content_is_bounded() -> None:
    # A single segment, which is said to hold a TiB.
    frame = ZSTD_MAGIC + b"\xe0" + (1 << 40).to_bytes(8, "little") + EMPTY_LAST_BLOCK

    with pytest.raises(MalformedError, match="its window is larger than 8 MiB"):
        Zstd().decompress(frame, 2**70)


def test_zstd_of_the_highest_level_is_within_the_window() -> None:
    data = bytes(9 << 20)

    assert Zstd().decompress(Zstd(19).compress(data), len(data)) == data


def test_skippable_frames_of_zstd_are_refused() -> None:
    frame = Zstd().compress(b"hello")

    for data in (SKIPPABLE_FRAME, SKIPPABLE_FRAME + frame):
        with pytest.raises(MalformedError, match="damaged"):
            Zstd().decompress(data, 1000)
    with pytest.raises(MalformedError, match="more data after its end"):
        Zstd().decompress(frame + SKIPPABLE_FRAME, 1000)


def test_zstd_from_before_its_specification_is_refused() -> None:
    # The magic number of version 0.7.
    with pytest.raises(MalformedError, match="damaged"):
        Zstd().decompress(bytes.fromhex("27b52ffd") + Zstd().compress(b"hello")[4:], 1000)


def test_wrong_checksum_of_zstd_is_refused() -> None:
    # By klauspost/compress, which writes one.
    frame = bytes.fromhex("28b52ffd44000400ad00006848656c6c6f2c204a616e65212001540d042b7408c698f3f3")

    with pytest.raises(MalformedError, match="damaged"):
        Zstd().decompress(frame[:-1] + b"\x00", 1000)


# Brotli


# The decompressor makes 32,752 bytes at once, and takes 32,768.
@pytest.mark.parametrize("size", [32_751, 32_752, 32_753, 65_504, 65_505])
@pytest.mark.parametrize("data", [bytes(70_000), NOISE], ids=["zeros", "noise"])
def test_brotli_may_end_where_a_step_does(data: bytes, size: int) -> None:
    assert Brotli().decompress(Brotli().compress(data[:size]), size) == data[:size]


def test_brotli_of_a_small_window_is_decompressed() -> None:
    # With one, the decompressor cannot always take all that is given to it.
    brotli = importlib.import_module("brotli")

    data = brotli.compress(MANY_NUMBERS, quality=5, lgwin=10)

    assert Brotli().decompress(data, len(MANY_NUMBERS)) == MANY_NUMBERS


def test_byte_after_the_end_of_brotli_is_found_where_a_step_ends() -> None:
    # Metadata of 32,764 bytes, by RFC 7932, section 9.2, and an empty last block.
    whole = (0b10_0_11_0_0 | 32_763 << 7).to_bytes(3, "little") + bytes(32_764) + b"\x03"

    assert Brotli().decompress(whole, 0) == b""
    with pytest.raises(MalformedError, match="data: there is more data after its end"):
        Brotli().decompress(whole + b"x", 0)


def test_brotli_that_cannot_be_bounded_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # As it is before version 1.2.
    monkeypatch.setattr("brotli.Decompressor", object)

    with pytest.raises(ImportError, match=r"pip install 'connect-sync\[br\]'"):
        Brotli()


# Snappy: streams are written by framing_format.txt

IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
COMPRESSED, UNCOMPRESSED = 0x00, 0x01


def crc32c(data: bytes) -> int:
    """Compute what RFC 3720, appendix B.4 describes, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def chunk(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


def data_chunk(kind: int, data: bytes, body: bytes) -> bytes:
    """Write a chunk of ``data``, which is ``body`` in the chunk."""
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return chunk(kind, masked.to_bytes(4, "little") + body)


def uncompressed(data: bytes) -> bytes:
    return data_chunk(UNCOMPRESSED, data, data)


def compressed(data: bytes) -> bytes:
    """Write a chunk whose data is one literal, of at most 60 bytes."""
    return data_chunk(COMPRESSED, data, bytes([len(data), len(data) - 1 << 2]) + data)


ONE_OF_EACH = IDENTIFIER + uncompressed(b"Hello, ") + compressed(b"Jane!")


def test_checksum_of_the_tests_is_right() -> None:
    # The check value of CRC-32C.
    assert crc32c(b"123456789") == 0xE3069283


def test_chunks_of_snappy_are_one_message() -> None:
    assert Snappy().decompress(ONE_OF_EACH, 12) == b"Hello, Jane!"


def test_limit_is_for_all_chunks_of_snappy() -> None:
    with pytest.raises(ConnectError, match="read_max_bytes, 11 bytes"):
        Snappy().decompress(ONE_OF_EACH, 11)


def test_snappy_that_is_cut_between_chunks_is_a_shorter_message() -> None:
    first = len(IDENTIFIER + uncompressed(b"Hello, "))
    for size in range(len(ONE_OF_EACH)):
        if size == len(IDENTIFIER):
            assert Snappy().decompress(ONE_OF_EACH[:size], 12) == b""
        elif size == first:
            assert Snappy().decompress(ONE_OF_EACH[:size], 12) == b"Hello, "
        else:
            with pytest.raises(MalformedError, match="cut off"):
                Snappy().decompress(ONE_OF_EACH[:size], 12)


@pytest.mark.parametrize(
    "skipped",
    [
        IDENTIFIER,
        chunk(0xFE, b""),
        chunk(0xFE, b"padding"),
        chunk(0xFE, bytes(100_000)),
        chunk(0x80, b"reserved"),
        chunk(0xFD, b"reserved"),
        chunk(0xFD, bytes(100_000)),
        uncompressed(b""),
        data_chunk(COMPRESSED, b"", b"\x00"),
    ],
    ids=[
        "identifier",
        "empty",
        "padding",
        "long padding",
        "0x80",
        "0xfd",
        "long 0xfd",
        "no data",
        "no data 2",
    ],
)
def test_chunks_of_snappy_without_data_are_skipped(skipped: bytes) -> None:
    stream = IDENTIFIER + skipped + uncompressed(b"Hello, ") + skipped + compressed(b"Jane!") + skipped

    assert Snappy().decompress(stream, 12) == b"Hello, Jane!"


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(0x02, b""),
        chunk(0x7F, b"reserved"),
        chunk(0xFF, b"sNaPpy"),
        chunk(0xFF, b""),
        chunk(COMPRESSED, b""),
        chunk(COMPRESSED, b"abcd"),
        chunk(UNCOMPRESSED, b"abc"),
        chunk(UNCOMPRESSED, b"abcdefgh"),
        uncompressed(b"a")[:-1] + b"b",
        compressed(b"a")[:-1] + b"b",
        data_chunk(COMPRESSED, b"a", b"\x02\x00a"),
        data_chunk(COMPRESSED, b"a", b"\xff\xff\xff\xff\xff\xff\x00a"),
        uncompressed(bytes(65_537)),
        data_chunk(COMPRESSED, bytes(65_537), b"\x81\x80\x04\x00\x00" + b"\xfe\x01\x00" * 1024),
    ],
    ids=[
        "0x02",
        "0x7f",
        "other identifier",
        "no identifier",
        "nothing",
        "no size",
        "no checksum",
        "wrong checksum",
        "checksum of other uncompressed data",
        "checksum of other compressed data",
        "less than its size",
        "size of too many bytes",
        "too much uncompressed data",
        "too much compressed data",
    ],
)
def test_wrong_chunk_of_snappy_is_damaged(wrong: bytes) -> None:
    for stream in (IDENTIFIER + wrong, ONE_OF_EACH + wrong):
        with pytest.raises(MalformedError, match="damaged"):
            Snappy().decompress(stream, 1_000_000)


def test_chunk_of_snappy_that_is_too_large_is_damaged_whatever_the_limit() -> None:
    with pytest.raises(MalformedError, match="damaged"):
        Snappy().decompress(IDENTIFIER + data_chunk(COMPRESSED, b"", b"\x81\x80\x04"), 1000)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072])
def test_snappy_is_written_in_chunks_of_64_kib(size: int) -> None:
    assert Snappy().decompress(Snappy().compress(bytes(size)), size) == bytes(size)
    assert len(Snappy().compress(NOISE[:size])) == size + len(IDENTIFIER) + 8 * -(-size // 65_536)


def test_size_that_a_chunk_of_snappy_declares_is_held_to_the_limit() -> None:
    # It says that it has 64 KiB, and has nothing.
    with pytest.raises(ConnectError) as caught:
        Snappy().decompress(IDENTIFIER + data_chunk(COMPRESSED, b"", b"\x80\x80\x04"), 65_535)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("stream", [ONE_OF_EACH[10:], chunk(0xFE, b"") + ONE_OF_EACH])
def test_snappy_begins_with_its_identifier(stream: bytes) -> None:
    with pytest.raises(MalformedError, match="damaged"):
        Snappy().decompress(stream, 1000)


def test_nothing_is_a_message_of_snappy_all_the_same() -> None:
    assert Snappy().compress(b"") == IDENTIFIER


# Packages that are not installed

WITHOUT_PACKAGES = """
import sys

for module in ("brotli", "backports.zstd", "compression.zstd", "cramjam"):
    sys.modules[module] = None

from connect_sync import compression

print(*(each.name for each in compression.DEFAULT_COMPRESSIONS))
for name, kind in (("zstd", "Zstd"), ("br", "Brotli"), ("snappy", "Snappy")):
    try:
        getattr(compression, kind)()
    except ImportError as error:
        print(error)
    try:
        compression.find_compression(name)
    except ValueError as error:
        print(error)
try:
    compression.find_compression("lzma")
except ValueError as error:
    print(error)
"""


def test_compression_without_its_package_is_not_offered_and_says_what_to_install() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES], cwd=ROOT, capture_output=True, check=True, text=True
    )

    expected = ["gzip deflate"]
    for name in ("zstd", "br", "snappy"):
        expected += [f"the compression '{name}' is not installed: pip install 'connect-sync[{name}]'"] * 2
    expected.append("unknown compression 'lzma': must be one of gzip, deflate, or a Compression")
    assert run.stdout.splitlines() == expected


# What one side has


def test_what_is_installed_is_offered_by_default_and_gzip_first() -> None:
    names = [compression.name for compression in DEFAULT_COMPRESSIONS]

    assert names == ["gzip", "zstd", "br", "snappy", "deflate"]


def test_names_are_listed_in_order_of_preference() -> None:
    assert Compressions([REVERSE, "gzip"]).names == "reverse, gzip"


def test_string_in_place_of_a_list_is_refused() -> None:
    expected = "compressions must be a list of Compressions and their names, got 'gzip' (str): write ['gzip']"
    with pytest.raises(TypeError, match=re.escape(expected)):
        Compressions("gzip")


def test_no_compressions_are_an_empty_list() -> None:
    assert Compressions([]).names == ""


@pytest.mark.parametrize("pair", [["gzip", "gzip"], ["gzip", GZIP], [REVERSE, Reverse()]])
def test_two_compressions_of_one_name_are_refused(pair: list[Compression | str]) -> None:
    with pytest.raises(ValueError, match="two compressions are named"):
        Compressions(pair)


def test_identity_is_no_compression_to_offer() -> None:
    with pytest.raises(ValueError, match="identity"):
        Compressions([Reverse("identity")])


@pytest.mark.parametrize("name", ["XZ", "x z", "x\n", ""])
def test_name_that_headers_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"must consist of a-z 0-9 - _ ., got {re.escape(repr(name))}"):
        Compressions([Reverse(name)])


@pytest.mark.parametrize("name", ["lzma", "", "identity", "brotli", "BR"])
def test_unknown_name_is_refused(name: str) -> None:
    expected = f"unknown compression '{name}': must be one of gzip, zstd, br, snappy, deflate"
    with pytest.raises(ValueError, match=expected):
        find_compression(name)


@pytest.mark.parametrize("compression", DEFAULT_COMPRESSIONS, ids=lambda compression: compression.name)
def test_compression_is_found_by_name(compression: Compression) -> None:
    assert find_compression(compression.name) is compression


def test_compression_is_taken_as_it_is() -> None:
    assert find_compression(REVERSE) is REVERSE


# What a peer used


@pytest.mark.parametrize("name", ["gzip", "GZIP", "GZip"])
def test_compression_that_a_peer_used_is_found(name: str) -> None:
    assert Compressions([REVERSE, GZIP]).find(name) is GZIP


@pytest.mark.parametrize("name", [None, "", "identity", "Identity"])
def test_peer_may_have_used_no_compression(name: str | None) -> None:
    assert Compressions([GZIP]).find(name) is None


def test_unknown_compression_of_a_peer_is_unimplemented() -> None:
    with pytest.raises(ConnectError) as caught:
        Compressions([REVERSE, GZIP]).find("br")
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("compressions", "supported"), [([REVERSE, GZIP], "reverse, gzip, identity"), ([], "identity")]
)
def test_refusal_of_a_compression_lists_those_that_there_are(
    compressions: list[Compression], supported: str
) -> None:
    with pytest.raises(ConnectError) as caught:
        Compressions(compressions).find("br")
    assert caught.value.message == f"unknown compression 'br': must be one of {supported}"


# What a peer accepts


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("gzip", "gzip"),
        ("reverse", "reverse"),
        ("reverse, gzip", "reverse"),
        ("gzip, reverse", "gzip"),
        ("gzip,reverse", "gzip"),
        ("br, gzip", "gzip"),
        ("br,\tgzip ", "gzip"),
        ("br;q=1, gzip;q=0.5, reverse;q=0.9", "gzip"),
        ("gzip;q=1", "gzip"),
        ("gzip ; q=0.001", "gzip"),
        ("gzip;q=0, reverse", "reverse"),
        ("gzip; q=0.000 ,reverse", "reverse"),
        (",,gzip", "gzip"),
        ("GZIP", "gzip"),
        ("Reverse;Q=0, GZip", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("gzip, identity", "gzip"),
        ("gzip;q=", "gzip"),
        ("gzip;level=0", "gzip"),
    ],
)
def test_first_accepted_compression_is_taken(accept: str, name: str) -> None:
    found = Compressions([REVERSE, GZIP]).negotiate(accept)

    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "identity",
        "br",
        "br, zstd",
        "gzip;q=0",
        "gzip;q=0.0, br",
        "*",
        "gzipped",
        ",",
        ";",
        "identity, gzip",
    ],
)
def test_nothing_is_compressed_for_a_peer_that_accepts_none_of_them(accept: str) -> None:
    assert Compressions([GZIP]).negotiate(accept) is None


@pytest.mark.parametrize(
    ("accept", "used", "chosen"),
    [
        ("identity, deflate, gzip", None, "gzip"),
        ("identity, deflate, gzip, reverse", None, "reverse"),
        ("gzip, reverse", None, "reverse"),
        ("identity, GZIP, reverse", GZIP, "gzip"),
        ("gzip;q=1, reverse;q=0", None, "gzip"),
        ("identity, reverse", GZIP, "reverse"),
        ("identity", GZIP, None),
        ("br, zstd", None, None),
        ("", GZIP, None),
        (",;", None, None),
    ],
)
def test_list_without_order_leaves_the_choice_here(
    accept: str, used: Compression | None, chosen: str | None
) -> None:
    found = Compressions([REVERSE, GZIP]).choose(accept, used)

    assert (None if found is None else found.name) == chosen
