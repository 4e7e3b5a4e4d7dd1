"""Combining reward functions: arithmetic, skipping, and what a user's function may get wrong."""

import contextlib
import math
import re
import signal
import time

import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.rewards.combination import DEFAULT_WEIGHTS, combine, find
from caugym_jax.types import Problem
from tests.problems import with_effect

PROBLEM = with_effect('{"ANSWER": "Yes", "PROB": "0.3847"}')
RIGHT = '{"ANSWER": "Yes", "PROB": "0.3847"}'


# Reward functions of a user's own, found by dotted name.
def length(completions, problems, truncated):
    return [float(len(text)) for text in completions]


def only_short(completions, problems, truncated):
    return [1 if len(text) < 5 else None for text in completions]


def raises_on_empty(completions, problems, truncated):
    return [1 / len(text) for text in completions]


def raises_on_two(completions, problems, truncated):
    if len(completions) > 1:
        raise ValueError("one at a time")
    return [0.0]


def too_few(completions, problems, truncated):
    return [0.0]


def nothing(completions, problems, truncated):
    return None


def empties_its_arguments(completions, problems, truncated):
    result = [0.0] * len(completions)
    completions.clear()
    return result


def share_of_the_batch(completions, problems, truncated):
    if "" in completions:
        raise ValueError("empty")
    return [1 / len(completions)] * len(completions)


def not_finite(completions, problems, truncated):
    return [math.nan if text == "x" else 1e39 if text == "y" else 0.5 for text in completions]


HERE = "tests.rewards.test_combination:"


def combine_texts(texts, weights):
    return combine(texts, [PROBLEM] * len(texts), [False] * len(texts), weights)


