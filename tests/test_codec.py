from __future__ import annotations

import json
from random import Random

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.type_pb2 import Field, Type
from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue, Int64Value, StringValue

from connect_sync import Code, ConnectError
from connect_sync.codec import JSON, PROTO, Codec
from connect_sync.errors import MalformedError
from tests.support import decode, encode

CODECS = pytest.mark.parametrize("codec", [PROTO, JSON], ids=["proto", "json"])


def make_pet_class() -> type[Message]:
    """Make a message that is none of the well-known ones, for which the JSON mapping has other rules."""
    file = FileDescriptorProto(name="unit/v1/pet.proto", package="unit.v1", syntax="proto3")
    pet = file.message_type.add(name="Pet")
    pet.field.add(name="name", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    pet.field.add(name="age", number=2, type="TYPE_INT32", label="LABEL_OPTIONAL")
    pet.field.add(
        name="kittens",
        number=3,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".unit.v1.Pet",
        label=FieldDescriptorProto.LABEL_REPEATED,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("unit.v1.Pet"))


Pet = make_pet_class()


def struct_of(names: list[str]) -> Struct:
    struct = Struct()
    for name in names:
        struct[name] = name.upper()
    return struct


@CODECS
@pytest.mark.parametrize(
    "message",
    [
        StringValue(value="héllo \U0001f600 \x00\n"),
        StringValue(),
        Int64Value(value=-(2**63)),
        BytesValue(value=bytes(range(256))),
        DoubleValue(value=float("inf")),
        Type(name="a", fields=[Field(name="b", number=1), Field()]),
        struct_of(["a", "b"]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_message_comes_back(codec: Codec, message: Message) -> None:
    assert decode(codec, encode(codec, message), type(message)) == message


@CODECS
def test_equal_messages_make_equal_bytes_if_asked(codec: Codec) -> None:
    names = [f"name-{n}" for n in range(50)]
    shuffled = Random(1).sample(names, len(names))

    assert encode(codec, struct_of(names), deterministic=True) == encode(
        codec, struct_of(shuffled), deterministic=True
    )


def test_no_bytes_are_an_empty_message_in_the_proto_format() -> None:
    assert decode(PROTO, b"", StringValue) == StringValue()


@pytest.mark.parametrize("data", [b"\x0a\x05a", b"\xff", b"\x0a\x01\xff", b"\x0c"])
def test_bytes_that_are_no_proto_are_malformed(data: bytes) -> None:
    with pytest.raises(
        MalformedError, match=r"^invalid_argument: the bytes do not parse as a google\.protobuf"
    ):
        decode(PROTO, data, StringValue)


def test_json_is_one_line_without_spaces() -> None:
    message = Type(name="a\nb", fields=[Field(name="c", number=1)])

    assert encode(JSON, message) == b'{"name":"a\\nb","fields":[{"number":1,"name":"c"}]}'


def test_json_names_are_in_lower_camel_case() -> None:
    assert encode(JSON, Field(json_name="a")) == b'{"jsonName":"a"}'


@pytest.mark.parametrize("name", [b"jsonName", b"json_name"])
def test_json_names_are_read_as_written_in_the_schema_too(name: bytes) -> None:
    assert decode(JSON, b'{"%b": "a"}' % name, Field).json_name == "a"


def test_json_is_utf_8() -> None:
    assert encode(JSON, StringValue(value="é")) == '"é"'.encode()


def test_json_holds_64_bit_integers_as_strings() -> None:
    assert encode(JSON, Int64Value(value=2**53 + 1)) == b'"9007199254740993"'


def test_json_holds_enums_by_name() -> None:
    assert encode(JSON, Field(kind=Field.TYPE_BOOL)) == b'{"kind":"TYPE_BOOL"}'


@pytest.mark.parametrize("value", [b'"TYPE_BOOL"', b"8"])
def test_json_enums_are_read_by_name_and_by_number(value: bytes) -> None:
    assert decode(JSON, b'{"kind": %b}' % value, Field).kind == Field.TYPE_BOOL


@pytest.mark.parametrize(
    "data",
    [
        b'{"name": "a", "nickname": "b"}',
        b'{"name": "a", "nested": {"deep": [1, {"x": null}]}}',
        b'{"name": "a", "options": [{"unheardOf": true}]}',
    ],
)
def test_unknown_json_fields_are_ignored(data: bytes) -> None:
    assert decode(JSON, data, Type).name == "a"


def test_unknown_json_enum_value_is_ignored() -> None:
    assert decode(JSON, b'{"kind": "TYPE_UNHEARD_OF", "name": "a"}', Field) == Field(name="a")


def test_json_null_is_an_absent_field() -> None:
    assert decode(JSON, b'{"name": null}', Field) == Field()


# Each is wrong in its own way, and for most of them the parser of Protobuf has an error of its own.
MALFORMED_JSON: dict[str, tuple[bytes, type[Message]]] = {
    "empty": (b"", Pet),
    "cut off": (b'{"name": "a"', Pet),
    "garbage": (b"\x00\x01", Pet),
    "two values": (b"{} {}", Pet),
    "byte order mark": (b"\xef\xbb\xbf{}", Pet),
    "invalid utf-8": (b'{"name": "\xff"}', Pet),
    "utf-16": ('{"name": "a"}'.encode("utf-16"), Pet),
    "unpaired surrogate": (b'{"name": "\\ud800"}', Pet),
    "twice the same name": (b'{"name": "a", "name": "b"}', Pet),
    "twice the same unknown name": (b'{"unheardOf": {"a": 1, "a": 2}}', Pet),
    "wrong type": (b'{"name": 1}', Pet),
    "object for a number": (b'{"age": {}}', Pet),
    "fraction for an integer": (b'{"age": 1.5}', Pet),
    "list for an enum": (b'{"kind": []}', Field),
    "object for a list": (b'{"kittens": {}}', Pet),
    "number for a list": (b'{"kittens": 3}', Pet),
    "number for a message": (b'{"kittens": [3]}', Pet),
    "number out of range": (b'{"age": 2147483648}', Pet),
    "infinite integer": (b"1e400", Int64Value),
    "integer of 5000 digits": (b"9" * 5000, Int64Value),
    "null": (b"null", Pet),
    "number": (b"3", Pet),
    "list": (b"[]", Pet),
    "list of a string": (b'["a"]', Pet),
    "string": (b'"abc"', Pet),
    "empty string": (b'""', Pet),
    "object for a wrapped string": (b"{}", StringValue),
    "null for a wrapped string": (b"null", StringValue),
    "object for wrapped bytes": (b"{}", BytesValue),
    "deeply nested": (b'{"a":' * 5000 + b"1" + b"}" * 5000, Struct),
    "very deeply nested": (b'{"a":' * 100_000, Struct),
    "very deeply nested lists": (b"[" * 100_000, Struct),
    "number as type of an any": (b'{"@type": 3}', AnyMessage),
    "unknown type of an any": (b'{"@type": "x/unheard.of.Message"}', AnyMessage),
    "any without a type": (b'{"value": "a"}', AnyMessage),
}


def decode_malformed(name: str) -> ConnectError:
    data, message_class = MALFORMED_JSON[name]
    with pytest.raises(ConnectError) as caught:
        decode(JSON, data, message_class)
    return caught.value


@pytest.mark.parametrize("name", MALFORMED_JSON)
def test_malformed_json_is_an_invalid_argument(name: str) -> None:
    assert decode_malformed(name).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("name", MALFORMED_JSON)
def test_error_of_malformed_json_names_the_message(name: str) -> None:
    _, message_class = MALFORMED_JSON[name]

    assert f"{message_class.DESCRIPTOR.full_name} in the JSON format" in decode_malformed(name).message


INSIDES = (
    "Error",
    "object has no",
    "not iterable",
    "unhashable",
    "'dict'",
    "codec",
    "recursion",
    "sys.",
    "int()",
)


@pytest.mark.parametrize("name", MALFORMED_JSON)
def test_error_of_malformed_json_shows_nothing_of_the_parser(name: str) -> None:
    message = decode_malformed(name).message

    assert [inside for inside in INSIDES if inside in message] == []


def test_error_of_malformed_json_names_the_field_at_fault() -> None:
    assert decode_malformed("object for a number").message.endswith("the value of the field 'age' is invalid")


def test_error_of_malformed_json_tells_the_place_of_a_syntax_error() -> None:
    assert decode_malformed("two values").message.endswith("line 1 column 4 (char 3)")


def test_json_of_a_wrapper_is_the_value_alone() -> None:
    assert decode(JSON, b'"a"', StringValue) == StringValue(value="a")


def test_any_of_a_known_type_comes_back_in_json() -> None:
    packed = AnyMessage()
    packed.Pack(StringValue(value="a"))
    data = encode(JSON, packed)

    assert json.loads(data) == {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "a"}
    assert decode(JSON, data, AnyMessage) == packed


@CODECS
def test_random_bytes_are_a_message_or_malformed(codec: Codec) -> None:
    random = Random(20)
    alphabet = b'{}[]":,0123456789.eE+-truefalsn \\u"@name' if codec is JSON else bytes(range(256))
    for _ in range(1500):
        data = bytes(random.choices(alphabet, k=random.randrange(24)))
        try:
            message: Message = decode(codec, data, random.choice([Type, Struct, AnyMessage, Int64Value]))
        except MalformedError:
            continue
        message.SerializeToString()
