"""A few seeded faults, and whether the harness notices what it should. docs/reliability.md: all."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from caugym_jax.errors import UserError
from caugym_jax.runs import digests
from tests.faults import files, harness, plan, rewards
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401


def test_a_few_faults(tmp_path):
    """Seed 35684: a file cut short, NaN in moments, a damaged checkpoint exported, SIGTERM."""
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "tests.faults.harness", "--trials=4", "--seed=35684"]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, f"--out={out}"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["results"]
    assert [r["kind"] for r in results] == [
        "newest checkpoint: a file cut short", "NaN in moments", "damaged checkpoint, exported",
        "SIGTERM at updating",
    ]  # fmt: skip
    assert all(r["ok"] for r in results)
    assert "| SIGTERM at updating | 1 | 0 |" in done.stdout
    with pytest.raises(UserError, match="add --resume"):
        harness.main([f"--out={out}"])
    with pytest.raises(UserError, match="give --seed=35684"):
        harness.main([f"--out={out}", "--resume", "--seed=1"])


def test_trials_follow_from_seed_and_number_and_cover_all_kinds():
    trials = [plan.draw(0, i) for i in range(200)]
    assert trials == [plan.draw(0, i) for i in range(200)]
    assert trials != [plan.draw(1, i) for i in range(200)]
    assert Counter(t.level for t in trials) == {"files": 150, "processes": 50}
    kinds = {t.kind for t in trials}
    assert kinds == {*plan.FILES, *plan.PROCESSES}


def test_the_reward_function_fails_when_told_to():
    from caugym_jax.types import Problem

    problem = Problem("p", '{"PROB": 0.5}', "ATE")
    args = ["a", "b", "c"], [problem] * 3, [False] * 3
    good = rewards.spread(*args)
    rewards.prepare(("gives NaN", 2, 0.5))
    assert rewards.spread(*args) == good
    assert [v != v for v in rewards.spread(*args)] == [False, True, False]
    rewards.prepare(("raises", 1, 0.0))
    with pytest.raises(RuntimeError):
        rewards.spread(*args)
    assert rewards.spread(["b"], [problem], [False]) == good[1:2]
    rewards.prepare(None)


def test_the_table_counts():
    def result(number, ok, outcome, seconds):
        return plan.draw(35684, number).as_json() | {
            "ok": ok,
            "outcome": outcome,
            "seconds": seconds,
        }

    kind = plan.draw(35684, 0).kind
    same = [result(0, True, "no harm", 1.0), result(0, True, "told", 3.0), result(0, False, "x", 2)]
    text = harness.table({"seed": 1, "results": same})
    assert f"| {kind} | 3 | 1 | BROKEN 1; no harm 1; told 1 | 2 / 3.0 |" in text
    assert "| all | 3 | 1 | | |" in text


@pytest.fixture
def bench(tmp_path, tiny_model):  # noqa: F811
    bench = files.Bench(tmp_path, tiny_model)
    bench.make("sft")
    return bench


@pytest.mark.slow
def test_a_damage_that_nobody_looks_for_is_noticed(bench, monkeypatch):
    """Were digests not compared, a run would go on from flipped bits: the harness says so."""
    monkeypatch.setattr(digests, "find_damage", lambda *_: None)
    noticed = 0
    for number in range(6):  # in the largest files, which hold the arrays: twice, if once is luck

        def large(folder, dice, number=number):
            found = [path for path in folder.rglob("*") if path.is_file()]
            return sorted(found, key=lambda path: path.stat().st_size)[-1 - number % 3]

        monkeypatch.setattr(files, "_a_file", large)
        at = (number / 8, 0.0, 0.0)
        trial = plan.Trial(number, "files", "newest checkpoint: bits flipped", "sft", at)
        try:
            files.attempt(bench, trial)
        except Exception:
            noticed += 1
    assert noticed >= 2


@pytest.mark.slow
def test_a_run_that_goes_back_too_far_is_noticed(bench, monkeypatch):
    from caugym_jax.runs.checkpoints import Checkpoints

    real = Checkpoints._wrong
    monkeypatch.setattr(Checkpoints, "_wrong", lambda self, s: "?" if s == 4 else real(self, s))
    trial = plan.Trial(0, "files", "small file: gone", "sft", (0.0, 0.0, 0.0))
    with pytest.raises(files.Wrong, match="went back to step 2"):
        files.attempt(bench, trial)
