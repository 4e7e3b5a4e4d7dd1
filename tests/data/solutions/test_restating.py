"""Questions in the words that models read best: the same question, and nothing of it lost."""

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.engine.solving import solve
from caugym_jax.data.questions import question_story
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.data.solutions.restating import restated
from caugym_jax.types import TASKS, Problem
from tests.data.test_questions import GOOD


def test_by_hand():
    story = question_story(GOOD)
    told = restated(story, solve(story))
    assert told.states == (("low", "high"),) * 3
    (term, number) = told.given[-1]
    assert told.given[:-1] == story.given and term.target == ((0, 0),) and number == "0.7500"
    assert solve(told).value == solve(story).value
    assert plan_for(Problem("", "", "ATE", story=told)) is not None
    assert plan_for(Problem("", "", "ATE", story=story)) is None  # no P(age=young): not in words


@pytest.mark.parametrize("variant", ["base", "deconfounding", "redundant", "insufficient"])
def test_the_answer_stays(variant):
    for problem in generate_problems(TASKS, 14, 4, variant=variant):
        own = solve(problem.story)
        told = restated(problem.story, own)
        assert told.given[: len(problem.story.given)] == problem.story.given
        found = solve(told)
        assert (found.value, found.verdict) == (own.value, own.verdict)
