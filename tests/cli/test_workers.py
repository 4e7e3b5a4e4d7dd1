import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caugym_jax.cli.workers import AHEAD, WORTHWHILE, in_order, worker_count
from caugym_jax.errors import UserError


def square(i: int) -> int:
    return i * i


def refuse(i: int) -> int:
    raise UserError(f"item {i} is wrong")


def die(i: int) -> int:
    os._exit(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(in_order(square, range(20), workers)) == [i * i for i in range(20)]


def test_tasks_are_taken_as_results_are_used():
    """A stream without end is no trouble: what waits is bounded."""
    taken = []
    endless = (taken.append(i) or i for i in itertools.count())
    results = in_order(square, endless, 2)
    assert list(itertools.islice(results, 5)) == [0, 1, 4, 9, 16]
    assert len(taken) <= 5 + AHEAD * 2 + 1
    results.close()


def test_an_error_of_a_worker_is_raised_here():
    with pytest.raises(UserError, match="item 3 is wrong"):
        list(in_order(refuse, [3], 2))
    with pytest.raises(UserError, match="a worker process ended"):
        list(in_order(die, [3], 2))


KILLED = """
import os, signal
from caugym_jax.cli.workers import spawned
from tests.cli.test_workers import square

if __name__ == "__main__":
    assert spawned(1).submit(square, 3).result() == 9
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """They hold the parent's output, which ends when the last of them has."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -9


def test_how_many():
    assert worker_count(3, 10) == 3
    assert worker_count(None, WORTHWHILE - 1) == 1
    assert worker_count(None, WORTHWHILE) >= 1
    with pytest.raises(UserError, match="--workers=0"):
        worker_count(0, 10)
