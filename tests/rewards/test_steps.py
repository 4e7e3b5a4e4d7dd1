"""The steps reward: by hand, against those who would game it, and on hostile text."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import read_problems
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.data.solutions.writing import written
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.rewards import steps
from caugym_jax.rewards.steps import equalities, evaluate, steps_reward
from caugym_jax.types import LACK, TASKS, Problem
from tests.problems import from_text
from tests.rewards.test_answer import HOSTILE, hostile
from tests.shared import shared_path

WORLD = (
    "Input Info: Imagine a self-contained, hypothetical world with only the following conditions, "
    "and without any unmentioned factors or causal relationships: "
)
TWO = from_text(
    text=WORLD + "Dose has a direct effect on height.\nFor those with dose being high (A=1), the "
    "probability of height being tall (B=1) is 0.7125. For those with dose being low (A=0), the "
    "probability of height being tall (B=1) is 0.4750. \nInstruction: Consider the average "
    "treatment effect (ATE) of dose on height.\nQuestion: If dose is changed to be high, will "
    "height be more likely to be tall?\n",
    answer='{"ANSWER": "Yes", "PROB": "0.2375"}',
    task="ATE",
)
# z -> x, z -> y, x -> y: needs P(y|x,z) (four of them) and P(z), so k = 5.
FIVE = from_text(
    text=WORLD + "Z has a direct effect on x.Z has a direct effect on y.X has a direct effect on y."
    "\nFor those with x being high (B=1) and z being low (A=0), the probability of y being high "
    "(C=1) is 0.8100. For those with x being low (B=0) and z being low (A=0), the probability of y "
    "being high (C=1) is 0.5200. For those with x being high (B=1) and z being high (A=1), the "
    "probability of y being high (C=1) is 0.6300. For those with x being low (B=0) and z being "
    "high (A=1), the probability of y being high (C=1) is 0.2400. The probability of z being high "
    "(A=1) is 0.2500. \nInstruction: Consider the average treatment effect (ATE) of x on y.\n"
    "Question: If x is changed to be high, will y be more likely to be high?\n",
    answer='{"ANSWER": "Yes", "PROB": "0.315"}',
    task="ATE",
)
YES = '\n{"ANSWER": "Yes", "PROB": "%s"}'


def earned(problem: Problem, work: str, prob: str) -> float | None:
    return steps_reward(work + YES % prob, problem)


@pytest.mark.parametrize(
    ("work", "prob", "reward"),
    [
        ("0.7125 - 0.4750 = 0.2375", "0.2375", 1),
        ("<think>ATE = P(B=1|A=1) - P(B=1|A=0) = 0.7125-0.475 ≈ 0.2375.</think>", "0.2375", 1),
        ("", "0.2375", 0),  # no way to it
        ("0.7125 - 0.4750 = 0.2375\n0.2375 / 2 = 0.2", "0.2375", 0.5),  # 0.11875: one wrong
        ("0.7125 - 0.4750 = 0.2365", "0.2365", 0),  # wrong, and leads nowhere
        ("0.7125 + 0.4750 = 1.1875", "1.1875", 0.5),  # sound arithmetic, wrong formula
        ("0.7125 - 0.4750 = 0.2375", "0.9", 0),  # the answer is another number
        ("0.9125 - 0.6750 = 0.2375", "0.2375", 0),  # from numbers that are not the problem's
        ("0.5250 - 0.2875 = 0.2375", "0.2375", 1),  # from their complements
        ("1 - 0.4750 = 0.5250\n1 - 0.7125 = 0.2875\n0.525 - 0.2875 = 0.2375", "0.2375", 1),
        ("P(B=1|A=1) = 0.7125\n0.7125 - 0.4750 = 0.2375", "0.2375", 1),
        ("P(B=1|A=1) = 0.4750\n0.7125 - 0.4750 = 0.2375", "0.2375", 0.5),  # cited wrongly
        ("P(B=0 | A=1) = 0.2875; 0.7125 - 0.4750 = 0.2375", "0.2375", 1),
        ("P(B=0|A=0) = 0.2875; 0.7125 - 0.4750 = 0.2375", "0.2375", 0.5),
        ("P(A=1) = 0.1; 0.7125 - 0.4750 = 0.2375", "0.2375", 1),  # not told, so not judged
        ("P(D=1|A=1) = 0.1; 0.7125 - 0.4750 = 0.2375", "0.2375", 1),  # no such letter
        ("adjustment set: empty set. 0.7125 - 0.4750 = 0.2375", "0.2375", 1),
        ("adjustment set: {B}. 0.7125 - 0.4750 = 0.2375", "0.2375", 0.5),  # y itself
        ("0.7125 - 0.4750 = 0.2375. 2/0 = 1", "0.2375", 0.5),  # divides by 0
    ],
)
def test_by_hand_with_two_numbers(work, prob, reward):
    assert earned(TWO, work, prob) == reward


@pytest.mark.parametrize(
    ("work", "prob", "reward"),
    [
        ("(0.81-0.52)*(1-0.25) + (0.63-0.24)*0.25 = 0.315", "0.315", 1),
        (
            "0.81-0.52=0.29\n0.63-0.24=0.39\n0.29*0.75=0.2175\n0.39*0.25=0.0975\n"
            "0.2175+0.0975=0.315",
            "0.315",
            1,
        ),
        ("0.81 - 0.52 = 0.29", "0.29", 0.2),  # 2 of 5, and the answer is wrong
        ("adjustment set: {A}\n(0.81-0.52)*0.75+(0.63-0.24)*0.25=0.315", "0.315", 1),
        ("adjustment set: empty set\n(0.81-0.52)*0.75+(0.63-0.24)*0.25=0.315", "0.315", 0.8),
        ("0.63-0.24=0.39\n0.63-0.24=0.39\n0.81-0.52=0.29", "0.29", 0.2),  # asides earn nothing
        ("0.81+0.52+0.63+0.24+0.25=2.45\n0.29+0.025=0.315", "0.315", 0),  # nor does naming all
        ("0.81+0*0.52+0*0.63+0*0.24 = 0.81", "0.81", 0.1),  # nor adding nothing,
        ("0.81+0.52-0.52+0.63+0.37-1 = 0.81", "0.81", 0.1),  # in whatever way,
        ("0.52-0.52 = 0\n0.81+0 = 0.81", "0.81", 0.1),  # by a detour either
        ("0.29*0.75+0.39*0.25=0.315", "0.315", 0),  # from numbers that come from nowhere
    ],
)
def test_by_hand_with_five_numbers(work, prob, reward):
    assert earned(FIVE, work, prob) == pytest.approx(reward)


def test_where_it_does_not_apply():
    assert earned(from_text(TWO.text, LACK, "ATE"), "", "1") is None
    assert earned(Problem(text="unread", answer=TWO.answer, task="ATE"), "", "0.2375") is None
    zero = TWO.text.replace(
        "Dose has a direct effect on height", "Height has a direct effect on dose"
    )
    none = from_text(zero, '{"ANSWER": "No", "PROB": "0"}', "ATE")
    assert earned(none, "", "0") is None


def test_an_answer_there_must_be():
    work = "0.7125 - 0.4750 = 0.2375"
    assert steps_reward(work, TWO) == 0
    assert steps_reward(work + YES % "0.2375", TWO, truncated=True) == 0
    assert steps_reward(work + YES % "0.2375" + YES % "0.5", TWO) == 0
    assert steps_reward("<think>" + work + YES % "0.2375", TWO) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a 0.7 - 0.4 = 0.3.", [("0.7 - 0.4", "0.3")]),
        ("ATE=0.7-0.4=0.3", [("0.7-0.4", "0.3")]),
        ("= 0.5*0.6 = 0.2+0.1 = 0.3", [("0.5*0.6", "0.3"), ("0.2+0.1", "0.3")]),
        (
            "1. 0.7 - 0.4 = 0.3\n- 0.5 - 0.1 = 0.4",
            [("0.7 - 0.4", "0.3"), ("- 0.5 - 0.1", "0.4")],
        ),
        ("0.7 - 0.4\n= 0.3\n0.1 + 0.1 = 0.2", [("0.7 - 0.4", "0.3"), ("0.1 + 0.1", "0.2")]),
        (r"$\frac{0.7 - 0.4}{0.5} \approx 0.6$", [("((0.7 - 0.4)/(0.5))", "0.6")]),
        (r"\(0.7 \times 0.4 = 0.28\)", [("(0.7 * 0.4", "0.28")]),
        ("max{0, (0.2-0.5)/0.5}\n=max{0, -0.6}\n=0", [("(0.2-0.5)/0.5", "-0.6")]),
        ("min(1, (0.7-0.4)/0.5) = 0.6", [("(0.7-0.4)/0.5", "0.6")]),
        ("0.4 − 0.7 = −0.3", [("0.4 - 0.7", "-0.3")]),
        ("0.7 - 0.4 = 0.3 - 0", []),  # no number on the right
        ("P(B=1)=0.5", []),
    ],
)
def test_equalities(text, found):
    assert [pair for pair in equalities(text) if pair[0]] == found


@settings(max_examples=300)
@given(st.recursive(
    st.integers(1, 99).map(lambda k: f"{k / 100}"),
    lambda e: st.tuples(e, st.sampled_from("+-*/"), e).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    | e.map(lambda t: f"-{t}" if t[0] != "-" else t),
    max_leaves=8,
))  # fmt: skip
def test_evaluate_agrees_with_python(expression):
    try:
        expected = eval(expression)  # noqa: S307 - made of numbers and operators
    except ZeroDivisionError:
        return
    if abs(expected) < 1e9:
        found = evaluate(expression)
        assert float(found[0]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "text", ["", "(", "1 2", "()", "1+", "*2", "1(2)", "(1]", "1)", "0.1.2", "-"]
)
def test_what_is_no_expression(text):
    assert evaluate(text) is None


def test_operators_bind_as_usual():
    assert evaluate("1-2-3")[0] == -4
    assert evaluate("2-3*4/6")[0] == 0
    assert evaluate("-[2+{3-(1)}]")[0] == -4
    assert evaluate("2*-3") == (Decimal(-6), (Decimal(2), Decimal(3)))


@pytest.mark.parametrize("name", ["base", "deconfounding"])
def test_released_solutions_earn_all_but_where_their_numbers_are_not_the_printed_ones(name):
    problems = read_problems(shared_path(f"data/caugym/test_dev/{name}_dataset.json"))
    for problem in problems:
        reward = steps_reward("\n".join([*steps_of(problem).values(), problem.answer]), problem)
        if problem.task in ("ATE", "CDE", "NDE", "NIE") or (name, problem.task) == ("base", "PN"):
            assert reward in (None, 1)
        if problem.task == "ETT":  # base has its verdicts inverted: half
            assert reward in (None, 0.5 if name == "base" else 1)


def test_generated_solutions_earn_all():
    """Those of PN and PS divide numbers that they show rounded, so that some do not come out."""
    for problem in generate_problems(TASKS, 70, 5, variant="redundant"):
        reward = steps_reward("\n".join([*steps_of(problem).values(), problem.answer]), problem)
        bound = problem.task in ("PN", "PS")
        assert reward in ((0, 1) if bound else (None if problem.story.query.zero else 1,))


@settings(max_examples=300)
@given(hostile | st.text(alphabet="0123456789.+-*/()[]{}= \nP(A=1|B", max_size=80))
def test_any_text_has_a_reward(text):
    for problem in (TWO, FIVE):
        assert 0 <= steps_reward(text, problem) <= 1
        assert 0 <= steps_reward(text + "\n" + problem.answer, problem) <= 1


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text(text):
    assert 0 <= steps_reward(text + TWO.answer, TWO) <= 1


def test_long_arithmetic_is_read_once(monkeypatch):
    """The characters that the expression reader sees are no more than a small multiple of all."""
    seen = 0
    token = steps._TOKEN

    class Counting:
        def match(self, text, position):
            nonlocal seen
            found = token.match(text, position)
            seen += (found.end() if found else position + 1) - position
            return found

    monkeypatch.setattr(steps, "_TOKEN", Counting())
    for part in ("(", "1+", "1=", "1+1=", "-1 -", "1-1=2\n", "\\frac{1}{", "min{1,", "= = ", "1. "):
        text = part * (40_000 // len(part)) + json.dumps({"PROB": "0.5", "ANSWER": "No"})
        seen = 0
        assert 0 <= steps_reward(text, TWO) <= 1
        assert seen <= 5 * len(text)


def test_solutions_in_our_notation_are_checked_step_by_step():
    problem = next(iter(generate_problems(("ATE",), 1, 3, zero_fraction=0.0, adjusters=(1,))))
    plan = plan_for(problem)
    right = "".join(written(plan.formula, plan.items, plan.x, plan.y))
    assert steps_reward(right, problem) == 1
    row = next(line for line in right.split("\n") if line.startswith("x4."))
    slip = right.replace(row, row[:-2] + "+9")
    assert 0.5 < steps_reward(slip, problem) < 1
    cut = right[: right.rindex("\n")]
    assert steps_reward(cut, problem) < 0.5
