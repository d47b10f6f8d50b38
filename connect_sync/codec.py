"""How messages become bytes: Protobuf's binary format, and its JSON mapping."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from connect_sync.errors import MalformedError

Encoder: TypeAlias = Callable[[Any], bytes]
"""Serializes messages of one class.

It raises ValueError for a message that cannot be serialized, for example without a required field.
"""

Decoder: TypeAlias = Callable[[bytes], Any]
"""Parses messages of one class. It raises MalformedError for bytes that are not such a message."""


class Codec(ABC):
    """A message format. Encoders and decoders are created once per message class, and called often."""

    name: str
    """The name in content types: ``proto`` in ``application/connect+proto``."""

    @abstractmethod
    def encoder(self, message_class: type[Message], *, deterministic: bool = False) -> Encoder:
        """Return an encoder; if ``deterministic``, it serializes equal messages to equal bytes.

        It does not check that its argument is a ``message_class``: see `check_type` and `checked`.
        """

    @abstractmethod
    def decoder(self, message_class: type[Message]) -> Decoder:
        """Return a decoder."""


class ProtoCodec(Codec):
    """Protobuf's binary format."""

    name = "proto"

    def encoder(self, message_class: type[Message], *, deterministic: bool = False) -> Encoder:
        """Return an encoder."""
        serialize = message_class.SerializeToString
        return partial(serialize, deterministic=True) if deterministic else serialize

    def decoder(self, message_class: type[Message]) -> Decoder:
        """Return a decoder."""
        parse = message_class.FromString
        name = message_class.DESCRIPTOR.full_name

        def decode(data: bytes) -> Message:
            try:
                return parse(data)
            except DecodeError as error:
                raise MalformedError(f"the bytes do not parse as a {name} in the proto format") from error

        return decode


class JsonCodec(Codec):
    """Protobuf's JSON mapping: written as one line; unknown fields are ignored when parsing."""

    name = "json"

    def encoder(self, message_class: type[Message], *, deterministic: bool = False) -> Encoder:
        """Return an encoder. It cannot serialize an Any of an unknown type."""

        def encode(message: Any) -> bytes:
            value = json_format.MessageToDict(message)
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=deterministic)
            return text.encode()

        return encode

    def decoder(self, message_class: type[Message]) -> Decoder:
        """Return a decoder."""
        name = message_class.DESCRIPTOR.full_name
        # The parser accepts a list or a string as an empty message. Some well-known types do have that form.
        is_object = not name.startswith("google.protobuf.")

        def decode(data: bytes) -> Message:
            message = message_class()
            try:
                value = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
                if is_object and not isinstance(value, dict):
                    raise _InvalidJsonError("it is not an object")
                json_format.ParseDict(value, message, ignore_unknown_fields=True)
            except Exception as error:  # for unusual input the parser raises errors of any class
                reason = _reason(error)
                text = f"the bytes do not parse as a {name} in the JSON format"
                raise MalformedError(f"{text}: {reason}" if reason else text) from error
            return message

        return decode


def check_type(message: object, message_class: type[Message]) -> None:
    """Check that ``message`` has the type of ``message_class``.

    Raises:
        TypeError: It has another type. The other side would parse it as the expected one.
    """
    if type(message) is message_class:
        return
    full_name = message_class.DESCRIPTOR.full_name
    # The same type may come from another descriptor pool.
    if not isinstance(message, Message) or message.DESCRIPTOR.full_name != full_name:
        got = "None" if message is None else f"a {type(message).__name__}"
        raise TypeError(f"expected a {full_name}, got {got}")


def checked(encode: Encoder, message_class: type[Message]) -> Encoder:
    """Return ``encode``, preceded by `check_type`."""

    def encode_checked(message: Any) -> bytes:
        if type(message) is not message_class:
            check_type(message, message_class)
        return encode(message)

    return encode_checked


class _InvalidJsonError(ValueError):
    """What is wrong with the JSON, in words for the peer."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _InvalidJsonError("an object has the same key twice")
    return value


_find_field = re.compile(r"Failed to parse (\S+) field").match


def _reason(error: Exception) -> str:
    """Say what is wrong, without internals of the parser."""
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
