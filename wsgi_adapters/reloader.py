"""When `connect-sync serve` starts anew: a loop for werkzeug's reloader that sees more than its own do."""

from __future__ import annotations

import math
import os
import time

# Private, and the same in all releases of werkzeug 3, which has no public way to another loop than its own.
from werkzeug._reloader import StatReloaderLoop, _find_stat_paths, reloader_loops

NAME = "connect-sync"
"""The name of the loop, for ``reloader_type`` of werkzeug's ``run_simple``."""

_CLOCK_SECONDS = 1
"""By how much the clock of a file system may be behind: many tell time in steps."""


class Reloader(StatReloaderLoop):
    """Starts anew when a file that Python could import has another time, is gone, or is new.

    werkzeug's own sees no more than times that grow: not that somebody has made the module that was missing.
    """

    name = NAME

    def __enter__(self) -> Reloader:
        """Note the files that are there."""
        start = time.time() - _CLOCK_SECONDS
        self._start = math.inf
        super().__enter__()
        self._start = start
        return self

    def run_step(self) -> None:
        """Compare the files with those that were noted, and end the process if there is a change."""
        for path in {*self.mtimes, *_find_stat_paths(self.extra_files, self.exclude_patterns)}:
            noted = self.mtimes.get(path)
            try:
                status = os.stat(path)
            except OSError:
                if noted is not None:
                    self.trigger_reload(path)
                continue
            if noted is None:
                # It may be an old file, of a module outside the project that is imported late. What has come
                # into being, or has been moved here, since the start has been changed since then.
                is_changed = status.st_ctime > self._start
                self.mtimes[path] = status.st_mtime
            else:
                is_changed = status.st_mtime != noted
            if is_changed:
                self.trigger_reload(path)


reloader_loops[NAME] = Reloader
