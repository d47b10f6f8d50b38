"""werkzeug's exceptions, which Flask's ``abort`` raises, as errors of calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from markupsafe import Markup
from werkzeug.exceptions import HTTPException, default_exceptions

from connect_sync.errors import ConnectError, ErrorDetail, ErrorMapping
from connect_sync.rpc import retry_info
from wsgi_adapters.http_errors import from_status


def _from_http_exception(error: HTTPException) -> ConnectError:
    if error.response is not None:
        return from_status(error, error.response.status_code)
    return from_status(error, error.code, _describe(error), _retry_details(error))


def _describe(error: HTTPException) -> str:
    """Return the description of ``error``, unless it is werkzeug's own, which is about pages and browsers."""
    default = default_exceptions.get(error.code or 0)
    description = error.description
    if description is None or (default is not None and description == default.description):
        return ""
    if hasattr(description, "__html__"):
        return Markup(description).striptags()  # noqa: S704 - the markup is removed
    return str(description)


def _retry_details(error: HTTPException) -> Iterator[ErrorDetail]:
    retry_after: datetime | int | None = getattr(error, "retry_after", None)
    if isinstance(retry_after, datetime):
        # Without a time zone it is UTC, as in werkzeug's Retry-After.
        if retry_after.tzinfo is None:
            retry_after = retry_after.replace(tzinfo=timezone.utc)
        yield retry_info(max(0, (retry_after - datetime.now(timezone.utc)).total_seconds()))
    elif retry_after:
        yield retry_info(retry_after)


ERRORS: ErrorMapping = {HTTPException: _from_http_exception}
"""How werkzeug's exceptions, which ``abort`` raises, are reported to clients: by their HTTP status.

- With a status from 400 to 499, the message is the description given to the exception, as plain text. If
there
  is none, it is the name of the status, such as ``not found``. The same goes for an exception with a
  response, whose body is not sent.
- With a status from 501 to 504, the message is the name of the status.
- ``retry_after`` is sent as a ``google.rpc.RetryInfo``.
- Other statuses, such as redirects and 500, stay unmapped: they are logged and become ``internal``.

To extend the mapping of an application: ``errors={**ERRORS, KeyError: Code.NOT_FOUND}``.
"""
