"""Work spread over processes, its results in order. Imports no jax."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from caugym_jax.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 3  # tasks for each worker that may be waiting or done before their turn
WORTHWHILE = 2_000  # items from which on more than one process pays by default


def worker_count(asked: int | None, items: int) -> int:
    """As many as asked for, at least one; None: all cores for many items, else one."""
    if asked is None:
        return len(os.sched_getaffinity(0)) if items >= WORTHWHILE else 1
    if asked < 1:
        raise UserError(f"--workers={asked}: give at least 1")
    return asked


def spawned(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of spawned processes (a copy of a process that runs jax could hang). They leave an
    interrupt to their parent, and end when it ends, even by `kill -9`."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """work(task) for each task, in their order, whatever the number of workers.

    With more than one, `work` and the tasks are sent to spawned processes, a few at a time (AHEAD
    for each), so that memory does not grow with their number. An exception of `work` is raised
    here; when the caller stops, the processes end.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    executor = spawned(workers)
    waiting: deque[concurrent.futures.Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(work, task))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended unexpectedly (out of memory?): use fewer --workers"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
