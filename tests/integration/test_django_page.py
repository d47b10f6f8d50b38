"""docs/django.md, followed as it stands: each block is saved or run, where the page says.

A test adds what a site has of its own, such as a login, where the page leaves that to the reader. Blocks that
make other URL patterns of the service become modules of their own, of which a request names one.
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

_BLOCKS = read_blocks(README.with_name("docs") / "django.md")
(
    _INSTALL,
    _START,
    _URLS,
    _PREFIX,
    _SERVE,
    _CALL,
    _CALLED,
    _DECORATORS,
    _HANDLERS,
    _LOGIN,
    _NON_ATOMIC,
    _IMPORTER,
    _GROUPS,
    _GROUP_ERRORS,
    _ERRORS,
    _LOGGING,
    _BESIDE,
    _CONNECTIONS,
    _DEVELOP,
    _TESTS,
    _TEST,
) = _BLOCKS

_IMPORT = """
from server import Importer

urlpatterns = [connect_path(GreetServiceWSGIApplication(Importer()))]
"""

_REST_OF_THE_URLS = """
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path


def log_in(request):
    login(request, User.objects.get_or_create(username="jane")[0])
    return HttpResponse("welcome")


urlpatterns.append(path("log-in", log_in))
"""

_REST_OF_THE_SETTINGS = """
DATABASES["default"]["ATOMIC_REQUESTS"] = True
MIDDLEWARE.append("mysite.middleware.choose_urls")
"""

_MIDDLEWARE = """
def choose_urls(get_response):
    def answer(request):
        request.urlconf = request.headers.get("urls")
        return get_response(request)

    return answer
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has made a site that serves the service."""
    folder = follow_readme(tmp_path_factory.mktemp("readme"))
    newcomer = Newcomer(folder)
    newcomer.run(_START.text)
    newcomer.save([_URLS])
    return folder


@pytest.fixture
def newcomer(folder: Path, tmp_path: Path) -> Newcomer:
    return Newcomer(copytree(folder, tmp_path / "site"))


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that has all of the page."""
    newcomer = Newcomer(copytree(folder, tmp_path_factory.mktemp("site") / "site"))
    newcomer.add("server.py", _HANDLERS.text, _IMPORTER.text, _GROUPS.text)
    newcomer.add("mysite/settings.py", _LOGGING.text, _REST_OF_THE_SETTINGS)
    newcomer.add("mysite/middleware.py", _MIDDLEWARE)
    newcomer.add("mysite/urls.py", _REST_OF_THE_URLS)
    newcomer.add("mysite/prefix.py", _URLS.text, _PREFIX.text)
    newcomer.add("mysite/decorators.py", _URLS.text, _DECORATORS.text)
    newcomer.add("mysite/logins.py", _URLS.text, _LOGIN.text)
    newcomer.add("mysite/non_atomic.py", _URLS.text, _NON_ATOMIC.text)
    newcomer.add("mysite/imports.py", _URLS.text, _IMPORT)
    newcomer.add("mysite/groups.py", _URLS.text, _ERRORS.text)
    newcomer.run("python manage.py migrate")
    with newcomer.serving(_SERVE.text):
        yield Site(newcomer)


def test_every_block_is_followed() -> None:
    assert [(block.section, block.file or block.language) for block in _BLOCKS] == [
        ("As a URL pattern", "sh"),  # which the environment of the tests stands for
        ("As a URL pattern", "sh"),
        ("As a URL pattern", "mysite/urls.py"),
        ("As a URL pattern", "mysite/urls.py"),
        ("As a URL pattern", "sh"),
        ("As a URL pattern", "sh"),
        ("As a URL pattern", "text"),
        ("As a URL pattern", "mysite/urls.py"),
        ("The request", "server.py"),
        ("Login", "mysite/urls.py"),
        ("Transactions", "mysite/urls.py"),
        ("Transactions", "server.py"),
        ("Errors", "server.py"),
        ("Errors", "text"),
        ("Errors", "mysite/urls.py"),
        ("Errors", "mysite/settings.py"),
        ("Beside Django", "mysite/wsgi.py"),
        ("Beside Django", "mysite/wsgi.py"),
        ("Development", "sh"),
        ("Tests", "mysite/tests.py"),
        ("Tests", "sh"),
    ]
    assert _INSTALL.text.startswith("pip install")


