from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from connect_sync import Code, ConnectError, ErrorDetail, Headers
from connect_sync.errors import MalformedError, TooLargeError, bidi_unimplemented


def test_error_has_its_code_and_message() -> None:
    error = ConnectError(Code.NOT_FOUND, "no such pet")

    assert (error.code, error.message) == (Code.NOT_FOUND, "no such pet")


def test_error_is_without_message_and_details_by_default() -> None:
    error = ConnectError(Code.ABORTED)

    assert (error.message, error.details) == ("", ())


def test_error_as_text_is_code_and_message() -> None:
    assert str(ConnectError(Code.NOT_FOUND, "no such pet")) == "not_found: no such pet"


def test_error_without_message_as_text_is_its_code() -> None:
    assert str(ConnectError(Code.NOT_FOUND)) == "not_found"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("not_found",), "code must be a Code, got 'not_found' (str)"),
        ((5,), "code must be a Code, got 5 (int)"),
        ((Code.NOT_FOUND, None), "message must be a str, got None (NoneType)"),
        ((Code.NOT_FOUND, b""), "message must be a str, got b'' (bytes)"),
        ((Code.NOT_FOUND, 10**99), f"message must be a str, got 1{'0' * 59}… (int)"),
        ((Code.NOT_FOUND, "", None), "details must be a list of Protobuf messages, got a NoneType"),
        ((Code.NOT_FOUND, "", Duration()), "details must be a list of Protobuf messages, got a Duration"),
        ((Code.NOT_FOUND, "", ["a"]), "a detail must be a Protobuf message, got 'a' (str)"),
    ],
)
def test_argument_of_another_type_is_refused(arguments: tuple[Any, ...], expected: str) -> None:
    with pytest.raises(TypeError) as caught:
        ConnectError(*arguments)
    assert str(caught.value) == expected


def test_details_are_packed_in_order() -> None:
    error = ConnectError(Code.ABORTED, "", [StringValue(value="a"), Int32Value(value=5)])

    assert error.details == (
        ErrorDetail("google.protobuf.StringValue", b"\x0a\x01a"),
        ErrorDetail("google.protobuf.Int32Value", b"\x08\x05"),
    )


def test_detail_packed_before_is_taken_as_it_is() -> None:
    detail = ErrorDetail("unknown.v1.Message", b"\x01")

    assert ConnectError(Code.ABORTED, details=[detail]).details == (detail,)


def test_details_may_come_from_a_generator() -> None:
    error = ConnectError(Code.ABORTED, details=(Int32Value(value=n) for n in (1, 2)))

    assert len(error.details) == 2


def test_any_is_a_detail_of_the_message_that_it_holds() -> None:
    packed = AnyMessage()
    packed.Pack(Duration(seconds=3))

    assert ErrorDetail.pack(packed) == ErrorDetail.pack(Duration(seconds=3))


def test_detail_gives_its_message_back() -> None:
    assert ErrorDetail.pack(Duration(seconds=3)).value(Duration) == Duration(seconds=3)


def test_detail_is_not_read_as_another_type() -> None:
    detail = ErrorDetail.pack(StringValue(value="a"))

    with pytest.raises(ValueError, match=r"^expected a detail of type .+\.Duration, got .+\.StringValue$"):
        detail.value(Duration)


@pytest.mark.parametrize(
    ("message_class", "shown"),
    [
        (Duration(), "a Duration message"),
        (str, "<class 'str'> (type)"),
        ("pkg.Message", "'pkg.Message' (str)"),
        (None, "None (NoneType)"),
    ],
)
def test_detail_is_only_read_as_a_message(message_class: Any, shown: str) -> None:
    with pytest.raises(TypeError) as caught:
        ErrorDetail.pack(StringValue(value="a")).value(message_class)
    assert str(caught.value) == f"message_class must be a Protobuf message class, got {shown}"


