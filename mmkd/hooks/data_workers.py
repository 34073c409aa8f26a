"""Data workers that outlive a signal to all processes of a job, which is how clusters send them."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

from torch.utils.data import DataLoader


def shield(loader: DataLoader) -> None:
    """Lets the workers that a loader starts from here on obey SIGTERM from their parent alone."""
    loader.worker_init_fn = functools.partial(_start_shielded, loader.worker_init_fn)


def _start_shielded(init: Callable | None, worker: int) -> None:
    parent = multiprocessing.parent_process().pid
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Blocked and waited for, not handled: who sent it is only told to one who waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told_by, args=(parent,), daemon=True).start()
    if init is not None:
        init(worker)


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # as torch's own handler of a worker does