def test_call_prints_what_the_page_shows(newcomer: Newcomer) -> None:
    with newcomer.serving(_SERVE.text):
        assert newcomer.run(_CALL.text).splitlines() == _CALLED.text.splitlines()


def test_prefix_stands_before_the_service(site: Site) -> None:
    assert site.call("/api/acme", "Jane", urls="mysite.prefix").status == 200
    assert site.call("", "Jane", urls="mysite.prefix").status == 404


def test_decorators_are_around_the_view(site: Site) -> None:
    response = site.call("", "Jane", urls="mysite.decorators")
    assert response.status == 200
    assert "no-store" in response.headers["cache-control"]


def test_handlers_have_the_user_of_the_request(site: Site) -> None:
    assert site.call("", "Jane").json() == {"greeting": "Hello, Jane, from AnonymousUser!"}
    assert stream(site, "GreetIndividuals", "Jane,John") == [
        {"greeting": "Hello, Jane, from AnonymousUser!"},
        {"greeting": "Hello, John, from AnonymousUser!"},
    ]


def test_call_takes_a_login(site: Site) -> None:
    refused = site.call("", "Jane", urls="mysite.logins")
    assert (refused.status, refused.json()["code"]) == (401, "unauthenticated")
    cookies = site.request("GET", "/log-in").headers.getlist("set-cookie")
    (session,) = (cookie for cookie in cookies if cookie.startswith("sessionid="))
    answer = site.call("", "Jane", urls="mysite.logins", cookie=session.partition(";")[0])
    assert answer.json() == {"greeting": "Hello, Jane, from jane!"}


def test_call_may_be_no_transaction(site: Site) -> None:
    assert site.call("", "Jane", urls="mysite.non_atomic").status == 200


def test_importer_saves_what_has_come(site: Site) -> None:
    assert stream(site, "GreetGroup", "staff", "guests", urls="mysite.imports") == [{"greeting": "2 saved"}]


def test_exceptions_of_django_are_told_as_the_page_shows(site: Site) -> None:
    answers = [site.call("", name, urls="mysite.groups") for name in ("nobody", "")]
    assert [answer.status for answer in answers] == [404, 400]
    assert [answer.data.decode() for answer in answers] == _GROUP_ERRORS.text.splitlines()


def test_service_stands_beside_the_site(newcomer: Newcomer) -> None:
    newcomer.save([_BESIDE])
    newcomer.add("mysite/wsgi.py", _CONNECTIONS.text)
    with newcomer.serving(_DEVELOP.text):
        assert newcomer.run(_CALL.text).splitlines() == _CALLED.text.splitlines()
        assert b"Django" in Site(newcomer).request("GET", "/").data


def test_tests_of_the_page_pass(newcomer: Newcomer) -> None:
    newcomer.save([_TESTS])
    assert "Ran 2 tests" in newcomer.run(f"{_TEST.text.rstrip()} 2>&1")


def stream(site: Site, method: str, *names: str, **headers: str) -> list[object]:
    """Make a streaming call, and return the messages of its answer."""
    response = site.request(
        "POST",
        f"/greet.v1.GreetService/{method}",
        b"".join(envelope(json.dumps({"name": name}).encode()) for name in names),
        {"content-type": "application/connect+json", **headers},
    )
    *messages, (flags, end) = envelopes(response.data)
    assert (flags, end) == (END, b"{}")
    return [json.loads(message) for _, message in messages]
