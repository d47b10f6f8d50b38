"""How messages become bytes: Protobuf's binary format, and its JSON mapping."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from connect_sync.errors import MalformedError

_MessageT = TypeVar("_MessageT", bound=Message)


class Codec(Protocol):
    """A format of messages, by the name that content types use."""

    @property
    def name(self) -> str:
        """The name in content types: ``proto`` in ``application/connect+proto``."""
        ...

    def encode(self, message: Message, *, deterministic: bool = False) -> bytes:
        """Serialize a message; if ``deterministic``, equal messages into equal bytes.

        Raises:
            ValueError: The message cannot be serialized, a required field being absent, say.
        """
        ...

    def decode(self, data: bytes, message_class: type[_MessageT]) -> _MessageT:
        """Parse a message.

        Raises:
            MalformedError: The bytes are no such message.
        """
        ...


class ProtoCodec:
    """Protobuf's binary format."""

    name = "proto"

    def encode(self, message: Message, *, deterministic: bool = False) -> bytes:
        """Serialize a message. Raises EncodeError, if a required field is absent."""
        return message.SerializeToString(deterministic=deterministic)

    def decode(self, data: bytes, message_class: type[_MessageT]) -> _MessageT:
        """Parse a message. Raises MalformedError as ``Codec.decode`` does."""
        try:
            return message_class.FromString(data)
        except DecodeError as error:
            name = message_class.DESCRIPTOR.full_name
            raise MalformedError(f"the bytes do not parse as a {name} in the proto format") from error


class JsonCodec:
    """Protobuf's JSON mapping: one line out; unknown fields ignored on the way in."""

    name = "json"

    def encode(self, message: Message, *, deterministic: bool = False) -> bytes:
        """Serialize a message. Raises SerializeToJsonError, for an Any of an unknown type, say."""
        value = json_format.MessageToDict(message)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=deterministic)
        return text.encode()

    def decode(self, data: bytes, message_class: type[_MessageT]) -> _MessageT:
        """Parse a message. Raises MalformedError as ``Codec.decode`` does."""
        message = message_class()
        name = message_class.DESCRIPTOR.full_name
        try:
            value = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
            # The parser takes a list or a string for an empty message. Of the well-known types, some are.
            if not isinstance(value, dict) and not name.startswith("google.protobuf."):
                raise _InvalidJsonError("it is not an object")
            json_format.ParseDict(value, message, ignore_unknown_fields=True)
        except Exception as error:  # for odd input the parser lets errors of any class through
            reason = _reason(error)
            text = f"the bytes do not parse as a {name} in the JSON format"
            raise MalformedError(f"{text}: {reason}" if reason else text) from error
        return message


class _InvalidJsonError(ValueError):
    """What is wrong with JSON, in words for the peer."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _InvalidJsonError("an object has the same key twice")
    return value


_find_field = re.compile(r"Failed to parse (\S+) field").match


def _reason(error: Exception) -> str:
    """Say what is wrong, without the words of the parser's insides."""
    if isinstance(error, _InvalidJsonError | json.JSONDecodeError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    field = _find_field(str(error)) if isinstance(error, json_format.ParseError) else None
    return f"the value of the field {field[1]!r} is invalid" if field else ""


PROTO = ProtoCodec()
JSON = JsonCodec()


def encode_message(
    codec: Codec, message: Any, message_class: type[Message], *, deterministic: bool = False
) -> bytes:
    """Serialize a message that belongs to a method.

    Raises:
        TypeError: It is no ``message_class``, which the other side would parse it as.
    """
    if message.__class__ is not message_class:
        full_name = message_class.DESCRIPTOR.full_name
        # The same type may come from another pool of descriptors.
        if not isinstance(message, Message) or message.DESCRIPTOR.full_name != full_name:
            raise TypeError(f"a {type(message).__name__} stands where a {full_name} belongs")
    return codec.encode(message, deterministic=deterministic)
