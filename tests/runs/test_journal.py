"""What a run counts and reports of its steps."""

import json
import os
import signal
import threading

import jax.numpy as jnp
import pytest

from caugym_jax.runs.journal import Journal
from caugym_jax.runs.log import LogSettings
from caugym_jax.runs.stopping import Termination
from caugym_jax.types import TrainState

SETTINGS = LogSettings(every=1, tensorboard=False, samples=1, samples_every=2, alarms_every=3)
STATE = TrainState(jnp.int32(0), {}, (), jnp.int32(0))
SAMPLES = [{"completion": "a"}, {"completion": "b"}]


def open_journal(folder, first=0, totals=()):
    return Journal(folder, first, 9, SETTINGS, dict(totals), lambda tokens, seconds: tokens / 100)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def update(tokens, **more):
    return {"tokens": tokens, "time/update": 1.0, "step_time": 2.0, "loss": 1.0, **more}


def test_counts_go_on_from_a_checkpoint(tmp_path):
    journal = open_journal(tmp_path)
    journal.step(1, update(10, tokens_updated=30), [], STATE)
    journal.step(2, {"tokens": 5, "step_time": 1.0}, SAMPLES, STATE)
    totals = journal.totals
    journal.close()
    journal = open_journal(tmp_path, 2, totals)
    journal.step(3, {"tokens": 7, "step_time": 1.0}, SAMPLES, STATE)
    text = journal.ending("results", STATE._replace(skipped=jnp.int32(2)))
    journal.close()
    first, second, third = metrics(tmp_path)
    assert first["mfu"] == 0.3 and first["tokens_per_second"] == 5.0
    assert "steps_without_signal" not in first and "mfu" not in second
    assert [line["num_tokens"] for line in (first, second, third)] == [10, 15, 22]
    assert (second["steps_without_signal"], third["steps_without_signal"]) == (1, 2)
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in samples] == [{"step": 2, "completion": "a"}]
    assert text.startswith("results\n\n2 steps had no signal")
    assert "2 updates were skipped: their gradient was not finite." in text


def test_an_alarm_is_repeated_only_after_a_while(tmp_path, capsys):
    journal = open_journal(tmp_path)
    for step in range(1, 8):
        journal.step(step, update(1, loss=float("nan")), [], STATE)
    journal.close()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alarm")]
    assert [line.split(":")[0] for line in told] == [f"alarm at step {i}" for i in (1, 4, 7)]


def test_evaluations_are_logged_and_shown(tmp_path, capsys):
    journal = open_journal(tmp_path)
    journal.evaluation(0, {"strict": 0.25}, None)
    journal.evaluation(3, {"strict": 0.5}, 1.5)
    journal.close()
    assert metrics(tmp_path) == [
        {"step": 0, "eval/strict": 0.25},
        {"step": 3, "eval/strict": 0.5, "time/evaluate": 1.5},
    ]
    assert capsys.readouterr().err == "before: strict 25.0%\nstep 3: strict 50.0%\n"


def test_sigterm_is_noticed_inside_the_block_alone(capsys):
    outside = signal.getsignal(signal.SIGTERM)
    with Termination() as termination:
        assert not termination.due()
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.due()
        with pytest.raises(SystemExit) as stop:
            termination.leave(4)
    assert stop.value.code == 143
    assert capsys.readouterr().err == "terminated after step 4, which is saved\n"
    assert signal.getsignal(signal.SIGTERM) is outside


def test_a_run_in_another_thread_leaves_signals_alone():
    outside, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with Termination() as termination:
            seen.append((signal.getsignal(signal.SIGTERM), termination.due()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(outside, False)]
