"""Plain responses of HTTP, for requests that are not calls."""

from __future__ import annotations

from collections.abc import Mapping

from connect_sync.headers import Headers
from connect_sync.http import Response


def plain_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of HTTP with a line of text, for a request that is not a call of this service."""
    response = Headers(headers or {})
    response["content-type"] = "text/plain; charset=utf-8"
    return Response(status, response, (f"{text}\n".encode("utf-8", errors="replace"),))
