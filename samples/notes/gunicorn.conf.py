"""How gunicorn serves the sample. It reads this file when it is started in this folder."""

import signal
from types import FrameType

bind = "127.0.0.1:8000"
# A stream keeps its thread until it ends.
threads = 8
# Where the generated code is.
pythonpath = "gen"
# gunicorn 25 and newer would open one in the home directory, to be managed by.
control_socket_disable = True


def post_worker_init(worker: object) -> None:
    """End the streams when the worker is told to stop: gunicorn would wait for them, and then cut them."""
    from notes_site import notes

    handle_exit = signal.getsignal(signal.SIGTERM)
    assert callable(handle_exit)

    def stop(number: int, frame: FrameType | None) -> None:
        notes.stop()
        handle_exit(number, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.siginterrupt(signal.SIGTERM, False)  # as gunicorn has it


def worker_int(worker: object) -> None:
    """Do the same by SIGINT, which is Ctrl-C, and by SIGQUIT."""
    from notes_site import notes

    notes.stop()
