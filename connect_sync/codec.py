"""How messages become bytes: Protobuf's binary format, and its JSON mapping."""

from __future__ import annotations

import json
from typing import Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from connect_sync.errors import MalformedError

_MessageT = TypeVar("_MessageT", bound=Message)


class Codec(Protocol):
    """A format of messages, by the name that content types use."""

    @property
    def name(self) -> str:
        """The name in content types: ``proto`` in ``application/connect+proto``."""

    def encode(self, message: Message, *, deterministic: bool = False) -> bytes:
        """Serialize a message; if ``deterministic``, equal messages into equal bytes.

        Raises:
            ValueError: The message cannot be serialized, a required field being absent, say.
        """

    def decode(self, data: bytes, message_class: type[_MessageT]) -> _MessageT:
        """Parse a message.

        Raises:
            MalformedError: The bytes are no such message.
        """


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
        try:
            return json_format.Parse(data.decode(), message_class(), ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise _invalid_json(message_class, str(error)) from error
        except Exception as error:  # the parser lets other errors through for odd input
            raise _invalid_json(message_class, "") from error


def _invalid_json(message_class: type[Message], reason: str) -> MalformedError:
    name = message_class.DESCRIPTOR.full_name
    message = f"the bytes do not parse as a {name} in the JSON format"
    return MalformedError(f"{message}: {reason}" if reason else message)


PROTO = ProtoCodec()
JSON = JsonCodec()
