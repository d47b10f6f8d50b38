"""Exceptions of web frameworks that have an HTTP status, as errors of calls.

`connect_sync.Code.from_http_status` is the other direction: for a response that carries no usable error.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from connect_sync.code import Code
from connect_sync.errors import ConnectError, ErrorDetail
from connect_sync.server.errors import in_words

# google/rpc/code.proto names the HTTP status of each code. Of the two for 409, aborted claims only
# that there is a conflict. Statuses not named there get the code closest in meaning.
_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    406: Code.INVALID_ARGUMENT,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    410: Code.NOT_FOUND,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    416: Code.OUT_OF_RANGE,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def from_status(
    error: Exception, status: int | None, text: str = "", details: Iterable[ErrorDetail] = ()
) -> ConnectError:
    """Return the error for an exception that a framework would answer with ``status``.

    A status from 400 to 499 that has no code of its own is ``failed_precondition``.

    Args:
        error: The exception.
        status: Its HTTP status; None if it has none.
        text: The message of the error, if the status is from 400 to 499. For other statuses, or if it is
            empty, the message is the name of the status.
        details: The details of the error.

    Raises:
        Exception: ``error`` itself, if its status has no code, such as a redirect or 500.
    """
    status = status or 0
    is_of_client = 400 <= status < 500
    code = _CODES.get(status, Code.FAILED_PRECONDITION if is_of_client else None)
    if code is None:
        raise error
    return ConnectError(code, (text if is_of_client else "") or _name(status, code), details)


def _name(status: int, code: Code) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return in_words(code)
