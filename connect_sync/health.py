"""The gRPC health checking protocol: whether a server, and each of its services, can be called.

`Health` holds the statuses that the application sets, and implements the two methods of
``grpc.health.v1.Health``: Check, which returns a status once, and Watch, which also sends each change of it.
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
"""How many Watches may be open at a time, by default."""

_MAX_WAIT = 1.0
"""How many seconds a Watch waits before it checks whether its client is still connected."""


class ServingStatus(IntEnum):
    """The status of a service: ``grpc.health.v1.HealthCheckResponse.ServingStatus``."""

    UNKNOWN = 0
    """It is not known whether the service can be called."""
    SERVING = 1
    """The service can be called."""
    NOT_SERVING = 2
    """The service exists, but must not be called now."""
    SERVICE_UNKNOWN = 3
    """There is no such service: sent by Watch where Check fails with ``not_found``."""


if TYPE_CHECKING:

    class HealthCheckRequest(Message):
        """A request for the status of one service."""

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

    They use a descriptor pool of their own, since an application may load the official schema too.
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
    # The proto file says so only in a comment.
    idempotency=IdempotencyLevel.NO_SIDE_EFFECTS,
)
"""Returns the status of a service."""
WATCH = Method(
    service=SERVICE,
    name="Watch",
    input=HealthCheckRequest,
    output=HealthCheckResponse,
    kind=StreamKind.SERVER_STREAM,
)
"""Sends the status of a service, and each change of it."""


class Health:
    """The statuses of a server and of its services, and the service that reports them.

    The empty name stands for the server as a whole. It is SERVING initially; any other service is unknown
    until its status is set. The object is thread-safe. Each process has its own.
    """

    def __init__(self, *, max_watches: int = DEFAULT_MAX_WATCHES) -> None:
        """Make the statuses of one server.

        Args:
            max_watches: How many Watches may be open at a time. Each one occupies a thread. With 0, Watch is
                answered as an unimplemented method.

        Raises:
            ValueError: ``max_watches`` is negative.
        """
        if max_watches < 0:
            raise ValueError(f"max_watches must be 0 or more, got {max_watches}")
        self._max_watches = max_watches
        self._statuses = {"": ServingStatus.SERVING}
        self._is_shut_down = False
        # One for each open Watch; putting an item wakes it. SimpleQueue is reentrant, so a signal handler may
        # use it.
        self._watches: set[SimpleQueue[None]] = set()
        self._opening = Lock()

    def get_status(self, service: str = "") -> ServingStatus:
        """Return the status of a service, by its full name; SERVICE_UNKNOWN if it was never set."""
        status = self._statuses.get(service, ServingStatus.SERVICE_UNKNOWN)
        if self._is_shut_down and status is not ServingStatus.SERVICE_UNKNOWN:
            return ServingStatus.NOT_SERVING
        return status

    def set_status(self, service: str, status: ServingStatus) -> None:
        """Set the status of a service. After `shutdown`, this has no effect.

        Args:
            service: The full name of the service, such as ``greet.v1.GreetService``; empty for the server
                as a whole, whose status is independent of the others.
            status: Any status except SERVICE_UNKNOWN.

        Raises:
            TypeError: ``service`` is not a string.
            ValueError: ``service`` is a path; ``status`` is SERVICE_UNKNOWN or not a status.
        """
        check_service_name(service)
        status = ServingStatus(status)
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise ValueError("status must be UNKNOWN, SERVING or NOT_SERVING, got SERVICE_UNKNOWN")
        if not self._is_shut_down:
            self._statuses[service] = status
            self._wake_watches()

    def shutdown(self) -> None:
        """Announce that the server stops: all services are permanently NOT_SERVING, and all Watches end.

        This never blocks, and may be called in a signal handler.
        """
        self._is_shut_down = True
        self._wake_watches()

    def check(self, request: HealthCheckRequest, ctx: RequestContext) -> HealthCheckResponse:
        """Answer a Check. Raises ConnectError: ``not_found`` for an unknown service."""
        if ctx.http_method() == "GET":
            ctx.response_headers()["cache-control"] = "no-store"
        status = self.get_status(request.service)
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise ConnectError(Code.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=status)

    def watch(self, request: HealthCheckRequest, ctx: RequestContext) -> Iterator[HealthCheckResponse]:
        """Answer a Watch: send the status now, and whenever it changes.

        A client that is slow to read gets the latest status, but not each one in between. The Watch ends when
        its client disconnects, at its deadline, and at `shutdown`.

        Raises:
            ConnectError: ``resource_exhausted`` if too many are open; ``unimplemented`` if none are allowed.
        """
        if not self._max_watches:
            raise ConnectError(Code.UNIMPLEMENTED, "this server does not support Watch: use Check")
        wakes: SimpleQueue[None] = SimpleQueue()
        with self._opening:
            if len(self._watches) >= self._max_watches:
                raise ConnectError(
                    Code.RESOURCE_EXHAUSTED, f"too many open Watches: the limit is {self._max_watches}"
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
            # In this order: a status read after a shutdown is the final one.
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
            if wakes.empty():  # one is enough, however long the Watch takes to send
                wakes.put(None)


def check_service_name(service: str) -> None:
    """Check that ``service`` can be the full name of a service, or is empty.

    Raises:
        TypeError: It is not a string.
        ValueError: It is a path.
    """
    if not isinstance(service, str):
        raise TypeError(f"service must be a string, got {service!r}")
    if service.startswith("/"):
        raise ValueError(f"service must be a name, such as {service.strip('/')!r}, got the path {service!r}")


class HealthClient(ConnectClient):
    """A client of grpc.health.v1.Health.

    Each call takes `CallOptions` as keyword arguments, and raises ConnectError if it fails.
    """

    def check(self, request: HealthCheckRequest, **options: Unpack[GetCallOptions]) -> HealthCheckResponse:
        """Return the status of a service. Fails with ``not_found`` if the server does not know it.

        ``use_get`` sends the call as a GET request, which not every server accepts.
        """
        return self.call_unary(CHECK, request, **options)

    def watch(
        self, request: HealthCheckRequest, **options: Unpack[CallOptions]
    ) -> ResponseStream[HealthCheckResponse]:
        """Return the status of a service and its changes, as a stream. It may be SERVICE_UNKNOWN."""
        return self.call_server_stream(WATCH, request, **options)
