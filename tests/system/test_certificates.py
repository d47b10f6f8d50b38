"""What docs/clients.md and docs/deployment.md say of certificates, followed as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.newcomer import README, Newcomer, read_blocks, sort_blocks

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_SECTION = "TLS and client certificates"
_CLIENT, _OPENSSL = [block for block in read_blocks(_DOCS / "clients.md") if block.section == _SECTION]
_SERVE, _SERVE_KNOWN, _CLIENT_NAME = [
    block for block in read_blocks(_DOCS / "deployment.md") if block.section == _SECTION
]

_PROGRAM = f"""\
import urllib3

from connect_sync import ConnectError
from greet.v1.greet_connect import GreetServiceClient
from greet.v1.greet_pb2 import GreetRequest

{_CLIENT.text}
with pool_manager, client:
    try:
        print(client.greet(GreetRequest(name="Jane")).greeting)
    except ConnectError as error:
        print(error.code.value)
"""
_PROGRAM_WITHOUT_CERTIFICATE = re.sub(r"    (cert|key)_file=.*\n", "", _PROGRAM)

# What takes the place of the README's service behind the wrapper of the page.
_NAMES = """\
def app(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    return [environ["HTTP_X_CLIENT_NAME"].encode()]
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Somebody who has followed the README, and has made the certificates."""
    readme = sort_blocks(read_blocks(README))
    newcomer = Newcomer(tmp_path_factory.mktemp("certificates"))
    newcomer.save(readme.files)
    (generate,) = [block for block in readme.preparations if "--connect-sync_out" in block.text]
    newcomer.run(generate.text)
    newcomer.run(f"set -e\n{_OPENSSL.text}")
    (newcomer.folder / "with.py").write_text(newcomer.localize(_PROGRAM))
    (newcomer.folder / "without.py").write_text(newcomer.localize(_PROGRAM_WITHOUT_CERTIFICATE))
    return newcomer


@pytest.fixture
def server(newcomer: Newcomer) -> Iterator[None]:
    """The server that asks for no certificate."""
    with newcomer.serving(_SERVE.text):
        yield


@pytest.fixture
def server_for_known_clients(newcomer: Newcomer) -> Iterator[None]:
    with newcomer.serving(_SERVE_KNOWN.text):
        yield


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("program", ["with.py", "without.py"])
def test_server_that_asks_for_no_certificate(newcomer: Newcomer, program: str) -> None:
    assert newcomer.run(f"python {program}") == "Hello, Jane!\n"


@pytest.mark.usefixtures("server_for_known_clients")
def test_server_that_asks_for_a_certificate(newcomer: Newcomer) -> None:
    assert newcomer.run("python with.py") == "Hello, Jane!\n"
    assert newcomer.run("python without.py") == "unavailable\n"


def test_name_of_certificate(newcomer: Newcomer, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(_NAMES)
    (tmp_path / "named.py").write_text(_CLIENT_NAME.text)
    for certificate in newcomer.folder.glob("*.pem"):
        (tmp_path / certificate.name).symlink_to(certificate)
    named = newcomer.move(tmp_path)
    with named.serving(_SERVE_KNOWN.text.replace("server:app", "named:app")):
        call = "curl --silent --cacert ca.pem --cert client.pem --key client-key.pem"
        assert named.run(f"{call} --header 'x-client-name: John' https://localhost:8443") == "Jane"
