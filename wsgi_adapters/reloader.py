"""When `connect-sync serve` restarts: a loop for werkzeug's reloader that detects more kinds of changes."""

from __future__ import annotations

import math
import os
import time

# Private, but the same in all releases of werkzeug 3, which has no public way to add a loop.
from werkzeug._reloader import StatReloaderLoop, _find_stat_paths, reloader_loops

NAME = "connect-sync"
"""The name of the loop, for ``reloader_type`` of werkzeug's ``run_simple``."""

_CLOCK_SECONDS = 1
"""How far a file system's clock may lag: many have a coarse resolution."""


class Reloader(StatReloaderLoop):
    """Restarts when a file that Python could import is changed, removed or added.

    werkzeug's own loop only detects increasing times, and not that a missing module was created.
    """

    name = NAME

    def __enter__(self) -> Reloader:
        """Record the existing files."""
        start = time.time() - _CLOCK_SECONDS
        self._start = math.inf
        super().__enter__()
        self._start = start
        return self

    def run_step(self) -> None:
        """Compare the files with those recorded, and end the process if one has changed."""
        for path in {*self.mtimes, *_find_stat_paths(self.extra_files, self.exclude_patterns)}:
            noted = self.mtimes.get(path)
            try:
                status = os.stat(path)
            except OSError:
                if noted is not None:
                    self.trigger_reload(path)
                continue
            if noted is None:
                # It may be an old file, of a module outside the project that was imported late. A file
                # created or moved here since the start has a newer ctime.
                is_changed = status.st_ctime > self._start
                self.mtimes[path] = status.st_mtime
            else:
                is_changed = status.st_mtime != noted
            if is_changed:
                self.trigger_reload(path)


reloader_loops[NAME] = Reloader
