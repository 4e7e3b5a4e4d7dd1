"""A problem as structure, a wrong solution of it, and whether that is wrong beyond doubt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from caugym_jax.causal.estimands import (
    Query,
    Term,
    by_identification,
    ingredients,
    printed_probability,
    verdict,
)
from caugym_jax.causal.finishing import four_decimals
from caugym_jax.causal.graph import Graph
from caugym_jax.causal.solution import symbolic_steps
from caugym_jax.causal.solving import reachable
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, LACK, Problem

WRONG = Decimal("0.0005")  # the least distance of a wrong number from the label
VERDICT_MATTERS = Decimal("0.001")  # below it either verdict counts as right
GRAPHICAL = 3  # of a difference's seven steps; then formula, numbers, arithmetic, verdict


class Case(NamedTuple):
    """A problem as structure."""

    problem: Problem
    graph: Graph
    query: Query
    told: dict[Term, Decimal]  # all printed numbers
    needed: dict[Term, Decimal]  # the ingredients that are told

    @property
    def steps(self) -> list[str]:
        """The right ones."""
        return list(self.problem.reason.values())

    @property
    def label(self) -> Decimal:
        return Decimal(json.loads(self.problem.answer)["PROB"])


class Wrong(NamedTuple):
    """A wrong solution."""

    steps: list[str]
    value: Decimal | None  # None: LACK_CONDITION
    verdict: str | None = None  # None: what the value says


def case_of(problem: Problem) -> Case:
    """Raises UserError where the problem comes without its structure."""
    record = problem.extra.get("Structure", problem.extra)
    record = json.loads(record) if isinstance(record, str) else record
    try:
        graph = Graph(len(record["graph"]["nodes"]), pairs(record["graph"]["edges"]))
        query = Query(
            problem.task,
            **{name: record[name] for name in ("x", "y", "x_value", "y_value", "bound", "zero")},
            **{name: tuple(record[name]) for name in ("adjusters", "mediators", "mediator_values")},
        )
        told = {
            Term(pairs(line["target"]), pairs(line["given"])): Decimal(line["p"])
            for line in record["given"]
        }
    except KeyError as error:
        raise UserError(f"no structure of the problem ({error}): use generated problems") from error
    p = printed_probability(told)
    needed = {}
    for term in ingredients(query):
        try:
            needed[term] = p(*term)
        except KeyError:
            continue
    return Case(problem, graph, query, told, needed)


def pairs(lists: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a, b in lists)


def answer_of(case: Case, made: Wrong) -> str:
    """As Problem.answer."""
    if made.value is None:
        return LACK
    label = {"PROB": four_decimals(made.value)}
    said = made.verdict or verdict(case.query, made.value)
    return json.dumps(label if said is None else {"ANSWER": said, **label})


def is_wrong(case: Case, made: Wrong, answer: str) -> bool:
    """Whether the answer is wrong beyond doubt, and says Yes to no effect of 0."""
    problem = case.problem
    if problem.lacks or made.value is None:
        return problem.lacks != (made.value is None)
    said = json.loads(answer)
    number, label = Decimal(said["PROB"]), case.label
    if number == 0 and said.get("ANSWER") == "Yes":
        return False
    if abs(number - label) < WRONG:
        return said.get("ANSWER") != problem.verdict and abs(label) >= VERDICT_MATTERS
    if problem.task in BOUND_TASKS:
        low, high = reachable(case.query, printed_probability(case.told))
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
    return Wrong([*case.steps[:keep], *steps[keep:]], value, verdict(query, value))


def one_digit_off(number: Decimal, rng: random.Random) -> Decimal:
    """A number of four decimals of which one digit is another; never the leading zero."""
    size = int(abs(number).scaleb(4))
    unit = 10 ** rng.randrange(max(4, len(str(size))))
    digit = size // unit % 10
    size += (rng.choice([d for d in range(10) if d != digit]) - digit) * unit
    return Decimal(size).scaleb(-4).copy_sign(number)
