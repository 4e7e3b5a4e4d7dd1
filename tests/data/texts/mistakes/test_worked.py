"""Every wrong worked solution is wrong in the way that its kind says."""

import json
import random
import re
from collections import Counter

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.text.wording import HEADER
from caugym_jax.data.texts.mistakes import WORK_KINDS, mistaken_work
from caugym_jax.data.texts.worked import effect_of, work
from caugym_jax.errors import UserError
from caugym_jax.evals.scorers import strict
from tests.problems import from_text

ASKED = (
    f"{HEADER} Rain has a direct effect on fog.\nFor those with "
    "rain being low, the probability of fog being high is 0.8445. "
    "For those with rain being high, the probability of fog being high is 0.9288. \n\n"
    "Question: If rain is changed to be low, will fog be more likely to be high?\n"
)
PROBLEM = from_text(ASKED, '{"ANSWER": "No", "PROB": "-0.0843"}', "ATE")
COLUMN = re.compile(r"\((\d)(\*?)\|(\d)(\*?)\)")


@pytest.fixture(scope="module")
def samples():
    """(problem, kind, wrong text) of two mistakes in each of 400 problems."""
    problems = generate_problems(
        ("ATE", "CDE", "ETT", "NDE"), 400, 8, adjusters=(0,), max_mediators=0
    )
    return [
        (problem, *mistaken_work(problem, random.Random(f"{i} {k}")))
        for i, problem in enumerate(problems)
        for k in range(2)
    ]


def test_the_strict_scorer_calls_right_what_is_right_and_wrong_what_is_wrong(samples):
    for problem, _, wrong in samples:
        assert strict(work(problem), problem)
        assert not strict(wrong, problem), wrong


def test_every_kind_occurs_and_none_rules(samples):
    counts = Counter(kind for _, kind, _ in samples)
    assert set(counts) == set(WORK_KINDS)
    assert min(counts.values()) >= 40 and max(counts.values()) <= 240


def printed(text):
    return re.findall(r"probability is (0\.\d{4})", text)


def said(text):
    return effect_of(text)


def test_kinds_are_what_their_names_say(samples):
    for problem, kind, wrong in samples:
        right = work(problem)
        effect, truth = float(said(wrong)["PROB"]), float(said(right)["PROB"])
        yes = said(wrong)["ANSWER"] == "Yes"
        if kind != "wrong_verdict":  # the verdict follows from the number
            assert yes == (effect < 0 if problem.task == "ETT" else effect > 0)
        if kind == "sign_flip":
            assert effect == -truth and printed(wrong) == printed(right)
        elif kind == "wrong_verdict":
            assert effect == truth and said(wrong)["ANSWER"] != said(right)["ANSWER"]
            assert wrong[: wrong.rindex("{")] == right[: right.rindex("{")]
        elif kind == "misread_number":
            digits = zip("".join(printed(wrong)), "".join(printed(right)), strict=True)
            assert sum(a != b for a, b in digits) == 1
        elif kind == "arithmetic_slip":
            assert wrong.split(":")[0] == right.split(":")[0]
            assert COLUMN.findall(wrong) != COLUMN.findall(right)
        elif kind == "false_zero":
            assert wrong.startswith("No probability is needed") and effect == 0 != truth
        elif kind == "invented_number":
            assert truth == 0 and "probability of" not in problem.text
            assert len(printed(wrong)) == 2
        else:
            assert kind == "no_work" and json.loads(wrong)


def test_the_answer_follows_from_the_work_above_it(samples):
    """Wrong as it is, the number is the difference of the digits that the columns show."""
    for _, kind, wrong in samples:
        cells = COLUMN.findall(wrong)
        if not cells:
            continue
        side = 2 if cells[-1][1] else 0  # the left side borrows at the end: it is negative
        size = sum(int(cell[side]) * 10**i for i, cell in enumerate(cells))
        first_negative = bool(cells[-1][1])
        subtracted = "first minus" if "the first minus" in wrong else "second minus"
        sign = -1 if first_negative == (subtracted == "first minus") else 1
        assert float(said(wrong)["PROB"]) == pytest.approx(sign * size / 10_000, abs=1e-12), kind
        if kind != "arithmetic_slip":
            a, b = map(float, printed(wrong))
            assert size / 10_000 == pytest.approx(abs(a - b), abs=1e-9)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("sign_flip", 'second minus the first.{90,}"Yes", "PROB": "0.0843"}'),
        ("wrong_verdict", r'\(7\*\|3\)\(5\*\|4\)\(1\|8\*\)\(9\*\|0\)\..*"Yes", "PROB": "-0.0843"}'),
        ("false_zero", 'not a cause of the outcome..{"ANSWER": "No", "PROB": "0"}'),
    ],
)
def test_by_hand(kind, words):
    made, text = mistaken_work(PROBLEM, random.Random(0), [kind])
    assert made == kind and re.search(words + "$", text, re.DOTALL), text


def test_a_forgotten_borrow_by_hand():
    # 0.9288 - 0.8445: only 8 - 4 in the second place borrows (2 < 4). Forgetting it in the last
    # place gives 9 - 8 = 1 where 0 is right: 0.1843.
    texts = {mistaken_work(PROBLEM, random.Random(i), ["arithmetic_slip"])[1] for i in range(80)}
    assert any(
        t.endswith('(7*|3)(5*|4)(1|8*)(9*|1).\n{"ANSWER": "No", "PROB": "-0.1843"}') for t in texts
    )


def test_the_same_seed_makes_the_same_mistake():
    assert mistaken_work(PROBLEM, random.Random(5)) == mistaken_work(PROBLEM, random.Random(5))


def test_what_does_not_apply_is_an_error():
    with pytest.raises(UserError, match="no mistake of the kinds invented_number"):
        mistaken_work(PROBLEM, random.Random(0), ["invented_number"])
