"""The direction of imports: which modules of the two packages may import which."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top down. A module may import the modules of its own group and those of the layers below; the
# groups of one layer do not know each other.
LAYERS: tuple[dict[str, str], ...] = (
    {
        "development server": """
            wsgi_adapters.serve wsgi_adapters.banner wsgi_adapters.example wsgi_adapters.reloader
        """,
        "code generation": """
            connect_sync.codegen connect_sync.codegen.docs connect_sync.codegen.generator
            connect_sync.codegen.imports connect_sync.codegen.layout connect_sync.codegen.names
            connect_sync.codegen.plugin connect_sync.codegen.schema
        """,
    },
    {"public names of wsgi_adapters": "wsgi_adapters"},
    {
        "middleware": "wsgi_adapters.cors wsgi_adapters.health wsgi_adapters.router",
        "Flask": "wsgi_adapters.flask wsgi_adapters.flask_errors",
        "Django": "wsgi_adapters.django wsgi_adapters.django_errors",
    },
    {"WSGI application": "wsgi_adapters.application", "errors of frameworks": "wsgi_adapters.http_errors"},
    {"WSGI servers": "wsgi_adapters.servers wsgi_adapters.gunicorn wsgi_adapters.body"},
    {"public names of connect_sync": "connect_sync"},
    {"health": "connect_sync.health", "testing": "connect_sync.testing"},
    {
        "client": """
            connect_sync.client connect_sync.client.client connect_sync.client.call connect_sync.client.unary
            connect_sync.client.stream connect_sync.client.options connect_sync.client.metadata
            connect_sync.client.transport connect_sync.client.http1 connect_sync.client.lifetime
            connect_sync.client.arguments connect_sync.client.failure connect_sync.client.foreign
        """,
        "server": """
            connect_sync.server connect_sync.server.service connect_sync.server.handlers
            connect_sync.server.endpoint connect_sync.server.unary connect_sync.server.stream
            connect_sync.server.text connect_sync.server.plain connect_sync.server.errors
            connect_sync.server.context
        """,
    },
    {"calls": "connect_sync.endpoint connect_sync.interceptor"},
    {
        "protocols": """
            connect_sync.protocols connect_sync.protocols.protocol connect_sync.protocols.connect
            connect_sync.protocols.grpc connect_sync.protocols.grpc_web
        """,
    },
    {"messages": "connect_sync.envelope connect_sync.codec connect_sync.compression"},
    {
        "values": """
            connect_sync.context connect_sync.http connect_sync.headers connect_sync.deadline
            connect_sync.method connect_sync.protocol_type connect_sync.chunked connect_sync.signatures
            connect_sync.errors connect_sync.code connect_sync.version connect_sync.rpc
        """,
    },
)

# The rest of connect_sync takes and returns bytes and headers.
GROUPS_WITH_IO = {"client"}
IO_MODULES = ("http.client", "select", "selectors", "socket", "ssl", "urllib3")
# What these modules have that does no I/O: tables.
TABLES = {"http.client.responses"}

# What is installed with the packages, and what extras and newer Pythons add.
DEPENDENCIES = {"google", "urllib3"}
OPTIONAL = {
    "backports",
    "compression",
    "django",
    "flask",
    "gunicorn",
    "markupsafe",
    "rest_framework",
    "werkzeug",
}

PLACES = {
    module: (depth, group)
    for depth, layer in enumerate(LAYERS)
    for group, modules in layer.items()
    for module in modules.split()
}


@dataclass(frozen=True)
class Import:
    """An import statement's effect: ``module`` imports ``name``, a module or a name in one."""

    module: str
    name: str
    is_for_types: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.name}"


def read_imports(module: str, source: str) -> Iterator[Import]:
    """Yield what a module imports, wherever in it: in functions, and for type checkers alone."""

    def visit(node: ast.AST, is_for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, is_for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            yield from (Import(module, f"{node.module}.{alias.name}", is_for_types) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from chain.from_iterable(visit(child, True) for child in node.body)
            yield from chain.from_iterable(visit(child, is_for_types) for child in node.orelse)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, is_for_types)

    return visit(ast.parse(source), False)


def module_files() -> dict[str, Path]:
    files = {}
    for package in ("connect_sync", "wsgi_adapters"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = path
    return files


FILES = module_files()
IMPORTS = [
    statement for module, path in FILES.items() for statement in read_imports(module, path.read_text())
]


def target(statement: Import) -> str | None:
    """Return the module of the two packages that is imported; None for one of neither."""
    names = (statement.name, statement.name.rpartition(".")[0])
    return next((name for name in names if name in FILES), None)


def is_allowed(module: str, imported: str) -> bool:
    depth, group = PLACES[module]
    imported_depth, imported_group = PLACES[imported]
    return imported_depth > depth or imported_group == group


SOURCE = """
import a.b
if TYPE_CHECKING:
    from c import d
else:
    import e
def f():
    try:
        from g import h
    finally:
        pass
"""


def test_imports_are_found_wherever_they_are() -> None:
    found = [(statement.name, statement.is_for_types) for statement in read_imports("m", SOURCE)]
    assert found == [("a.b", False), ("c.d", True), ("e", False), ("g.h", False)]


def test_every_module_has_a_layer() -> None:
    assert sorted(FILES.keys() - PLACES.keys()) == [], "give it a place in LAYERS"


def test_imports_point_downward() -> None:
    upward = [
        str(statement)
        for statement in IMPORTS
        if (imported := target(statement)) and not is_allowed(statement.module, imported)
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("connect_sync.server.service", "wsgi_adapters.application"),
        ("connect_sync.client.client", "connect_sync.server.service"),
        ("connect_sync.server.service", "connect_sync.client.client"),
        ("connect_sync.protocols.connect", "connect_sync.server.service"),
        ("connect_sync.codec", "connect_sync.protocols.connect"),
        ("connect_sync.errors", "connect_sync.envelope"),
        ("connect_sync.client.client", "connect_sync"),
        ("connect_sync.client.client", "connect_sync.codegen"),
    ],
)
def test_layers_forbid_what_the_design_forbids(module: str, imported: str) -> None:
    assert not is_allowed(module, imported)


def test_modules_import_each_other_in_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for statement in IMPORTS:
        imported = target(statement)
        if imported and not statement.is_for_types:
            graph.setdefault(statement.module, set()).add(imported)
    TopologicalSorter(graph).prepare()


def test_only_the_client_does_io() -> None:
    io = [
        str(statement)
        for statement in IMPORTS
        if statement.module.startswith("connect_sync")
        and PLACES[statement.module][1] not in GROUPS_WITH_IO
        and statement.name not in TABLES
        and any(f"{statement.name}.".startswith(f"{name}.") for name in IO_MODULES)
    ]
    assert io == []


def test_only_dependencies_are_imported_at_run_time() -> None:
    allowed = {"connect_sync", "wsgi_adapters", *sys.stdlib_module_names, *DEPENDENCIES, *OPTIONAL}
    others = [
        str(statement)
        for statement in IMPORTS
        if not statement.is_for_types and statement.name.partition(".")[0] not in allowed
    ]
    assert others == []
