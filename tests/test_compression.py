from __future__ import annotations

import gzip
import tracemalloc
import zlib
from random import Random

import pytest

from connect_sync import Code, ConnectError, Gzip
from connect_sync.compression import DEFAULT_COMPRESSIONS, GZIP, Compression, Compressions, find_compression
from connect_sync.errors import MalformedError


class Reverse:
    """A compression that is easy to tell from others."""

    def __init__(self, name: str = "reverse") -> None:
        self.name = name

    def compress(self, data: bytes) -> bytes:
        return data[::-1]

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        return data[::-1]


REVERSE = Reverse()


@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_gzip_is_read_by_the_standard_library(size: int) -> None:
    data = Random(size).randbytes(size)

    assert gzip.decompress(Gzip().compress(data)) == data


@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_gzip_of_the_standard_library_is_read(size: int) -> None:
    data = Random(size).randbytes(size)

    assert Gzip().decompress(gzip.compress(data), size) == data


def test_equal_data_is_compressed_to_equal_bytes() -> None:
    assert Gzip().compress(b"abc" * 100) == Gzip().compress(b"abc" * 100)


@pytest.mark.parametrize("level", [1, 9])
def test_level_of_gzip_is_settable(level: int) -> None:
    data = b"".join(b"%d," % n for n in range(300))
    compressor = zlib.compressobj(level, wbits=31)

    assert Gzip(level).compress(data) == compressor.compress(data) + compressor.flush()


def test_data_of_exactly_the_limit_is_decompressed() -> None:
    assert GZIP.decompress(gzip.compress(b"a" * 1000), 1000) == b"a" * 1000


def test_data_one_byte_past_the_limit_is_refused() -> None:
    with pytest.raises(ConnectError) as caught:
        GZIP.decompress(gzip.compress(b"a" * 1001), 1000)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_limit_may_be_above_what_memory_could_hold() -> None:
    assert GZIP.decompress(gzip.compress(b"a"), 2**70) == b"a"


def test_limit_of_nothing_lets_nothing_through() -> None:
    assert GZIP.decompress(gzip.compress(b""), 0) == b""
    with pytest.raises(ConnectError, match="limit of 0 bytes"):
        GZIP.decompress(gzip.compress(b"a"), 0)


def test_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ConnectError):
            GZIP.decompress(bomb, 10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


VALID = gzip.compress(b"hello")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "damaged"),
        (b"\x1f\x8b", "cut off"),
        (VALID[:-1], "cut off"),
        (VALID[:12], "cut off"),
        (VALID[:-5] + b"\x00" + VALID[-4:], "damaged"),
        (VALID + b"x", "more behind its end"),
        (VALID + VALID, "more behind its end"),
        (zlib.compress(b"hello"), "damaged"),
    ],
    ids=["no gzip", "head", "without last byte", "half", "wrong checksum", "one more", "two members", "zlib"],
)
def test_gzip_that_is_not_one_whole_member_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        GZIP.decompress(data, 1000)


def test_random_damage_is_refused_or_harmless() -> None:
    random = Random(3)
    for _ in range(500):
        data = bytearray(gzip.compress(random.randbytes(random.randrange(60))))
        for _ in range(random.randrange(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            result = GZIP.decompress(bytes(data), 50)
        except ConnectError:
            continue
        assert len(result) <= 50


# What one side has


def test_gzip_is_offered_by_default() -> None:
    assert [compression.name for compression in DEFAULT_COMPRESSIONS] == ["gzip"]


def test_names_are_listed_in_order_of_preference() -> None:
    assert Compressions([REVERSE, "gzip"]).names == "reverse, gzip"


def test_no_compressions_are_an_empty_list() -> None:
    assert Compressions([]).names == ""


@pytest.mark.parametrize("pair", [["gzip", "gzip"], ["gzip", GZIP], [REVERSE, Reverse()]])
def test_two_compressions_of_one_name_are_refused(pair: list[Compression | str]) -> None:
    with pytest.raises(ValueError, match="two compressions named"):
        Compressions(pair)


def test_identity_is_no_compression_to_offer() -> None:
    with pytest.raises(ValueError, match="identity"):
        Compressions([Reverse("identity")])


@pytest.mark.parametrize("name", ["lzma", "", "identity"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no compression"):
        find_compression(name)


def test_compression_is_found_by_name() -> None:
    assert find_compression("gzip") is GZIP


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
    assert caught.value.message.endswith(f"supported are {supported}")


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
        None,
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
def test_nothing_is_compressed_for_a_peer_that_accepts_none_of_them(accept: str | None) -> None:
    assert Compressions([GZIP]).negotiate(accept) is None
