"""How gunicorn serves a service of connect-sync behind nginx, Envoy or Kubernetes.

gunicorn reads this file when it is started in this folder. Each setting says why it is as it is. Options on
gunicorn's command line come before what stands here.
"""

from __future__ import annotations

import os
from contextlib import suppress

from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):
    """A `gthread` worker that turns new connections away as soon as it is told to stop.

    gunicorn's own keeps the listening socket open until its last call has ended, and accepts nothing from it:
    a proxy that connects meanwhile is left waiting, and then reset. With the socket closed the connection is
    refused at once, and the proxy turns to the next host.
    """

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """Begin or cease to accept connections; for good, where the worker is stopping."""
        super().set_accept_enabled(enabled)
        if self.alive or enabled:
            return
        for listener in self.sockets:
            # Who has connected by now is still served.
            with suppress(OSError):
                connections = -1
                while connections < self.nr_conns:
                    connections = self.nr_conns
                    self.accept(listener)
            listener.close()


# The application: `application.py` of this folder.
wsgi_app = "application:app"

# All interfaces: the proxies come from other hosts. Let a firewall see to it that nobody else does.
bind = "0.0.0.0:8000"

worker_class = Worker

# Processes. Threads of one process share one processor for Python code, so that as many as there are
# processors is a good start.
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))

# Calls at once, by each process. A stream keeps its thread for as long as it is open.
threads = int(os.environ.get("THREADS", "32"))

# For how many seconds a connection is kept without a call. It has to be longer than the proxy keeps its own
# connections for, 60 seconds in nginx.conf and envoy.yaml: the side that sends is the one that closes, and
# no call is sent over a connection that is being closed.
keepalive = 75

# How many seconds calls that run have to end in when gunicorn is told to stop by SIGTERM; then they are cut.
# Whoever sends the signal has to wait longer than this before the next one, SIGKILL: in Kubernetes that is
# terminationGracePeriodSeconds.
graceful_timeout = 30

# After how many seconds without a sign of life a worker is killed. Threads that are busy do not count: the
# worker's main thread gives the signs, however long the calls are.
timeout = 30

# Where the signs of life are written: in memory, if the system has such a place. On a disk that is slow they
# may come too late.
if os.path.isdir("/dev/shm"):
    worker_tmp_dir = "/dev/shm"

# Do not set `max_requests`: a worker that has had so many is replaced, and streams that are open at that time
# have no more than graceful_timeout to end.

# The log of calls, and errors, to where the platform collects them. The path stands there without its query,
# which is where calls by GET have their message.
accesslog = "-"
errorlog = "-"
access_log_format = '%({x-forwarded-for}i)s "%(m)s %(U)s %(H)s" %(s)s %(B)s bytes %(M)s ms'

# gunicorn 25 and newer would open one in the home directory, to be managed by.
control_socket_disable = True
