"""The site: pages with a login, and the service beside them."""

from __future__ import annotations

import io
import secrets
from pathlib import Path

from flask import (
    Blueprint,
    Flask,
    abort,
    flash,
    g,
    redirect,
    render_template,
    request,
    send_file,
    session,
    url_for,
)
from notes.v1.notes_connect import NoteServiceWSGIApplication
from notes_database import connect, prepare
from notes_service import LoginRequired, Notes, read_notes
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Response

from wsgi_adapters.flask import register_service

pages = Blueprint("pages", __name__)

# The service is at /api/notes.v1.NoteService. Hooks of this blueprint alone would be around its calls alone.
api = Blueprint("api", __name__, url_prefix="/api")
notes = Notes()
register_service(api, NoteServiceWSGIApplication(notes, interceptors=[LoginRequired()]))


def create_app() -> Flask:
    """Make the site. The environment may set NOTES_SECRET_KEY and NOTES_DATABASE."""
    app = Flask(__name__)
    app.config.update(
        # With more than one worker, they need one and the same.
        SECRET_KEY=secrets.token_hex(),
        DATABASE=str(Path(app.instance_path, "notes.sqlite3")),
        # Browsers keep the session's cookie from what other sites send, links aside.
        SESSION_COOKIE_SAMESITE="Lax",
        # For forms. Calls have limits of their own.
        MAX_CONTENT_LENGTH=16 * 1024,
    )
    app.config.from_prefixed_env("NOTES", loads=str)
    prepare(app)
    # These run before pages and calls alike.
    app.before_request(refuse_other_origins)
    app.before_request(load_user)
    app.register_blueprint(pages)
    app.register_blueprint(api)
    return app


def refuse_other_origins() -> None:
    """Refuse what pages of other origins have a browser send here, the login form included.

    Browsers name the origin with every POST; programs that are no browser have no reason to.
    """
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin is not None and origin != f"{request.scheme}://{request.host}":
        abort(403, f"pages of {origin} may not send this")


def load_user() -> None:
    """Tell pages and handlers who is logged in: a row of the table of users, or None."""
    g.user = connect().execute("SELECT * FROM user WHERE id = ?", (session.get("user_id"),)).fetchone()


@pages.get("/")
def index() -> str | Response:
    """Show the user's notes."""
    if g.user is None:
        return redirect(url_for("pages.login"))
    return render_template("index.html", notes=read_notes())


@pages.get("/login")
def login() -> str:
    """Show the form to log in by."""
    return render_template("login.html")


@pages.post("/login")
def log_in() -> Response | tuple[str, int]:
    """Begin a session."""
    name, password = request.form.get("name", ""), request.form.get("password", "")
    user = connect().execute("SELECT * FROM user WHERE name = ?", (name,)).fetchone()
    if user is None or not check_password_hash(user["password_hash"], password):
        flash("There is no such user, or the password is another one.")
        return render_template("login.html"), 401
    session.clear()
    session["user_id"] = user["id"]
    return redirect(url_for("pages.index"))


@pages.post("/logout")
def log_out() -> Response:
    """End the session."""
    session.clear()
    return redirect(url_for("pages.login"))


@pages.get("/attachments/<int:attachment_id>")
def attachment(attachment_id: int) -> Response:
    """Send a file of the user's."""
    user_id = None if g.user is None else g.user["id"]
    row = (
        connect()
        .execute(
            "SELECT attachment.* FROM attachment JOIN note ON note.id = note_id "
            "WHERE attachment.id = ? AND user_id = ?",
            (attachment_id, user_id),
        )
        .fetchone()
    )
    if row is None:
        abort(404)
    # As a download: shown in place, what others made of it would be a page of this site.
    return send_file(io.BytesIO(row["data"]), as_attachment=True, download_name=row["name"])
