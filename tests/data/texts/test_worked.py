"""The worked arithmetic against integer subtraction, the official items and a case by hand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.texts.worked import columns, effect_of, format_columns, work, work_difference
from caugym_jax.errors import UserError
from caugym_jax.types import Problem
from tests.problems import from_text
from tests.shared import shared_path

NUMBERS = st.integers(0, 9999)


def test_by_hand():
    # 0.8445 - 0.9288, right to left: 5-8=7 borrow; 4-8-1=5 borrow; 4-2-1=1; 8-9=9 borrow.
    # 0.9288 - 0.8445: 8-5=3; 8-4=4; 2-4=8 borrow; 9-8-1=0.
    assert format_columns(columns(8445, 9288)) == "(7*|3)(5*|4)(1|8*)(9*|0)"
    text = work_difference("ATE", "0.8445", "low", "0.9288", "high", "low")
    assert text.endswith('(1|8*)(9*|0).\n{"ANSWER": "No", "PROB": "-0.0843"}')


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_columns_are_the_digits_of_both_differences(a, b):
    cells = columns(a, b)
    for digits, borrow, difference in (
        ([c[0] for c in cells], cells[-1][1], a - b),
        ([c[2] for c in cells], cells[-1][3], b - a),
    ):
        value = sum(d * 10**i for i, d in enumerate(digits))
        assert value == difference % 10_000
        assert borrow == (difference < 0)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.booleans(), st.sampled_from(("ATE", "CDE", "ETT", "NDE")))
def test_answer_is_the_difference_of_the_asked_value(a, b, swap, task):
    asked = "high" if swap else "low"
    text = work_difference(task, f"0.{a:04d}", "low", f"0.{b:04d}", "high", asked)
    effect = (b - a if swap else a - b) / 10_000
    answer = effect_of(text)
    assert float(answer["PROB"]) == pytest.approx(effect, abs=1e-12)
    assert answer["ANSWER"] == ("Yes" if (effect < 0 if task == "ETT" else effect > 0) else "No")


def test_generated_problems_are_answered_exactly():
    tasks = ("ATE", "CDE", "ETT", "NDE")
    for problem in generate_problems(tasks, 400, 5, adjusters=(0,), max_mediators=0):
        answer = effect_of(work(problem))
        assert abs(float(answer["PROB"]) - problem.prob) < 0.0005
        assert answer["ANSWER"] == problem.verdict


def test_official_items_without_adjustment():
    items = json.loads(shared_path("data/caugym/test_dev/base_dataset.json").read_text())
    solved = 0
    for item in items:
        if item["Type"] not in ("ATE", "CDE", "ETT", "NDE"):
            continue
        problem = from_text(item["problem"], item["answer"], item["Type"])
        try:
            answer = effect_of(work(problem))
        except UserError:
            assert item["problem"].count("the probability of") > 2
            continue
        assert abs(float(answer["PROB"]) - problem.prob) < 0.0005
        solved += 1
    assert solved > 30


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("NIE", "Question: whatever"),
        ("ATE", "For those with a being low, the probability of b being low is 0.5. "),
    ],
)
def test_what_it_does_not_cover_is_an_error(task, text):
    with pytest.raises(UserError):
        work(Problem(text, '{"ANSWER": "No", "PROB": "0"}', task))


def test_asked_value_must_be_given():
    with pytest.raises(UserError, match="asked value"):
        work_difference("ATE", "0.1", "low", "0.2", "high", "medium")
