"""What a worker process owes the one that started it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, resource_tracker


def shield_workers() -> None:
    """In a thread that starts workers: no Ctrl-C and no SIGTERM reaches them, not even while they still import.

    Terminals and schedulers send these to the whole process group. The parent finishes its step, saves and then ends
    the workers; one that dies by itself prints a traceback and leaves shared memory behind. Processes inherit what
    their thread blocks, and Python handles signals in the main thread, so that nothing is lost here.
    """
    resource_tracker.ensure_running()  # else a worker's start would start it, and it unblocks both afterwards
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, which finishes what it does; die when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker process"

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="follow-parent").start()
