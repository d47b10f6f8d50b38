"""The one exception of this library, and the typed details that it can carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from connect_sync.code import Code

_MessageT = TypeVar("_MessageT", bound=Message)


class ErrorDetail:
    """A Protobuf message attached to an error, as its full name and its serialized bytes."""

    __slots__ = ("data", "type")

    def __init__(self, type: str, data: bytes) -> None:
        """Make a detail of the message type ``type`` (``pkg.Message``), serialized as ``data``."""
        self.type: str = type
        self.data: bytes = data

    @classmethod
    def pack(cls, message: Message) -> ErrorDetail:
        """Serialize ``message`` into a detail. A ``google.protobuf.Any`` is taken as it is packed."""
        if isinstance(message, AnyMessage):
            return cls(message.TypeName(), message.value)
        return cls(message.DESCRIPTOR.full_name, message.SerializeToString())

    def value(self, message_class: type[_MessageT]) -> _MessageT:
        """Parse the detail as a ``message_class``.

        Raises:
            ValueError: The detail holds another message type, or its bytes do not parse.
        """
        expected = message_class.DESCRIPTOR.full_name
        if self.type != expected:
            raise ValueError(f"the detail is a {self.type}, not a {expected}")
        try:
            return message_class.FromString(self.data)
        except DecodeError as error:
            raise ValueError(f"the detail does not parse as {expected}: {error}") from error

    def __eq__(self, other: object) -> bool:
        """Details are equal when type and bytes are."""
        if not isinstance(other, ErrorDetail):
            return NotImplemented
        return self.type == other.type and self.data == other.data

    def __hash__(self) -> int:
        """Hash type and bytes."""
        return hash((self.type, self.data))

    def __repr__(self) -> str:
        """Show the type and the size."""
        return f"ErrorDetail({self.type!r}, <{len(self.data)} bytes>)"


class ConnectError(Exception):
    """A call failed: a code, a message for people, and details for programs.

    Raised by a handler or an interceptor, it goes to the client as it is; raised by a client call, it
    says how the call ended. What caused it, where something did, is ``__cause__``.
    """

    code: Code
    """Why the call failed."""
    message: str
    """What happened, for people; may be empty."""
    details: tuple[ErrorDetail, ...]
    """What happened, for programs."""

    def __init__(self, code: Code, message: str = "", details: Iterable[Message | ErrorDetail] = ()) -> None:
        """Make an error. ``details`` takes Protobuf messages, or details packed before.

        Raises:
            TypeError: ``code`` is no `Code`, or ``message`` no ``str``.
        """
        # Another type would be found out only when the error is written to the wire.
        for value, expected in ((code, Code), (message, str)):
            if not isinstance(value, expected):
                raise TypeError(f"a ConnectError takes a Code and a str, not {value!r}")
        packed = tuple(
            detail if isinstance(detail, ErrorDetail) else ErrorDetail.pack(detail) for detail in details
        )
        super().__init__(code, message, packed)
        self.code = code
        self.message = message
        self.details = packed

    def __str__(self) -> str:
        """Return ``code: message``, or the code alone."""
        return f"{self.code.value}: {self.message}" if self.message else self.code.value


class MalformedError(ConnectError):
    """The other side sent bytes that are not what they are said to be.

    To a server that is an ``invalid_argument`` of the client; a client makes it an ``internal`` error.
    """

    def __init__(self, message: str) -> None:
        """Make an error that says what is wrong with the bytes."""
        super().__init__(Code.INVALID_ARGUMENT, message)

    def __reduce__(self) -> tuple[type[MalformedError], tuple[str]]:
        """Pickle the message alone: it is all that ``__init__`` takes."""
        return MalformedError, (self.message,)


class TooLargeError(ConnectError):
    """A message is larger than an option of this side allows: it is neither read nor decompressed further."""

    def __init__(self, max_bytes: int, size: int | None = None, option: str = "read_max_bytes") -> None:
        """Make the error for a message of ``size`` bytes, if known, over the ``max_bytes`` of ``option``."""
        self.max_bytes = max_bytes
        self.size = size
        self.option = option
        what = "the message" if size is None else f"a message of {size} bytes"
        super().__init__(Code.RESOURCE_EXHAUSTED, f"{what} is larger than {option}, {max_bytes} bytes")

    def __reduce__(self) -> tuple[type[TooLargeError], tuple[int, int | None, str]]:
        """Pickle what ``__init__`` takes."""
        return TooLargeError, (self.max_bytes, self.size, self.option)


def bidi_unimplemented(full_name: str) -> ConnectError:
    """Return the error of a bidirectional method, which neither side of this library can carry."""
    return ConnectError(
        Code.UNIMPLEMENTED,
        f"{full_name} is bidirectional streaming, which synchronous HTTP cannot carry: "
        "split it into client-streaming and server-streaming methods, "
        "or serve it by a server that is made for it",
    )
