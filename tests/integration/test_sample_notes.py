"""The sample `notes`, started as its README says: a Flask site with a login, and a service beside its pages.

The calls are made by hand, as any HTTP client can make them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import urllib3

from tests.integration.newcomer import read_blocks
from tests.integration.wire import END, LAST_CHUNK, PATIENCE, Connection, chunk, envelope, envelopes, head

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "notes"
SERVICE = "/api/notes.v1.NoteService"
JSON = {"content-type": "application/json"}
STREAM = {"content-type": "application/connect+json"}
STRANGER = "https://example.org"


class Sample(NamedTuple):
    """The sample, as it runs."""

    process: subprocess.Popen[str]
    output: str
    """What it has printed, its address replaced by that of the README."""
    port: int


@contextmanager
def running() -> Iterator[Sample]:
    """Start what `make notes` does, on a free port, and wait until it says that the site is there."""
    process = subprocess.Popen(
        [sys.executable, "samples/notes/notes_demo.py", "0"],
        cwd=SAMPLE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout as lines:
        output = ""
        for line in lines:
            output += line
            if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield Sample(process, output.replace(match[1], "8000"), int(match[1]))
                break
        else:
            pytest.fail(f"it has not come so far: {output}")
        os.killpg(process.pid, signal.SIGINT)  # to all programs of a terminal, as Ctrl-C
        process.wait(PATIENCE)
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def sample() -> Iterator[Sample]:
    with running() as sample:
        yield sample


class Browser:
    """Somebody with a browser, which keeps the cookie of a session."""

    def __init__(self, port: int) -> None:
        self._manager = urllib3.PoolManager()
        self._address = f"http://127.0.0.1:{port}"
        self.port = port
        self.cookie: dict[str, str] = {}

    def get(self, path: str) -> urllib3.BaseHTTPResponse:
        return self._manager.request("GET", self._address + path, headers=self.cookie, redirect=False)

    def post(
        self, path: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        return self._manager.request(
            "POST",
            self._address + path,
            body=data,
            headers={**self.cookie, **(headers or {})},
            redirect=False,
        )

    def log_in(self, name: str, password: str, **headers: str) -> int:
        """Send the form of the login, and return the status of the answer."""
        form = {"content-type": "application/x-www-form-urlencoded", **headers}
        data = f"name={name}&password={password.replace(' ', '+')}".encode()
        response = self.post("/login", data, form)
        if response.status == 302:
            self._keep(response)
        return response.status

    def log_out(self) -> None:
        self._keep(self.post("/logout"))

    def call(self, method: str, **fields: Any) -> Any:
        """Make a unary call, which has to succeed."""
        response = self.post(f"{SERVICE}/{method}", json.dumps(fields).encode(), JSON)
        assert response.status == 200, response.data
        return response.json()

    @contextmanager
    def stream(self, method: str) -> Iterator[Connection]:
        """Open a streaming call, whose messages are still to be sent."""
        headers = {"host": f"127.0.0.1:{self.port}", "transfer-encoding": "chunked", **STREAM, **self.cookie}
        with Connection(self.port) as connection:
            connection.send(head(f"POST {SERVICE}/{method} HTTP/1.1", headers))
            yield connection

    def close(self) -> None:
        self._manager.clear()

    def _keep(self, response: urllib3.BaseHTTPResponse) -> None:
        self.cookie = {"cookie": response.headers["set-cookie"].partition(";")[0]}


@pytest.fixture
def stranger(sample: Sample) -> Iterator[Browser]:
    """Somebody who has not logged in."""
    browser = Browser(sample.port)
    yield browser
    browser.close()


@pytest.fixture
def jane(stranger: Browser) -> Browser:
    assert stranger.log_in("jane", "correct horse") == 302
    return stranger


@pytest.fixture
def john(sample: Sample) -> Iterator[Browser]:
    browser = Browser(sample.port)
    assert browser.log_in("john", "battery staple") == 302
    yield browser
    browser.close()


def message(**fields: Any) -> bytes:
    return chunk(envelope(json.dumps(fields).encode()))


def upload(browser: Browser, note_id: str, *pieces: bytes) -> Any:
    """Attach a file to a note, and return the response's message, or the error."""
    with browser.stream("AttachFile") as connection:
        connection.send(message(target={"noteId": note_id, "name": "a file.txt"}))
        for piece in pieces:
            connection.send(message(data=b64encode(piece).decode()))
        connection.send(LAST_CHUNK)
        *messages, (flags, end) = envelopes(connection.read_reply().body)
    assert flags == END
    return json.loads(messages[0][1]) if messages else json.loads(end)["error"]


