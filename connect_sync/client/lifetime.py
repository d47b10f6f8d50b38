"""How long a call may live: until its deadline, or until it is canceled.

A call blocks in its caller's thread. To be canceled from another thread it has to be woken: before each wait,
it registers a function that interrupts that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

from connect_sync.code import Code
from connect_sync.deadline import Deadline, deadline_exceeded
from connect_sync.errors import ConnectError


class Cancellation:
    """A handle that cancels calls from elsewhere.

    The caller makes it and passes it to any number of calls. `cancel` may be called in any thread, and in a
    signal handler; each of the calls then raises ``canceled`` at once, and so does every later one.
    """

    def __init__(self) -> None:
        """Make a handle that has not been used."""
        # Reentrant: a signal handler may cancel while its own thread holds the lock.
        self._lock = RLock()
        self._aborts: dict[object, Callable[[], None]] = {}
        self._is_canceled = False

    def cancel(self) -> None:
        """Cancel the calls that have this handle. Idempotent."""
        with self._lock:
            self._is_canceled = True
            while self._aborts:
                _, abort = self._aborts.popitem()
                abort()

    def is_canceled(self) -> bool:
        """Tell whether `cancel` was called."""
        return self._is_canceled

    def check(self) -> None:
        """Do nothing until `cancel` is called.

        Raises:
            ConnectError: ``canceled``, after that.
        """
        if self._is_canceled:
            raise ConnectError(Code.CANCELED, "the call was canceled")

    def attach(self, owner: object, abort: Callable[[], None]) -> None:
        """Let ``cancel`` call ``abort``, until ``owner`` is detached.

        ``abort`` runs in the thread that cancels; if that has happened already, at once in this one. It must
        neither block nor raise.
        """
        with self._lock:
            if self._is_canceled:
                abort()
            else:
                self._aborts[owner] = abort

    def detach(self, owner: object) -> None:
        """Remove what ``owner`` attached. It is no longer running when this returns."""
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
        """Do nothing while the call may continue.

        Raises:
            ConnectError: ``canceled`` or ``deadline_exceeded``.
        """
        if self.cancellation is not None:
            self.cancellation.check()
        if self.deadline is not None:
            self.deadline.check()

    def remaining(self) -> float | None:
        """Return how many seconds a wait may last, more than 0; None without a deadline.

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
        """Remove what ``owner`` attached: see ``Cancellation.detach``."""
        if self.cancellation is not None:
            self.cancellation.detach(owner)

    @contextmanager
    def attached(self, owner: object, abort: Callable[[], None]) -> Iterator[None]:
        """Attach ``abort`` for the duration of a block."""
        self.attach(owner, abort)
        try:
            yield
        finally:
            self.detach(owner)
