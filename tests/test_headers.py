from __future__ import annotations

from base64 import b64encode
from random import Random
from typing import Any

import pytest

from connect_sync import Headers
from connect_sync.headers import HeadersInput, decode_base64, encode_base64


def test_name_is_found_in_any_case() -> None:
    headers = Headers({"Greet-Version": "v1"})

    assert (headers["greet-version"], headers["GREET-VERSION"]) == ("v1", "v1")


def test_names_are_given_in_lower_case() -> None:
    assert list(Headers({"Greet-Version": "v1"})) == ["greet-version"]


@pytest.mark.parametrize("name", ["A", "a"])
def test_containment_ignores_case(name: str) -> None:
    assert name in Headers({"a": "1"})


@pytest.mark.parametrize("name", ["b", 1, None])
def test_what_is_no_name_of_a_header_is_not_contained(name: object) -> None:
    assert name not in Headers({"a": "1"})


def test_added_values_of_a_name_are_kept_apart_and_in_order() -> None:
    headers = Headers()
    headers.add("a", "1")
    headers.add("A", "2")

    assert headers.get_all("a") == ["1", "2"]


def test_values_of_a_name_are_joined_where_one_is_wanted() -> None:
    assert Headers([("a", "1"), ("a", "2")])["a"] == "1, 2"


def test_setting_replaces_every_value() -> None:
    headers = Headers([("a", "1"), ("a", "2")])
    headers["A"] = "3"

    assert headers.get_all("a") == ["3"]


def test_deleting_removes_every_value() -> None:
    headers = Headers([("a", "1"), ("a", "2")])
    del headers["A"]

    assert "a" not in headers


def test_absent_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Headers()["a"]


def test_deleting_an_absent_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        del Headers()["a"]


def test_absent_name_has_no_values() -> None:
    assert Headers().get_all("a") == []


def test_absent_name_gets_the_default() -> None:
    assert Headers().get("a", "none") == "none"


def test_pairs_hold_a_name_with_two_values_twice() -> None:
    pairs = [("a", "1"), ("a", "2"), ("b", "3")]

    assert list(Headers(pairs).multi_items()) == pairs


def test_length_counts_names() -> None:
    assert len(Headers([("a", "1"), ("a", "2"), ("b", "3")])) == 2


@pytest.mark.parametrize(
    "initial",
    [
        {"a": "1", "b": "2"},
        [("a", "1"), ("b", "2")],
        iter([("a", "1"), ("b", "2")]),
        Headers({"a": "1", "b": "2"}),
    ],
    ids=["mapping", "pairs", "iterator", "headers"],
)
def test_headers_are_made_of_a_mapping_or_of_pairs(initial: HeadersInput) -> None:
    assert list(Headers(initial).multi_items()) == [("a", "1"), ("b", "2")]


def test_copy_keeps_the_values_of_a_name_apart() -> None:
    assert Headers(Headers([("a", "1"), ("a", "2")])).get_all("a") == ["1", "2"]


def test_copy_is_independent() -> None:
    original = Headers({"a": "1"})
    Headers(original).add("a", "2")

    assert original.get_all("a") == ["1"]


def test_list_of_values_is_a_copy() -> None:
    headers = Headers({"a": "1"})
    headers.get_all("a").append("2")

    assert headers.get_all("a") == ["1"]


def test_representation_shows_the_pairs() -> None:
    assert repr(Headers({"A": "1"})) == "Headers([('a', '1')])"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a:", "a\r\nb", "a\n", "a\x00", "é", "a/b", "ſ", "\u212a"],  # noqa: RUF001
)
def test_name_that_http_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a header name"):
        Headers().add(name, "1")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\n", "\r", "a\x00", "\x7f", "\t", "é", "\u2028", "\ud800"])
def test_value_that_http_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Headers().add("a", value)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x": 5}, "header 'x' must be a str, got int"),
        ({"x": None}, "header 'x' must be a str, got NoneType"),
        ({"x": ["1", "2"]}, "header 'x' must be a str, got list"),
        (
            {"x": b"1"},
            "header 'x' must be a str, got bytes: decode it, or send it with Headers.add_binary('x-bin', …)",
        ),
        (
            [("X-Bin", bytearray(b"1"))],
            "header 'X-Bin' must be a str, got bytearray: "
            "decode it, or send it with Headers.add_binary('X-Bin', …)",
        ),
        ({5: "x"}, "a header name must be a str, got 5 (int)"),
        ([(b"x", "1")], "a header name must be a str, got b'x' (bytes)"),
        ("x: 1", "headers must be a mapping, or pairs of name and value, got str"),
        (b"x: 1", "headers must be a mapping, or pairs of name and value, got bytes"),
        (5, "headers must be a mapping, or pairs of name and value, got int"),
        (["x: 1"], "headers must be a mapping, or pairs of name and value, got str as an element"),
        (["xy"], "headers must be a mapping, or pairs of name and value, got str as an element"),
        ([("x", "1", "2")], "headers must be a mapping, or pairs of name and value, got tuple as an element"),
        ([{"x": "1"}], "headers must be a mapping, or pairs of name and value, got dict as an element"),
    ],
)
def test_headers_of_other_types_are_refused(headers: Any, expected: str) -> None:
    with pytest.raises(TypeError) as caught:
        Headers(headers)
    assert str(caught.value) == expected
    assert caught.value.__context__ is None


