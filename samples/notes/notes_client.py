"""Logs in and calls the service: `python notes_client.py [address]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

import urllib3
from notes.v1.notes_connect import NoteServiceClient
from notes.v1.notes_pb2 import AttachFileRequest, CreateNoteRequest, ListNotesRequest, WatchNotesRequest

from connect_sync import Code, ConnectError, RequestContext

PIECE_BYTES = 64 * 1024


class Session:
    """Sends the cookie of a session with every call: an interceptor, on the client's side."""

    def __init__(self, address: str, name: str, password: str) -> None:
        """Log in by the form that people use, too."""
        fields = {"name": name, "password": password}
        with urllib3.PoolManager(retries=False) as manager:
            answer = manager.request(
                "POST", f"{address}/login", fields=fields, encode_multipart=False, redirect=False
            )
        cookie = answer.headers.get("set-cookie")
        if answer.status != 302 or cookie is None:
            sys.exit(f"{name} could not log in: HTTP {answer.status}")
        self._cookie = cookie.partition(";")[0]

    def on_start(self, ctx: RequestContext) -> None:
        """Add the cookie to the headers of the request."""
        ctx.request_headers()["cookie"] = self._cookie


def main(address: str) -> None:
    """Make calls, without a login and with one."""
    with NoteServiceClient(f"{address}/api", timeout_ms=10_000) as client:
        try:
            client.list_notes(ListNotesRequest())
        except ConnectError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            print(f"Without a login: {error}")
        else:
            sys.exit("Without a login: this should have failed")

    session = Session(address, "jane", "correct horse")
    with NoteServiceClient(f"{address}/api", interceptors=[session], timeout_ms=10_000) as client:
        note = client.create_note(CreateNoteRequest(text="Buy milk")).note
        print(f"Written: {note.text}")

        # The second note is written while the stream is open.
        with client.watch_notes(WatchNotesRequest()) as responses:
            for response in responses:
                print(f"Seen: {response.note.text}")
                if response.note.id == note.id:
                    client.create_note(CreateNoteRequest(text="Feed the cat"))
                elif response.note.id > note.id:
                    break

        file = BytesIO(b"milk, oat\n" * 50_000)
        attachment = client.attach_file(pieces(note.id, "kinds.txt", file)).attachment
        print(f"Attached: {attachment.name}, {attachment.size} bytes")

        # A method without side effects may be called by GET.
        count = len(client.list_notes(ListNotesRequest(), use_get=True).notes)
        print(f"There are {count} notes now.")


def pieces(note_id: int, name: str, file: BinaryIO) -> Iterator[AttachFileRequest]:
    """Yield what is sent of a file: each piece is read when the one before it has left."""
    yield AttachFileRequest(target=AttachFileRequest.Target(note_id=note_id, name=name))
    while data := file.read(PIECE_BYTES):
        yield AttachFileRequest(data=data)


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    try:
        main(url)
    except (ConnectError, urllib3.exceptions.HTTPError) as failure:
        sys.exit(f"The site at {url} has failed, or is not there: {failure}")
