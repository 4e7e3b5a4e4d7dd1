"""The one line of a terminal that is written again and again: how far a run is and what it does.

Elsewhere (a log) lines are printed as they come, and of what goes on only a word a minute. Of
several processes the first one prints.
"""

from __future__ import annotations

import os
import shutil
import sys
import time

from caugym_jax.devices import processes

A_MINUTE = 60.0
_CLEAR = "\r\x1b[K"
_line = ""  # what the line says without what goes on
_printed = time.perf_counter()  # when something was printed last


def is_one() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


def progress(line: str, *, last: bool = False) -> None:
    """Replaces the line; `last`: it stays, and a new one begins."""
    global _line
    _line = "" if last else line
    room = _room()
    _print(f"{_CLEAR}{line[:room]}" if is_one() else line, last or not is_one())


def doing(what: str) -> None:
    """Says behind the line what goes on, until the line is replaced."""
    if is_one():
        room = _room()
        before = _line[: max(0, room - len(what) - 2)]
        _print(f"{_CLEAR}{before}{'  ' * bool(before)}{what}"[: room + len(_CLEAR)], False)
    elif time.perf_counter() - _printed >= A_MINUTE:
        _print(f"{_line}{'  ' * bool(_line)}{what}", True)


def clear() -> None:
    """Removes the line, before something is printed on standard output."""
    if is_one():
        _print(_CLEAR, False)


def _room() -> int:
    """Letters that a line of the terminal takes: a longer one would be torn, and stay."""
    try:  # standard error's, as standard output may be a file
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return (columns or shutil.get_terminal_size().columns) - 1


def _print(text: str, ended: bool) -> None:
    global _printed
    if processes.is_first():
        _printed = time.perf_counter()
        processes.write(text, end="\n" if ended else "")
