"""SIGTERM (preemption, a time limit): the run finishes its step, saves and ends."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any, NoReturn

from caugym_jax.devices import processes


class Termination:
    """Notices SIGTERM inside its block, instead of dying of it.

    Only a program's main thread may handle signals: in any other thread nothing is noticed.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._before: Any = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, *_: object) -> None:
        self._noticed = True

    def due(self) -> bool:
        """Whether any process was told to end. All processes call this after the same step."""
        return any(processes.share(self._noticed))

    def leave(self, step: int) -> NoReturn:
        """Ends the program with the exit status of a terminated one."""
        processes.say(f"terminated after step {step}, which is saved")
        sys.exit(128 + signal.SIGTERM)
