"""Every alarm fires on a series that deserves it, and not on one that looks like it."""

import math

import pytest

from caugym_jax.runs.alarms import IN_A_ROW, WINDOW, Alarms

HEALTHY = {
    "loss": 0.1, "grad_norm": 1.0, "reward": 0.5, "entropy": 1.0, "kl": 0.1,
    "frac_reward_zero_std": 0.5, "completions/clipped_ratio": 0.1,
    "completions/mean_length": 100.0, "skipped_updates": 0.0,
    "sampling/sampling_logp_difference/mean": 1e-5,
}  # fmt: skip


def run(steps=2 * WINDOW, **series):
    """What is said at the last of `steps`; a series is a function of the fraction of the run."""
    watch, said = Alarms(), {}
    for step in range(steps):
        at = step / (steps - 1)
        changed = {key: f(at) if callable(f) else f for key, f in series.items()}
        said = watch.look(HEALTHY | changed)
    return said


def test_a_healthy_run_is_silent():
    assert run() == {}
    assert run(reward=lambda at: at, entropy=lambda at: 1 - 0.5 * at) == {}
    watch = Alarms()
    assert watch.look({}) == watch.look({"loss": None}) == {}
    for step in range(3 * WINDOW):  # SFT of a fresh model: its entropy may fall as it likes
        assert watch.look({"entropy": 7.3 / (1 + step), "loss": 8.0}) == {}


@pytest.mark.parametrize(
    ("key", "value", "near", "cause"),
    [
        ("frac_reward_zero_std", 1.0, 0.9, "nothing to learn from"),
        ("completions/clipped_ratio", 0.9, 0.4, "cut off"),
        ("sampling/sampling_logp_difference/mean", 0.2, 0.01, "disagree"),
        ("entropy", 6.5, 4.0, "noise"),
        ("entropy", 1e-5, 0.1, "hardly differ"),
        ("kl", 50.0, 5.0, "far from the reference"),
        ("loss", math.nan, 100.0, "lower the learning rate"),
        ("grad_norm", math.inf, 1e6, "lower the learning rate"),
    ],
)
def test_t20_one_step_names_value_and_cause(key, value, near, cause):
    said = Alarms().look(HEALTHY | {key: value})
    assert list(said) == [key] and said[key].startswith(f"{key} = ") and cause in said[key]
    assert Alarms().look(HEALTHY | {key: near}) == {}


def test_a_step_that_nobody_judged_and_a_batch_of_one_class_are_named():
    said = Alarms().look(HEALTHY | {"reward": math.nan, "frac_reward_zero_std": 1.0})
    assert list(said) == ["reward"] and "no sample was judged" in said["reward"]
    kto = {"loss": 0.5, "rewards/chosen": 0.1, "rewards/rejected": math.nan}
    assert "rows of both labels" in Alarms().look(kto)["rewards/rejected"]
    diverged = kto | {"loss": math.nan, "rewards/chosen": math.nan}
    assert list(Alarms().look(diverged)) == ["loss"]


def late(start, end):
    """`start` for the first half of a run, then `end`."""
    return lambda at: start if at < 0.5 else end


@pytest.mark.parametrize(
    ("key", "bad", "good", "cause"),
    [
        ("completions/clipped_ratio", late(0.1, 0.3), late(0.25, 0.3), "more and more"),
        ("entropy", late(1.0, 0.1), late(1.0, 0.4), "collapsed (from 1)"),
        ("entropy", late(1.0, 2.5), late(1.0, 1.8), "exploded (from 1)"),
        ("kl", lambda at: 0.1 if at < 1 else 2.0, lambda at: 0.1 + 0.9 * at, "jumped"),
        ("completions/mean_length", late(100, 150), late(100, 120), "grow (from 100)"),
    ],
)
def test_t20_a_trend_names_its_cause(key, bad, good, cause):
    said = run(**{key: bad})
    assert list(said) == [key] and cause in said[key]
    assert run(**{key: good}) == {}


@pytest.mark.parametrize("key", ["entropy", "completions/mean_length"])
def test_a_gain_in_reward_excuses_surer_and_longer_answers(key):
    series = {"entropy": late(1.0, 0.1), "completions/mean_length": late(100, 150)}
    assert run(**{key: series[key]}, reward=late(0.3, 0.6)) == {}


def test_t20_updates_skipped_in_a_row():
    watch = Alarms()
    for count in range(1, IN_A_ROW):
        assert watch.look({"skipped_updates": count}) == {}
    said = watch.look({"skipped_updates": IN_A_ROW})
    assert f"{IN_A_ROW} steps in a row" in said["skipped_updates"]
    assert watch.look({"skipped_updates": IN_A_ROW}) == {}  # none this time
    assert watch.look({"skipped_updates": IN_A_ROW + 1}) == {}  # one alone
