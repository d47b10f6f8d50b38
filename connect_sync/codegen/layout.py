"""Lines broken as ``ruff format`` breaks them, so that nothing is left for it to change.

What does not fit on a line gets an item a line and a trailing comma, a form that the formatter
keeps at any line length.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

_WIDTH = 88
_INDENT = 4


def bracketed(
    head: str, items: Sequence[str], tail: str = "", *, indent: int = 0, brackets: str = "()"
) -> list[str]:
    """Return ``head(items)tail``, a call or a signature, on one line or with one for each item."""
    opening, closing = brackets[0], brackets[1]
    line = _indented(f"{head}{opening}{', '.join(items)}{closing}{tail}", indent)
    if len(line) <= _WIDTH:
        return [line]
    return [
        _indented(f"{head}{opening}", indent),
        *(line for item in items for line in _broken(f"{item},", indent + _INDENT)),
        *_broken(f"{closing}{tail}", indent),
    ]


def _broken(line: str, indent: int) -> list[str]:
    """Break a line that is too long where its annotation has a place for it.

    That is in a subscript, as of ``a: Iterable[b],``, or around the type that a function returns.
    """
    if len(_indented(line, indent)) > _WIDTH:
        if parts := re.fullmatch(r"(.*\w\[)(.+)(\].*)", line):
            return _three_lines(*parts.groups(), indent=indent)
        if parts := re.fullmatch(r"(\) -> )(.+)(:)", line):
            start, annotation, end = parts.groups()
            lines = _three_lines(f"{start}(", annotation, f"){end}", indent=indent)
            if len(lines[1]) <= _WIDTH:
                return lines
    return [_indented(line, indent)]


def _three_lines(start: str, inner: str, end: str, *, indent: int) -> list[str]:
    return [
        _indented(start, indent),
        _indented(inner, indent + _INDENT),
        _indented(end, indent),
    ]


def from_import(module: str, names: Sequence[str]) -> list[str]:
    """Return ``from module import names``, in parentheses where that is too long for a line."""
    line = f"from {module} import {', '.join(names)}"
    return [line] if len(line) <= _WIDTH else bracketed(f"from {module} import ", names)


def assignment(target: str, value: str, *, indent: int = 0) -> list[str]:
    """Return ``target = value`` for a value with no place to break at: a string, or ``a.b.c``."""
    line = _indented(f"{target} = {value}", indent)
    lines = _three_lines(f"{target} = (", value, ")", indent=indent)
    is_string = value.startswith('"')
    # Parentheses go around a string only if that makes it fit.
    if len(line) <= _WIDTH or (is_string and len(lines[1]) > _WIDTH):
        return [line]
    return lines


def assigned_call(target: str, function: str, arguments: Sequence[str]) -> list[str]:
    """Return ``target = function(arguments)``, in parentheses if no other form fits."""
    plain = bracketed(f"{target} = {function}", arguments)
    inner = bracketed(function, arguments, indent=_INDENT)
    parenthesized = [f"{target} = (", *inner, ")"]
    if len(plain[0]) > _WIDTH and all(len(line) <= _WIDTH for line in parenthesized):
        return parenthesized
    return plain


def paragraph(text: str, indent: int) -> str:
    """Return ``text`` in lines that fit where a docstring stands."""
    return textwrap.fill(text, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)


def docstring(text: str, indent: int = 0) -> list[str]:
    """Return the docstring of that text, whatever the text holds."""
    first, *rest = [_escaped(line) for line in text.split("\n")]
    if first.startswith('"'):
        first = f" {first}"
    if rest:
        lines = [f'"""{first}', *rest, '"""']
    elif first.endswith('"'):
        lines = [f'"""{first} """']
    else:
        lines = [f'"""{first}"""']
    return [_indented(line, indent) for line in lines]


def _escaped(line: str) -> str:
    line = line.replace("\\", "\\\\")
    # Three quotes would end the docstring: of so many in a row, only the last stays bare.
    line = re.sub(r'"{3,}', lambda quotes: r"\"" * (len(quotes[0]) - 1) + '"', line)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", line)


def _indented(line: str, indent: int) -> str:
    return " " * indent + line if line else ""
