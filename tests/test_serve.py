"""How `connect-sync serve` finds the application that it is told, and what it says where there is none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from wsgi_adapters import serve
from wsgi_adapters.serve import LoadError, load, main

Save: TypeAlias = Callable[[str], str]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Save]:
    """A way to save a module, which gives it a name of its own and returns that."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def save(text: str) -> str:
        # pytest has a hand in the import of modules whose names begin with "test_".
        name = f"served_{tmp_path.name}_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    yield save
    for name in set(sys.modules) - before:
        del sys.modules[name]


APPLICATION = "def application(environ, start_response): ...\n"


def error_of(target: str) -> LoadError:
    with pytest.raises(LoadError) as raised:
        load(target)
    assert len(str(raised.value).splitlines()) == 1
    return raised.value


def value(module: str, name: str) -> Any:
    return getattr(sys.modules[module], name)


# Applications that are there


@pytest.mark.parametrize("suffix", ["", ":application"])
def test_module_alone_means_its_application(save: Save, suffix: str) -> None:
    name = save(APPLICATION)

    assert load(f"{name}{suffix}") is value(name, "application")


def test_application_by_name_in_a_package(tmp_path: Path, save: Save) -> None:
    package = tmp_path / f"package_{tmp_path.name}"
    package.mkdir()
    (package / "server.py").write_text(APPLICATION)

    assert load(f"{package.name}.server:application") is value(f"{package.name}.server", "application")


def test_application_that_a_function_makes(save: Save) -> None:
    name = save(f"{APPLICATION}def make(): return application")

    assert load(f"{name}:make()") is value(name, "application")
    assert load(f"{name}:make") is value(name, "make")


# Applications that are not


@pytest.mark.parametrize(
    "target",
    ["", ":app", "server:", "server:a.b", "server:make(1)", "server app:x", "./server.py", "a:b:c"],
)
def test_what_names_no_application_is_refused(target: str) -> None:
    error = error_of(target)

    assert str(error) == f"the application must be given as module:name, such as server:app, got {target!r}"
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("absent_module", "absent_module"),
        ("absent.module", "absent"),
        ("json.absent", "json.absent"),
    ],
)
def test_missing_module(module: str, missing: str) -> None:
    error = error_of(f"{module}:app")

    assert str(error) == f"no module named {missing!r}, here or on Python's path"
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("target", "meant"), [("json.py", "json"), ("json.py:app", "json:app"), ("json.py:make()", "json:make()")]
)
def test_file_in_place_of_a_module(target: str, meant: str) -> None:
    assert str(error_of(target)) == (
        f"no module named 'json.py', here or on Python's path: did you mean {meant}?"
    )


def test_missing_name(save: Save) -> None:
    name = save(APPLICATION)
    error = error_of(f"{name}:app")

    assert str(error) == f"the module {name!r} has no 'app' ({value(name, '__file__')})"
    assert error.__cause__ is None


def test_missing_name_in_a_module_without_a_file() -> None:
    assert str(error_of("sys:app")) == "the module 'sys' has no 'app'"


@pytest.mark.parametrize(
    ("value", "described"),
    [("'text'", "an object of type str"), ("None", "None"), ("[]", "an object of type list")],
)
def test_what_cannot_be_called(save: Save, value: str, described: str) -> None:
    name = save(f"value = {value}\ndef make(): return value")

    assert str(error_of(f"{name}:value")) == f"{name}:value must be a WSGI application, got {described}"
    assert str(error_of(f"{name}:make()")) == f"{name}:make() must be a WSGI application, got {described}"
    assert str(error_of(f"{name}:value()")) == f"{name}:value must be callable, got {described}"


# Code that fails


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1 / 0", ZeroDivisionError),
        ("import absent_module", ModuleNotFoundError),
        ("def", SyntaxError),
        ("from json import absent", ImportError),
        ("raise SystemExit('the database is missing')", SystemExit),
        ("raise AttributeError('application')", AttributeError),
    ],
)
def test_module_that_fails(save: Save, text: str, cause: type[BaseException]) -> None:
    name = save(text)
    error = error_of(name)

    assert str(error) == f"importing {name} failed"
    assert isinstance(error.__cause__, cause)


def test_function_that_fails(save: Save) -> None:
    name = save("def make(): raise AttributeError('told')")
    error = error_of(f"{name}:make()")

    assert str(error) == f"{name}:make() failed"
    assert isinstance(error.__cause__, AttributeError)


@pytest.mark.parametrize("is_loaded_before", [False, True])
def test_traceback_is_that_of_the_module(
    save: Save, capsys: pytest.CaptureFixture[str], is_loaded_before: bool
) -> None:
    inner = save("def fail():\n    raise ValueError('told')")
    name = save(f"from {inner} import fail\nfail()")
    if is_loaded_before:
        importlib.import_module(inner)

    serve._show(error_of(name))

    error = capsys.readouterr().err
    places = [line.split('"')[1] for line in error.splitlines() if line.startswith("  File ")]
    assert [Path(place).stem for place in places] == [name, inner]
    assert error.endswith(f"ValueError: told\nconnect-sync serve: importing {name} failed\n")


def test_traceback_of_a_module_that_does_not_parse_is_where_it_does_not(
    save: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    name = save("a = 1\ndef")

    serve._show(error_of(name))

    error = capsys.readouterr().err
    assert error.count("  File ") == 1
    assert f'{name}.py", line 2' in error
    assert "SyntaxError" in error


# The command line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the command, which is to end at once, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["connect-sync", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    return raised.value.code


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=http", "argument --port: the port must be 0 to 65535, got 'http'"),
        ("--port=65536", "argument --port: the port must be 0 to 65535, got '65536'"),
        ("--port=-1", "argument --port: the port must be 0 to 65535, got '-1'"),
        ("--host=http://localhost", "argument --host: 'http://localhost': "),
        ("--host=localhost:8000", "argument --host: 'localhost:8000': "),
        ("--host=unix:///socket", "argument --host: 'unix:///socket': "),
        ("--host=", "argument --host: '': "),
        (f"--host={'a' * 64}", f"argument --host: '{'a' * 64}': "),
        ("--workers=4", "unrecognized arguments: --workers=4"),
    ],
)
def test_argument_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert run(monkeypatch, "serve", "server:app", option) == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("serve",), ("run", "server:app")])
def test_command_that_is_incomplete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith("usage: connect-sync ")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"connect-sync {version('connect-sync')}\n"


def test_without_werkzeug_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug", None)

    assert run(monkeypatch, "serve", "server:app") == (
        "connect-sync serve needs werkzeug: pip install 'connect-sync[werkzeug]'"
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:8000"),
        ("192.0.2.1", "http://192.0.2.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("2001:db8::1", "http://[2001:db8::1]:8000"),
    ],
)
def test_url_in_the_banner_can_be_called(host: str, url: str) -> None:
    def site(environ: Any, start_response: Any) -> Any: ...

    first, *_, last = serve._banner("server:app", site, host, 8000).splitlines()

    assert first == f"connect-sync serves server:app at {url}, for development only"
    assert last == "Press Ctrl-C to stop it."
