from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import IdempotencyLevel, Method, StreamKind


def test_method_knows_its_path_and_its_full_name() -> None:
    method = Method("greet.v1.GreetService", "Greet", StringValue, StringValue)

    assert method.path == "/greet.v1.GreetService/Greet"
    assert method.full_name == "greet.v1.GreetService.Greet"


def test_method_is_unary_and_promises_nothing_by_default() -> None:
    method = Method("greet.v1.GreetService", "Greet", StringValue, StringValue)

    assert (method.kind, method.idempotency) == (StreamKind.UNARY, IdempotencyLevel.UNKNOWN)


def test_methods_are_equal_only_to_themselves() -> None:
    first, second = (Method("greet.v1.GreetService", "Greet", StringValue, StringValue) for _ in range(2))

    assert first == first
    assert first != second
