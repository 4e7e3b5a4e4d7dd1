"""Which questions a graph allows: drawing one of a wanted kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from caugym_jax.causal.engine.graph import Graph, adjustment_sets, directed_path, mediators
from caugym_jax.types import BOUND_TASKS, Query

BOUNDS = ("lower", "upper")
WITH_MEDIATORS = ("CDE", "NDE", "NIE")


def as_asked(query: Query) -> Query:
    """The query as a text asks it, without what the graph has to supply for its answer."""
    held = query.mediators if query.task == "CDE" else ()
    return dataclasses.replace(query, adjusters=(), mediators=held, zero=False)


def has_zero_effect(graph: Graph, task: str, x: int, y: int) -> bool:
    """True where the graph alone makes the effect of x on y 0 (never for the PN, PS bounds).

    ATE, ETT: no directed path; CDE, NDE: no edge; NIE: no directed path of three vertices.
    """
    match task:
        case "ATE" | "ETT":
            return y not in graph.descendants[x]
        case "CDE" | "NDE":
            return (x, y) not in graph.edges
        case "NIE":
            return not directed_path(graph, x, y, indirect=True)
    return False


def adjusters(graph: Graph, task: str, x: int, y: int, max_size: int) -> list[tuple[int, ...]]:
    """The smallest valid adjustment sets for a task; [] if none has at most max_size members."""
    held = mediators(graph, x, y) if task in WITH_MEDIATORS else ()
    natural = task in ("NDE", "NIE")
    for size in range(max_size + 1):
        if found := adjustment_sets(graph, x, y, (size,), held=held, natural=natural):
            return found
    return []


def draw_query(
    rng: np.random.Generator, graph: Graph, task: str, *, zero: bool, size: int, through: int
) -> Query | None:
    """A random question of the wanted kind about the graph, or None if the graph has none.

    zero: the graph makes the effect 0; otherwise x causes y and the smallest valid adjustment
    sets have `size` members. NDE and NIE then have exactly `through` mediators in all. CDE
    holds all mediators, at least one, at random values.
    """
    pairs = list(_pairs(graph, task, zero))
    x_value, y_value = (int(v) for v in rng.integers(2, size=2))
    bound = None
    if task in BOUND_TASKS:
        x_value = y_value = int(task == "PS")
        bound = BOUNDS[rng.integers(2)]
    for i in rng.permutation(len(pairs)):
        x, y = pairs[i]
        between = mediators(graph, x, y) if task in WITH_MEDIATORS else ()
        held = tuple(int(v) for v in rng.integers(2, size=len(between))) if task == "CDE" else ()
        if zero:
            held_nodes = between if task == "CDE" else ()
            return Query(task, x, y, x_value, y_value, (), held_nodes, held, zero=True)
        if task in ("NDE", "NIE") and len(between) != through:
            continue
        sets = adjusters(graph, task, x, y, size)
        if sets and len(sets[0]) == size:
            chosen = sets[rng.integers(len(sets))]
            return Query(task, x, y, x_value, y_value, chosen, between, held, bound)
    return None


def _pairs(graph: Graph, task: str, zero: bool) -> Iterator[tuple[int, int]]:
    for x in range(graph.n):
        for y in range(graph.n):
            causes = y in graph.descendants[x]
            if x == y or has_zero_effect(graph, task, x, y) != zero:
                continue
            if task == "CDE" and not (causes and mediators(graph, x, y)):
                continue  # there is nothing to hold
            if causes or zero:
                yield x, y
