"""Run the official conformance suite against our server and our client: ``make conformance``.

It needs Go, to build the runner: see `tests.toolchains`. Options that are not of this program go to the
runner, for example

    python -m tests.conformance.run --mode server --trace --run '**/unary/success'
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from typing import NamedTuple

from tests.toolchains import Go, SetupError, beside_python, generate

_MODULE = "connectrpc.com/conformance"
_VERSION = "v1.0.7"

_ROOT = Path(__file__).resolve().parents[2]
_HERE = _ROOT / "tests" / "conformance"
_GENERATED = _HERE / "gen"
_RUNNER = _ROOT / "build" / "conformance" / _VERSION / "connectconformance"

# How many cases there are for what server.yaml and client.yaml say.
_CASES = {"server": 8721, "client": 4310}
_SIDES = tuple(_CASES)

# A client of the runner makes all its calls over one HTTP/2 connection, whose streams gunicorn serves one
# after the other: many calls at once would wait for each other past their deadlines. Many servers do not.
_CORES = os.cpu_count() or 1
_PARALLEL = {"server": ("--parallel", "2", "--max-servers", str(4 * _CORES)), "client": ()}

# Where a call gets no answer for long, the runner waits for itself, for ever.
_MAX_SECONDS = 1800

# The last lines of a run. Cases that the runner could not start are in none of the numbers, and do
# not make it fail.
_TOTALS = re.compile(r"^Total cases: (\d+)\n(\d+) passed, (\d+) failed$", re.MULTILINE)


# What the runner says, with -v, before the cases of each server.
_CASES_OF_SERVER = re.compile(r"^Running (\d+) tests with .*\bPROTOCOL_(\w+)", re.MULTILINE)
_PROTOCOLS = {"CONNECT": "Connect", "GRPC_WEB": "gRPC-Web", "GRPC": "gRPC"}


class _Outcome(NamedTuple):
    """How a run has ended."""

    passed: bool
    cases: Counter[str]
    """How many cases there were, by protocol."""

    def __str__(self) -> str:
        cases = ", ".join(f"{self.cases[protocol]} of {name}" for protocol, name in _PROTOCOLS.items())
        return f"{'passed' if self.passed else 'FAILED'} ({cases})"


def main() -> int:
    """Run the suite as the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Run the official conformance suite.",
        epilog="Further options go to the runner: --run PATTERN, --trace, -v, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--mode", choices=[*_SIDES, "both"], default="both", help="what to test")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="runs in a row")
    arguments, runner_options = parser.parse_known_args()
    if arguments.runs < 1:
        parser.error("--runs takes a positive number")
    sides = _SIDES if arguments.mode == "both" else (arguments.mode,)

    try:
        _require_environment()
        _RUNNER.parent.mkdir(parents=True, exist_ok=True)
        go = Go(_RUNNER.parent)
        _build_runner(go)
        _generate(_download_module(go) / "proto")
    except SetupError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2

    summaries = []
    passed = True
    for number in range(1, arguments.runs + 1):
        for side in sides:
            title = f"{side}, run {number} of {arguments.runs}"
            print(f"== {title}", flush=True)
            start = time.monotonic()
            outcome = _run_suite(side, runner_options)
            passed = passed and outcome.passed
            summaries.append(f"{title}: {outcome} in {time.monotonic() - start:.0f} s")
    print("==", *summaries, sep="\n")
    return 0 if passed else 1


def _require_environment() -> None:
    install = f"{sys.executable} -m pip install"
    if sys.prefix == sys.base_prefix:
        raise SetupError("run it with a virtual environment's Python: make conformance")
    for module, package in (("grpc_tools", "grpcio-tools"), ("gunicorn", "gunicorn")):
        if importlib.util.find_spec(module) is None:
            raise SetupError(f"{package} is missing: {install} {package}")
    if not beside_python("protoc-gen-connect-sync").exists():
        raise SetupError(f"protoc-gen-connect-sync is missing: {install} --editable {_ROOT}")


def _build_runner(go: Go) -> None:
    if _RUNNER.exists():
        return
    print(f"== building the runner {_VERSION}", flush=True)
    go.run("install", f"{_MODULE}/cmd/{_RUNNER.name}@{_VERSION}", GOBIN=str(_RUNNER.parent))


def _download_module(go: Go) -> Path:
    """Return the folder of the module that the runner is built from."""
    described = go.run("mod", "download", "-json", f"{_MODULE}@{_VERSION}")
    return Path(json.loads(described)["Dir"])


def _generate(protos: Path) -> None:
    """Write the message classes and the Connect code of the module's ``.proto`` files."""
    generate(
        _GENERATED,
        protos,
        *sorted(protos.rglob("*.proto")),
        plugins=[beside_python("protoc-gen-connect-sync")],
        outputs={"python": "", "pyi": "", "connect-sync": ""},
    )
    # Regular packages: a package of the same name that is installed would hide one without.
    for directory in {path.parent for path in _GENERATED.rglob("*.py")}:
        while directory != _GENERATED:
            (directory / "__init__.py").touch()
            directory = directory.parent


def _run_suite(side: str, options: Sequence[str]) -> _Outcome:
    """Run the suite against ``side``, show what it prints, and tell whether all cases passed."""
    paths = (str(_ROOT), str(_GENERATED))
    runner = [str(_RUNNER), "--mode", side, "--conf", str(_HERE / f"{side}.yaml")]
    runner += ["-v", *_PARALLEL[side], *options]
    with subprocess.Popen(
        [*runner, "--", sys.executable, "-m", f"tests.conformance.{side}"],
        cwd=_ROOT,
        # The runner itself is what takes the time: its garbage is collected less often.
        env={"GOGC": "800", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        watchdog = Timer(_MAX_SECONDS, process.kill)
        watchdog.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        finally:
            watchdog.cancel()
    output = "".join(lines)
    cases = Counter[str]()
    for number, protocol in _CASES_OF_SERVER.findall(output):
        cases[protocol] += int(number)
    totals = _TOTALS.search(output)
    if process.returncode != 0 or totals is None:
        return _Outcome(False, cases)
    total, passed, failed = map(int, totals.groups())
    # With options, there may be fewer.
    expected = total if options else _CASES[side]
    has_passed = expected == passed > 0 and failed == 0 and "could not be run" not in output
    return _Outcome(has_passed, cases)


if __name__ == "__main__":
    sys.exit(main())
