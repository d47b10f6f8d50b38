"""The README, followed as it stands: its files are saved, its commands run, and their output is compared.

The environment that the tests run in stands for what the README says before, to install.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks

_BLOCKS = [block for block in read_blocks(README) if block.section not in ("", "Install")]
_FILES, _EXAMPLES, _PREPARATIONS = sort_blocks(_BLOCKS)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Lend somebody who has come so far that the server runs."""
    newcomer = Newcomer(tmp_path_factory.mktemp("readme"))
    newcomer.save(_FILES)
    generate, serve = _PREPARATIONS
    newcomer.run(generate.text)
    with newcomer.serving(serve.text):
        yield newcomer


def test_every_block_is_followed() -> None:
    assert [block.file for block in _FILES] == [
        "greet/v1/greet.proto",
        "server.py",
        "client.py",
        "streams.py",
    ]
    assert [command.text.split()[0] for command in _PREPARATIONS] == ["python", "gunicorn"]
    assert [command.text.split()[0] for command, _ in _EXAMPLES] == ["python", "curl", "curl", "python"]
    assert len(_BLOCKS) == len(_FILES) + len(_PREPARATIONS) + 2 * len(_EXAMPLES)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(command.text, output.text, id=f"{command.section}, {command.text.split()[0]}")
        for command, output in _EXAMPLES
    ],
)
def test_command_prints_what_the_readme_shows(newcomer: Newcomer, command: str, output: str) -> None:
    assert newcomer.run(command).splitlines() == output.splitlines()
