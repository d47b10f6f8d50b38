"""The messages of google.rpc that errors are made of: the status, and two kinds of details.

Their schema has a pool of its own: an application may have the official one in the common pool. Names and
numbers are those of ``google/rpc/status.proto`` and ``google/rpc/error_details.proto``, without the fields
that nothing here fills.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory

from connect_sync.errors import ErrorDetail

_FIELD = descriptor_pb2.FieldDescriptorProto


def _descriptors() -> descriptor_pool.DescriptorPool:
    status_file = descriptor_pb2.FileDescriptorProto(
        name="google/rpc/status.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[any_pb2.DESCRIPTOR.name],
    )
    status = status_file.message_type.add(name="Status")
    _add_field(status, "code", 1, _FIELD.TYPE_INT32)
    _add_field(status, "message", 2)
    _add_field(status, "details", 3, _FIELD.TYPE_MESSAGE, ".google.protobuf.Any", is_repeated=True)

    details_file = descriptor_pb2.FileDescriptorProto(
        name="google/rpc/error_details.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name],
    )
    retry_info = details_file.message_type.add(name="RetryInfo")
    _add_field(retry_info, "retry_delay", 1, _FIELD.TYPE_MESSAGE, ".google.protobuf.Duration")
    bad_request = details_file.message_type.add(name="BadRequest")
    violation = bad_request.nested_type.add(name="FieldViolation")
    _add_field(violation, "field", 1)
    _add_field(violation, "description", 2)
    type_name = ".google.rpc.BadRequest.FieldViolation"
    _add_field(bad_request, "field_violations", 1, _FIELD.TYPE_MESSAGE, type_name, is_repeated=True)

    pool = descriptor_pool.DescriptorPool()
    for schema in (any_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR):
        pool.AddSerializedFile(schema.serialized_pb)
    for file in (status_file, details_file):
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    type: descriptor_pb2.FieldDescriptorProto.Type.ValueType = _FIELD.TYPE_STRING,
    type_name: str | None = None,
    *,
    is_repeated: bool = False,
) -> None:
    label = _FIELD.LABEL_REPEATED if is_repeated else _FIELD.LABEL_OPTIONAL
    message.field.add(name=name, number=number, type=type, label=label, type_name=type_name)


DESCRIPTORS = _descriptors()
"""The pool of their descriptors."""

# Made at run time, they have no types that a checker could know.
Status: Any
_RetryInfo: Any
_BadRequest: Any
Status, _RetryInfo, _BadRequest = (
    message_factory.GetMessageClass(DESCRIPTORS.FindMessageTypeByName(f"google.rpc.{name}"))
    for name in ("Status", "RetryInfo", "BadRequest")
)


def bad_request(violations: Iterable[tuple[str, str]]) -> ErrorDetail:
    """Return a ``google.rpc.BadRequest``, which says what is wrong with the fields of a request.

    Args:
        violations: Pairs of the path of a field, such as ``emails[0].address`` (empty for the request as a
            whole), and what is wrong with it.
    """
    message = _BadRequest()
    for field, description in violations:
        message.field_violations.add(field=encodable(field), description=encodable(description))
    return ErrorDetail.pack(message)


def retry_info(seconds: float) -> ErrorDetail:
    """Return a ``google.rpc.RetryInfo``, which asks the client to wait before it tries again."""
    message = _RetryInfo()
    message.retry_delay.FromMilliseconds(math.ceil(seconds * 1000))
    return ErrorDetail.pack(message)


def encodable(text: str) -> str:
    """Return ``text`` with a question mark for each lone surrogate, which Protobuf cannot encode."""
    return text.encode(errors="replace").decode()