@pytest.mark.parametrize("value", ["5", None, 5])
def test_binary_value_that_is_not_bytes_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^header 'x-bin' must be bytes, got {type(value).__name__}$"):
        Headers().add_binary("x-bin", value)


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key", "session-token", "x"])
@pytest.mark.parametrize("value", ["secret\n", "secr\xe9t secret", b"secret", ["secret"]])
def test_error_does_not_show_the_value_of_a_header(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Headers({name: value})
    assert repr(name) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_error_of_a_value_that_is_not_ascii_suggests_a_binary_header() -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        Headers({"greeting": "é"})
    assert str(caught.value) == (
        "header 'greeting' must be printable ASCII: "
        "send other values with Headers.add_binary('greeting-bin', …)"
    )


@pytest.mark.parametrize("name", ["a", "A1", "x_y", "x.y", "-", "0"])
def test_name_of_the_allowed_characters_is_taken(name: str) -> None:
    assert name in Headers({name: "1"})


@pytest.mark.parametrize("value", ["", " ", "a b", "!~", "a,b", 'say "x"'])
def test_printable_value_is_kept_as_it_is(value: str) -> None:
    assert Headers({"a": value})["a"] == value


@pytest.mark.parametrize("initial", [{"a": "x\ny"}, [("a", "x\ny")]])
def test_refusal_holds_for_initial_values(initial: HeadersInput) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Headers(initial)


def test_refused_replacement_leaves_the_values_as_they_were() -> None:
    headers = Headers([("a", "1"), ("a", "2")])

    with pytest.raises(ValueError, match="printable ASCII"):
        headers["A"] = "x\ny"
    assert headers.get_all("a") == ["1", "2"]


def test_refused_new_name_is_not_there() -> None:
    headers = Headers()

    with pytest.raises(ValueError, match="printable ASCII"):
        headers["a"] = "x\ny"
    assert "a" not in headers


def test_headers_from_the_wire_are_taken_as_they_are() -> None:
    headers = Headers.from_wire([("Odd Name", "caf\xe9"), ("odd name", "\t")])

    assert headers.get_all("odd name") == ["caf\xe9", "\t"]


def test_binary_value_is_written_as_unpadded_base64() -> None:
    headers = Headers()
    headers.add_binary("Trace-Bin", b"\xfb\xff\x00\x01")

    assert headers["trace-bin"] == "+/8AAQ"


@pytest.mark.parametrize("name", ["trace", "trace-bin-x", "bin"])
def test_name_of_a_binary_value_has_to_end_in_bin(name: str) -> None:
    with pytest.raises(ValueError, match=f"^the name of a binary header must end in -bin, got '{name}'$"):
        Headers().add_binary(name, b"")


@pytest.mark.parametrize("value", ["+/8AAQ", "+/8AAQ=="])
def test_binary_value_is_read_padded_or_not(value: str) -> None:
    assert Headers({"trace-bin": value}).get_binary("Trace-Bin") == [b"\xfb\xff\x00\x01"]


@pytest.mark.parametrize("values", [["YQ", "Yg"], ["YQ,Yg"], ["YQ==, Yg=="]])
def test_binary_values_are_read_apart_or_joined_by_commas(values: list[str]) -> None:
    assert Headers(("trace-bin", value) for value in values).get_binary("trace-bin") == [b"a", b"b"]


def test_absent_binary_header_has_no_values() -> None:
    assert Headers().get_binary("trace-bin") == []


def test_binary_values_of_every_length_come_back() -> None:
    random = Random(1)
    values = [random.randbytes(size) for size in range(1, 50)]
    headers = Headers()
    for value in values:
        headers.add_binary("trace-bin", value)

    assert headers.get_binary("trace-bin") == values


@pytest.mark.parametrize(
    "value", ["*", "a", "YQ=Yg", "YQ==YQ==", "-_8AAQ", "Y Q", "é", "YQ=====", "=", "===="]
)
def test_value_that_is_not_base64_is_a_value_error(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Headers.from_wire([("trace-bin", value)]).get_binary("trace-bin")


@pytest.mark.parametrize("size", range(5))
def test_base64_differs_from_the_standard_only_in_its_padding(size: int) -> None:
    data = bytes(range(size))

    assert encode_base64(data) == b64encode(data).decode().rstrip("=")
    assert decode_base64(encode_base64(data)) == data


def test_copy_changes_on_its_own() -> None:
    headers = Headers({"a": "1"})
    copy = headers.copy()
    copy.add("a", "2")
    copy["b"] = "3"

    assert headers.multi_items() == [("a", "1")]
    assert copy.multi_items() == [("a", "1"), ("a", "2"), ("b", "3")]


def test_replaced_value_has_its_place_where_it_was_written() -> None:
    headers = Headers({"a": "1", "b": "2"})
    headers["a"] = "3"

    assert headers.multi_items() == [("b", "2"), ("a", "3")]


def test_each_of_four_names_is_looked_up() -> None:
    assert Headers({"a": "1", "c": "3"}).get_many(("c", "b", "a", "c")) == ("3", None, "1", "3")
