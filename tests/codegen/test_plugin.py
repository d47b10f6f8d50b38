"""protoc-gen-connect-sync as protoc, and a person, start it."""

from __future__ import annotations

import importlib
import os
import pty
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from connect_sync.codegen.plugin import respond
from tests.codegen.conftest import PLUGIN, PROTO_ROOT, Protoc, all_files


def read_tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def write_protos(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "proto" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proto"


# What is written, and where


def test_output_is_the_same_from_run_to_run(protoc: Protoc, tmp_path: Path) -> None:
    protoc(tmp_path / "first")
    protoc(tmp_path / "second")
    assert read_tree(tmp_path / "first") == read_tree(tmp_path / "second") != {}


def test_output_does_not_depend_on_the_order_of_files(protoc: Protoc, tmp_path: Path) -> None:
    files = all_files(PROTO_ROOT)
    protoc(tmp_path / "forward", *files)
    protoc(tmp_path / "backward", *reversed(files))
    assert read_tree(tmp_path / "forward") == read_tree(tmp_path / "backward") != {}


def test_output_does_not_depend_on_the_other_files(protoc: Protoc, tmp_path: Path) -> None:
    protoc(tmp_path / "all")
    protoc(tmp_path / "one", "shapes/v1/shape-service.proto")
    (path, text) = read_tree(tmp_path / "one").popitem()
    assert path == "shapes/v1/shape_service_connect.py"
    assert read_tree(tmp_path / "all")[path] == text


def test_module_stands_beside_that_of_the_messages(generated: Path) -> None:
    modules = [path for path in read_tree(generated) if path.endswith("_connect.py")]
    messages = {path for path in read_tree(generated) if path.endswith("_pb2.py")}
    assert {path.replace("_connect.py", "_pb2.py") for path in modules} <= messages
    assert "other_root_connect.py" in modules


def test_dot_in_a_file_name_is_a_folder_as_for_protoc(protoc: Protoc, tmp_path: Path) -> None:
    root = write_protos(
        tmp_path,
        {"a/x.v2.proto": 'syntax = "proto3"; message M {} service S { rpc R(M) returns (M); }'},
    )
    out = tmp_path / "out"
    run = protoc(out, root=root, arguments=[f"--python_out={out}"])
    assert run.returncode == 0
    assert read_tree(out).keys() == {"a/x/v2_pb2.py", "a/x/v2_connect.py"}


# The option


def test_package_prefix_is_before_generated_modules(protoc: Protoc, tmp_path: Path) -> None:
    run = protoc(tmp_path, arguments=["--connect-sync_opt=package_prefix=gen.python"])
    assert (run.returncode, run.stderr) == (0, "")
    text = (tmp_path / "shapes/v1/shape_service_connect.py").read_text()
    assert "from gen.python import root_pb2\n" in text
    assert "from gen.python.shapes.v1 import shape_service_pb2\n" in text
    assert "from gen.python.shapes.v2 import types_pb2 as shapes_v2_types_pb2\n" in text
    assert "from google.protobuf import any_pb2, empty_pb2, timestamp_pb2\n" in text
    text = (tmp_path / "acme/v1/user_connect.py").read_text()
    assert 'importlib.import_module("gen.python.acme.import.v1.things_pb2")\n' in text


def test_modules_below_a_package_prefix_import(
    protoc: Protoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "prefixed"
    file = "editions/v1/proto3.proto"
    arguments = [f"--python_out={out}", "--connect-sync_opt=package_prefix=prefixed"]
    assert protoc(out, file, arguments=arguments).returncode == 0
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("prefixed.editions.v1.proto3_connect")
    messages = importlib.import_module("prefixed.editions.v1.proto3_pb2")
    assert module.MaybeServiceWSGIApplication.methods["get"].input is messages.Maybe


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("speed=9", "unknown option 'speed'; there is package_prefix"),
        ("package_prefix", "package_prefix: '' is not the name of a Python package"),
        ("package_prefix=", "package_prefix: '' is not the name of a Python package"),
        ("package_prefix=a.", "package_prefix: 'a.' is not the name of a Python package"),
        ("package_prefix=a/b", "package_prefix: 'a/b' is not the name of a Python package"),
        ("package_prefix=a.class", "package_prefix: 'a.class' is not the name of a Python package"),
        ("package_prefix=a,speed=9", "unknown option 'speed'; there is package_prefix"),
    ],
)
def test_wrong_option_is_protocs_error(protoc: Protoc, tmp_path: Path, option: str, error: str) -> None:
    run = protoc(tmp_path, "root.proto", arguments=[f"--connect-sync_opt={option}"])
    assert run.returncode == 1
    assert run.stderr == f"--connect-sync_out: {error}\n"
    assert read_tree(tmp_path) == {}


