"""Text in docstrings, and comments without their marks."""

from __future__ import annotations

import ast
import inspect
from itertools import product

import pytest

from connect_sync.codegen.docs import clean_comment
from connect_sync.codegen.layout import docstring

FRAGMENTS = ['"', '"""', "\\", "'", "word", " ", "\t", "\x00", "\x0c", "\x85", "\u3000", "\n"]


@pytest.mark.parametrize("indent", [0, 8])
def test_docstring_says_the_text_whatever_is_in_it(indent: int) -> None:
    for fragments in product(FRAGMENTS, repeat=3):
        text = clean_comment("".join(fragments)) or "-"
        source = "\n".join(docstring(text, indent)).lstrip()
        # Spaces may keep a quote in the text from those around it.
        assert inspect.cleandoc(ast.literal_eval(source)).strip() == text.strip()


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("", ""),
        ("\n\n", ""),
        (" One.\n", "One."),
        (" One.\n Two.\n", "One.\nTwo."),
        (" One.\r\n Two.\r\n", "One.\nTwo."),
        (" One.\n\n   - two\n     three\n", "One.\n\n- two\n  three"),
        ("* Javadoc.\n More.\n", "Javadoc.\nMore."),
        (" * a list\n * of two\n", "* a list\n* of two"),
        ("/ Three.\n/ slashes\n", "Three.\nslashes"),
        ("//////\n/ Framed.\n//////\n", "Framed."),
        (" /etc/hosts and\n/ more\n", "/etc/hosts and\n/ more"),
        (" Trailing. \t\n", "Trailing."),
    ],
)
def test_comment_without_its_marks(comment: str, text: str) -> None:
    assert clean_comment(comment) == text
