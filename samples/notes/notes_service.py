"""The service: who is logged in comes from Flask, as everywhere else on the site."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from flask import g
from notes.v1.notes_connect import NoteService
from notes.v1.notes_pb2 import (
    AttachFileRequest,
    AttachFileResponse,
    Attachment,
    CreateNoteRequest,
    CreateNoteResponse,
    ListNotesRequest,
    ListNotesResponse,
    Note,
    WatchNotesRequest,
    WatchNotesResponse,
)
from notes_database import connect

from connect_sync import Code, ConnectError, RequestContext

FILE_MAX_BYTES = 10 << 20
PAUSE = 0.2  # Seconds between two looks for new notes.


class LoginRequired:
    """Refuses calls of whatever kind without a login: an interceptor, which runs after Flask's own hooks."""

    def on_start(self, ctx: RequestContext) -> None:
        """Refuse the call, or let it pass."""
        if g.user is None:
            raise ConnectError(Code.UNAUTHENTICATED, "log in first")


class Notes(NoteService):
    """The handlers, one for each method of the service."""

    def __init__(self) -> None:
        self._is_stopping = False

    def stop(self) -> None:
        """End the streams, which have no end of their own. A signal handler may call this."""
        self._is_stopping = True

    def list_notes(self, request: ListNotesRequest, ctx: RequestContext) -> ListNotesResponse:
        """List the user's notes, each with its attachments."""
        return ListNotesResponse(notes=read_notes())

    def create_note(self, request: CreateNoteRequest, ctx: RequestContext) -> CreateNoteResponse:
        """Write a note."""
        text = request.text.strip()
        if not text:
            raise ConnectError(Code.INVALID_ARGUMENT, "the note is empty")
        with connect() as connection:
            row = connection.execute(
                "INSERT INTO note (user_id, text) VALUES (?, ?) RETURNING *", (g.user["id"], text)
            ).fetchone()
        return CreateNoteResponse(note=to_note(row))

    def watch_notes(self, request: WatchNotesRequest, ctx: RequestContext) -> Iterator[WatchNotesResponse]:
        """Send notes for as long as the client listens. `g` and the connection in it stay for as long."""
        last_id = 0
        while ctx.is_active() and not self._is_stopping:
            for note in read_notes(after_id=last_id):
                last_id = note.id
                yield WatchNotesResponse(note=note)
            time.sleep(PAUSE)

    def attach_file(self, request: Iterator[AttachFileRequest], ctx: RequestContext) -> AttachFileResponse:
        """Store a file, whose pieces come one by one."""
        first = next(request, None)
        if first is None or first.WhichOneof("part") != "target":
            raise ConnectError(Code.INVALID_ARGUMENT, "the first message has to name the note")
        note_id, name = first.target.note_id, first.target.name
        if not name or not name.isprintable():
            raise ConnectError(Code.INVALID_ARGUMENT, "the file needs a name, in one line")
        connection = connect()
        if not connection.execute(
            "SELECT 1 FROM note WHERE id = ? AND user_id = ?", (note_id, g.user["id"])
        ).fetchone():
            raise ConnectError(Code.NOT_FOUND, f"there is no note {note_id}")
        data = bytearray()
        for message in request:
            data += message.data
            if len(data) > FILE_MAX_BYTES:
                raise ConnectError(Code.RESOURCE_EXHAUSTED, f"a file may have {FILE_MAX_BYTES} bytes")
        with connection:
            cursor = connection.execute(
                "INSERT INTO attachment (note_id, name, data) VALUES (?, ?, ?)", (note_id, name, data)
            )
        return AttachFileResponse(attachment=Attachment(id=cursor.lastrowid, name=name, size=len(data)))


def read_notes(after_id: int = 0) -> list[Note]:
    """Return the user's notes that are newer than one of them, or all."""
    notes = {
        row["id"]: to_note(row)
        for row in connect().execute(
            "SELECT * FROM note WHERE user_id = ? AND id > ? ORDER BY id", (g.user["id"], after_id)
        )
    }
    for row in connect().execute(
        "SELECT attachment.id, note_id, name, length(data) AS size FROM attachment "
        "JOIN note ON note.id = note_id WHERE user_id = ? AND note_id > ? ORDER BY attachment.id",
        (g.user["id"], after_id),
    ):
        # A note may have been written between the two queries.
        if row["note_id"] in notes:
            notes[row["note_id"]].attachments.add(id=row["id"], name=row["name"], size=row["size"])
    return list(notes.values())


def to_note(row: sqlite3.Row) -> Note:
    """Return a row of the table as the service's message."""
    note = Note(id=row["id"], text=row["text"])
    note.created.FromSeconds(row["created"])
    return note
