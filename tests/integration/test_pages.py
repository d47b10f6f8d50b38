"""The pages on interceptors, services, clients and testing, followed as they stand.

The Python of each page is one program, which runs in the folder of the README. Tests add calls to see that it
does what the page says.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.newcomer import README, Newcomer, read_blocks
from tests.integration.pages import follow_readme

_PAGES = ("interceptors", "services", "clients", "testing")
_BLOCKS = {page: read_blocks(README.with_name("docs") / f"{page}.md") for page in _PAGES}

_SERVE = "gunicorn --threads 8 --bind localhost:8000"

_CALLS = """
from connect_sync import Headers, Request, ResponseMetadata
from connect_sync.testing import InMemoryTransport
from greet.v1.greet_connect import GreetServiceClient


def client_of(app, *interceptors):
    return GreetServiceClient(
        "http://test", transport=InMemoryTransport(app.service), interceptors=interceptors
    )


def post_json(app, method, name):
    path = f"/greet.v1.GreetService/{method}"
    body = (f'{{"name": "{name}"}}'.encode(),)
    response = app.service(Request("POST", path, Headers({"content-type": "application/json"}), body))
    print(b"".join(response.body).decode().rstrip())
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Somebody who has saved the Python of each page, in a file with its name."""
    newcomer = Newcomer(follow_readme(tmp_path_factory.mktemp("pages")))
    for page in _PAGES:
        python = [block.text for block in _BLOCKS[page] if block.language == "python"]
        newcomer.add(f"{page}.py", *map(newcomer.localize, python))
    return newcomer


def run(newcomer: Newcomer, page: str, program: str) -> list[str]:
    """Run a program after the Python of a page, and return the lines that it prints."""
    file = f"after_{page}.py"
    (newcomer.folder / file).write_text(f"from {page} import *\n{_CALLS}{program}")
    return newcomer.run(f"python {file} 2>&1").splitlines()


def text_of(page: str, section: str, subsection: str = "") -> list[str]:
    """Return the lines of the first block of text in a section."""
    return next(
        block.text.splitlines()
        for block in _BLOCKS[page]
        if (block.section, block.subsection, block.language) == (section, subsection, "text")
    )


def test_python_of_the_pages_is_typed(newcomer: Newcomer) -> None:
    arguments = ["--strict", "--python-version=3.10", "--cache-dir=/dev/null"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, *(f"{page}.py" for page in _PAGES)],
        cwd=newcomer.folder,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


# docs/interceptors.md


def test_order_of_interceptors(newcomer: Newcomer) -> None:
    argument, _, *order = text_of("interceptors", "The life of a call")
    program = f"""
class First:
    indent = "    "

    def on_start(self, ctx):
        print(type(self).__name__ + ".on_start")

    def intercept_unary(self, call_next, request, ctx):
        name = self.indent + type(self).__name__ + ".intercept_unary"
        print(name)
        response = call_next(request, ctx)
        print(name)
        return response

    def on_end(self, token, ctx, error):
        print(type(self).__name__ + ".on_end")


class Second(First):
    indent = "        "


class Handler(GreetService):
    def greet(self, request, ctx):
        print("            the handler, or the client's request")
        return GreetResponse()


app = GreetServiceWSGIApplication(Handler(), {argument})
client_of(app).greet(GreetRequest())
"""
    assert run(newcomer, "interceptors", program) == order


def test_refused_interceptors(newcomer: Newcomer) -> None:
    program = """
async def coroutine(self, ctx): ...


for name, method in ("on_start", coroutine), ("on_begin", Timing.on_start):
    try:
        client_of(app, type("CallLog", (), {name: method})())
    except TypeError as error:
        print(f"TypeError: {error}")
"""
    assert run(newcomer, "interceptors", program) == text_of("interceptors", "Methods")


def test_timing(newcomer: Newcomer) -> None:
    program = """
timing = Timing()
app = GreetServiceWSGIApplication(PersonalGreeter(), interceptors=[timing, Authentication()])
with ResponseMetadata() as metadata:
    client_of(app, Credentials("abc")).greet(GreetRequest(name="John"))
print(metadata.trailers()["took-ms"] == f"{timing.milliseconds['greet.v1.GreetService.Greet']:.1f}")
"""
    assert run(newcomer, "interceptors", program) == ["True"]


def test_messages_are_counted_on_both_sides(newcomer: Newcomer) -> None:
    program = """
from server import Greeter

for side in "server", "client":
    counter = MessageCounter()
    app = GreetServiceWSGIApplication(Greeter(), interceptors=[counter] if side == "server" else [])
    client = client_of(app, *([counter] if side == "client" else []))
    client.greet(GreetRequest(name="Jane"))
    client.greet_group([GreetRequest(name="Jane"), GreetRequest(name="John")])
    list(client.greet_individuals(GreetRequest(name="Jane,John,Judy")))
    print(counter.requests, counter.responses)
"""
    assert run(newcomer, "interceptors", program) == ["4 5", "4 5"]


def test_value_of_an_interceptor_reaches_the_handler(newcomer: Newcomer) -> None:
    program = """
