"""The gRPC health checking protocol: whether a server, and each of its services, can be called.

`Health` holds what the server's owner says of them, and answers the two methods of
``grpc.health.v1.Health``: Check, which gives a status once, and Watch, which also gives each change of it.
`HealthClient` calls them.

The rules are those of "GRPC Health Checking Protocol" and of the comments in its proto file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from connect_sync.client import CallOptions, ConnectClient, GetCallOptions, ResponseStream, Unpack
from connect_sync.code import Code
from connect_sync.context import RequestContext
from connect_sync.errors import ConnectError
from connect_sync.method import IdempotencyLevel, Method, StreamKind

SERVICE = "grpc.health.v1.Health"
"""The full name of the service."""

DEFAULT_MAX_WATCHES = 4
"""How many Watches may be open at a time, if nobody says otherwise."""

_MAX_WAIT = 1.0
"""For how many seconds a Watch waits before it looks whether its client is still there."""


class ServingStatus(IntEnum):
    """What is known of a service: ``grpc.health.v1.HealthCheckResponse.ServingStatus``."""

    UNKNOWN = 0
    """It is not known whether the service can be called."""
    SERVING = 1
    """The service can be called."""
    NOT_SERVING = 2
    """The service is there, and is not to be called now."""
    SERVICE_UNKNOWN = 3
    """There is no such service: what Watch says where Check fails with ``not_found``."""


if TYPE_CHECKING:

    class HealthCheckRequest(Message):
        """A question for the status of one service."""

        service: str
        """The full name of the service; empty for the server as a whole."""

        def __init__(self, *, service: str = "") -> None:
            """Make a message."""

    class HealthCheckResponse(Message):
        """The status of one service."""

        status: int
        """One of `ServingStatus`."""

        def __init__(self, *, status: int = 0) -> None:
            """Make a message."""


def _message_classes() -> tuple[type[Message], type[Message]]:
    """Return the classes of the request and of the response.

    The schema has a pool of its own: an application may have the official one in the common pool.
    """
    schema = descriptor_pb2.FileDescriptorProto(
        name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    request = schema.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    response = schema.message_type.add(name="HealthCheckResponse")
    response.field.add(
        name="status",
        number=1,
        type=field.TYPE_ENUM,
        label=field.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )
    statuses = response.enum_type.add(name="ServingStatus")
    for status in ServingStatus:
        statuses.value.add(name=status.name, number=status.value)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(schema.SerializeToString())
    request_class, response_class = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{schema.package}.{message.name}"))
        for message in schema.message_type
    )
    return request_class, response_class


if not TYPE_CHECKING:
    HealthCheckRequest, HealthCheckResponse = _message_classes()


CHECK = Method(
    service=SERVICE,
    name="Check",
    input=HealthCheckRequest,
    output=HealthCheckResponse,
    # The proto file says so in words alone.
    idempotency=IdempotencyLevel.NO_SIDE_EFFECTS,
)
"""Gives the status of a service."""
WATCH = Method(
    service=SERVICE,
    name="Watch",
    input=HealthCheckRequest,
    output=HealthCheckResponse,
    kind=StreamKind.SERVER_STREAM,
)
"""Gives the status of a service, and each change of it."""


class Health:
    """The statuses of a server and of its services, and the service that tells them.

    The server as a whole has the empty name. It is SERVING from the beginning; any other service is unknown
    until its status is set. Threads may share the object. Each process has its own.
    """

    def __init__(self, *, max_watches: int = DEFAULT_MAX_WATCHES) -> None:
        """Make the statuses of one server.

        Args:
            max_watches: How many Watches may be open at a time, each of which holds a thread. With 0, none
                may, and clients are told that this server has no such method.

        Raises:
            ValueError: ``max_watches`` is negative.
        """
        if max_watches < 0:
            raise ValueError(f"max_watches is {max_watches}: it takes 0 or more")
        self._max_watches = max_watches
        self._statuses = {"": ServingStatus.SERVING}
        self._is_shut_down = False
        # One for each open Watch; what is put in wakes it. Of all that can wake a thread, this is what a
        # signal handler may use, whatever it has interrupted.
        self._watches: set[SimpleQueue[None]] = set()
        self._opening = Lock()

    def get_status(self, service: str = "") -> ServingStatus:
        """Return the status of a service, by its full name; SERVICE_UNKNOWN where none was set."""
        status = self._statuses.get(service, ServingStatus.SERVICE_UNKNOWN)
        if self._is_shut_down and status is not ServingStatus.SERVICE_UNKNOWN:
            return ServingStatus.NOT_SERVING
        return status

    def set_status(self, service: str, status: ServingStatus) -> None:
        """Say what the status of a service is from now on. After `shutdown`, nothing changes any more.

        Args:
            service: The full name of the service, such as ``greet.v1.GreetService``; empty for the server
                as a whole, which no other status has an influence on.
            status: Any status but SERVICE_UNKNOWN.

        Raises:
            TypeError: ``service`` is no string.
            ValueError: ``service`` is a path; ``status`` is no status that a service can have.
        """
        check_service_name(service)
        status = ServingStatus(status)
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise ValueError("SERVICE_UNKNOWN is the status of services that were never set")
        if not self._is_shut_down:
            self._statuses[service] = status
            self._wake_watches()

    def shutdown(self) -> None:
        """Say that the server ends: all services are NOT_SERVING for good, and all Watches end.

        This never waits, and may be called by a signal handler.
        """
        self._is_shut_down = True
        self._wake_watches()

    def check(self, request: HealthCheckRequest, ctx: RequestContext) -> HealthCheckResponse:
        """Answer a Check. Raises ConnectError: ``not_found`` for an unknown service."""
        if ctx.http_method() == "GET":
            ctx.response_headers()["cache-control"] = "no-store"
        status = self.get_status(request.service)
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise ConnectError(Code.NOT_FOUND, "nothing is known of a service of this name")
        return HealthCheckResponse(status=status)

    def watch(self, request: HealthCheckRequest, ctx: RequestContext) -> Iterator[HealthCheckResponse]:
        """Answer a Watch: with the status, and each time that it has changed.

        A client that is slow to take them gets the newest, and not all that there were in between. The Watch
        ends when its client has left, at its deadline, and at `shutdown`.

        Raises:
            ConnectError: ``resource_exhausted``, if too many are open; ``unimplemented``, if there are none.
        """
        if not self._max_watches:
            raise ConnectError(Code.UNIMPLEMENTED, "this server has no Watch: ask by Check")
        wakes: SimpleQueue[None] = SimpleQueue()
        with self._opening:
            if len(self._watches) >= self._max_watches:
                raise ConnectError(
                    Code.RESOURCE_EXHAUSTED, f"{self._max_watches} Watches are open, and no more may be"
                )
            self._watches.add(wakes)
        try:
            yield from self._responses(request.service, ctx, wakes)
        finally:
            self._watches.discard(wakes)

    def _responses(
        self, service: str, ctx: RequestContext, wakes: SimpleQueue[None]
    ) -> Iterator[HealthCheckResponse]:
        last: ServingStatus | None = None
        while ctx.is_active():
            # In this order: what is read behind a shutdown is its status.
            is_last = self._is_shut_down
            status = self.get_status(service)
            if status is not last:
                last = status
                yield HealthCheckResponse(status=status)
            if is_last:
                return
            remaining_ms = ctx.timeout_ms()
            timeout = _MAX_WAIT if remaining_ms is None else min(_MAX_WAIT, remaining_ms / 1000)
            with suppress(Empty):
                wakes.get(timeout=timeout)

    def _wake_watches(self) -> None:
        for wakes in self._watches.copy():
            if wakes.empty():  # one is enough, however long the Watch takes to send what it has
                wakes.put(None)


def check_service_name(service: str) -> None:
    """Do nothing, if ``service`` may be the full name of a service, or empty.

    Raises:
        TypeError: It is no string.
        ValueError: It is a path.
    """
    if not isinstance(service, str):
        raise TypeError(f"{service!r} is no name of a service: it takes a string")
    if service.startswith("/"):
        raise ValueError(f"{service!r} is a path: it takes a name, such as {service.strip('/')!r}")


class HealthClient(ConnectClient):
    """A client of grpc.health.v1.Health.

    Each call takes `CallOptions` as keyword arguments, and raises ConnectError if it fails.
    """

    def check(self, request: HealthCheckRequest, **options: Unpack[GetCallOptions]) -> HealthCheckResponse:
        """Return the status of a service; ``not_found`` where the server knows none of the name.

        ``use_get`` sends the call as a GET request, which not every server takes.
        """
        return self.call_unary(CHECK, request, **options)

    def watch(
        self, request: HealthCheckRequest, **options: Unpack[CallOptions]
    ) -> ResponseStream[HealthCheckResponse]:
        """Give the status of a service, and each change of it, SERVICE_UNKNOWN being one."""
        return self.call_server_stream(WATCH, request, **options)
