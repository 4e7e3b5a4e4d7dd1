"""The one line of a terminal that is written again and again: how far a run is and what it does.

Elsewhere (a log) lines are printed as they come, and of what goes on only a word a minute. Of
several processes the first one prints.
"""

from __future__ import annotations

import math
import shutil
import sys
import time

from caugym_jax.devices import processes

A_MINUTE = 60.0
_CLEAR = "\r\x1b[K"
_line = ""  # what the line says without what goes on
_printed = -math.inf  # when something was printed last


def is_one() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


def progress(line: str, *, last: bool = False) -> None:
    """Replaces the line; `last`: it stays, and a new one begins."""
    global _line
    _line = "" if last else line
    room = shutil.get_terminal_size().columns - 1  # a longer line would be torn, and stay
    _print(f"{_CLEAR}{line[:room]}" if is_one() else line, last or not is_one())


def doing(what: str) -> None:
    """Says behind the line what goes on, until the line is replaced."""
    if is_one():
        room = shutil.get_terminal_size().columns - 1
        before = _line[: max(0, room - len(what) - 2)]
        _print(f"{_CLEAR}{before}{'  ' * bool(before)}{what}"[: room + len(_CLEAR)], False)
    elif time.perf_counter() - _printed >= A_MINUTE and _line:
        _print(f"{_line}  {what}", True)


def _print(text: str, ended: bool) -> None:
    global _printed
    if processes.is_first():
        _printed = time.perf_counter()
        processes.write(text, end="\n" if ended else "")
