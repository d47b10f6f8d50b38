"""Runs protoc, with the plugin that is installed beside this Python, over the files in proto/."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest

PROTO_ROOT = Path(__file__).parent / "proto"
PLUGIN = Path(sysconfig.get_path("scripts"), "protoc-gen-connect-sync")


class Protoc(Protocol):
    """Runs protoc over the files below ``root``, all of them or those that are named."""

    def __call__(
        self,
        out: Path,
        *files: str,
        root: Path = PROTO_ROOT,
        arguments: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def protoc() -> Protoc:
    def run(
        out: Path, *files: str, root: Path = PROTO_ROOT, arguments: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        out.mkdir(exist_ok=True)
        return subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"-I{root}"),
                *(f"--plugin={PLUGIN}", f"--connect-sync_out={out}", *arguments),
                *(files or all_files(root)),
            ],
            capture_output=True,
            text=True,
        )

    return run


def all_files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))


@pytest.fixture(scope="session")
def generated(protoc: Protoc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all that protoc and the plugin write for the files in proto/."""
    out = tmp_path_factory.mktemp("generated")
    run = protoc(out, arguments=[f"--python_out={out}", f"--pyi_out={out}"])
    assert (run.returncode, run.stderr) == (0, "")
    return out


@pytest.fixture(scope="session")
def import_generated(generated: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a generated module by its dotted name."""
    sys.path.insert(0, str(generated))
    importlib.invalidate_caches()
    yield importlib.import_module
    sys.path.remove(str(generated))
