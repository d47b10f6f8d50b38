"""docs/flask.md, followed as it stands: each block is saved or run, where the page says.

A test adds what a site has of its own, such as users, where the page leaves that to the reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

from tests.integration.newcomer import README, Newcomer, read_blocks
from tests.integration.pages import Site, follow_readme
from tests.integration.wire import END, envelope, envelopes

_BLOCKS = read_blocks(README.with_name("docs") / "flask.md")
(
    _INSTALL,
    _SITE,
    _SERVE,
    _CALL,
    _CALLED,
    _URL_FOR,
    _HANDLER,
    _LOGIN,
    _GUESTS,
    _GUEST_ERROR,
    _ERRORS,
    _STREAM,
    _COOKIES,
    _ORIGINS,
    _CORS,
    _MOUNTED,
    _SERVE_MOUNTED,
    _INSIDE,
    _DISPATCHED,
) = _BLOCKS

_REST_OF_THE_SITE = """
from flask import g
from flask_login import LoginManager, UserMixin, login_user


class User(UserMixin):
    id = "jane"


app.secret_key = "for tests"
LoginManager(app).user_loader(lambda _: User())


@app.post("/login")
def log_in():
    login_user(User())
    return "welcome"


@app.before_request
def name_site():
    g.user = "the site"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return follow_readme(tmp_path_factory.mktemp("readme"))


@pytest.fixture
def newcomer(folder: Path, tmp_path: Path) -> Newcomer:
    return Newcomer(copytree(folder, tmp_path / "site"))


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that has all of the page, but for what streams."""
    newcomer = Newcomer(copytree(folder, tmp_path_factory.mktemp("site") / "site"))
    newcomer.save([_SITE])
    newcomer.add("server.py", _HANDLER.text, _GUESTS.text)
    blocks = [_LOGIN, _ERRORS, _COOKIES, _ORIGINS, _CORS]
    newcomer.add("site_server.py", *(block.text for block in blocks), _REST_OF_THE_SITE)
    with newcomer.serving(_SERVE.text):
        yield Site(newcomer)


def test_every_block_is_followed() -> None:
    assert [(block.section, block.file or block.language) for block in _BLOCKS] == [
        ("As views", "sh"),  # which the environment of the tests stands for
        ("As views", "site_server.py"),
        ("As views", "sh"),
        ("As views", "sh"),
        ("As views", "text"),
        ("As views", "python"),
        ("What handlers have of Flask", "server.py"),
        ("Login", "site_server.py"),
        ("Errors", "server.py"),
        ("Errors", "text"),
        ("Errors", "site_server.py"),
        ("Streams", "server.py"),
        ("Cross-site requests", "site_server.py"),
        ("Cross-site requests", "site_server.py"),
        ("CORS", "site_server.py"),
        ("Mounted", "mounted.py"),
        ("Mounted", "sh"),
        ("Mounted", "python"),
        ("Mounted", "python"),
    ]
    assert _INSTALL.text.startswith("pip install")


# As views


def test_call_prints_what_the_page_shows(newcomer: Newcomer) -> None:
    newcomer.save([_SITE])
    with newcomer.serving(_SERVE.text):
        assert newcomer.run(_CALL.text).splitlines() == _CALLED.text.splitlines()


def test_url_is_what_the_page_says(newcomer: Newcomer) -> None:
    newcomer.save([_SITE])
    newcomer.add("addresses.py", _URL_FOR.text)
    newcomer.run("python addresses.py")


def test_handler_has_g_and_the_session(site: Site) -> None:
    response = site.call("/api", "Jane")
    assert response.json() == {"greeting": "Hello, Jane, from the site!"}
    assert response.headers["set-cookie"].startswith("session=")


def test_call_takes_a_login_of_flask_login(site: Site) -> None:
    refused = site.call("/members", "Jane")
    assert (refused.status, refused.json()["code"]) == (401, "unauthenticated")
    cookie = site.request("POST", "/login").headers["set-cookie"].partition(";")[0]
    assert site.call("/members", "Jane", cookie=cookie).status == 200


def test_abort_is_told_as_the_page_shows(site: Site) -> None:
    answer = site.call("/guests", "John")
    assert (answer.status, answer.data.decode()) == (404, _GUEST_ERROR.text.rstrip())
    assert site.call("/guests", "Jane").json() == {"greeting": "Hello, Jane!"}


def test_context_stays_for_a_stream(newcomer: Newcomer) -> None:
    newcomer.save([_SITE])
    newcomer.add("server.py", _STREAM.text)
    newcomer.add("site_server.py", _REST_OF_THE_SITE)
    with newcomer.serving(_SERVE.text):
        response = Site(newcomer).request(
            "POST",
            "/api/greet.v1.GreetService/GreetIndividuals",
            envelope(b'{"name": "Jane,John"}'),
            {"content-type": "application/connect+json"},
        )
    *messages, (flags, end) = envelopes(response.data)
    assert [json.loads(message) for _, message in messages] == [
        {"greeting": "Hello, Jane, from the site!"},
        {"greeting": "Hello, John, from the site!"},
    ]
    assert (flags, end) == (END, b"{}")


def test_cookie_is_for_the_sites_own_pages(site: Site) -> None:
    _, *attributes = site.call("/api", "Jane").headers["set-cookie"].split("; ")
    assert {"Secure", "SameSite=Lax"} <= set(attributes)


def test_other_origins_are_refused(site: Site) -> None:
    assert site.call("/api", "Jane", origin="https://example.org").status == 403
    assert site.call("/api", "Jane", origin=site.address).status == 200


def test_preflight_allows_the_origin_of_the_page(site: Site) -> None:
    asked = {
        "origin": "https://example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "connect-protocol-version, content-type",
    }
    answer = site.request("OPTIONS", "/api/greet.v1.GreetService/Greet", headers=asked).headers
    assert answer["access-control-allow-origin"] == "https://example.com"
    assert answer["access-control-allow-headers"].lower() == "connect-protocol-version, content-type"


# Mounted


_BEFORE, _, _BESIDE = _MOUNTED.text.rstrip().rpartition("\n")


@pytest.mark.parametrize(
    ("ending", "name"),
    [(_BESIDE, "app"), (_INSIDE.text, "site"), (_DISPATCHED.text, "site")],
    ids=["beside", "inside", "by DispatcherMiddleware"],
)
def test_service_is_mounted(newcomer: Newcomer, ending: str, name: str) -> None:
    newcomer.add("mounted.py", _BEFORE, ending, 'site.get("/")(lambda: "the site")\n')
    with newcomer.serving(_SERVE_MOUNTED.text.replace(":app", f":{name}")):
        assert newcomer.run(_CALL.text).splitlines() == _CALLED.text.splitlines()
        assert Site(newcomer).request("GET", "/").data == b"the site"
