"""How long a call may live: until its deadline, or until somebody cancels it.

A call blocks in its caller's thread. To be cancelled there from another thread it has to be woken: whatever
it waits in, it says beforehand how that wait is broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

from connect_sync.code import Code
from connect_sync.deadline import Deadline, deadline_exceeded
from connect_sync.errors import ConnectError


class Cancellation:
    """A handle by which calls are cancelled from elsewhere.

    It is made by the caller and passed to any number of calls. `cancel` may come from any thread, and from
    a signal handler; each of the calls then raises ``canceled`` at once, and so does each that comes later.
    """

    def __init__(self) -> None:
        """Make a handle that has not been used."""
        # Reentrant, for the signal handler that cancels while its thread is in here.
        self._lock = RLock()
        self._aborts: dict[object, Callable[[], None]] = {}
        self._is_canceled = False

    def cancel(self) -> None:
        """Cancel the calls that have this handle. Cancelling twice is cancelling once."""
        with self._lock:
            self._is_canceled = True
            while self._aborts:
                _, abort = self._aborts.popitem()
                abort()

    def is_canceled(self) -> bool:
        """Tell whether the handle was used."""
        return self._is_canceled

    def check(self) -> None:
        """Do nothing until the handle is used.

        Raises:
            ConnectError: ``canceled``, once it was.
        """
        if self._is_canceled:
            raise ConnectError(Code.CANCELED, "the call was canceled")

    def attach(self, owner: object, abort: Callable[[], None]) -> None:
        """Let ``cancel`` call ``abort``, until ``owner`` is detached.

        ``abort`` is called in the thread that cancels, at once if that has happened already. It must
        neither block nor raise.
        """
        with self._lock:
            if self._is_canceled:
                abort()
            else:
                self._aborts[owner] = abort

    def detach(self, owner: object) -> None:
        """Let go of what ``owner`` attached. It is not being called any more when this returns."""
        with self._lock:
            self._aborts.pop(owner, None)


class Lifetime:
    """The deadline and the cancellation of one call, either of which may be absent."""

    __slots__ = ("cancellation", "deadline")

    def __init__(self, deadline: Deadline | None = None, cancellation: Cancellation | None = None) -> None:
        """Bound a call by ``deadline`` and ``cancellation``."""
        self.deadline: Deadline | None = deadline
        self.cancellation: Cancellation | None = cancellation

    @property
    def is_bounded(self) -> bool:
        """Whether there is a deadline or a cancellation at all."""
        return self.deadline is not None or self.cancellation is not None

    def check(self) -> None:
        """Do nothing while the call may live.

        Raises:
            ConnectError: ``canceled`` or ``deadline_exceeded``.
        """
        if self.cancellation is not None:
            self.cancellation.check()
        if self.deadline is not None:
            self.deadline.check()

    def remaining(self) -> float | None:
        """Return for how many seconds a wait may last, more than 0; None without a deadline.

        Raises:
            ConnectError: ``canceled`` or ``deadline_exceeded``.
        """
        if self.cancellation is not None:
            self.cancellation.check()
        if self.deadline is None:
            return None
        remaining = self.deadline.wait_limit()
        if not remaining:
            raise deadline_exceeded()
        return remaining

    def attach(self, owner: object, abort: Callable[[], None]) -> None:
        """Let a cancellation call ``abort``: see ``Cancellation.attach``."""
        if self.cancellation is not None:
            self.cancellation.attach(owner, abort)

    def detach(self, owner: object) -> None:
        """Let go of what ``owner`` attached: see ``Cancellation.detach``."""
        if self.cancellation is not None:
            self.cancellation.detach(owner)

    @contextmanager
    def attached(self, owner: object, abort: Callable[[], None]) -> Iterator[None]:
        """Attach ``abort`` for the time of a block."""
        self.attach(owner, abort)
        try:
            yield
        finally:
            self.detach(owner)
