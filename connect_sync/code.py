"""The sixteen status codes of Connect and gRPC, with their numbers and HTTP statuses.

The names and the HTTP mapping are those of the Connect protocol reference ("Error codes"); the numbers
are gRPC's.
"""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """Why a call failed. The value is the wire name: ``Code("not_found") is Code.NOT_FOUND``."""

    number: int
    """The code's number in gRPC, 1 to 16."""
    http_status: int
    """The HTTP status of a Connect unary response that fails with this code."""

    def __new__(cls, wire_name: str, number: int = 0, http_status: int = 0) -> Code:
        """Make the member whose value is ``wire_name`` alone."""
        member = object.__new__(cls)
        member._value_ = wire_name
        member.number = number
        member.http_status = http_status
        return member

    CANCELED = "canceled", 1, 499
    UNKNOWN = "unknown", 2, 500
    INVALID_ARGUMENT = "invalid_argument", 3, 400
    DEADLINE_EXCEEDED = "deadline_exceeded", 4, 504
    NOT_FOUND = "not_found", 5, 404
    ALREADY_EXISTS = "already_exists", 6, 409
    PERMISSION_DENIED = "permission_denied", 7, 403
    RESOURCE_EXHAUSTED = "resource_exhausted", 8, 429
    FAILED_PRECONDITION = "failed_precondition", 9, 400
    ABORTED = "aborted", 10, 409
    OUT_OF_RANGE = "out_of_range", 11, 400
    UNIMPLEMENTED = "unimplemented", 12, 501
    INTERNAL = "internal", 13, 500
    UNAVAILABLE = "unavailable", 14, 503
    DATA_LOSS = "data_loss", 15, 500
    UNAUTHENTICATED = "unauthenticated", 16, 401

    @classmethod
    def from_http_status(cls, status: int) -> Code:
        """Return the code for a response of HTTP ``status`` that carries no usable error.

        The mapping is the Connect reference's ("HTTP to error code"); a status it does not list is
        ``unknown``.
        """
        return _FROM_HTTP_STATUS.get(status, cls.UNKNOWN)

    @classmethod
    def from_number(cls, number: int) -> Code:
        """Return the code of that number in gRPC; ``unknown`` for a number that has none."""
        return _FROM_NUMBER.get(number, cls.UNKNOWN)


_FROM_HTTP_STATUS = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}

_FROM_NUMBER = {code.number: code for code in Code}
