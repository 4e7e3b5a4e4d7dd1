"""Signals: the run finishes its step and saves, and then ends (or, at SIGUSR1, goes on)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, NamedTuple, NoReturn

from caugym_jax.devices import processes

ENDING = {
    signal.SIGTERM: "terminated",  # preemption, a time limit
    signal.SIGINT: "interrupted",  # Ctrl-C
    signal.SIGHUP: "hung up",  # the terminal is gone
}
SAVING = signal.SIGUSR1  # Slurm's --signal=USR1@SECONDS


class Asked(NamedTuple):
    """What signals ask of the run after a step."""

    save: bool
    stop: int  # the signal that ends the run; 0: none


class Signals:
    """Notices the signals inside its block, instead of dying of them.

    A second Ctrl-C ends the process at once, whatever it does at that moment. Signals that the
    process was started to ignore (nohup, a shell's background jobs) stay ignored. Only a program's
    main thread may handle signals: in any other thread nothing is noticed.
    """

    def __init__(self) -> None:
        self._stop, self._save = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (*ENDING, SAVING):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._notice)
        # Python calls `_notice` when the main thread is back from a compiled program, which may
        # take minutes; this pipe gets a signal's number at once.
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._woken = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])
        self._thread.join()
        os.close(self._pipe[0])

    def _notice(self, number: int, _: object) -> None:
        if number == SAVING:
            self._save = True
        else:
            self._stop = number

    def _watch(self) -> None:
        interrupted = False
        while numbers := os.read(self._pipe[0], 1):
            if numbers[0] != signal.SIGINT:
                continue
            if interrupted:
                os.write(2, b"\r\x1b[K" * os.isatty(2) + b"interrupted\n")
                os._exit(128 + signal.SIGINT)
            interrupted = True
            processes.say("interrupted: the step is finished and saved; Ctrl-C again ends at once")

    def asked(self) -> Asked:
        """What any process was told. All processes call this after the same step."""
        save, self._save = self._save, False
        told = processes.share((save, self._stop))
        stop = max(stop for _, stop in told)
        return Asked(bool(stop) or any(save for save, _ in told), stop)

    def leave(self, step: int, stop: int) -> NoReturn:
        """Ends the program with the exit status of a process that the signal `stop` ended."""
        processes.say(f"{ENDING[signal.Signals(stop)]} after step {step}, which is saved")
        sys.exit(128 + stop)