def test_default_is_answer_and_a_tenth_of_form():
    texts = [RIGHT, RIGHT + " I hope so", RIGHT.replace("0.3847", "0.1"), "no idea", RIGHT]
    rewards = combine(texts, [PROBLEM] * 5, [False, False, False, False, True], DEFAULT_WEIGHTS)
    assert rewards.names == ("answer", "form")
    assert rewards.values.dtype == rewards.total.dtype == np.float32
    np.testing.assert_array_equal(rewards.values, [[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_allclose(rewards.total, [1.1, 1, 0.1, 0, 0], rtol=1e-6)


def test_thinking_form_asks_for_a_closed_think():
    rewards = combine_texts([RIGHT, "</think>" + RIGHT], {"thinking_form": 1.0})
    np.testing.assert_array_equal(rewards.total, [0, 1])


def test_t24_none_is_left_out_of_the_sum():
    weights = {HERE + "only_short": 2.0, HERE + "length": 0.5}
    rewards = combine_texts(["ab", "abcdef"], weights)
    np.testing.assert_array_equal(rewards.values, [[1, 2], [np.nan, 6]])
    np.testing.assert_array_equal(rewards.total, [3, 3])


def test_t24_none_from_all_leaves_no_total():
    rewards = combine_texts(["ab", "abcdef"], {HERE + "only_short": 2.0})
    np.testing.assert_array_equal(rewards.total, [2, np.nan])


def test_an_empty_batch_has_empty_rewards():
    rewards = combine_texts([], {"answer": 1.0, "form": 1.0})
    assert rewards.values.shape == (0, 2) and rewards.total.shape == (0,)


def test_functions_get_copies():
    weights = {HERE + "empties_its_arguments": 1.0, HERE + "length": 1.0}
    np.testing.assert_array_equal(combine_texts(["ab", "c"], weights).total, [2, 1])


@pytest.mark.parametrize(
    ("function", "texts", "message"),
    [
        (
            "raises_on_empty",
            ["ab", "c", ""],
            "'.*raises_on_empty' failed at item 2 .*: it raised Zero",
        ),
        (
            "raises_on_two",
            ["ab", "c"],
            "item 0 .*: in a batch of 2, though not alone: .*one at a time",
        ),
        ("too_few", ["ab", "c"], "'.*too_few' .*it returned 1 values for 2 completions"),
        ("nothing", ["ab"], "'.*nothing' .*it returned a NoneType: must be a list"),
        ("not_finite", ["ab", "x"], "'.*not_finite' failed at item 1 .*: it returned nan"),
        ("not_finite", ["y"], "item 0 .*: it returned 1e\\+39"),
    ],
)
def test_a_faulty_function_is_named_with_the_item(function, texts, message):
    with pytest.raises(UserError, match=message):
        combine_texts(texts, {HERE + function: 1.0})


@pytest.mark.parametrize(
    ("function", "texts", "values", "why"),
    [
        ("raises_on_empty", ["ab", "c", ""], [0.5, 1, None], ["it raised ZeroDivisionError"]),
        ("raises_on_empty", ["", ""], [None, None], ["it raised Zero", "it raised Zero"]),
        ("not_finite", ["ab", "x", "y"], [0.5, None, None], ["returned nan", "returned 1e+39"]),
        ("too_few", ["ab", "c"], [None, None], ["though not alone: it returned 1 values"] * 2),
        ("nothing", ["ab"], [None], ["returned a NoneType"]),
        ("share_of_the_batch", ["ab", "ab", ""], [0.5, 0.5, None], ["it raised ValueError: empty"]),
    ],
)
def test_a_failure_may_be_skipped_and_is_named(function, texts, values, why):
    name = HERE + function
    weights = {name: 2.0, HERE + "length": 1.0}
    rewards = combine(texts, [PROBLEM] * len(texts), [False] * len(texts), weights, on_error="skip")
    expected = np.array([[math.nan if v is None else v for v in values], [len(t) for t in texts]])
    np.testing.assert_array_equal(rewards.values, expected.T)
    np.testing.assert_array_equal(rewards.total, np.nansum(expected * [[2], [1]], axis=0))
    assert [f.item for f in rewards.failures] == [i for i, v in enumerate(values) if v is None]
    for failure, told in zip(rewards.failures, why, strict=True):
        assert failure.name == name and told in failure.why
        where = f"item {failure.item} (counting from 0)"
        assert str(failure).startswith(f"reward {name!r} skipped {where}: ")


def hangs_on_x(completions, problems, truncated):
    for text in completions:
        while "x" in text:
            with contextlib.suppress(Exception):
                time.sleep(60)
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("texts", [["ab", "x", "c"], ["x", "x", "x"], ["x"]])
def test_a_function_that_hangs_is_interrupted_and_named(texts):
    name = HERE + "hangs_on_x"
    handler = signal.getsignal(signal.SIGALRM)
    start = time.perf_counter()
    told = f"reward {name!r} failed at item {texts.index('x')} .*: it took longer than .* s "
    with pytest.raises(UserError, match=re.escape(told).replace(r"\.\*", ".*")):
        combine(texts, [PROBLEM] * len(texts), [False] * len(texts), {name: 1.0}, timeout=0.3)
    rewards = combine(
        texts, [PROBLEM] * len(texts), [False] * len(texts), {name: 1.0}, "skip", timeout=0.3
    )
    expected = [math.nan if text == "x" else len(text) for text in texts]
    np.testing.assert_array_equal(rewards.total, expected)
    assert time.perf_counter() - start < 2 * 3 * 0.3 + 1
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(UserError, match="timeout=0: must be a positive number"):
        combine(texts, [PROBLEM] * len(texts), [False] * len(texts), {name: 1.0}, timeout=0)


def test_nothing_fails_where_nothing_fails():
    assert combine([RIGHT], [PROBLEM], [False], on_error="skip").failures == ()
    assert (
        combine_texts(["ab", "abcdef"], {HERE + "only_short": 2.0}).failures == ()
    )  # None is none
    with pytest.raises(UserError, match="on_error='go on': use stop or skip"):
        combine([RIGHT], [PROBLEM], [False], on_error="go on")


def test_verdict():
    no = RIGHT.replace("Yes", "No")
    hedged = RIGHT + RIGHT.replace("0.3847", "0.1")
    wrong_number = RIGHT.replace("0.3847", "0.9")
    texts = [RIGHT, no, wrong_number, hedged, "Yes", "LACK_CONDITION"]
    np.testing.assert_array_equal(combine_texts(texts, {"verdict": 1.0}).total, [1, 0, 1, 0, 0, 0])
    assert combine([RIGHT], [PROBLEM], [True], {"verdict": 1.0}).total == 0  # truncated
    bound = Problem(text="", answer='{"PROB": "0.5"}', task="PN")
    lacking = Problem(text="", answer="LACK_CONDITION", task="ATE")
    for problem in (bound, lacking):
        assert np.isnan(combine([RIGHT], [problem], [False], {"verdict": 1.0}).total).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anwser", "unknown reward 'anwser': use answer, verdict, form"),
        ("no.such.module:f", "cannot be imported: ModuleNotFoundError"),
        (HERE + "absent", "cannot be imported: AttributeError"),
        (HERE + "HERE", "is a str, not a function"),
    ],
)
def test_a_name_that_is_no_function(name, message):
    with pytest.raises(UserError, match=message):
        find(name)


def test_weights_must_be_finite_and_there():
    with pytest.raises(UserError, match="the weight of reward 'form' is nan"):
        combine_texts([RIGHT], {"answer": 1.0, "form": math.nan})
    with pytest.raises(UserError, match="no reward function is named"):
        combine_texts([RIGHT], {})