@contextmanager
def watching(port: int) -> Iterator[Connection]:
    """Lend the stream of a user who watches for notes, and has seen one."""
    browser = Browser(port)
    try:
        assert browser.log_in("jane", "correct horse") == 302
        browser.call("CreateNote", text="Seen")
    finally:
        browser.close()
    with browser.stream("WatchNotes") as connection:
        connection.send(message(), LAST_CHUNK)
        assert connection.read_head()[0] == 200
        assert connection.read_envelope()[0] == 0
        yield connection


def read_end(connection: Connection) -> Any:
    """Read a stream, whose head was read, to its end, and return what that says."""
    *_, (flags, end) = envelopes(b"".join(iter(connection.read_chunk, b"")))
    assert flags == END
    return json.loads(end)


# What the README says


def test_it_prints_what_the_readme_shows(sample: Sample) -> None:
    (shown,) = (block.text for block in read_blocks(SAMPLE / "README.md") if block.language == "text")

    assert sample.output == shown


def test_it_ends_by_ctrl_c_and_its_streams_with_it() -> None:
    with ExitStack() as stack:
        with running() as sample:
            connection = stack.enter_context(watching(sample.port))
        assert read_end(connection) == {}
    assert sample.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_streams_end_with_a_gunicorn_that_was_started_by_hand(tmp_path: Path, number: signal.Signals) -> None:
    database = tmp_path / "notes.sqlite3"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "notes_site:create_app()"],
            cwd=SAMPLE,
            env={
                **os.environ,
                "GUNICORN_CMD_ARGS": f"--bind fd://{listener.fileno()} --graceful-timeout 5",
                "NOTES_DATABASE": str(database),
            },
            pass_fds=[listener.fileno()],
        )
    with process:
        try:
            with watching(port) as connection:
                # The handler of SIGQUIT in gthread may wait for a lock that the thread it has interrupted
                # holds while it hands a request on. This note comes by no request.
                with closing(sqlite3.connect(database)) as notes, notes:
                    notes.execute(
                        "INSERT INTO note (user_id, text) SELECT id, '' FROM user WHERE name = 'jane'"
                    )
                assert connection.read_envelope()[0] == 0
                process.send_signal(number)
                assert read_end(connection) == {}
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert process.returncode == 0


