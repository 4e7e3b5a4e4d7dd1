"""Completions that are judged while others are still sampled."""

import threading

import numpy as np
import pytest

from caugym_jax.algorithms.judging import Judge, Prompt, judge_by_share
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Item, Rollout
from tests.algorithms.test_grpo import Setup
from tests.data.byte_tokenizer import save_byte_tokenizer
from tests.devices.test_processes import as_processes
from tests.tiny_model import tiny_model  # noqa: F401

HERE = "tests.algorithms.test_judging:"
SEEN = []
GROUP = 2
TEXTS = ["ab", "c", "de;f", "x", "ghij", "", "k", "lm", "n", "opq"]


def counts(completions, **columns):
    """A reward: how long each is; notes which it is asked about, and in which thread."""
    SEEN.append((list(completions), threading.current_thread()))
    return [float(len(text)) for text in completions]


def fails_on_x(completions, **columns):
    if "x" in completions:
        raise ValueError("x")
    return [1.0] * len(completions)


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(save_byte_tokenizer(tmp_path / "tokenizer"))


def judge(tokenizer, function, **options):
    options = {"on_error": "stop", "timeout": 60.0, "stop": (";",)} | options
    return Judge(tokenizer, GROUP, {HERE + function: 1.0}, **options)


def whole(tokenizer):
    """(prompts, a rollout of TEXTS)."""
    ids = [tokenizer.encode(text) for text in TEXTS]
    width = max(map(len, ids))
    tokens = np.array([[1, *own, *[0] * (width - len(own))] for own in ids], np.int32)
    count = np.array([len(own) for own in ids], np.int32)
    ones = np.ones(len(ids), np.int32)
    logprobs = np.zeros((len(ids), width), np.float32)
    rollout = Rollout(tokens, ones, count, count != 2, logprobs)
    return [Prompt(Item("?"), [1])] * (len(TEXTS) // GROUP), rollout


def in_parts(rollout, *parts):
    """A sampler whose rows leave in these parts."""

    def sample(ended):
        for rows in parts:
            ended(np.array(rows), Rollout(*(x[rows] for x in rollout)))
        return rollout

    return sample


PARTS = [9, 3, 0], [1], [2, 4, 5, 6, 7, 8]


def test_the_whole_is_judged_as_at_once(tokenizer):
    one = judge(tokenizer, "counts")
    prompts, rollout = whole(tokenizer)
    SEEN.clear()
    sampled, scores = one.while_sampling(prompts, in_parts(rollout, *PARTS))
    found = one(prompts, sampled, scores())
    assert [texts for texts, _ in SEEN] == [["opq", "x", "ab"], ["c"], ["de;", *TEXTS[4:9]]]
    assert {thread for _, thread in SEEN} == {threading.main_thread()}  # where time limits hold
    wanted = one(prompts, one.cut(rollout))
    np.testing.assert_array_equal(found.total, [2, 1, 3, 1, 4, 0, 1, 2, 1, 3])
    assert found.rows == wanted.rows
    for name in ("total", "values", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("count", [2, 6])
def test_each_process_judges_its_own_and_all_get_all(tokenizer, monkeypatch, count):
    """One of six has nothing to judge."""
    one = judge(tokenizer, "counts")
    prompts, rollout = whole(tokenizer)

    def together():
        sampled, scores = one.while_sampling(prompts, in_parts(rollout, *PARTS))
        return judge_by_share(lambda own, its: one(own, its, scores()), prompts, sampled, GROUP)

    wanted = one(prompts, one.cut(rollout))
    for found in as_processes(monkeypatch, count, together):
        np.testing.assert_array_equal(found.total, wanted.total)
        assert found.rows == wanted.rows


def test_what_fails_is_named_by_its_place_in_the_whole(tokenizer):
    stops = judge(tokenizer, "fails_on_x")
    prompts, rollout = whole(tokenizer)
    sampled, scores = stops.while_sampling(prompts, in_parts(rollout, *PARTS))
    assert sampled.tokens.shape == rollout.tokens.shape  # sampled to the end all the same
    with pytest.raises(UserError, match=r"fails_on_x' failed at item 3 \(.*raised ValueError: x"):
        scores()
    skips = judge(tokenizer, "fails_on_x", on_error="skip")
    sampled, scores = skips.while_sampling(prompts, in_parts(rollout, *PARTS))
    found = skips(prompts, sampled, scores())
    assert found.failures == 1 and np.isnan(found.total).nonzero()[0].tolist() == [3]

    def breaks(ended):
        raise UserError("no memory")

    with pytest.raises(UserError, match="no memory"):
        stops.while_sampling(prompts, breaks)


def test_a_step_is_the_same(tiny_model):  # noqa: F811
    """Two waves: the function is asked about the first while the second is sampled."""
    made = []
    for early in (False, True):
        SEEN.clear()
        options = {"reward_weights": {HERE + "counts": 1.0}, "sample_batch_size": 2}
        setup = Setup(tiny_model, reward_while_sampling=early, **options)
        made.append((*setup.prepare(), len(SEEN)))
    (experience, metrics, samples, calls), (early, its_metrics, its_samples, its_calls) = made
    assert (calls, its_calls) == (1, 2)
    np.testing.assert_array_equal(early.tokens, experience.tokens)
    np.testing.assert_array_equal(early.advantages, experience.advantages)
    assert its_samples == samples
    for name in metrics.keys() | its_metrics.keys():
        assert name.startswith("time/") or its_metrics[name] == metrics[name], name
