"""Rewards of rows that are no causal problems, and functions of TRL's signature."""

import math

import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.rewards.combination import check_rewards, combine, joined
from caugym_jax.rewards.plain import stated
from caugym_jax.types import Item, Problem

HERE = "tests.rewards.test_columns:"
ASKED = ({"role": "user", "content": "48 + 24?"},)
GSM8K = Item(ASKED, columns={"question": "48 + 24?", "answer": "48 + 24 = 72\n#### 72"})
TEXT = Item("48 + 24?", columns={"prompt": "48 + 24?", "level": 3, "pattern": r"^7\d$"})


def values(weights, texts, item, truncated=False):
    found = combine(texts, [item] * len(texts), [truncated] * len(texts), weights)
    return [None if math.isnan(x) else round(float(x), 4) for x in found.values[:, 0]]


def test_mathematical_answers_are_compared_by_value():
    texts = [
        r"So \boxed{72}.",
        r"\boxed{72.0}",
        r"\boxed{\frac{144}{2}}",
        "#### 72",
        "#### 72.",
        r"\boxed{72} but no, \boxed{71}",
        "<think>\\boxed{71}</think>#### 72 ",
        "<think>#### 72",
        "72",
        r"\boxed{72",
        "",
        r"\boxed{9^{9^{9^9}}}",
    ]
    assert values({"math": 1}, texts, GSM8K) == [1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert values({"math": 1}, [r"\boxed{72}"], GSM8K, truncated=True) == [0]
    half = Item(ASKED, columns={"answer": r"\frac{1}{2}"})
    assert values({"math": 1}, [r"\boxed{0.5}", r"\boxed{1/2}", r"\boxed{2}"], half) == [1, 1, 0]
    assert values({"math": 1}, ["x"], TEXT) == [None]
    assert stated(r"a \boxed{f(\text{x})} b") == r"f(\text{x})" and stated("x") is None


def test_exact_regex_and_length():
    texts = ["So\n72 ", r"\boxed{72}", "#### 72", "72.0", "72\nI think"]
    assert values({"exact": 1}, texts, GSM8K) == [1, 1, 1, 0, 0]
    assert values({"regex": 1}, ["72", "7", "<think>72</think>72"], TEXT) == [1, 0, 1]
    assert values({"regex": 1}, ["72"], GSM8K) == [None]
    assert values({"length": 1}, ["x" * 500, ""], GSM8K) == [-0.5, 0]


# Functions of TRL's signature.
def every_column(completions, **columns):
    assert set(columns) == {"question", "answer", "prompts", "completion_ids", "truncated"}
    assert columns["prompts"] == [list(ASKED)] * len(completions)
    return [
        float(c[0]["content"] in a) for c, a in zip(completions, columns["answer"], strict=True)
    ]


def named_columns(completions, level, prompts):
    assert prompts == ["48 + 24?"] * len(completions)
    return np.array([len(c) * x for c, x in zip(completions, level, strict=True)], np.int64)


async def awaited(completions, **columns):
    return [None if c == "b" else np.float32(0.5) for c in completions]


def parts(completions, **columns):
    return {"long": [len(c) > 1 for c in completions], "short": [None] * len(completions)}


def empty_fails(completions, **columns):
    return [math.nan if not c else float(len(c)) for c in completions]


def test_functions_of_trl_get_columns_and_messages():
    assert values({f"{HERE}every_column": 1}, ["72", "71"], GSM8K) == [1, 0]
    assert values({f"{HERE}named_columns": 1}, ["72", "7"], TEXT) == [6, 3]


def test_they_may_be_asynchronous_and_have_parts():
    assert values({f"{HERE}awaited": 1}, ["a", "b"], TEXT) == [0.5, None]
    found = combine(["ab", "a"], [TEXT] * 2, [False] * 2, {f"{HERE}parts": 2})
    np.testing.assert_array_equal(found.total, [2, 0])
    assert set(found.parts) == {f"{HERE}parts/long", f"{HERE}parts/short"}
    np.testing.assert_array_equal(found.parts[f"{HERE}parts/long"], [1, 0])
    assert np.isnan(found.parts[f"{HERE}parts/short"]).all()


def test_what_is_judged_in_parts_is_as_judged_at_once():
    """Failures and named parts too; a part of the batch may have no completion that a part of the
    reward applies to."""
    texts, items = ["ab", "a", "", "abc", "b"], [TEXT, GSM8K, TEXT, TEXT, GSM8K]
    weights = {f"{HERE}parts": 2, "math": 1, f"{HERE}empty_fails": 0.5}

    def judged(places):
        some = [texts[i] for i in places], [items[i] for i in places], [False] * len(places)
        return places, combine(*some, weights, "skip")

    whole, found = judged(range(5))[1], joined([judged([3, 1]), judged([2]), judged([4, 0])])
    assert found.names == whole.names
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.total, whole.total)
    assert [(f.name, f.item, f.why) for f in found.failures] == [
        (f.name, f.item, f.why) for f in whole.failures
    ]
    for name in found.parts | whole.parts:
        np.testing.assert_array_equal(found.parts[name], whole.parts[name])


def test_a_row_that_no_reward_applies_to_is_refused():
    causal = Item(ASKED, problem=Problem("?", '{"PROB": 0.5}', "PN"))
    check_rewards([causal, GSM8K], {"answer": 1, "math": 1}, "a.jsonl")
    with pytest.raises(UserError, match=r"a.jsonl, item 1 .*rewards answer, form applies"):
        check_rewards([causal, GSM8K], {"answer": 1, "form": 1}, "a.jsonl")
    with pytest.raises(UserError, match="item 0 .*none of the rewards regex"):
        check_rewards([GSM8K], {"regex": 1}, "a.jsonl")
    with pytest.raises(UserError, match="takes 'level', and no row of a.jsonl has such a column"):
        check_rewards([GSM8K], {f"{HERE}named_columns": 1}, "a.jsonl")
    check_rewards([TEXT], {f"{HERE}named_columns": 1}, "a.jsonl")
