"""One run at a time in a workdir: WORKDIR/lock names the process that trains there.

A process that has died leaves its lock behind. On its own host that is seen at once. Of another
host nothing is known but the lock's time, which the process that holds it renews: a lock whose
time stands still is stale.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.runs.log import writing

NAME = "lock"
BEAT = 5.0  # seconds from one renewal to the next
PATIENCE = 3.5  # beats after which a lock that is not renewed is stale

_held: set[Path] = set()  # by this process


@contextlib.contextmanager
def alone(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Holds the workdir's lock inside the block; of several processes the first does.

    Args:
      flag: which names the folder on the command line.

    Raises:
      UserError: another process that lives holds it, or the workdir cannot be made.
    """
    path, ended = workdir.absolute() / NAME, threading.Event()
    processes.first(lambda: _take(path, flag))
    if processes.is_first():
        _held.add(path)
        threading.Thread(target=_renew, args=(path, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if path in _held:
            _held.discard(path)
            path.unlink(missing_ok=True)


def _take(path: Path, flag: str) -> None:
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "began": _began()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the workdir {path.parent}: {error.strerror}") from error
    while True:
        with writing(path), contextlib.suppress(FileExistsError), path.open("x") as file:
            file.write(mine)
            return
        if (found := _look(path)) is None:
            continue
        if _lives(path, found[0]):
            raise UserError(
                f"{path.parent} is in use by {_named(found[0])}: stop that run, or choose another "
                f"{flag}"
            )
        aside = path.with_name(f".{NAME}-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            path.replace(aside)
            if aside.read_text() != found[0]:  # another process was quicker: that is its lock
                aside.replace(path)
            aside.unlink(missing_ok=True)


def _look(path: Path) -> tuple[str, int] | None:
    """The lock's content and time; None: there is none. Opened, as a network's folder may show
    an older time to who only asks for it.
    """
    try:
        with path.open() as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _lives(path: Path, content: str) -> bool:
    """Whether the process that holds a lock lives."""
    holder = _parsed(content)
    if holder.get("host") == socket.gethostname():
        if holder["pid"] == os.getpid():
            return path in _held
        return _began(holder["pid"]) == holder["began"] and _exists(holder["pid"])
    processes.say(f"{path.parent} may be in use by {_named(content)}: waiting for a sign of it")
    before, end = _look(path), time.monotonic() + PATIENCE * BEAT
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        if _look(path) != before:
            return _look(path) is not None
    return False


def _parsed(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
        return found if isinstance(found, dict) and {"host", "pid", "began"} <= set(found) else {}
    except ValueError:  # its process was killed as it wrote this
        return {}


def _named(content: str) -> str:
    found = _parsed(content)
    return f"process {found['pid']} on host {found['host']}" if found else "another process"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _began(pid: int | None = None) -> str | None:
    """When a process began, in the kernel's ticks: ids are used again. None: it has ended, or this
    system does not show it.
    """
    try:
        text = Path(f"/proc/{pid or os.getpid()}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
