"""The import block of a generated module, gathered while its body is written."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import takewhile

from connect_sync.codegen.layout import bracketed, from_import
from connect_sync.codegen.names import free_name, is_usable

_STANDARD_LIBRARY = frozenset(["collections", "importlib", "typing", "warnings"])
_INSTALLED = ("connect_sync.", "google.protobuf.", "wsgi_adapters.")


class Imports:
    """The names that a module imports, and what each is called there.

    ``package`` is the package of the module itself, ``module_aliases`` says what to call the
    modules that protoc generates, and ``taken`` are names that other imports make way for.
    """

    def __init__(self, package: str, module_aliases: Mapping[str, str], taken: Collection[str]) -> None:
        self._package = package
        self._module_aliases = module_aliases
        self._taken = taken
        self._modules: set[str] = set()
        self._names: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._dynamic: set[str] = set()

    def name(self, module: str, name: str) -> str:
        """Import ``name`` from ``module``, and return what it is called."""
        alias = free_name(name, self._taken)
        self._names[module].add((name, alias))
        return alias

    def module(self, module: str) -> str:
        """Import a module, and return what it is called."""
        statement = self._statement(module)
        if statement is None:
            self.module("importlib")
            self._dynamic.add(module)
        elif statement[0]:
            self._names[statement[0]].add((statement[1], self._alias(module)))
        else:
            self._modules.add(module)
        return self._alias(module)

    def is_static(self, module: str) -> bool:
        """Whether an import statement can name the module, so that type checkers know it."""
        return self._statement(module) is not None

    def _alias(self, module: str) -> str:
        return self._module_aliases.get(module) or free_name(module, self._taken)

    def _statement(self, module: str) -> tuple[str, str] | None:
        """Return where to import the module from and its name there, relative if only that works.

        A part of a path that is a keyword in Python, as in ``acme/import/v1``, fits no statement.
        """
        parts = module.split(".")
        if all(map(is_usable, parts)):
            return ".".join(parts[:-1]), parts[-1]
        package = self._package.split(".")
        shared = _shared_length(package, parts[:-1])
        if shared and all(map(is_usable, parts[shared:])):
            dots = "." * (len(package) - shared + 1)
            return dots + ".".join(parts[shared:-1]), parts[-1]
        return None

    def lines(self) -> list[str]:
        """Return the import block, in the order that isort gives it."""
        sections: dict[int, list[str]] = defaultdict(list)
        for module in sorted(self._modules, key=_natural):
            alias = self._alias(module)
            sections[_section(module)].append(
                f"import {module}" if alias == module else f"import {module} as {alias}"
            )
        for module, names in sorted(self._grouped_names(), key=_from_import_key):
            sections[_section(module)] += from_import(module, names)
        lines = ["from __future__ import annotations"]
        for section in sorted(sections):
            lines += ["", *sections[section]]
        if self._dynamic:
            lines.append("")
        for module in sorted(self._dynamic):
            call = f"{self._alias(module)} = {self._alias('importlib')}.import_module"
            lines += bracketed(call, [f'"{module}"'])
        return lines

    def _grouped_names(self) -> list[tuple[str, list[str]]]:
        """Return what each statement imports: a renamed name has a statement of its own."""
        groups = []
        for module, names in self._names.items():
            plain = sorted((name for name, alias in names if name == alias), key=_member_key)
            groups += [(module, plain)] if plain else []
            groups += [(module, [f"{name} as {alias}"]) for name, alias in names if name != alias]
        return groups


def _shared_length(path: list[str], other: list[str]) -> int:
    pairs = zip(path, other, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _section(module: str) -> int:
    if module.startswith("."):
        return 3
    if module.split(".")[0] in _STANDARD_LIBRARY:
        return 0
    return 1 if f"{module}.".startswith(_INSTALLED) else 2


_Key = tuple[list[tuple[int, int]], str]


def _natural(text: str) -> _Key:
    """Return a key by which ``v2`` comes before ``v10``, whatever the case."""
    parts = [
        (ord("0"), int(part)) if part.isdecimal() else (ord(part), 0)
        for part in re.findall(r"\d+|\D", text.lower())
    ]
    return parts, text


def _member_key(name: str) -> tuple[bool, _Key]:
    """Return isort's key for a name: classes come before the rest."""
    return not name[0].isupper(), _natural(name)


def _from_import_key(group: tuple[str, list[str]]) -> tuple[int, _Key, tuple[bool, _Key]]:
    """Return isort's key for a statement: of relative ones, those from furthest up come first."""
    module, names = group
    path = module.lstrip(".")
    return len(path) - len(module), _natural(path), _member_key(names[0])
