"""A limit on the seconds that a block of code may take."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class TimeIsUp(BaseException):
    """Not an Exception, so that no function takes it for one of its own."""


@contextlib.contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Raises TimeIsUp in the block after so many seconds; in the main thread only.

    Limits nest: the outer one goes on where the inner one ends.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # once more, were it caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, before)
