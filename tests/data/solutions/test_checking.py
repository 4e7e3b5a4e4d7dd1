"""Every right solution passes, and no changed token does."""

import random

import pytest

from caugym_jax.data.solutions import checking, notation
from tests.data.solutions.problems import problems, tokens

VARIANTS = ("base", "deconfounding", "redundant", "insufficient")


@pytest.mark.parametrize("variant", VARIANTS)
def test_right_solutions_pass(variant):
    for _, plan in problems(variant):
        for rng in (None, random.Random(3)):
            steps = checking.check("".join(tokens(plan, rng)), plan)
            assert checking.failure(steps) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_change_of_one_token_is_noticed(variant):
    rng, known = random.Random(4), notation.solution_tokens()
    kinds = {text: dict(features).get("type") for text, features in known.items()}
    for _, plan in problems(variant):
        said = tokens(plan)
        place = rng.randrange(len(said))
        alike = [t for t in known if t != said[place] and kinds[t] == kinds[said[place]]]
        if alike:
            changed = [*said[:place], rng.choice(alike), *said[place + 1 :]]
            steps = checking.check("".join(changed), plan)
            assert checking.failure(steps) in checking.KINDS, (said[place], changed[place])


def plan_and_text(formula: str) -> tuple:
    return next(
        (plan, "".join(tokens(plan)))
        for variant in VARIANTS
        for _, plan in problems(variant)
        if plan.formula == formula and plan.missing is None
    )


def kind(text: str, plan) -> str | None:
    return checking.failure(checking.check(text, plan))


def test_kinds():
    plan, text = plan_and_text("over Z")
    assert kind(text.replace(f"X={plan.x}", f"X={1 - plan.x}", 1), plan) == "task"
    assert kind(text.replace("=> over Z", "=> zero"), plan) == "graph"
    assert kind(text.replace("=> over Z", "=> difference"), plan) == "formula"
    assert kind(text.replace("=> over Z", "=> upper bound"), plan) == "task"
    assert kind(text.replace(" 1) ", " 2) ", 1), plan) == "application"
    assert kind(text.replace("\nx4.", "\nx3.", 1), plan) == "application"
    assert kind(text[: text.rindex("\n")], plan) == "unexpected"
    assert kind(text + "\nand so on", plan) == "unexpected"
    assert kind("The answer is 0.1", plan) == "unexpected"
    head, _, answer = text.rpartition("\n")
    other = answer.replace("Yes", "No") if "Yes" in answer else answer.replace("No", "Yes")
    assert kind(f"{head}\n{other}", plan) == "arithmetic"


def test_one_slip_is_one_wrong_step():
    plan, text = plan_and_text("over M")
    lines = text.split("\n")
    row = next(line for line in lines if line.startswith("x2."))
    slip = row[:-2] + ("+5" if row[-2:] != "+5" else "+6")
    steps = checking.check(text.replace(row, slip), plan)
    wrong = [step.text for step in steps if not step.right]
    assert wrong[0] == slip
    assert len(wrong) == 2  # the row below no longer follows from it