# Schemas that cannot be served


def test_methods_with_one_name_are_protocs_error(protoc: Protoc, tmp_path: Path) -> None:
    service = "service S { rpc import(M) returns (M); rpc import_(M) returns (M); }"
    root = write_protos(
        tmp_path,
        {
            "a/v1/good.proto": 'syntax = "proto3"; import "a/v1/bad.proto"; '
            "service T { rpc Get(a.v1.M) returns (a.v1.M); }",
            "a/v1/bad.proto": f'syntax = "proto3"; package a.v1; message M {{}} {service}',
        },
    )
    run = protoc(tmp_path / "out", root=root)
    assert run.returncode == 1
    assert run.stderr == (
        "--connect-sync_out: a/v1/bad.proto: method a.v1.S.import_: its name in Python, import_, "
        "is also that of import; rename one of them\n"
    )
    assert read_tree(tmp_path / "out") == {}


def test_files_with_one_module_are_protocs_error(protoc: Protoc, tmp_path: Path) -> None:
    schema = 'syntax = "proto3"; package %s; message M {} service S { rpc Get(M) returns (M); }'
    root = write_protos(tmp_path, {"a-b.proto": schema % "one", "a_b.proto": schema % "two"})
    run = protoc(tmp_path / "out", root=root)
    assert run.returncode == 1
    assert run.stderr == ("--connect-sync_out: a_b.proto: another file's module is also a_b_connect.py\n")


def request_for_one_method() -> CodeGeneratorRequest:
    request = CodeGeneratorRequest(file_to_generate=["a.proto"])
    file = request.proto_file.add(name="a.proto", package="a")
    file.message_type.add(name="M")
    file.service.add(name="S").method.add(name="Get", input_type=".a.M", output_type=".a.M")
    return request


def test_unknown_message_is_an_error() -> None:
    request = request_for_one_method()
    request.proto_file[0].service[0].method[0].output_type = ".b.N"
    response = respond(request)
    assert response.error == "a.proto: method a.S.Get: unknown message .b.N"
    assert not response.file


def test_file_without_descriptor_is_an_error() -> None:
    request = request_for_one_method()
    request.file_to_generate.append("b.proto")
    assert respond(request).error == "b.proto: protoc sent no descriptor of it"


# The protocol with protoc


def test_response_says_which_features_and_editions_are_known() -> None:
    response = respond(request_for_one_method())
    assert not response.HasField("error")
    assert [file.name for file in response.file] == ["a_connect.py"]
    assert response.supported_features == (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    assert response.minimum_edition == Edition.EDITION_PROTO2
    assert response.maximum_edition == Edition.EDITION_2024


def test_request_on_standard_input_is_answered_on_standard_output() -> None:
    request = request_for_one_method()
    run = subprocess.run([PLUGIN], input=request.SerializeToString(), capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert CodeGeneratorResponse.FromString(run.stdout) == respond(request)


def test_input_that_is_no_request_is_refused() -> None:
    run = subprocess.run([PLUGIN], input=b"service Greet {}", capture_output=True)
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr == (
        b"protoc-gen-connect-sync: standard input is not a request of protoc's; see --help\n"
    )


# Started by hand


def test_version() -> None:
    run = subprocess.run([PLUGIN, "--version"], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout == f"protoc-gen-connect-sync {version('connect-sync')}\n"


def test_help_shows_how_protoc_starts_it() -> None:
    run = subprocess.run([PLUGIN, "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert "protoc --python_out=gen --pyi_out=gen --connect-sync_out=gen" in run.stdout
    assert "--connect-sync_opt=package_prefix=" in run.stdout


def test_terminal_as_input_gets_the_help() -> None:
    leader, follower = pty.openpty()
    try:
        run = subprocess.run([PLUGIN], stdin=follower, capture_output=True, text=True)
    finally:
        os.close(leader)
        os.close(follower)
    assert (run.returncode, run.stdout) == (2, "")
    assert "protoc --python_out=gen" in run.stderr
