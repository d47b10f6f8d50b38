"""What the reloader of `connect-sync serve` takes for a change."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wsgi_adapters.reloader import Reloader

_SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "greet"
_LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that Python imports from, with one module, and a file that is none."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("module.py", "older.txt"):
        (tmp_path / name).write_text("A = 1\n")
    os.utime(tmp_path / "older.txt", _LONG_AGO)
    return tmp_path


def reloads(change: Callable[[], object]) -> bool:
    """Tell whether the process would start anew for a change."""
    with Reloader() as reloader:
        reloader.run_step()
        change()
        try:
            reloader.run_step()
        except SystemExit as end:
            return end.code == 3
    return False


def test_file_that_is_written_is_a_change(folder: Path) -> None:
    assert reloads(lambda: os.utime(folder / "module.py", (2_000_000_000, 2_000_000_000)))


def test_file_that_has_become_older_is_a_change(folder: Path) -> None:
    assert reloads(lambda: (folder / "older.txt").replace(folder / "module.py"))


def test_file_that_is_new_is_a_change(folder: Path) -> None:
    assert reloads(lambda: (folder / "other.py").write_text("B = 1\n"))


def test_old_file_that_is_moved_there_is_a_change(folder: Path) -> None:
    assert reloads(lambda: (folder / "older.txt").rename(folder / "older.py"))


def test_file_that_is_deleted_is_a_change(folder: Path) -> None:
    assert reloads((folder / "module.py").unlink)


def test_file_that_is_no_module_is_no_change(folder: Path) -> None:
    assert not reloads((folder / "older.txt").unlink)


def test_old_file_that_is_seen_late_is_no_change(folder: Path) -> None:
    with Reloader() as reloader:
        sys.path.append(str(_SAMPLE))
        reloader.run_step()

        assert str(_SAMPLE / "server.py") in reloader.mtimes
