"""What is known of a method before any call: its names, its messages, its kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import Message

InputT = TypeVar("InputT", bound=Message)
OutputT = TypeVar("OutputT", bound=Message)


class StreamKind(Enum):
    """How many messages go in and come out."""

    UNARY = "unary"
    CLIENT_STREAM = "client streaming"
    SERVER_STREAM = "server streaming"
    BIDI_STREAM = "bidirectional streaming"


class IdempotencyLevel(Enum):
    """What the schema promises of a method: ``google.protobuf.MethodOptions.idempotency_level``."""

    UNKNOWN = "IDEMPOTENCY_UNKNOWN"
    NO_SIDE_EFFECTS = "NO_SIDE_EFFECTS"
    IDEMPOTENT = "IDEMPOTENT"


# eq=False: a method is one thing, found by identity in tables.
@dataclass(frozen=True, eq=False)
class Method(Generic[InputT, OutputT]):
    """A method of a service, as its schema declares it."""

    service: str
    """The service's full name: ``greet.v1.GreetService``."""
    name: str
    """The method's name in the schema: ``Greet``."""
    input: type[InputT]
    """The class of request messages."""
    output: type[OutputT]
    """The class of response messages."""
    kind: StreamKind = StreamKind.UNARY
    """How many messages go in and come out."""
    idempotency: IdempotencyLevel = IdempotencyLevel.UNKNOWN
    """Whether a call may be repeated, or be a GET."""

    @property
    def full_name(self) -> str:
        """The method's full name: ``greet.v1.GreetService.Greet``."""
        return f"{self.service}.{self.name}"

    @property
    def path(self) -> str:
        """Where the method is called: ``/greet.v1.GreetService/Greet``."""
        return f"/{self.service}/{self.name}"
