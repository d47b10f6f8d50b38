"""Two services behind a router, as applications for gunicorn: alone, and inside a site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.integration.service import application as echo
from tests.interop.service import application as interop
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Tell what was asked for, and send back what was sent."""
    start_response("200 OK", [("content-type", "text/plain")])
    yield f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}|".encode()
    yield environ["wsgi.input"].read()


alone = Router([echo, interop])

inside_a_site = Router([echo, interop], prefix="/api/v1", fallback=site)
