from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from connect_sync import Code, ConnectError, ErrorDetail
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
    ("code", "message"), [("not_found", ""), (5, ""), (Code.NOT_FOUND, None), (Code.NOT_FOUND, b"")]
)
def test_error_of_wrong_types_is_refused(code: Any, message: Any) -> None:
    with pytest.raises(TypeError, match="takes a Code and a str"):
        ConnectError(code, message)


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

    with pytest.raises(ValueError, match=r"is a google\.protobuf\.StringValue, not a google\.protobuf\.Dur"):
        detail.value(Duration)


def test_detail_that_does_not_parse_is_a_value_error() -> None:
    detail = ErrorDetail("google.protobuf.StringValue", b"\x0a\x05a")

    with pytest.raises(ValueError, match="does not parse"):
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


@pytest.mark.parametrize(
    "error",
    [
        ConnectError(Code.NOT_FOUND, "no such pet", [StringValue(value="a")]),
        ConnectError(Code.NOT_FOUND),
        ConnectError(code=Code.NOT_FOUND, message="no such pet", details=[StringValue(value="a")]),
        MalformedError("not a pet"),
    ],
    ids=["full", "bare", "by keywords", "malformed"],
)
@pytest.mark.parametrize("clone", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_error_survives_being_copied(error: ConnectError, clone: object) -> None:
    assert callable(clone)
    copied = clone(error)

    assert type(copied) is type(error)
    assert (copied.code, copied.message, copied.details) == (error.code, error.message, error.details)


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