class Host(GreetService):
    def greet(self, request, ctx):
        return GreetResponse(greeting=ctx.get(TENANT))


app = GreetServiceWSGIApplication(Host(), interceptors=[Tenant()])
print(client_of(app).greet(GreetRequest()).greeting)
print(client_of(app).greet(GreetRequest(), headers={"tenant": "acme"}).greeting)
"""
    assert run(newcomer, "interceptors", program) == ["public", "acme"]


def test_calls_are_authenticated_and_logged(newcomer: Newcomer) -> None:
    program = """
headers = {"x-request-id": "17"}
print(client_of(app, Credentials("abc")).greet(GreetRequest(name="John"), headers=headers).greeting)
try:
    client_of(app).greet(GreetRequest(name="John"), headers=headers)
except ConnectError as error:
    print(error)
logger.info("after the calls")
"""
    lines = run(newcomer, "interceptors", program)
    logged = [line for line in lines if " greet: " in line]

    assert [line for line in lines if line not in logged] == [
        "Hello, John, from Jane!",
        "unauthenticated: a valid token is required",
    ]
    assert [line.partition(", ")[0] for line in logged] == [
        "17 greet: greet.v1.GreetService.Greet from None: ok",
        "17 greet: greet.v1.GreetService.Greet from None: unauthenticated",
        "- greet: after the calls",
    ]


def test_calls_without_side_effects_are_made_again(newcomer: Newcomer) -> None:
    program = """
class Unavailable(GreetService):
    def greet(self, request, ctx):
        print("greet")
        raise ConnectError(Code.UNAVAILABLE)

    def greet_group(self, request, ctx):
        print("greet_group")
        raise ConnectError(Code.UNAVAILABLE)


client = client_of(GreetServiceWSGIApplication(Unavailable()), Retries(pause_ms=1))
for call in lambda: client.greet(GreetRequest()), lambda: client.greet_group([]):
    try:
        call()
    except ConnectError as error:
        print(error)
"""
    assert run(newcomer, "interceptors", program) == [
        *["greet"] * 3,
        "unavailable",
        "greet_group",
        "unavailable",
    ]


# docs/services.md


def test_errors_of_services(newcomer: Newcomer) -> None:
    program = """
post_json(GreetServiceWSGIApplication(BusyGreeter()), "Greet", "Jane")
post_json(GreetServiceWSGIApplication(StoredGreeter(), errors=errors), "Greet", "John")
"""
    assert run(newcomer, "services", program) == [
        *text_of("services", "Errors"),
        *text_of("services", "Errors", "Exceptions"),
    ]


def test_plain_json_sent_to_a_stream(newcomer: Newcomer) -> None:
    (expected,) = text_of("services", "The application", "Other requests")
    (answer,) = run(newcomer, "services", 'post_json(app, "GreetGroup", "Jane")\n')

    assert answer.endswith(expected.removeprefix("…"))


def test_response_that_has_not_changed(newcomer: Newcomer) -> None:
    program = """
client = client_of(GreetServiceWSGIApplication(CachedGreeter()))
with ResponseMetadata() as metadata:
    client.greet(GreetRequest(name="Jane"), use_get=True)
headers = {"if-none-match": metadata.headers()["etag"]}
for name, use_get in ("Jane", True), ("John", True), ("Jane", False):
    try:
        print(client.greet(GreetRequest(name=name), use_get=use_get, headers=headers).greeting)
    except NotModified as error:
        print(error.http_status, error.metadata["cache-control"])
"""
    assert run(newcomer, "services", program) == ["304 max-age=60", "Hello, John!", "Hello, Jane!"]


# docs/clients.md


def test_calls_of_the_clients_page(newcomer: Newcomer) -> None:
    with newcomer.serving(f"{_SERVE} server:app"):
        lines = newcomer.run("python clients.py").splitlines()

    error, with_code = text_of("clients", "Errors")
    assert lines[:4] == ["Hello, Jane!", "Hello, Jane!", "Hello, John!", "Hello, Jane!"]
    assert lines[lines.index(error) + 1] == with_code


def test_response_that_has_not_changed_at_a_client(newcomer: Newcomer) -> None:
    newcomer.add(
        "cached.py",
        "from services import CachedGreeter, GreetServiceWSGIApplication",
        "app = GreetServiceWSGIApplication(CachedGreeter())",
    )
    _, not_modified = (
        block.text for block in _BLOCKS["clients"] if (block.section, block.language) == ("GET", "python")
    )
    newcomer.add(
        "unchanged.py",
        "from connect_sync import ResponseMetadata",
        "from greet.v1.greet_connect import GreetServiceClient",
        "from greet.v1.greet_pb2 import GreetRequest",
        newcomer.localize('client = GreetServiceClient("http://localhost:8000")'),
        not_modified,
    )
    with newcomer.serving(f"{_SERVE} cached:app"):
        assert newcomer.run("python unchanged.py").splitlines() == ["304 max-age=60", "Hello, Jane!"]


# docs/testing.md


def test_tests_of_the_testing_page(newcomer: Newcomer) -> None:
    newcomer.run("python -m pytest -p no:cacheprovider testing.py 1>&2")
