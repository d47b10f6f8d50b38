"""What the generator needs to know of a proto file, read from its descriptor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

# Field numbers of descriptor.proto, of which the paths of source locations are made.
_FILE_SERVICE = FileDescriptorProto.SERVICE_FIELD_NUMBER
_SERVICE_METHOD = ServiceDescriptorProto.METHOD_FIELD_NUMBER

_KINDS = {
    (False, False): "UNARY",
    (True, False): "CLIENT_STREAM",
    (False, True): "SERVER_STREAM",
    (True, True): "BIDI_STREAM",
}

_IDEMPOTENCY = {
    MethodOptions.IDEMPOTENCY_UNKNOWN: "UNKNOWN",
    MethodOptions.NO_SIDE_EFFECTS: "NO_SIDE_EFFECTS",
    MethodOptions.IDEMPOTENT: "IDEMPOTENT",
}


class SchemaError(Exception):
    """A schema that no module can be written for; the text names the file and the symbol."""


@dataclass(frozen=True)
class MessageType:
    """A message: the proto file that defines it, and its name after those it is nested in."""

    file: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """A method of a service; ``kind`` and ``idempotency`` name members of the runtime's enums."""

    name: str
    full_name: str
    input: MessageType
    output: MessageType
    kind: str
    idempotency: str
    comment: str
    deprecated: bool

    @property
    def streams_requests(self) -> bool:
        """Whether the client sends any number of messages."""
        return self.kind in ("CLIENT_STREAM", "BIDI_STREAM")

    @property
    def streams_responses(self) -> bool:
        """Whether the server sends any number of messages."""
        return self.kind in ("SERVER_STREAM", "BIDI_STREAM")

    @property
    def is_bidi(self) -> bool:
        """Whether both sides stream, which WSGI cannot carry."""
        return self.kind == "BIDI_STREAM"

    @property
    def allows_get(self) -> bool:
        """Whether Connect lets a client send the call as a GET request."""
        return self.kind == "UNARY" and self.idempotency == "NO_SIDE_EFFECTS"


@dataclass(frozen=True)
class Service:
    """A service and its methods, in the order of the proto file."""

    name: str
    full_name: str
    methods: tuple[Method, ...]
    comment: str
    deprecated: bool


@dataclass(frozen=True)
class File:
    """A proto file and its services, in its own order."""

    name: str
    services: tuple[Service, ...]


def index_messages(files: Iterable[FileDescriptorProto]) -> dict[str, MessageType]:
    """Return every message of ``files`` by its full name, which starts with a dot."""
    return {
        ".".join(("", *filter(None, [file.package]), *names)): MessageType(file.name, names)
        for file in files
        for names in _message_names((), file.message_type)
    }


def _message_names(outer: tuple[str, ...], messages: Iterable[DescriptorProto]) -> Iterator[tuple[str, ...]]:
    for message in messages:
        names = (*outer, message.name)
        yield names
        yield from _message_names(names, message.nested_type)


def read_file(file: FileDescriptorProto, messages: Mapping[str, MessageType]) -> File:
    """Read the services of a proto file whose message types are all in ``messages``."""
    comments = {tuple(location.path): _comment(location) for location in file.source_code_info.location}
    return File(
        file.name,
        tuple(_read_service(file, index, messages, comments) for index in range(len(file.service))),
    )


def _comment(location: SourceCodeInfo.Location) -> str:
    return location.leading_comments or location.trailing_comments


def _read_service(
    file: FileDescriptorProto,
    index: int,
    messages: Mapping[str, MessageType],
    comments: Mapping[tuple[int, ...], str],
) -> Service:
    service = file.service[index]
    full_name = f"{file.package}.{service.name}" if file.package else service.name
    path = (_FILE_SERVICE, index)
    deprecated = file.options.deprecated or service.options.deprecated

    def read_method(method: MethodDescriptorProto, comment: str) -> Method:
        method_name = f"{full_name}.{method.name}"

        def message(name: str) -> MessageType:
            if name not in messages:
                raise SchemaError(f"{file.name}: method {method_name}: unknown message {name}")
            return messages[name]

        return Method(
            name=method.name,
            full_name=method_name,
            input=message(method.input_type),
            output=message(method.output_type),
            kind=_KINDS[method.client_streaming, method.server_streaming],
            idempotency=_IDEMPOTENCY[method.options.idempotency_level],
            comment=comment,
            deprecated=deprecated or method.options.deprecated,
        )

    return Service(
        name=service.name,
        full_name=full_name,
        methods=tuple(
            read_method(method, comments.get((*path, _SERVICE_METHOD, position), ""))
            for position, method in enumerate(service.method)
        ),
        comment=comments.get(path, ""),
        deprecated=deprecated,
    )
