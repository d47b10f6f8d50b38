"""What formatters and type checkers say of the generated modules, by their defaults and strictly.

The tools come with ``pip install -e '.[dev]'``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from connect_sync.codegen.docs import clean_comment
from connect_sync.codegen.layout import docstring
from tests.codegen.conftest import Protoc
from tests.codegen.test_layout import FRAGMENTS

ROOT = Path(__file__).parent.parent.parent

# protoc's stubs are used as they are: what is wrong in them is not reported here.
MYPY_SETTINGS = """\
[mypy]
strict = True
explicit_package_bases = True
follow_imports = silent
follow_imports_for_stubs = True
"""

PYRIGHT_SETTINGS = {
    "include": ["**/*_connect.py", "user.py"],
    "typeCheckingMode": "strict",
    "reportUnnecessaryTypeIgnoreComment": True,
    "reportPrivateUsage": False,  # a schema may name a message __Mangled
    "extraPaths": [str(ROOT)],
}

# The oldest Python, which lacks typing.Unpack, and the newest.
VERSIONS = pytest.mark.parametrize("version", ["3.10", "3.14"])

# Code as users write it. An ignored error must be there: to ignore none is one.
USER = '''\
from __future__ import annotations

from collections.abc import Iterable, Iterator

from connect_sync import CallOptions, RequestContext, Unpack
from greet.v1.greet_connect import (
    GreetService,
    GreetServiceClient,
    GreetServiceWSGIApplication,
)
from greet.v1.greet_pb2 import GreetRequest, GreetResponse


class Greeter(GreetService):
    """Leaves greet_group out."""

    def greet(self, request: GreetRequest, ctx: RequestContext) -> GreetResponse:
        return GreetResponse(greeting=request.name)

    def greet_individuals(
        self, request: GreetRequest, ctx: RequestContext
    ) -> Iterator[GreetResponse]:
        yield GreetResponse(greeting=request.name)


class Structural:
    """Has the methods, and no base."""

    def greet(self, request: GreetRequest, ctx: RequestContext) -> GreetResponse:
        return GreetResponse()

    def greet_group(
        self, request: Iterator[GreetRequest], ctx: RequestContext
    ) -> GreetResponse:
        return GreetResponse(greeting=next(request).name)

    def greet_individuals(
        self, request: GreetRequest, ctx: RequestContext
    ) -> Iterator[GreetResponse]:
        return iter([])


GreetServiceWSGIApplication(Greeter())
GreetServiceWSGIApplication(Structural())
GreetServiceWSGIApplication(object())  # type: ignore[arg-type]


def call(client: GreetServiceClient, requests: Iterable[GreetRequest]) -> None:
    one: GreetResponse = client.greet(GreetRequest(), headers={"a": "b"}, use_get=True)
    one = client.greet_group(requests, timeout_ms=500)
    for one in client.greet_individuals(GreetRequest()):
        print(one.greeting)
    with client.greet_everyone(requests) as responses:
        one = next(responses)
    client.greet(one)  # type: ignore[arg-type]
    client.greet(GreetRequest(), timeout=500)  # type: ignore[call-arg]
    client.greet(GreetRequest(), timeout_ms="500")  # type: ignore[arg-type]
    client.greet_group(requests, use_get=True)  # type: ignore[call-arg]


def call_with(client: GreetServiceClient, **options: Unpack[CallOptions]) -> None:
    client.greet(GreetRequest(), use_get=True, **options)
    client.greet_individuals(GreetRequest(), **options).close()


call_with(GreetServiceClient("http://localhost"), timeout_ms=500, cancellation=None)
call_with(GreetServiceClient("http://localhost"), use_get=True)  # type: ignore[call-arg]
'''


@pytest.fixture(scope="module")
def checked(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the generated modules, with a user's code beside them."""
    root = tmp_path_factory.mktemp("checked") / "gen"
    shutil.copytree(generated, root)
    # protoc's stub for messages whose names are keywords is not Python.
    (root / "messages/v1/keywords_pb2.pyi").write_text(
        "from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n"
    )
    (root / "user.py").write_text(USER)
    return root


def long_names(length: int) -> str:
    """Return a schema whose names have that length, so that some line is as long as any limit."""
    service, method, message = (f"{letter}{'x' * (length - 1)}" for letter in "SRM")
    return f"""
        edition = "2023";
        package lengths{length};
        message {message} {{ message {message} {{}} }}
        service {service} {{ rpc {method}({message}) returns ({message}); }}
        service Short {{
          rpc {method}({message}) returns ({message}.{message});
          rpc Client(stream {message}) returns ({message});
          rpc Server({message}) returns (stream {message}) {{ option deprecated = true; }}
          rpc Bidi(stream {message}) returns (stream {message});
        }}
    """


def run_tool(root: Path, *arguments: str) -> tuple[int, str]:
    """Run a tool, and return its status and what it printed."""
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if "No module named" in run.stdout:
        pytest.fail(f"{run.stdout}install what is missing: pip install -e '.[dev]'")
    return run.returncode, run.stdout


def modules(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*_connect.py")]


@pytest.mark.parametrize("line_length", ["88", "100"])
def test_ruff_has_nothing_to_format(generated: Path, line_length: str) -> None:
    arguments = ["format", "--isolated", "--check", "--line-length", line_length]
    status, output = run_tool(generated, "ruff", *arguments, *modules(generated))
    assert status == 0, output


def test_ruff_has_nothing_to_format_whatever_the_length_of_names(protoc: Protoc, tmp_path: Path) -> None:
    protos, out = tmp_path / "proto", tmp_path / "out"
    protos.mkdir()
    for length in range(10, 100):
        (protos / f"l{length}.proto").write_text(long_names(length))
    assert protoc(out, root=protos).returncode == 0
    status, output = run_tool(out, "ruff", "format", "--isolated", "--diff", ".")
    assert (status, output) == (0, "90 files already formatted\n")


def test_ruff_has_nothing_to_format_in_docstrings(tmp_path: Path) -> None:
    texts = [clean_comment("".join(parts)) for parts in product(FRAGMENTS, repeat=3)]
    functions = ["\n".join(["def f():", *docstring(text or "-", 4)]) for text in texts]
    (tmp_path / "docstrings.py").write_text("\n\n\n".join(functions) + "\n", newline="")
    status, output = run_tool(tmp_path, "ruff", "format", "--isolated", "--diff", ".")
    assert status == 0, output


@VERSIONS
def test_ruff_finds_no_fault(checked: Path, version: str) -> None:
    arguments = ["check", "--isolated", "--no-cache", "--select=E4,E7,E9,F,I,UP"]
    target = f"--target-version=py{version.replace('.', '')}"
    status, output = run_tool(checked, "ruff", *arguments, target, *modules(checked))
    assert status == 0, output


@VERSIONS
def test_mypy_finds_no_fault(checked: Path, version: str) -> None:
    (checked / "mypy.ini").write_text(MYPY_SETTINGS)
    arguments = ["--config-file=mypy.ini", "--cache-dir=/dev/null", f"--python-version={version}"]
    status, output = run_tool(checked, "mypy", *arguments, "user.py", *modules(checked))
    assert status == 0, output


@VERSIONS
def test_pyright_finds_no_fault(checked: Path, version: str) -> None:
    settings = {**PYRIGHT_SETTINGS, "pythonVersion": version}
    (checked / "pyrightconfig.json").write_text(json.dumps(settings))
    status, output = run_tool(checked, "pyright", "--pythonpath", sys.executable)
    assert status == 0, output
