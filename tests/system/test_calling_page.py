"""docs/calling.md, followed as it stands where it tells of curl, buf and grpcio.

What the page says to install is there: the environment that the tests run in, curl, and the packages that
`tests.system.prepare` has got. The page's other clients are tested by programs of their own, in the folders
beside this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks

_HERE = Path(__file__).resolve().parent
_PAGE = _HERE.parents[1] / "docs" / "calling.md"

_SECTIONS = ("The server", "curl", "buf curl", "grpcio")
_BLOCKS = [block for block in read_blocks(_PAGE) if block.section in _SECTIONS]
_FILES, _EXAMPLES, _PREPARATIONS = sort_blocks(_BLOCKS)


@pytest.fixture(scope="module")
def newcomer(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Lend somebody who has followed the README, and for whom the page's server runs."""
    newcomer = Newcomer(
        tmp_path_factory.mktemp("calling"),
        node.parent,
        _HERE / "node" / "node_modules" / ".bin",
        BUF_CACHE_DIR=str(tmp_path_factory.mktemp("buf")),
    )
    readme = sort_blocks(read_blocks(README))
    newcomer.save(readme.files)
    newcomer.save(_FILES)
    (generate,) = [block for block in readme.preparations if "--connect-sync_out" in block.text]
    newcomer.run(generate.text)
    _, serve, _, generate_for_grpcio = _PREPARATIONS
    newcomer.run(generate_for_grpcio.text)
    with newcomer.serving(serve.text):
        yield newcomer


def test_every_block_is_followed() -> None:
    assert [block.file for block in _FILES] == ["grpc_client.py"]
    assert [command.text.split()[0] for command in _PREPARATIONS] == ["pip", "gunicorn", "npm", "python"]
    assert [(command.section, command.text.split()[0]) for command, _ in _EXAMPLES] == [
        *[("curl", "curl")] * 3,
        *[("curl", "printf")] * 2,
        *[("buf curl", "buf")] * 5,
        ("grpcio", "python"),
    ]
    assert len(_BLOCKS) == len(_FILES) + len(_PREPARATIONS) + 2 * len(_EXAMPLES)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(command.text, output.text, id=f"{command.section}, {number}")
        for number, (command, output) in enumerate(_EXAMPLES, 1)
    ],
)
def test_command_prints_what_the_page_shows(newcomer: Newcomer, command: str, output: str) -> None:
    assert newcomer.run(command).splitlines() == output.splitlines()
