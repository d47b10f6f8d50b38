"""Examples of messages of all shapes: what they hold, and that they parse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from connect_sync.codec import JSON
from tests.support import decode, encode
from wsgi_adapters.example import example_json

_SHAPES = Path(__file__).parent / "shapes"

# Each of 30 messages refers to each: written out to any depth, they would not end.
_TANGLED = 'syntax = "proto3";\npackage tangled;\n' + "".join(
    f"message M{number} {{ string text = 100; "
    + " ".join(f"M{other} m{other} = {other + 1};" for other in range(30))
    + " }\n"
    for number in range(30)
)

# What is left out of other messages stands in these, as they could not be sent without it.
_REQUIRING = (
    'syntax = "proto2";\npackage requiring;\nimport "google/protobuf/any.proto";\n'
    "message Text { required string text = 1; }\n"
    "message Pair { required Text one = 1; required Text other = 2; }\n"
    "message Many { " + " ".join(f"optional Pair pair{n} = {n};" for n in range(1, 31)) + " }\n"
    "message WithAny { required google.protobuf.Any any = 1; }\n"
    "message Outer { optional Inner inner = 1; required string text = 2; }\n"
    "message Inner { required Outer outer = 1; }\n"
    "message Endless { optional string text = 1; required EndlessToo too = 2; }\n"
    "message EndlessToo { required Endless endless = 1; }\n"
)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, type[Message]]:
    """The classes of all messages in `tests/shapes` and of those above, by their names."""
    folder = tmp_path_factory.mktemp("protos")
    (folder / "tangled.proto").write_text(_TANGLED)
    (folder / "requiring.proto").write_text(_REQUIRING)
    descriptors = folder / "descriptors"
    files = ("shapes.proto", "old.proto", "tangled.proto", "requiring.proto")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{_SHAPES}", f"-I{folder}"),
            *("--include_imports", f"--descriptor_set_out={descriptors}", *files),
        ],
        check=True,
    )
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return {
        descriptor.full_name: message_factory.GetMessageClass(descriptor)
        for name in files
        for descriptor in pool.FindFileByName(name).message_types_by_name.values()
    }


_NAMES = {"firstName": "string", 'it\'s "quoted" $HOME `id` \\ é': "string", "class": "string"}
_PRESENCE = {"text": "string", "isSet": False, "color": "COLOR_RED"}
_TIME = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("shapes.Empty", {}),
        (
            "shapes.Scalars",
            {
                "aDouble": 1.5,
                "aFloat": 1.5,
                "a": 1,
                "b": "1",
                "c": 1,
                "d": "1",
                "e": 1,
                "f": "1",
                "g": 1,
                "h": "1",
                "i": 1,
                "j": "1",
                "isSet": False,
                "text": "string",
                "data": "Ynl0ZXM=",
            },
        ),
        ("shapes.Names", _NAMES),
        ("shapes.Presence", _PRESENCE),
        ("shapes.Enums", {"color": "COLOR_RED", "nothing": "NOTHING", "colors": ["COLOR_RED"]}),
        ("shapes.Lists", {"texts": ["string"], "data": ["Ynl0ZXM="], "names": [_NAMES]}),
        (
            "shapes.Maps",
            {
                "texts": {"string": "string"},
                "colors": {"1": "COLOR_RED"},
                "messages": {"false": _PRESENCE},
                "times": {"string": _TIME},
            },
        ),
        ("shapes.OneOf", {"number": 1, "after": "string", "color": "COLOR_RED"}),
        ("shapes.OneOfAny", {"flag": False}),
        (
            "shapes.WellKnown",
            {
                "timestamp": _TIME,
                "duration": "1s",
                "mask": "",
                "empty": {},
                "struct": {"string": "string"},
                "value": "string",
                "list": ["string"],
                "null": None,
                "anys": [],
                "anyMap": {},
                "text": "string",
                "number": "1",
                "flag": False,
                "real": 1.5,
                "data": "Ynl0ZXM=",
                "timestamps": [_TIME],
            },
        ),
        ("shapes.Tree", {"name": "string", "children": [], "byName": {}}),
        ("shapes.Ping", {"text": "string", "pong": {"text": "string", "isLast": False}}),
        ("shapes.Two", {"one": _NAMES, "other": _NAMES}),
        (
            "old.Old",
            {
                "text": "string",
                "number": 1,
                "level": "HIGH",
                "item": [{"name": "string"}],
                "inner": {"isSet": False},
            },
        ),
    ],
)
def test_example(messages: dict[str, type[Message]], name: str, example: dict[str, Any]) -> None:
    assert json.loads(example_json(messages[name])) == example


@pytest.mark.parametrize(
    ("message_class", "example"),
    [
        (any_pb2.Any, {}),
        (duration_pb2.Duration, "1s"),
        (empty_pb2.Empty, {}),
        (field_mask_pb2.FieldMask, ""),
        (struct_pb2.ListValue, ["string"]),
        (struct_pb2.Struct, {"string": "string"}),
        (struct_pb2.Value, "string"),
        (timestamp_pb2.Timestamp, _TIME),
        (wrappers_pb2.BoolValue, False),
        (wrappers_pb2.StringValue, "string"),
        (wrappers_pb2.UInt64Value, "1"),
    ],
)
def test_well_known_type_alone(message_class: type[Message], example: Any) -> None:
    text = example_json(message_class)

    assert json.loads(text) == example
    decode(JSON, text.encode(), message_class)


def test_every_example_parses(messages: dict[str, type[Message]]) -> None:
    classes: list[type[Message]] = [
        *messages.values(),
        *(api_pb2.Api, type_pb2.Type, descriptor_pb2.FileDescriptorProto, descriptor_pb2.FileOptions),
    ]

    for message_class in classes:
        text = example_json(message_class)
        message = decode(JSON, text.encode(), message_class)

        assert message.IsInitialized() or message_class.DESCRIPTOR.name.startswith("Endless")
        assert decode(JSON, encode(JSON, message), message_class) == message


def test_example_is_one_line_of_ascii(messages: dict[str, type[Message]]) -> None:
    text = example_json(messages["shapes.Names"])

    assert text.isascii()
    assert text.splitlines() == [text]


def test_tangled_schema_has_a_short_example_of_its_outer_messages(messages: dict[str, type[Message]]) -> None:
    example = json.loads(example_json(messages["tangled.M0"]))

    assert example["text"] == "string"
    assert [name for name in example if name != "text"] == [f"m{number}" for number in range(1, 21)]
    assert all(inner == {"text": "string"} for name, inner in example.items() if name != "text")


def test_required_messages_stand_beyond_the_bound(messages: dict[str, type[Message]]) -> None:
    example = json.loads(example_json(messages["requiring.Many"]))

    assert list(example) == [f"pair{number}" for number in range(1, 21)]
    assert all(pair == {"one": {"text": "string"}, "other": {"text": "string"}} for pair in example.values())


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("WithAny", {"any": {}}),
        ("Outer", {"inner": {"outer": {"text": "string"}}, "text": "string"}),
        ("Inner", {"outer": {"text": "string"}}),
        ("Endless", {"text": "string", "too": {}}),
    ],
)
def test_required_message_is_left_out_only_where_no_message_could_be_made(
    messages: dict[str, type[Message]], name: str, example: dict[str, Any]
) -> None:
    assert json.loads(example_json(messages[f"requiring.{name}"])) == example
