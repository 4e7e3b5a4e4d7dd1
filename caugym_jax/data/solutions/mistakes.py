"""A problem's solution as text, and solutions with one wrong step.

Everything behind the wrong step follows from it, as a model's own slips go on, up to an answer that
is wrong beyond doubt. The kinds are the checker's (`solutions.checking`):

    task         the treatment's states are taken for each other
    graph        an effect said to be zero that is not, or a zero effect said to lack a number
    formula      a number said to be missing that is there
    application  the number of another condition is fetched
    arithmetic   one result of one place is another
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal

from caugym_jax.data.solutions import notation as n
from caugym_jax.data.solutions import writing
from caugym_jax.data.solutions.conditions import Plan, plan_of, story_of
from caugym_jax.data.texts.mistakes.case import Wrong, case_of, is_wrong
from caugym_jax.errors import UserError
from caugym_jax.types import LACK, Problem

ATTEMPTS = 20


def solution(problem: Problem) -> str:
    """The right solution of a generated problem; raises UserError as `plan_of`."""
    plan = plan_of(story_of(problem), lacks=problem.lacks)
    said = writing.written(plan.formula, plan.items, plan.x, plan.y, missing=plan.missing)
    return "".join(said)


def mistaken_solution(
    problem: Problem, rng: random.Random, kinds: Sequence[str] | None = None
) -> tuple[str, str]:
    """(kind, text): a wrong solution of a generated problem.

    Args:
      rng: decides the kind, evenly among those that apply, and the details.
      kinds: of KINDS; None: all of them.

    Raises:
      UserError: as `solution`, or none of the kinds applies.
    """
    plan, case = plan_of(story_of(problem), lacks=problem.lacks), case_of(problem)
    order = list(KINDS if kinds is None else kinds)
    rng.shuffle(order)
    for kind in order:
        for _ in range(ATTEMPTS):
            tokens = _WRITERS[kind](plan, problem.task, rng)
            if tokens is None:
                break
            text = "".join(tokens)
            if n.solution_tokens().keys() >= {*tokens} and is_wrong(case, _answered(text)):
                return kind, text
    raise UserError(f"no mistake of the kinds {', '.join(order)} fits this {problem.task} problem")


def _answered(text: str) -> Wrong:
    """What a solution answers."""
    if text.endswith(LACK):
        return Wrong([], None)
    said = json.loads(text[text.rindex("{") :])
    return Wrong([], Decimal(said["PROB"]), said.get("ANSWER"))


# The kinds: each a solution's tokens, or None where the mistake does not apply ------------------


def _task(plan: Plan, task: str, rng: random.Random) -> list[str] | None:
    """Where the numbers that are then asked for are printed too."""
    if not _is_calculated(plan):
        return None
    x = 1 - plan.x
    if not {*n.cited(plan.formula, x, plan.y)} <= {item.condition for item in plan.items}:
        return None
    return writing.written(plan.formula, plan.items, x, plan.y)


def _graph(plan: Plan, task: str, rng: random.Random) -> list[str]:
    if plan.formula != n.ZERO:
        return writing.written(n.ZERO, plan.items, plan.x, plan.y)
    return _lacking(plan, n.FORMULAS_OF[task][0], rng)


def _formula(plan: Plan, task: str, rng: random.Random) -> list[str] | None:
    return _lacking(plan, plan.formula, rng) if _is_calculated(plan) else None


def _lacking(plan: Plan, formula: str, rng: random.Random) -> list[str]:
    missing = rng.choice(n.cited(formula, plan.x, plan.y))
    return writing.written(formula, plan.items, plan.x, plan.y, missing=missing)


def _application(plan: Plan, task: str, rng: random.Random) -> list[str] | None:
    if not _is_calculated(plan):
        return None
    at, cited = writing.places(plan.items), n.cited(plan.formula, plan.x, plan.y)
    wrong = rng.choice(cited)
    at[wrong] = rng.choice([place for condition, place in at.items() if condition != wrong])
    return _calculated(plan, writing.Steps(cited, at))


class _Slip(writing.Steps):
    """Steps of which one result is `off` too large (modulo its size): the `turn`-th, from 0."""

    turn, off, results = -1, 0, 0

    def found(self, result: int, size: int) -> int:
        self.results += 1
        return (result + self.off) % size if self.results == self.turn + 1 else result


def _arithmetic(plan: Plan, task: str, rng: random.Random) -> list[str] | None:
    if not _is_calculated(plan):
        return None
    at, cited = writing.places(plan.items), n.cited(plan.formula, plan.x, plan.y)
    right, wrong = _Slip(cited, at), _Slip(cited, at)
    writing.calculated(plan.formula, right)
    wrong.turn, wrong.off = rng.randrange(right.results), rng.randrange(1, 10)
    return _calculated(plan, wrong)


def _is_calculated(plan: Plan) -> bool:
    return plan.formula != n.ZERO and plan.missing is None


def _calculated(plan: Plan, steps: writing.Steps) -> list[str]:
    front = [*writing.listed(plan.items, plan.x, plan.y), n.form(plan.formula)]
    return [*front, *writing.calculated(plan.formula, steps)]


_WRITERS: dict[str, Callable[[Plan, str, random.Random], list[str] | None]] = {
    "task": _task,
    "graph": _graph,
    "formula": _formula,
    "application": _application,
    "arithmetic": _arithmetic,
}
KINDS = tuple(_WRITERS)
