"""Solutions are right, and made of known tokens."""

import dataclasses
import random
from decimal import Decimal

import pytest

from caugym_jax.data.solutions import notation
from caugym_jax.data.solutions.conditions import condition_of, plan_of, story_of
from caugym_jax.data.solutions.varying import without_some
from caugym_jax.data.solutions.writing import Item, Steps, digits, number, written
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from caugym_jax.types import LACK, Query, Term
from tests.data.solutions.problems import VARIANTS, problems, tokens


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_strict_scorer_accepts_every_solution(variant):
    known = notation.solution_tokens()
    for problem, plan in problems(variant):
        for rng in (None, random.Random(3)):
            said = tokens(plan, rng)
            assert answer_reward("".join(said), problem) == 1, problem.text
            assert set(said) <= set(known)


def test_every_formula_comes_up():
    drawn = {plan.formula for v in VARIANTS for _, plan in problems(v) if plan.missing is None}
    assert drawn == {*notation.FORMULAS, notation.ZERO}


def test_a_difference_by_hand():
    items = [Item("y0|x1", 4758), Item("y0|x0", 7121)]
    assert "".join(written("difference", items, 1, 0)) == (
        "X=1 Y=0 1) y0|x1: #1=0.4758 2) y0|x0: #2=0.7121 => difference\n"
        "V: y0|x1: #1= a1.4 a2.7 a3.5 a4.8 y0|x0: #2= b1.7 b2.1 b3.2 b4.1"
        " v4.7|3 v3.3|6 v2.6|3 v1.7*|2 v0.-1\n"
        '{"ANSWER": "No", "PROB": "-0.2363"}'
    )


def test_a_product_by_hand():
    """-0.1234 x 0.5 = -0.0617; -0.1234 is written as -1 + 0.8766."""
    steps = Steps((), {})
    product, fifth = steps.rows((-1, 8, 7, 6, 6), digits(5000))
    assert number(product) == -617
    assert fifth == 0


@pytest.mark.parametrize("value", [0, 1, 9_999, 10_000, 4_758])
def test_digits_and_number_are_inverse(value):
    assert number(digits(value)) == value


@pytest.mark.parametrize(
    "numerator, divisor, answer",
    [(2_500, 5_000, "0.5000"), (5_000, 5_000, "1.0000"), (9_000, 100, "1.0000"), (1, 3, "0.3333")],
)
def test_quotients(numerator, divisor, answer):
    items = [Item("y1|x0", numerator), Item("y1,x0", 0), Item("y0,x1", divisor)]
    said = "".join(written("upper bound", items, 0, 1, random.Random(1)))
    assert said.endswith(f'\n{{"PROB": "{answer}"}}')


def test_a_bound_below_zero_is_zero():
    items = [Item("y1|x0", 100), Item("y1,x0", 200), Item("y0,x1", 5_000)]
    assert "".join(written("upper bound", items, 0, 1)).endswith('\n{"PROB": "0.0000"}')


def test_a_missing_condition_is_named():
    for problem, plan in problems("insufficient"):
        said = "".join(tokens(plan))
        assert said.endswith(f" missing {plan.missing}:\n{LACK}")
        assert plan.missing not in {item.condition for item in plan.items}, problem.text


def test_numbers_taken_away_are_missed():
    rng = random.Random(2)
    for problem, plan in problems("deconfounding"):
        fewer = without_some(rng, story_of(problem))
        found = plan_of(fewer, lacks=True)
        assert len(found.items) < len(plan.items)
        assert found.missing in set(notation.cited(found.formula, plan.x, plan.y))
        with pytest.raises(UserError, match="missing"):
            plan_of(fewer)


def test_conditions_of_a_controlled_effect_leave_out_what_it_holds():
    query = Query("CDE", 0, 2, 1, 0, adjusters=(3,), mediators=(1,), mediator_values=(1,))
    term = Term(((2, 0),), ((0, 1), (1, 1), (3, 0)))
    assert condition_of(query, term) == "y0|x1,z0"


def test_more_than_one_adjuster_is_refused():
    problem, _ = problems("base")[0]
    story = story_of(problem)
    query = dataclasses.replace(story.query, adjusters=(0, 1))
    with pytest.raises(UserError, match="at most one adjuster"):
        plan_of(dataclasses.replace(story, query=query))


def test_items_carry_the_printed_numbers():
    for problem, plan in problems("redundant"):
        printed = [int(10_000 * Decimal(number)) for _, number in problem.story.given]
        assert [item.number for item in plan.items] == printed
        assert [item.condition for item in plan.items[-2:]] == [notation.IDLE] * 2


def test_slips_of_a_quotient_are_put_right():
    """With every seed the answer is that without slips, but for the last digit's rounding."""
    items = [Item("y1|x0", 2_980), Item("y1,x0", 1_724), Item("y0,x1", 3_514)]
    answers = {
        "".join(written("upper bound", items, 0, 1, random.Random(seed)))[-8:-2]
        for seed in range(200)
    }
    assert answers <= {"0.3574", "0.3575"}
    rows = ["".join(written("upper bound", items, 0, 1, random.Random(seed))) for seed in range(50)]
    assert any("\nb2." in row for row in rows)
