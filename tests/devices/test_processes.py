"""Who this process is, what goes round, and how the work is shared. Real processes: end_to_end."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caugym_jax.algorithms.judging import Prompt, RolloutRewards, judge_by_share
from caugym_jax.devices import processes
from caugym_jax.devices.processes import Found, Place, find, interleaved
from caugym_jax.errors import UserError
from caugym_jax.types import Problem, Rollout
from tests.shared import ROOT

GIVEN = {"CAUGYM_COORDINATOR": "h:1", "CAUGYM_PROCESSES": "4", "CAUGYM_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip


def test_what_the_environment_says():
    assert find({}) is None
    assert find(GIVEN) == Found("h:1", Place(3, 4))
    in_job = {k: v for k, v in GIVEN.items() if k != "CAUGYM_PROCESS_ID"}
    assert find(in_job | {"JOB_COMPLETION_INDEX": "2"}).place == Place(2, 4)
    assert find({"JOB_COMPLETION_INDEX": "2"}) is None
    assert find({"CAUGYM_PROCESSES": "1"}) is None
    assert find({"CAUGYM_PROCESSES": "auto"}) == Found(None, None)
    assert find(SLURM) == Found(None, None)
    assert find(SLURM | GIVEN).place == Place(3, 4)  # what is given counts
    assert find(SLURM | {"SLURM_NTASKS": "1"}) is None
    assert find({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}) is None  # a batch script, not a step
    assert find({"TPU_WORKER_HOSTNAMES": "a,b"}) == Found(None, None)
    assert find({"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert find({"MEGASCALE_NUM_SLICES": "2"}) == Found(None, None)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"CAUGYM_PROCESS_ID": "4"}, "must be 0 to 3"),
        ({"CAUGYM_PROCESS_ID": "-1"}, "must be 0 to 3"),
        ({"CAUGYM_PROCESS_ID": ""}, "CAUGYM_PROCESS_ID not set"),
        ({"CAUGYM_COORDINATOR": ""}, "CAUGYM_COORDINATOR not set"),
        ({"CAUGYM_COORDINATOR": "host"}, "HOST:PORT"),
        ({"CAUGYM_PROCESSES": "two"}, "must be a whole number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        find(GIVEN | wrong)


def test_alone_nothing_is_started_and_no_jax_imported():
    code = (
        "from caugym_jax.devices import processes as p\n"
        "from caugym_jax.runs import log; import sys\n"
        "with p.connected({}):\n"
        "    assert p.share(3) == [3] and p.first(lambda: 4) == 4 and p.all_rows([5]) == [5]\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


SPEAKS = """
import os, signal, sys, time
from caugym_jax.devices import processes
from caugym_jax.errors import UserError

def speak(*_):  # on SIGTERM
    gone = b"[Gloo] Rank 1\\nF01 Terminating process because the JAX distributed service ended\\n"
    os.write(2, gone if LOST else b"saved\\n")
    processes._end(ERROR)

processes._filter(sys.stderr)
signal.signal(signal.SIGTERM, speak)
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "error, lost, status, told",
    [
        ("UserError('no')", False, 1, "saved\nerror: no\n"),
        (
            "RuntimeError('Gloo: reset')",
            False,
            75,
            f"saved\nerror: {processes.GONE} (Gloo: reset)\n",
        ),
        ("UserError('no')", True, 1, f"error: {processes.GONE}\n"),
        ("BrokenPipeError('far')", False, 1, "saved\nBrokenPipeError: far\n"),
    ],
)
def test_a_signal_to_all_leaves_the_last_words(error, lost, status, told):
    """To the whole process group, so to the filter as well, as Slurm does."""
    code = SPEAKS.replace("ERROR", error).replace("LOST", str(lost))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stderr.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stderr.read() == told
    assert process.wait(20) == status


UNHEARD = """
import sys, time
from caugym_jax.devices import processes

processes._filter(sys.stderr)
try:
    while True:
        print("more", file=sys.stderr, flush=True)
        time.sleep(0.01)
except BrokenPipeError as error:
    processes._end(error)
"""


def test_where_nobody_reads_it_ends_all_the_same():
    process = subprocess.Popen([sys.executable, "-c", UNHEARD], cwd=ROOT, stderr=subprocess.PIPE)
    assert process.stderr.readline() == b"more\n"
    process.stderr.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


@given(st.lists(st.integers()), st.integers(1, 7))
def test_shares_are_even_and_together_make_the_whole(items, count):
    shares = [items[p::count] for p in range(count)]
    assert interleaved(shares) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Asked(Exception):
    pass


def as_processes(monkeypatch, count, program):
    """What program() gives on each of `count` processes that share once."""
    told = []

    def tell(value):
        told.append(value)
        raise Asked

    def each():
        for p in range(count):
            monkeypatch.setattr(processes, "_here", Place(p, count))
            yield p

    monkeypatch.setattr(processes, "share", tell)
    for _ in each():
        with pytest.raises(Asked):
            program()
    monkeypatch.setattr(processes, "share", lambda value: told)
    results = []
    for _ in each():
        try:
            results.append(program())
        except UserError as error:
            results.append(str(error))
    return results


def test_first_and_together(monkeypatch):
    assert as_processes(monkeypatch, 3, lambda: processes.first(processes.index)) == [0, 0, 0]
    assert as_processes(monkeypatch, 2, lambda: processes.together(processes.index)) == [[0, 1]] * 2

    def fails_on_the_second():
        if processes.index() == 1:
            raise UserError("the disk is full")

    said = as_processes(monkeypatch, 3, lambda: processes.together(fails_on_the_second))
    assert said == ["the disk is full"] * 3


@pytest.mark.parametrize("count", [2, 3])
def test_judged_by_share_is_judged_by_one(monkeypatch, count):
    group, prompts = 2, [Prompt(Problem(f"p{i}", "{}", "ATE"), [i]) for i in range(5)]
    rows = np.arange(5 * group)
    rollout = Rollout(rows[:, None], rows + 1, rows + 2, rows % 3 == 0, rows[:, None] * 0.5)

    def judge(prompts, r):
        """Ties every verdict to its row and its prompt."""
        of_row = [p.tokens[0] for p in prompts for _ in range(group)]
        assert [t // group for t in r.tokens[:, 0]] == of_row
        return RolloutRewards(
            r.tokens[:, 0] * 10.0, ("a", "b"), np.stack([r.tokens[:, 0], of_row], axis=1),
            np.asarray(r.completion_length), int(r.prompt_length.sum()), np.asarray(r.ended),
            [{"row": int(t)} for t in r.tokens[:, 0]], failures=len(prompts),
        )  # fmt: skip

    alone = judge_by_share(judge, prompts, rollout, group)
    for shared in as_processes(
        monkeypatch, count, lambda: judge_by_share(judge, prompts, rollout, group)
    ):
        for name, value in alone._asdict().items():
            assert np.array_equal(getattr(shared, name), value), name