def test_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [sys.executable, SAMPLE / "notes_demo.py", str(listener.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("With another port: make notes PORT=8001\n")


def test_every_file_that_the_readme_names_is_there() -> None:
    names = re.findall(r"^\| `([^`]+)` \|", (SAMPLE / "README.md").read_text(), re.MULTILINE)
    missing = [name for name in names if "." in name and not (SAMPLE / name).exists()]

    assert (len(names) > 5, missing) == (True, [])


# Pages


def test_page_wants_a_login(stranger: Browser) -> None:
    response = stranger.get("/")

    assert (response.status, urlsplit(response.headers["location"]).path) == (302, "/login")


def test_wrong_password_is_refused(stranger: Browser) -> None:
    assert stranger.log_in("jane", "wrong") == 401


def test_page_shows_the_notes_that_calls_have_written(jane: Browser) -> None:
    jane.call("CreateNote", text="<b>Bold</b>")

    page = jane.get("/").data.decode()
    assert "Logged in as jane" in page
    assert "<li>Buy milk" in page
    assert "&lt;b&gt;Bold&lt;/b&gt;" in page


def test_page_calls_the_service_at_its_address(jane: Browser) -> None:
    assert f'fetch("{SERVICE}/CreateNote"' in jane.get("/").data.decode()


# Calls


def test_call_wants_a_login(stranger: Browser) -> None:
    response = stranger.post(f"{SERVICE}/ListNotes", b"{}", JSON)

    assert response.status == 401
    assert response.json() == {"code": "unauthenticated", "message": "log in first"}


def test_session_that_has_ended_is_no_login(jane: Browser) -> None:
    jane.log_out()

    assert jane.post(f"{SERVICE}/ListNotes", b"{}", JSON).status == 401


def test_notes_are_their_writers_own(jane: Browser, john: Browser) -> None:
    note = jane.call("CreateNote", text="For me")["note"]

    assert note["id"] in [note["id"] for note in jane.call("ListNotes")["notes"]]
    assert note["id"] not in [note["id"] for note in john.call("ListNotes").get("notes", [])]


def test_empty_note_is_refused(jane: Browser) -> None:
    response = jane.post(f"{SERVICE}/CreateNote", b'{"text": " "}', JSON)

    assert response.json() == {"code": "invalid_argument", "message": "the note is empty"}


def test_note_reaches_who_watches_when_it_is_written(jane: Browser) -> None:
    with jane.stream("WatchNotes") as connection:
        connection.send(message(), LAST_CHUNK)
        assert connection.read_head()[0] == 200
        for text in ("first", "second", "third"):
            note = jane.call("CreateNote", text=text)["note"]
            while (seen := json.loads(connection.read_envelope()[1])["note"])["id"] != note["id"]:
                pass  # those of other tests
            assert seen == note


def test_uploaded_file_is_downloaded_from_the_page(jane: Browser) -> None:
    note = jane.call("CreateNote", text="With a file")["note"]
    pieces = [bytes(50_000), b"the end"]
    attachment = upload(jane, note["id"], *pieces)["attachment"]

    assert (attachment["name"], attachment["size"]) == ("a file.txt", "50007")
    assert f'href="/attachments/{attachment["id"]}"' in jane.get("/").data.decode()
    response = jane.get(f"/attachments/{attachment['id']}")
    assert response.data == b"".join(pieces)
    assert response.headers["content-disposition"] == 'attachment; filename="a file.txt"'


def test_file_for_the_note_of_somebody_else_is_refused(jane: Browser, john: Browser) -> None:
    note = jane.call("CreateNote", text="Mine")["note"]

    assert upload(john, note["id"], b"data")["code"] == "not_found"


def test_file_of_somebody_else_is_not_there(jane: Browser, john: Browser) -> None:
    note = jane.call("CreateNote", text="Mine")["note"]
    attachment = upload(jane, note["id"], b"data")["attachment"]

    assert john.get(f"/attachments/{attachment['id']}").status == 404


def test_file_that_is_too_large_is_refused(jane: Browser) -> None:
    note = jane.call("CreateNote", text="Large")["note"]

    assert upload(jane, note["id"], *[bytes(1 << 20)] * 10, b"1")["code"] == "resource_exhausted"


# Pages of other origins


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_form_of_another_page_may_send_is_no_call(jane: Browser, content_type: str) -> None:
    data = b'{"text": "Not mine"}'
    response = jane.post(f"{SERVICE}/CreateNote", data, {"content-type": content_type})

    assert response.status == 415


def test_preflight_of_another_page_allows_nothing(jane: Browser) -> None:
    with Connection(jane.port) as connection:
        asked = {"host": "test", "origin": STRANGER, "access-control-request-method": "POST"}
        connection.send(head(f"OPTIONS {SERVICE}/CreateNote HTTP/1.1", asked))
        _, headers = connection.read_reply()[:2]

    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origin", [STRANGER, "null", "http://127.0.0.1:1"])
def test_call_of_another_page_is_refused(jane: Browser, origin: str) -> None:
    response = jane.post(f"{SERVICE}/CreateNote", b'{"text": "Not mine"}', {**JSON, "origin": origin})

    assert response.status == 403


def test_login_by_a_form_of_another_page_is_refused(stranger: Browser) -> None:
    assert stranger.log_in("jane", "correct horse", origin=STRANGER) == 403


def test_call_of_the_sites_own_page_is_answered(jane: Browser) -> None:
    headers = {**JSON, "origin": f"http://127.0.0.1:{jane.port}"}

    assert jane.post(f"{SERVICE}/CreateNote", b'{"text": "Mine"}', headers).status == 200


def test_call_of_the_sites_own_page_is_answered_behind_a_proxy_with_tls(jane: Browser) -> None:
    # gunicorn believes this from a proxy on the same host.
    headers = {**JSON, "x-forwarded-proto": "https", "origin": f"https://127.0.0.1:{jane.port}"}

    assert jane.post(f"{SERVICE}/CreateNote", b'{"text": "Mine"}', headers).status == 200


def test_cookie_is_kept_from_scripts_and_other_sites(stranger: Browser) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = stranger.post("/login", b"name=jane&password=correct+horse", form)

    _, *attributes = response.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax"} <= set(attributes)
