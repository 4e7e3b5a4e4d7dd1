"""What a run counts and reports of its steps."""

import json

import jax.numpy as jnp

from caugym_jax.runs.journal import Journal
from caugym_jax.runs.log import LogSettings
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
    text = journal.ending("results", STATE._replace(skipped=jnp.int32(2)), (4, 0.5))
    journal.close()
    first, second, third = metrics(tmp_path)
    assert first["mfu"] == 0.3 and first["tokens_per_second"] == 5.0
    assert "steps_without_signal" not in first and "mfu" not in second
    assert [line["num_tokens"] for line in (first, second, third)] == [10, 15, 22]
    assert (second["steps_without_signal"], third["steps_without_signal"]) == (1, 2)
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in samples] == [{"step": 2, "completion": "a"}]
    best = "Best checkpoint: step 4 (0.5), opened with --step=best."
    assert text.startswith(f"results\n\n{best}\n2 steps had no signal")
    assert "2 updates were skipped: they were not finite." in text


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
