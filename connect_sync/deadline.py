"""A deadline: the moment by which a whole call has to be over."""

from __future__ import annotations

from time import monotonic

from connect_sync.code import Code
from connect_sync.errors import ConnectError

_MAX_WAIT = 2_000_000.0
"""Seconds, about 23 days: poll(2), which waits for sockets, counts milliseconds in 31 bits."""

_SLACK = 0.05
"""Seconds by which a wait that a deadline bounds, on this side or the other, may end before it."""


class Deadline:
    """A moment on the monotonic clock."""

    __slots__ = ("_moment",)

    def __init__(self, timeout_ms: float) -> None:
        """Set the deadline ``timeout_ms`` milliseconds from now."""
        self._moment = monotonic() + timeout_ms / 1000

    def remaining(self) -> float:
        """Return the seconds that remain, 0.0 once the deadline has passed."""
        return max(0.0, self._moment - monotonic())

    def wait_limit(self) -> float:
        """Return how many seconds a wait may last: what remains, or the most that a socket can wait."""
        return min(self.remaining(), _MAX_WAIT)

    def is_due(self) -> bool:
        """Tell whether the deadline has passed, or is so near that it may be what just ended a wait."""
        return self.remaining() < _SLACK

    def check(self) -> None:
        """Do nothing before the deadline.

        Raises:
            ConnectError: ``deadline_exceeded``, once it has passed.
        """
        if monotonic() >= self._moment:
            raise deadline_exceeded()


def deadline_exceeded() -> ConnectError:
    """Return the error of a call whose deadline has passed."""
    return ConnectError(Code.DEADLINE_EXCEEDED, "the deadline of the call has passed")


def client_disconnected(deadline: Deadline | None) -> ConnectError:
    """Return the error of a call whose client disconnected: ``canceled``.

    It is ``deadline_exceeded`` where the ``deadline`` is due: the client leaves when its own clock says so,
    which may be a moment early here.
    """
    if deadline is not None and deadline.is_due():
        return deadline_exceeded()
    return ConnectError(Code.CANCELED, "the client disconnected before the call had ended")