def test_detail_that_does_not_parse_is_a_value_error() -> None:
    detail = ErrorDetail("google.protobuf.StringValue", b"\x0a\x05a")

    with pytest.raises(ValueError, match=r"^the detail is not a valid google\.protobuf\.StringValue: "):
        detail.value(StringValue)


@pytest.mark.parametrize(
    "other", [ErrorDetail("b.Message", b"1"), ErrorDetail("a.Message", b"2"), "a.Message", None]
)
def test_details_that_differ_are_not_equal(other: object) -> None:
    assert ErrorDetail("a.Message", b"1") != other


def test_equal_details_are_one_in_a_set() -> None:
    assert len({ErrorDetail("a.Message", b"1"), ErrorDetail("a.Message", b"1")}) == 1


def test_representation_of_a_detail_leaves_its_bytes_out() -> None:
    assert repr(ErrorDetail("a.Message", b"secret")) == "ErrorDetail('a.Message', <6 bytes>)"


class NoSuchPetError(ConnectError):
    """An error of an application, made from other arguments than its base."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(Code.NOT_FOUND, f"no pet named {name}", [StringValue(value=name)])


class CutOffError(MalformedError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ConnectError(Code.NOT_FOUND, "no such pet", [StringValue(value="a")]),
        ConnectError(Code.NOT_FOUND),
        ConnectError(code=Code.NOT_FOUND, message="no such pet", details=[StringValue(value="a")]),
        MalformedError("not a pet"),
        CutOffError("not a pet"),
        TooLargeError(100, 101, "send_max_bytes"),
        NoSuchPetError("Tom"),
    ],
    ids=["full", "bare", "by keywords", "malformed", "subclass", "too large", "other arguments"],
)
@pytest.mark.parametrize("clone", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_error_survives_being_copied(error: ConnectError, clone: object) -> None:
    error.metadata = Headers([("a", "1"), ("a", "2")])
    error.http_status = 404
    assert callable(clone)
    copied = clone(error)

    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.args == error.args
    assert {**vars(copied), "_metadata": None} == {**vars(error), "_metadata": None}
    assert copied.metadata.multi_items() == [("a", "1"), ("a", "2")]
    assert copied.http_status == 404


def test_error_that_no_response_brought_has_neither_metadata_nor_status() -> None:
    error = ConnectError(Code.NOT_FOUND)

    assert (dict(error.metadata), error.http_status) == ({}, None)


def test_metadata_of_an_error_can_be_added_to() -> None:
    error = ConnectError(Code.NOT_FOUND)
    error.metadata["a"] = "1"

    assert error.metadata["A"] == "1"
    assert dict(ConnectError(Code.NOT_FOUND).metadata) == {}


def test_malformed_bytes_are_an_invalid_argument() -> None:
    assert MalformedError("cut off").code is Code.INVALID_ARGUMENT


def test_error_of_a_large_message_names_its_size_and_the_option() -> None:
    error = TooLargeError(100, 101)

    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.message == "a message of 101 bytes is larger than read_max_bytes, 100 bytes"


def test_error_of_a_message_of_unknown_size_names_the_option() -> None:
    message = TooLargeError(100, option="send_max_bytes").message

    assert message == "the message is larger than send_max_bytes, 100 bytes"


def test_refusal_of_a_bidirectional_method_names_it_and_the_way_out() -> None:
    error = bidi_unimplemented("chat.v1.ChatService.Chat")

    assert error.code is Code.UNIMPLEMENTED
    assert error.message.startswith("chat.v1.ChatService.Chat is bidirectional")
    assert "split it into client-streaming and server-streaming methods" in error.message


@pytest.mark.parametrize(("type", "data"), [("a.B", "text"), (b"a.B", b"data"), (None, b"data")])
def test_detail_of_other_types_is_refused(type: Any, data: Any) -> None:
    with pytest.raises(TypeError, match="a detail must have a str and bytes, got "):
        ErrorDetail(type, data)
