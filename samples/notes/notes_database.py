"""The site's data in SQLite: a request that needs it has a connection of its own, kept in Flask's g."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from flask import Flask, current_app, g
from werkzeug.security import generate_password_hash

SCHEMA = """
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS note (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user (id),
    text TEXT NOT NULL,
    created INTEGER NOT NULL DEFAULT (strftime('%s', 'now'))
);
CREATE TABLE IF NOT EXISTS attachment (
    id INTEGER PRIMARY KEY,
    note_id INTEGER NOT NULL REFERENCES note (id),
    name TEXT NOT NULL,
    data BLOB NOT NULL
);
"""

# A real site has its users sign up.
USERS = {"jane": "correct horse", "john": "battery staple"}


def prepare(app: Flask) -> None:
    """Make the tables and the users where they are missing, and close connections with their requests."""
    Path(app.config["DATABASE"]).parent.mkdir(parents=True, exist_ok=True)
    app.teardown_appcontext(close_connection)
    with app.app_context():
        connect().executescript(SCHEMA)
        with connect() as connection:
            for name, password in USERS.items():
                connection.execute(
                    "INSERT OR IGNORE INTO user (name, password_hash) VALUES (?, ?)",
                    (name, generate_password_hash(password)),
                )


def connect() -> sqlite3.Connection:
    """Return the connection of this request; make it, if nobody has asked for it yet."""
    if "connection" not in g:
        g.connection = sqlite3.connect(current_app.config["DATABASE"])
        g.connection.row_factory = sqlite3.Row
    connection: sqlite3.Connection = g.connection
    return connection


def close_connection(error: BaseException | None) -> None:
    """Close the connection of this request, if there is one: for a stream, when the stream has ended."""
    connection = g.pop("connection", None)
    if connection is not None:
        connection.close()
