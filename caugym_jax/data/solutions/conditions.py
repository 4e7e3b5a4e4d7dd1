"""What a problem's story comes to: its numbers with their conditions, the formula, what lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.engine.solving import truth
from caugym_jax.data.solutions import notation
from caugym_jax.data.solutions.writing import Item
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, Problem, Query, Story, Term


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a solution is written from."""

    items: tuple[Item, ...]  # the printed numbers in printed order
    formula: str  # of notation.FORMULAS, or notation.ZERO
    x: int  # the state that the question sets the treatment to
    y: int  # the state of the outcome that it asks about
    missing: str | None = None  # the first condition that the formula lacks


def story_of(problem: Problem) -> Story:
    """The story of a generated problem, whose query names its adjusters and mediators."""
    if problem.story is None:
        raise UserError(f"no solution of an unread problem ({problem.unread})")
    if problem.story.exact is None:
        raise UserError("the problem was read from a text, which names no adjusters: generate it")
    return problem.story


def plan_for(problem: Problem) -> Plan | None:
    """The plan of a problem, generated or read; None where the notation has no words for it.

    A text does not name its adjusters: those of the answer that the engine finds are taken. So a
    problem that was read and lacks a number has none.
    """
    try:
        story = problem.story
        if story is not None and story.exact is not None:
            return plan_of(story, lacks=problem.lacks)
        solved = truth(problem)
        if story is None or solved is None or solved.lacks:
            return None
        return plan_of(dataclasses.replace(story, query=solved.query))
    except UserError:
        return None


def plan_of(story: Story, *, lacks: bool = False) -> Plan:
    """What the solution of a story's question says.

    lacks: the printed numbers do not determine the answer. Which formula that is then named is a
        rule of the listed conditions alone: the task's simplest that could use all of them.

    Raises UserError where the notation has no words for the question: more than one adjuster or
    mediator, or more numbers than MAX_ITEMS.
    """
    query = story.query
    mediators = () if query.task == "CDE" else query.mediators
    if len(query.adjusters) > 1 or len(mediators) > 1 or len(story.given) > notation.MAX_ITEMS:
        raise UserError(
            "a worked solution has at most one adjuster, one mediator and "
            f"{notation.MAX_ITEMS} numbers: this problem has more"
        )
    needed = {_events(term) for term in ingredients(query)}
    items = tuple(
        Item(
            condition_of(query, term) if _events(term) in needed else notation.IDLE,
            int(Decimal(number) * 10_000),
        )
        for term, number in story.given
    )
    x, y = query.x_value, query.y_value
    if query.zero and not lacks:
        return Plan(items, notation.ZERO, x, y)
    formula = formula_of(query, [item.condition for item in items])
    listed = {item.condition for item in items}
    absent = [c for c in notation.cited(formula, x, y) if c not in listed]
    if bool(absent) != lacks:
        raise UserError(f"the numbers and the label disagree about whether {absent} is missing")
    return Plan(items, formula, x, y, absent[0] if lacks else None)


def formula_of(query: Query, conditions: Sequence[str]) -> str:
    """The task's simplest formula that could use all the conditions (idle ones aside)."""
    kind = query.bound if query.task in BOUND_TASKS else query.task
    assert kind is not None  # PN and PS ask for a bound
    used = set(conditions) - {notation.IDLE}
    for formula in notation.FORMULAS_OF[kind]:
        if used <= notation.printed(formula, query.x_value, query.y_value):
            return formula
    raise UserError(f"no formula of {query.task} uses {', '.join(sorted(used))}")


def condition_of(query: Query, term: Term) -> str:
    """P(Y=1 | X=0, Z=1) -> "y1|x0,z1"; what CDE holds is left out, as all its numbers hold it."""

    def events(pairs: tuple[tuple[int, int], ...]) -> str:
        names = {query.y: "y", query.x: "x"}
        names |= {} if query.task == "CDE" else dict.fromkeys(query.mediators, "m")
        names |= dict.fromkeys(query.adjusters, "z")
        named = [f"{names[node]}{value}" for node, value in pairs if node in names]
        return ",".join(sorted(named, key=lambda event: "yxmz".index(event[0])))

    given = events(term.given)
    return events(term.target) + (f"|{given}" if given else "")


def _events(term: Term) -> tuple[frozenset, frozenset]:
    return frozenset(term.target), frozenset(term.given)
