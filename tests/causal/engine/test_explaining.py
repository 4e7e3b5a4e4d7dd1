"""The engine's answer in names: formulas by hand, and what would suffice does suffice."""

import dataclasses

import pytest

from caugym_jax.causal.engine.explaining import explanation, formula
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.engine.solving import solve, sufficient
from caugym_jax.data.questions import question_story
from caugym_jax.types import TASKS
from tests.data.test_questions import GOOD


def said(task, extra=""):
    text = GOOD.replace("task: ATE", f"task: {task}{extra}")
    story = question_story(text)
    return formula(story, dataclasses.replace(solve(question_story(GOOD)), query=story.query))


@pytest.mark.parametrize(
    ("task", "extra", "expected"),
    [
        ("ATE", "", "[P(recovery=yes | drug=yes) - P(recovery=yes | drug=no)]"),
        ("ETT", "", "P(recovery=yes | drug=no) - P(recovery=yes | drug=yes)"),
        ("NDE", "", "[P(recovery=yes | drug=yes) - P(recovery=yes | drug=no)]"),
        (
            "PN",
            ", bound: upper",
            "min(1, [P(recovery=yes | drug=yes) - P(drug=yes, recovery=yes)] / "
            "P(drug=no, recovery=no))",
        ),
        (
            "PS",
            ", bound: lower",
            "max(0, [P(recovery=no) - P(recovery=no | drug=yes)] / P(drug=no, recovery=no))",
        ),
    ],
)
def test_formulas_without_an_adjuster(task, extra, expected):
    assert said(task, extra) == expected


def test_explanation_by_hand():
    story = question_story(GOOD)
    lines = explanation(story, solve(story))
    assert "Adjusts for: {age}." in lines
    assert lines[-1] == "Answer: 0.125, Yes"


def test_what_would_suffice_does():
    for problem in generate_problems(TASKS, 70, 5, variant="insufficient"):
        story = problem.story
        assert solve(story).lacks
        for terms in sufficient(story):
            more = tuple((term, "0.0001") for term in terms)  # small: no joint beyond its margin
            assert terms
            assert not solve(dataclasses.replace(story, given=story.given + more)).lacks


def test_every_generated_problem_is_explained():
    for problem in generate_problems(TASKS, 70, 6, variant="hard"):
        for line in explanation(problem.story, solve(problem.story)):
            assert "{z}" not in line and "{m}" not in line
