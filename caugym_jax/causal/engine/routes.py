"""Graphs that one distribution has in common, and on each the ways to one effect.

Along any order of its nodes a distribution factorises into P(v | boundary), where the boundary
holds those earlier nodes that the others do not separate from v (the minimal independence map of
that order; Verma & Pearl 1990). So one joint distribution is that of a model on many graphs.

A *way* is the question with mediators and adjusters that identify its answer on some graph.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from caugym_jax.causal.engine.graph import (
    MAX_PARENTS,
    Graph,
    adjustment_sets,
    d_separated,
    draw_graph,
    independence_map,
    mediators,
)
from caugym_jax.causal.engine.queries import BOUNDS, WITH_MEDIATORS, has_zero_effect
from caugym_jax.types import BOUND_TASKS, Query

ORDERS = 30  # of the nodes of a graph
# How many other nodes to expect before x and between x and y: more, and too much needs adjusting
# for, or mediates. For CDE, what it holds comes between them besides.
ZONES = {False: (1.3, 1.4), True: (2.0, 0.4)}
MAX_HELD = 2  # mediators that a question or a formula sums over


class World(NamedTuple):
    """A question, asked about different graphs along which all models on `base` factorise."""

    base: Graph
    query: Query  # no adjusters, and no mediators but those that CDE holds
    ways: dict[Graph, list[Query] | None]  # None: the graph makes the effect 0
    every_way: list[Query]  # on any of the graphs, each once


def draw_world(
    rng: np.random.Generator,
    task: str,
    nodes: tuple[int, int],
    max_adjusters: int,
    max_mediators: int,
) -> World | None:
    """A random graph, a question about it, and other graphs; None where x and y do not depend.

    nodes: smallest and largest graph. max_adjusters: at once. max_mediators: of NDE and NIE.
    """
    least = min(max(nodes[0], 6), nodes[1]) if task == "CDE" else nodes[0]  # it holds a node or two
    base = draw_graph(rng, int(rng.integers(least, nodes[1] + 1)))
    query = _question(rng, base, task)
    if query is None:
        return None
    graphs = _graphs(rng, base, query)
    if task == "CDE":
        query = _held(query, graphs)
    known: dict[Query, Query] = {}  # one object for each way, so that it is soon found in a dict
    ways = {}
    for graph in graphs:
        found = _ways(graph, query, max_adjusters, max_mediators)
        ways[graph] = found and [known.setdefault(way, way) for way in found]
    return World(base, query, ways, list(known))


def _question(rng: np.random.Generator, base: Graph, task: str) -> Query | None:
    """About two nodes at random, dependent on each other; CDE holds one or two others."""
    x, y, *others = rng.permutation(base.n).tolist()
    if d_separated(base, 1 << x, 1 << y, 0):
        return None
    x_value, y_value, *values = rng.integers(2, size=2 + MAX_HELD).tolist()
    if task in BOUND_TASKS:
        value = int(task == "PS")
        return Query(task, x, y, value, value, bound=BOUNDS[x_value])
    held = int(rng.integers(1, min(MAX_HELD, base.n - 4) + 1)) if task == "CDE" else 0
    mediators = tuple(sorted(others[:held]))
    return Query(task, x, y, x_value, y_value, (), mediators, tuple(values[:held]))


def _held(query: Query, graphs: Sequence[Graph]) -> Query:
    """CDE: holds what mediates in most of the graphs, out of what was to be held."""
    found = Counter(mediators(graph, query.x, query.y) for graph in graphs)
    wanted = [m for m, _ in found.most_common() if m and set(m) <= set(query.mediators)]
    if not wanted:
        return query
    values = tuple(value for node, value in query.held if node in wanted[0])
    return dataclasses.replace(query, mediators=wanted[0], mediator_values=values)


def _graphs(rng: np.random.Generator, base: Graph, query: Query) -> list[Graph]:
    """Different graphs along which every distribution of the base factorises.

    Each other node comes before x, between x and y, or after y (what CDE holds comes between them);
    in a quarter y comes before x.
    """
    others = [v for v in range(base.n) if v not in (query.x, query.y)]
    before, between = (number / max(4, len(others)) for number in ZONES[query.task == "CDE"])
    zones = rng.choice(3, size=(ORDERS, len(others)), p=(before, between, 1 - before - between))
    if query.task == "CDE":
        zones[:, [v in query.mediators for v in others]] = 1
    places = np.empty((ORDERS, base.n))
    places[:, others] = zones + rng.random(zones.shape)
    backwards = rng.random(ORDERS) < 0.25
    places[:, query.x] = 1 + backwards
    places[:, query.y] = 2 - backwards
    graphs = {independence_map(base, order): None for order in places.argsort(axis=1).tolist()}
    return [graph for graph in graphs if max(map(len, graph.parents)) <= MAX_PARENTS]


def _ways(graph: Graph, query: Query, max_adjusters: int, max_mediators: int) -> list[Query] | None:
    """All ways to the effect by sets of the sizes allowed, smaller ones first.

    None where the graph makes the effect 0; [] where the question does not fit the graph.
    """
    task, x, y = query.task, query.x, query.y
    between = mediators(graph, x, y) if task in WITH_MEDIATORS else ()
    if has_zero_effect(graph, task, x, y):
        return None if task != "CDE" or set(between) <= set(query.mediators) else []
    if task == "CDE" and between != query.mediators or len(between) > MAX_HELD:
        return []
    natural = task in ("NDE", "NIE")
    if natural and len(between) > max_mediators:
        return []
    if natural:  # two nodes in all: with more, too many numbers would have to be printed
        max_adjusters = min(max_adjusters, 2 - len(between))
    sizes = range(max_adjusters + 1)
    return [
        dataclasses.replace(query, mediators=between, adjusters=z)
        for z in adjustment_sets(graph, x, y, sizes, held=between, natural=natural)
    ]
