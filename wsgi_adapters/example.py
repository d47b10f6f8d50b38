"""Example messages, generated from their descriptors: a starting point for writing one by hand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, MutableSequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_MAX_MESSAGES = 20
"""How many nested messages an example holds at most, besides required ones. Without a limit, it would be huge
for schemas whose types refer to each other."""

_ANY = "google.protobuf.Any"

_NUMBERS: dict[int, float] = {FieldDescriptor.CPPTYPE_FLOAT: 1.5, FieldDescriptor.CPPTYPE_DOUBLE: 1.5}

# Well-known types with a JSON form of their own, which cannot represent every value of their fields.
_WELL_KNOWN: dict[str, dict[str, object]] = {
    "google.protobuf.Duration": {"seconds": 1},
    "google.protobuf.FieldMask": {},
    "google.protobuf.Timestamp": {"seconds": 1_767_225_600},  # 2026-01-01T00:00:00Z
    "google.protobuf.Value": {"string_value": "string"},
}


def example_json(message_class: type[Message]) -> str:
    """Return an example in JSON (Protobuf's JSON mapping), as one line of ASCII.

    Every field has a value: a list or a map has one entry, a message has its own fields, and an enum is the
    name of its first non-zero value, since zero means "unspecified" by convention. A oneof has one field.
    Unless required, these are left out: fields of type Any, messages nested in messages of the same type, and
    the innermost messages of a very large schema.
    """
    message = message_class()
    _fill(message)
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return json.dumps(value)


def _fill(root: Message) -> None:
    """Fill the fields breadth-first: those of ``root``, then those of its messages, and so on."""
    # Each message, with the types it is nested in, and those of them that require it.
    unfilled = deque([(root, frozenset[str](), frozenset[str]())])
    remaining = _MAX_MESSAGES
    while unfilled:
        message, outer_types, requiring_types = unfilled.popleft()
        descriptor: Any = message.DESCRIPTOR  # one of two classes, which type checkers keep apart
        if descriptor.full_name == _ANY:
            continue
        if descriptor.full_name in _WELL_KNOWN:
            for name, value in _WELL_KNOWN[descriptor.full_name].items():
                setattr(message, name, value)
            continue
        types = outer_types | {descriptor.full_name}
        requiring_types |= {descriptor.full_name}
        is_left_out = {_ANY, *types}.__contains__
        for field in descriptor.fields:
            oneof = field.containing_oneof
            if oneof is not None and message.WhichOneof(oneof.name) is not None:
                continue
            value_type = _message_type(field)
            if value_type is None:
                _add_value(message, field)
            elif _is_required(field):
                # A message that requires another one of its own type cannot exist.
                if value_type.full_name not in requiring_types:
                    unfilled.append((_add_message(message, field), types, requiring_types))
            elif remaining and not is_left_out(value_type.full_name):
                remaining -= 1
                unfilled.append((_add_message(message, field), types, frozenset()))


def _is_required(field: Any) -> bool:
    # Depending on its release, protobuf has one of them or both.
    is_required: bool | None = getattr(field, "is_required", None)
    return field.label == FieldDescriptor.LABEL_REQUIRED if is_required is None else is_required


def _map_entry(field: FieldDescriptor) -> Mapping[str, Any] | None:
    """Return the descriptors of a map's ``key`` and ``value``, by these names; None for other fields."""
    message_type = field.message_type
    if message_type is None or not message_type.GetOptions().map_entry:
        return None
    return message_type.fields_by_name


def _message_type(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of the message, or messages in a list or map, that a field holds; otherwise None."""
    entry = _map_entry(field)
    value = field if entry is None else entry["value"]
    message_type: Descriptor | None = value.message_type
    return message_type


def _add_message(message: Message, field: FieldDescriptor) -> Message:
    """Add a new message to the field, and return it."""
    value: Any = getattr(message, field.name)
    entry = _map_entry(field)
    added: Message
    if entry is not None:
        added = value[_value(entry["key"])]
    elif isinstance(value, Message):
        added = value
        added.SetInParent()
    else:
        added = value.add()
    return added


def _add_value(message: Message, field: FieldDescriptor) -> None:
    """Set or add a value that is not a message."""
    value: Any = getattr(message, field.name)
    entry = _map_entry(field)
    if entry is not None:
        value[_value(entry["key"])] = _value(entry["value"])
    elif isinstance(value, MutableSequence):
        value.append(_value(field))
    else:
        setattr(message, field.name, _value(field))


def _value(field: FieldDescriptor) -> object:
    """Return a value for a field of a scalar or enum type."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"bytes"
    if field.type == FieldDescriptor.TYPE_STRING:
        return "string"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return False
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return next(filter(None, numbers), numbers[0])
    return _NUMBERS.get(field.cpp_type, 1)
