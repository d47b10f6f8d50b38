"""Run the first tier of tests on each other supported Python that this machine has.

The Python that runs this is left out: it is the one of `make test`.
Interpreters are looked for on PATH and among pyenv's versions. Each gets an environment of its own
below `.venvs`, made by the Makefile as it makes `.venv`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14")
OWN = ".".join(map(str, sys.version_info[:2]))
PASSED, FAILED, NOT_FOUND = "passed", "FAILED", "not found"


def main() -> int:
    """Test every version, then say which passed, failed or were not found."""
    results = {version: test(version) for version in SUPPORTED if version != OWN}
    print(f"\nPython {OWN}: the one of make test")
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return 1 if FAILED in results.values() else 0


def test(version: str) -> str:
    """Run `make test` with an interpreter of `version`, if there is one."""
    interpreter = find_interpreter(version)
    if interpreter is None:
        return NOT_FOUND
    print(f"\n==> Python {version}: {interpreter}", flush=True)
    settings = [f"PYTHON={interpreter}", f"VENV=.venvs/{version}"]
    run = subprocess.run(["make", "--no-print-directory", "test", *settings], cwd=ROOT)
    return PASSED if run.returncode == 0 else FAILED


def find_interpreter(version: str) -> Path | None:
    """Return an interpreter of `version` that can make virtual environments."""
    return next((path for path in candidates(version) if is_usable(path, version)), None)


def candidates(version: str) -> Iterator[Path]:
    """Yield the files that may be an interpreter of `version`."""
    for name in (f"python{version}", "python3"):
        for directory in os.get_exec_path():
            yield Path(directory, name)
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], check=True, capture_output=True, text=True)
        yield from Path(root.stdout.strip(), "versions").glob(f"{version}*/bin/python")


def is_usable(path: Path, version: str) -> bool:
    """Run `path` to see: a pyenv shim may have nothing behind it, a Debian Python no ensurepip."""
    if not (path.is_file() and os.access(path, os.X_OK)):
        return False
    program = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([path, "-c", program], capture_output=True, text=True)
    return answer.returncode == 0 and answer.stdout.strip() == version


if __name__ == "__main__":
    sys.exit(main())
