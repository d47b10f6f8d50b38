"""The one exception of this library, and the typed details that it can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from connect_sync.code import Code
from connect_sync.headers import Headers

_MessageT = TypeVar("_MessageT", bound=Message)


class ErrorDetail:
    """A Protobuf message attached to an error, as its full name and its serialized bytes."""

    __slots__ = ("data", "type")

    def __init__(self, type: str, data: bytes) -> None:
        """Make a detail of the message type ``type`` (``pkg.Message``), serialized as ``data``.

        Raises:
            TypeError: ``type`` is not a ``str``, or ``data`` not bytes.
        """
        # Other types would be found out only when the error is written to the wire.
        for value, expected in ((type, str), (data, bytes)):
            if not isinstance(value, expected):
                raise TypeError(f"a detail must have a str and bytes, got {describe(value)}")
        self.type: str = type
        self.data: bytes = data

    @classmethod
    def pack(cls, message: Message) -> ErrorDetail:
        """Serialize ``message`` into a detail. A ``google.protobuf.Any`` is not packed a second time.

        Raises:
            TypeError: ``message`` is not a Protobuf message.
        """
        if not isinstance(message, Message):
            raise TypeError(f"a detail must be a Protobuf message, got {describe(message)}")
        if isinstance(message, AnyMessage):
            return cls(message.TypeName(), message.value)
        return cls(message.DESCRIPTOR.full_name, message.SerializeToString())

    def value(self, message_class: type[_MessageT]) -> _MessageT:
        """Parse the detail as a ``message_class``.

        Raises:
            TypeError: ``message_class`` is not a class of Protobuf messages.
            ValueError: The detail holds another message type, or its bytes do not parse.
        """
        given: object = message_class  # checked, whatever its annotation says
        if not isinstance(given, type) or not issubclass(given, Message):
            raise TypeError(f"message_class must be a Protobuf message class, got {describe(message_class)}")
        expected = message_class.DESCRIPTOR.full_name
        if self.type != expected:
            raise ValueError(f"expected a detail of type {expected}, got {self.type}")
        try:
            return message_class.FromString(self.data)
        except DecodeError as error:
            raise ValueError(f"the detail is not a valid {expected}: {error}") from error

    def __eq__(self, other: object) -> bool:
        """Compare type and bytes."""
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

    Raised by a handler or an interceptor, it is sent to the client unchanged; raised by a client call, it
    says how the call ended. The exception that led to it, if any, is its ``__cause__``.
    """

    # These are also those of a subclass that does not call `__init__`.
    code: Code = Code.UNKNOWN
    """Why the call failed."""
    message: str = ""
    """What happened, for people; may be empty."""
    details: tuple[ErrorDetail, ...] = ()
    """What happened, for programs."""
    http_status: int | None = None
    """The HTTP status of the response, on errors that a client call raises; None without a response."""

    _metadata: Headers | None = None

    def __init__(self, code: Code, message: str = "", details: Iterable[Message | ErrorDetail] = ()) -> None:
        """Make an error. ``details`` takes Protobuf messages, and details that are packed already.

        Raises:
            TypeError: An argument is of another type.
        """
        # Checked here: the error is written to the wire far from the line that made it.
        if not isinstance(code, Code):
            raise TypeError(f"code must be a Code, got {describe(code)}")
        if not isinstance(message, str):
            raise TypeError(f"message must be a str, got {describe(message)}")
        try:
            given = iter(details)
        except TypeError:
            name = type(details).__name__
            raise TypeError(f"details must be a list of Protobuf messages, got a {name}") from None
        packed = tuple(
            [detail if isinstance(detail, ErrorDetail) else ErrorDetail.pack(detail) for detail in given]
        )
        super().__init__(code, message, packed)
        self.code = code
        self.message = message
        self.details = packed

    @property
    def metadata(self) -> Headers:
        """The leading and trailing metadata of the response, on errors that a client call raises.

        Empty on all other errors.
        """
        if self._metadata is None:
            self._metadata = Headers()
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Headers) -> None:
        self._metadata = metadata

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle all attributes, without a call of ``__init__``, which subclasses may redefine."""
        return _rebuild, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        """Return ``code: message``, or the code alone."""
        return f"{self.code.value}: {self.message}" if self.message else self.code.value


def _rebuild(error_class: type[ConnectError], args: tuple[Any, ...]) -> ConnectError:
    return error_class.__new__(error_class, *args)


class MalformedError(ConnectError):
    """The other side sent bytes that are not of the announced format.

    At a server that is an ``invalid_argument`` of the client; a client turns it into an ``internal`` error.
    """

    def __init__(self, message: str) -> None:
        """Make an error that says what is wrong with the bytes."""
        super().__init__(Code.INVALID_ARGUMENT, message)


class TooLargeError(ConnectError):
    """A message is larger than an option of this side allows: it is neither read nor decompressed further."""

    def __init__(self, max_bytes: int, size: int | None = None, option: str = "read_max_bytes") -> None:
        """Make the error for a message of ``size`` bytes, if known, over the ``max_bytes`` of ``option``."""
        self.max_bytes = max_bytes
        self.size = size
        self.option = option
        what = "the message" if size is None else f"a message of {size} bytes"
        super().__init__(Code.RESOURCE_EXHAUSTED, f"{what} is larger than {option}, {max_bytes} bytes")


class NotModified(ConnectError):
    """The answer to a GET whose result has not changed since the client's copy of it (RFC 9110, section 13).

    A handler raises it if the request's ``if-none-match`` or ``if-modified-since`` says so, after it has set
    the response's ``etag`` or ``last-modified``. The client gets HTTP 304 with these headers. In answer to
    anything but a GET of Connect, it is an error of the code ``unknown``.
    """

    def __init__(self, message: str = "not modified") -> None:
        """Make the error; ``message`` is for clients that get no 304."""
        super().__init__(Code.UNKNOWN, message)


class UnansweredError(ConnectError):
    """A client call failed without a response of the service: its message is for the caller alone.

    It names addresses, and shows what proxies have said. A handler that lets such an error pass answers its
    own client with the code alone.
    """


class ContractError(TypeError):
    """A handler or an interceptor did not do what it has to, such as returning a response.

    To the client of a service this is ``internal``, whatever the service's ``errors`` map TypeErrors to.
    """


def bidi_unimplemented(full_name: str) -> ConnectError:
    """Return the error of a bidirectional method, which neither side of this library supports."""
    return ConnectError(
        Code.UNIMPLEMENTED,
        f"{full_name} is bidirectional streaming, which synchronous HTTP cannot carry: "
        "split it into client-streaming and server-streaming methods, "
        "or serve it with a server that supports it",
    )


_MAX_SHOWN = 60
"""How many characters of a wrong argument an error shows."""


def describe(value: object) -> str:
    """Describe a wrong argument in an error: its representation, abbreviated, and its type."""
    if isinstance(value, Message):  # its representation is its whole content, or nothing
        return f"a {type(value).__name__} message"
    shown = repr(value)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}…"
    return f"{shown} ({type(value).__name__})"


ErrorTarget: TypeAlias = Code | Callable[[Any], ConnectError]
"""What an exception is reported as: a code, or what makes the error of it."""

ErrorMapping: TypeAlias = Mapping[type[Exception], ErrorTarget]
"""How an application's exceptions are reported to clients, by class.

A `Code` stands for an error with this code, whose message is the code's name in words. A function takes the
exception and returns the error; it raises the exception again to leave it unmapped.
"""
