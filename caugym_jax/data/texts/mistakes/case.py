"""A problem as structure, a wrong solution of it, and whether that is wrong beyond doubt."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import NamedTuple

from caugym_jax.causal.engine.answers import DEAD_ZONE, TOLERANCE, label, labelled, verdict
from caugym_jax.causal.engine.estimands import (
    by_identification,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import Graph, graph_of
from caugym_jax.causal.engine.solving import given_by, reachable, solve
from caugym_jax.data.texts.solution import numbers, story_steps, symbolic_steps
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, Problem, Query, Term

GRAPHICAL = 3  # of a difference's seven steps; then formula, numbers, arithmetic, verdict


class Case(NamedTuple):
    """A problem as structure."""

    problem: Problem
    graph: Graph
    query: Query
    printed: dict[Term, Decimal]  # all printed numbers
    needed: dict[Term, Decimal]  # the ingredients that they give
    steps: list[str]  # the right ones

    @property
    def label(self) -> Decimal:
        return labelled(self.problem)


class Wrong(NamedTuple):
    """A wrong solution."""

    steps: list[str]
    value: Decimal | None  # None: LACK_CONDITION
    verdict: str | None = None  # None: what the value says


def case_of(problem: Problem) -> Case:
    """Raises UserError where the problem is unread."""
    story = problem.story
    if story is None:
        raise UserError(f"no mistake can be made in an unread problem ({problem.unread})")
    query = solve(story).query if story.exact is None else story.query
    printed = numbers(story)
    p = printed_probability(printed)
    needed = {term: p(*term) for term in ingredients(query) if given_by(term, printed)}
    steps = list(story_steps(story).values())
    return Case(problem, graph_of(story), query, printed, needed, steps)


def answer_of(case: Case, made: Wrong) -> str:
    """As Problem.answer."""
    return label(case.query.task, made.value, made.verdict)


def is_wrong(case: Case, made: Wrong) -> bool:
    """Whether the answer is wrong beyond doubt, and says Yes to no effect of 0."""
    problem = case.problem
    if problem.lacks or made.value is None:
        return problem.lacks != (made.value is None)
    number, said = round(made.value, 4), made.verdict or verdict(case.query.task, made.value)
    if number == 0 and said == "Yes":
        return False
    if abs(number - case.label) < TOLERANCE:
        return said != problem.verdict and abs(case.label) >= DEAD_ZONE
    if problem.task in BOUND_TASKS:
        low, high = reachable(case.query, printed_probability(case.printed))
        return not low <= number <= high
    return True


def resolved(
    case: Case, graph: Graph, query: Query, printed: dict[Term, Decimal], keep: int = 0
) -> Wrong:
    """The solution that answers `query` from `printed`, under the name of the case's task; its
    first `keep` steps are the right ones."""
    value = Decimal(by_identification(query, printed_probability(printed)))
    task = case.problem.task
    steps = list(symbolic_steps(graph, query, printed).values())
    if query.task != task:
        steps = [step.replace(f"{query.task}=", f"{task}=") for step in steps]
    return Wrong([*case.steps[:keep], *steps[keep:]], value, verdict(query.task, value))


def one_digit_off(number: Decimal, rng: random.Random) -> Decimal:
    """A number of four decimals of which one digit is another; never the leading zero."""
    size = int(abs(number).scaleb(4))
    unit = 10 ** rng.randrange(max(4, len(str(size))))
    digit = size // unit % 10
    size += (rng.choice([d for d in range(10) if d != digit]) - digit) * unit
    return Decimal(size).scaleb(-4).copy_sign(number)
