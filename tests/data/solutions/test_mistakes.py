"""Mistakes are wrong, of the kind they are called, and end like solutions."""

import random
from collections import Counter

import pytest

from caugym_jax.data.solutions import checking, notation, vocabulary
from caugym_jax.data.solutions.mistakes import KINDS, mistaken_solution, solution
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from tests.data.solutions.problems import problems

TOKENIZER = vocabulary.build()


@pytest.mark.parametrize("variant", ["base", "deconfounding", "insufficient"])
def test_every_mistake_is_wrong_and_of_its_kind(variant):
    counts = Counter()
    for i, (problem, plan) in enumerate(problems(variant)):
        kind, text = mistaken_solution(problem, random.Random(i))
        assert answer_reward(text, problem) == 0, text
        assert checking.failure(checking.check(text, plan)) == kind, text
        assert checking.check(text, plan)[0].text == solution(problem)[:7] or kind == "task"
        assert max(TOKENIZER.encode(text).ids) < vocabulary.solution_size()
        counts[kind] += 1
    assert set(counts) == ({"graph"} if variant == "insufficient" else set(KINDS))


def test_a_slip_is_the_only_wrong_step():
    """What follows is calculated from it."""
    for i, (problem, plan) in enumerate(problems("deconfounding")):
        kind, text = mistaken_solution(problem, random.Random(i))
        if kind == "arithmetic":
            steps = checking.check(text, plan)
            assert sum(not step.right for step in steps) == 1, text


def test_solutions_are_right_and_mistakes_depend_on_the_random_numbers_alone():
    for problem, plan in problems("base"):
        assert checking.failure(checking.check(solution(problem), plan)) is None
        pair = [mistaken_solution(problem, random.Random(3)) for _ in range(2)]
        assert pair[0] == pair[1]


def test_a_kind_that_does_not_fit_is_refused():
    problem = next(p for p, plan in problems("base") if plan.formula == notation.ZERO)
    with pytest.raises(UserError, match="no mistake of the kinds arithmetic fits this"):
        mistaken_solution(problem, random.Random(0), ["arithmetic"])
