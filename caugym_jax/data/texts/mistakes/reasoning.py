"""Mistakes in the question or the graph: the arithmetic is right, what it computes is not.

Each takes a Case and a random generator; None: not this time, or the mistake does not apply.
Raises KeyError where the mistake needs a number that is not given.
"""

from __future__ import annotations

import dataclasses
import random
from decimal import Decimal

from caugym_jax.causal.engine.answers import TOLERANCE
from caugym_jax.causal.engine.estimands import assignments, ingredients, printed_probability
from caugym_jax.causal.engine.graph import Graph
from caugym_jax.data.texts.mistakes.arithmetic import bound
from caugym_jax.data.texts.mistakes.case import GRAPHICAL, Case, Wrong, resolved
from caugym_jax.data.texts.solution import lacking_steps, symbolic_steps
from caugym_jax.types import BOUND_TASKS, Event, Query, Term

_DIFFERENCES = ("ATE", "CDE", "ETT", "NDE", "NIE")


def sign_flip(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if query.zero:
        return None
    if query.task in BOUND_TASKS:
        return bound(case, flipped=True)
    flips = [
        dataclasses.replace(query, x_value=1 - query.x_value),
        dataclasses.replace(query, y_value=1 - query.y_value),
    ]
    if query.task in ("NDE", "NIE") and query.mediators or query.task == "ETT" and query.adjusters:
        del flips[0]  # the other treatment is another quantity
    return resolved(case, case.graph, rng.choice(flips), case.needed)


def wrong_formula(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if query.zero:
        return None
    if query.task in BOUND_TASKS:
        return bound(case, formula="do")
    others = [task for task in _DIFFERENCES if task != query.task]
    for task in rng.sample(others, len(others)):
        held = query.mediators
        values: tuple[int, ...] = ()
        if task in ("ATE", "ETT"):
            held = ()
        elif not held and task in ("CDE", "NIE"):
            continue
        elif task == "CDE":
            values = tuple(rng.randrange(2) for _ in held)
        other = dataclasses.replace(query, task=task, mediators=held, mediator_values=values)
        try:
            made = resolved(case, case.graph, other, case.printed, keep=GRAPHICAL)
        except KeyError:
            continue
        if case.problem.lacks or made.value is None or abs(made.value - case.label) >= TOLERANCE:
            return made
    return None


def ignored_confounder(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if not query.adjusters:
        return None
    without = dataclasses.replace(query, adjusters=())
    stratum = rng.choice(assignments(query.adjusters))
    return resolved(case, case.graph, without, _within(case, stratum) | case.printed)


def ignored_mediator(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if query.task == "NDE" and query.mediators:
        without = dataclasses.replace(query, mediators=())
        stratum = rng.choice(assignments(query.mediators))
        return resolved(case, case.graph, without, _within(case, stratum) | case.printed)
    if query.task == "NIE" and len(query.mediators) == 1:
        (mediator,), (away,) = query.mediators, query.away
        moved = Query(
            *("CDE", mediator, query.y, 1, query.y_value, query.adjusters, away[:1], away[1:])
        )
        return resolved(case, case.graph, moved, case.printed, keep=GRAPHICAL)
    return None


def _within(case: Case, stratum: Event) -> dict[Term, Decimal]:
    """The numbers printed about one stratum, as if they held for everybody."""
    return {
        Term(term.target, tuple(e for e in term.given if e not in stratum)): number
        for term, number in case.needed.items()
        if set(stratum) <= set(term.given)
    }


def false_zero(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if query.zero or query.task in BOUND_TASKS:
        return None
    steps = symbolic_steps(case.graph, dataclasses.replace(query, zero=True), {})
    return Wrong(list(steps.values()), Decimal(0), "No")


def false_path(case: Case, rng: random.Random) -> Wrong | None:
    if not case.query.zero:
        return None
    graph, query = _misread_graph(case, rng)
    return resolved(case, graph, query, _completed(case, query, rng))


def invented_number(case: Case, rng: random.Random) -> Wrong | None:
    if not case.problem.lacks:
        return None
    return resolved(case, case.graph, case.query, _completed(case, case.query, rng))


def false_lack(case: Case, rng: random.Random) -> Wrong | None:
    if case.problem.lacks:
        return None
    graph, query = _misread_graph(case, rng) if case.query.zero else (case.graph, case.query)
    terms = ingredients(query)
    absent = terms if case.query.zero else rng.sample(terms, rng.randint(1, 2))
    return Wrong(list(lacking_steps(graph, query, absent).values()), None)


def _misread_graph(case: Case, rng: random.Random) -> tuple[Graph, Query]:
    """A graph in which x does affect y in the way that the task asks about."""
    query, n = case.query, case.graph.n
    edges: tuple[tuple[int, int], ...] = ((query.x, query.y),)
    through = query.mediators
    if query.task == "NIE":
        between = rng.choice([v for v in range(n) if v not in (query.x, query.y)])
        edges, through = ((query.x, between), (between, query.y)), (between,)
    return Graph(n, edges), dataclasses.replace(query, zero=False, mediators=through)


def _completed(case: Case, query: Query, rng: random.Random) -> dict[Term, Decimal]:
    """The printed numbers, and an invented one for each that the query needs besides."""
    numbers = dict(case.printed)
    for term in ingredients(query):
        try:
            printed_probability(numbers)(*term)
        except KeyError:
            variables = {v for v, _ in term.target}
            taken = sum(
                number
                for other, number in numbers.items()
                if set(other.given) == set(term.given) and {v for v, _ in other.target} == variables
            )
            numbers[term] = round((1 - taken) * Decimal(rng.uniform(0.05, 0.95)), 4)
    return numbers
