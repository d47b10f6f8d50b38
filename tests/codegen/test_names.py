"""Python's names for a schema's."""

from __future__ import annotations

import builtins
import keyword

import pytest

from connect_sync import ConnectClient
from connect_sync.codegen import names

# What the site module adds, which is not there in every Python.
SITE_BUILTINS = {"copyright", "credits", "exit", "license", "quit"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Greet", "greet"),
        ("GreetEveryone", "greet_everyone"),
        ("GetHTTPStatus", "get_http_status"),
        ("HTTP", "http"),
        ("GetURL", "get_url"),
        ("V1Beta", "v1_beta"),
        ("GetV2", "get_v2"),
        ("A", "a"),
        ("camelCase", "camel_case"),
        ("Snake_Case", "snake_case"),
        ("already_snake_case", "already_snake_case"),
        ("Two__Words", "two__words"),
        ("_Private_", "private"),
        ("__dunder__", "dunder"),
        ("_1", "rpc_1"),
        ("__", "rpc_"),
    ],
)
def test_snake_case(name: str, expected: str) -> None:
    assert names.snake_case(name) == expected


def test_method_named_like_a_builtin_gets_an_underscore() -> None:
    public = {name for name in dir(builtins) if name.islower() and name[0] != "_"}
    taken = sorted(public - SITE_BUILTINS)
    assert "print" in taken
    assert names.method_names(taken) == [f"{name}_" for name in taken]


def test_method_named_like_a_keyword_gets_an_underscore() -> None:
    assert names.method_names(keyword.kwlist) == [
        f"{name}_" if name.islower() else name.lower() for name in keyword.kwlist
    ]


def test_method_named_like_an_attribute_of_the_client_gets_an_underscore() -> None:
    attributes = {name for name in dir(ConnectClient) if name[0] != "_"}
    with ConnectClient("http://localhost") as client:
        attributes |= {name for name in vars(client) if name[0] != "_"}
    assert attributes == names.CLIENT_ATTRIBUTES


def test_service_named_like_a_builtin_gets_an_underscore() -> None:
    taken = [name for name in dir(builtins) if name[0] != "_" and name not in SITE_BUILTINS]
    assert "TimeoutError" in taken
    assert [names.service_name(name, taken) for name in taken] == [f"{name}_" for name in taken]


def test_names_do_not_depend_on_the_order_of_methods() -> None:
    methods = ["GetFoo", "get_foo", "Other", "Import", "import"]
    expected = ["GetFoo", "get_foo", "other", "Import", "import_"]
    assert names.method_names(methods) == expected
    assert names.method_names(methods[::-1]) == expected[::-1]


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("greet.proto", "greet_pb2"),
        ("greet/v1/greet.proto", "greet.v1.greet_pb2"),
        ("my-app/greet-all.proto", "my_app.greet_all_pb2"),
        ("greet.v2.proto", "greet.v2_pb2"),
        ("greet.protodevel", "greet_pb2"),
    ],
)
def test_modules_are_named_as_protoc_names_them(file: str, module: str) -> None:
    assert names.module_name(file, "_pb2", "") == module
    assert names.module_name(file, "_pb2", "gen.python") == f"gen.python.{module}"


def test_prefix_is_not_for_the_modules_of_protobuf() -> None:
    module = names.module_name("google/protobuf/any.proto", "_pb2", "gen")
    assert module == "google.protobuf.any_pb2"
    assert names.module_name("google/type/date.proto", "_pb2", "gen") == "gen.google.type.date_pb2"


@pytest.mark.parametrize(
    ("modules", "aliases"),
    [
        (["a.v1.a_pb2", "b.v1.b_pb2"], ["a_pb2", "b_pb2"]),
        (["own.types_pb2", "b.types_pb2"], ["types_pb2", "b_types_pb2"]),
        (["a.types_pb2", "b.types_pb2"], ["a_types_pb2", "b_types_pb2"]),
        (["gen.a.types_pb2", "gen.b.types_pb2"], ["a_types_pb2", "b_types_pb2"]),
        (["a.b.types_pb2", "a_b.types_pb2"], ["a_b_types_pb2", "a_b_types_pb2_"]),
        (["2fa_pb2", "a b_pb2"], ["_2fa_pb2", "a_b_pb2"]),
        (["taken_pb2"], ["taken_pb2_"]),
    ],
)
def test_modules_of_messages_have_distinct_names(modules: list[str], aliases: list[str]) -> None:
    result = names.module_aliases(modules, "own.types_pb2", "gen", {"taken_pb2"})
    assert [result[module] for module in modules] == aliases
    assert result == names.module_aliases(modules[::-1], "own.types_pb2", "gen", {"taken_pb2"})
