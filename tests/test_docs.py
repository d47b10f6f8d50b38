"""The documentation beside the code: what is public is written about."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import connect_sync
import connect_sync.testing
import wsgi_adapters

DOCS = Path(__file__).parent.parent / "docs"


def words_of_code() -> set[str]:
    """Return the words in the Python of all pages, and between backticks."""
    words: set[str] = set()
    for path in DOCS.glob("*.md"):
        # Blocks of all languages are matched, so that the fences of others pair.
        for language, block, span in re.findall(
            r"^```(\w*)$(.*?)^```$|`([^`\n]+)`", path.read_text(), re.M | re.S
        ):
            if span or language in ("py", "python"):
                words.update(re.findall(r"\w+", span or block))
    return words


def public_names(module: ModuleType) -> list[str]:
    """Return what a module exports; without ``__all__``, what it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    defined = [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    return [name for name in defined if not name.startswith("_")]


@pytest.mark.parametrize("module", [connect_sync, connect_sync.testing, wsgi_adapters])
def test_every_public_name_is_in_the_docs(module: ModuleType) -> None:
    names = public_names(module)
    assert names
    assert sorted(set(names) - words_of_code()) == []
