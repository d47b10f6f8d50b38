"""The curl lines of `connect-sync serve`, run as they stand: by a shell, and by curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.serving import Serving, read_commands, write_shapes
from tests.integration.wire import PATIENCE


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The commands in the banner of a server, which runs."""
    folder: Path = tmp_path_factory.mktemp("shapes")
    write_shapes(folder)
    with Serving(folder, "server:app", "--port=0", paths=(folder / "gen",)) as serving:
        yield read_commands(serving.read_banner())


def test_every_command_is_answered(commands: list[str]) -> None:
    assert len(commands) == 20

    for command in commands:
        done = subprocess.run(
            ["sh", "-c", f"{command} --silent --noproxy localhost --write-out '\n%{{http_code}}'"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        answer, status = done.stdout.splitlines()
        assert (done.returncode, done.stderr, status) == (0, "", "200"), (command, answer)
        json.loads(answer)
