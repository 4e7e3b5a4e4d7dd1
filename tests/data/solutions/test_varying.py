"""A problem's story in other words and numbers: what it asks, and what answers it, stays."""

import random

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.solutions import checking, notation, varying, writing
from caugym_jax.data.solutions.conditions import plan_of, story_of
from caugym_jax.types import BOUND_TASKS, TASKS

PROBLEMS = list(generate_problems(TASKS, 42, 5, variant="redundant", zero_fraction=0.3))
STORIES = [story_of(problem) for problem in PROBLEMS]


def events(term):
    return frozenset(term.target), frozenset(term.given)


def variables(term):
    return frozenset(v for v, _ in term.target), frozenset(v for v, _ in term.given)


@pytest.mark.parametrize("states", [False, True])
def test_renamed_worlds_have_distinct_names_and_states(states):
    rng = random.Random(1)
    stories = [varying.renamed(rng, story, states=states) for story in STORIES]
    for story, new in zip(STORIES, stories, strict=True):
        assert len({name.capitalize() for name in new.names}) == len(story.names)
        assert all(zero != one for zero, one in new.states)
        assert new.given == story.given and new.query == story.query
    names = [name for story in stories for name in story.names]
    pairs = [pair for story in stories for pair in story.states]
    assert any("(" in name for name in names) and any("'s " in name for name in names)
    assert any(zero == f"not {one}" or one == f"not {zero}" for zero, one in pairs)
    assert any(
        zero.endswith(name)
        for s in stories
        for name, (zero, _) in zip(s.names, s.states, strict=True)
    )


def test_idle_numbers_are_new_and_change_no_formula():
    rng = random.Random(2)
    like = 0
    for story in STORIES:
        new = varying.with_idle(rng, story, 4)
        before, after = plan_of(story), plan_of(new)
        added = new.given[len(story.given) :]
        assert after.formula == before.formula
        assert after.items[: len(before.items)] == before.items
        assert {item.condition for item in after.items[len(before.items) :]} <= {notation.IDLE}
        told = [events(term) for term, _ in new.given]
        assert len(set(told)) == len(told)
        printed = {variables(term) for term, _ in story.given}
        like += sum(variables(term) in printed for term, _ in added)
    assert like > 10  # of the variables of a printed one, in other states


def test_idle_numbers_beside_a_lacking_one_do_not_name_the_outcome():
    rng = random.Random(3)
    for story in STORIES:
        for term, _ in varying.with_idle(rng, story, 4, about_y=False).given[len(story.given) :]:
            assert story.query.y not in [v for v, _ in (*term.target, *term.given)]


def test_other_numbers_are_the_outcomes_and_computed_rightly():
    rng = random.Random(4)
    seen = set()
    for story in STORIES * 4:
        new = varying.renumbered(rng, story)
        for (term, old), (same, number) in zip(story.given, new.given, strict=True):
            assert same == term
            outcomes = [v for v, _ in term.target] == [story.query.y] and term.given
            assert number == old or (outcomes and story.query.task not in BOUND_TASKS)
            seen.add(number)
        plan = plan_of(new)
        solution = "".join(writing.written(plan.formula, plan.items, plan.x, plan.y))
        assert checking.failure(checking.check(solution, plan)) is None
    assert {"1.0000", "0.0000"} <= seen
