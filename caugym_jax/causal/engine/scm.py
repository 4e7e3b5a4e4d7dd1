"""Binary structural causal models with an exact joint distribution.

Mechanism of node i: P(V_i = 1 | parents) = sigmoid(b_i + sum_j w_ij parent_j), b ~ N(0, 1),
w ~ N(0, variance 2). All 2^n states are enumerated: nothing is sampled.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from caugym_jax.causal.engine.graph import Graph
from caugym_jax.types import Event

SCALE = np.sqrt(2.0)  # of the weights


@dataclasses.dataclass(frozen=True)
class SCM:
    """A graph with one conditional table per node.

    tables[i] has one axis of length 2 per parent of i (in increasing order of node), then one
    for i itself; it sums to 1 over that axis. Further axes, if any, count models on the graph.
    """

    graph: Graph
    tables: tuple[np.ndarray, ...]


def draw_scm(rng: np.random.Generator, graph: Graph, models: tuple[int, ...] = ()) -> SCM:
    """Random logistic mechanisms on the graph; models: the shape of the tables' further axes."""
    noise = iter(rng.standard_normal((graph.n + len(graph.edges), *models)))
    logits: list = []
    ends = [0]
    for parents in graph.parents:
        own = [next(noise)]
        for _ in parents:
            weight = SCALE * next(noise)
            own = [x for logit in own for x in (logit, logit + weight)]
        logits += own
        ends.append(len(logits))
    one = 1.0 / (1.0 + np.exp(-np.array(logits)))
    both = np.stack([1.0 - one, one], axis=1)
    tables = [
        both[start:end].reshape((2,) * (len(parents) + 1) + models)
        for parents, (start, end) in zip(graph.parents, itertools.pairwise(ends), strict=True)
    ]
    return SCM(graph, tuple(tables))


def factorised(graph: Graph, observed: np.ndarray) -> SCM:
    """The model on the graph whose joint is `observed`, which must factorise along the graph."""
    tables = []
    for node, parents in enumerate(graph.parents):
        axes = (*parents, node)
        margin = observed.sum(axis=tuple(v for v in range(graph.n) if v not in axes))
        place = sum(p < node for p in parents)
        if place < len(parents):
            margin = _moved(margin, place, len(parents))
        tables.append(margin / margin.sum(axis=-1, keepdims=True))
    return SCM(graph, tuple(tables))


def joint(scm: SCM, edges: Mapping[tuple[int, int], int] | None = None) -> np.ndarray:
    """P(V_0 = v_0, ..., V_{n-1} = v_{n-1}), shape (2,) * n, where some edges carry fixed values.

    With edges = {(p, c): v}, node c behaves as if its parent p were v, whatever p is; every
    node keeps its own mechanism. Fixing all edges out of x gives the distribution of
    (X, V_x): the natural value of X together with the others' potential outcomes (the
    factorisation of a single-world intervention graph, Richardson & Robins 2013); fixing some
    of them gives path-specific worlds such as Y_{x, M_x'} (Pearl 2001).

    Of many models: one more axis (or more) at the end, as in their tables.
    """
    edges = edges or {}
    n = scm.graph.n
    result = np.ones((1,) * n)
    for node, (parents, table) in enumerate(zip(scm.graph.parents, scm.tables, strict=True)):
        axes = [p for p in parents if (p, node) not in edges]
        if len(axes) < len(parents):
            table = table[tuple(edges.get((p, node), slice(None)) for p in parents)]
        place = sum(p < node for p in axes)
        if place < len(axes):
            table = _moved(table, len(axes), place)
        shape = [1] * n
        for v in (*axes, node):
            shape[v] = 2
        result = result * table.reshape(*shape, *table.shape[len(axes) + 1 :])
    return result


def _moved(array: np.ndarray, axis: int, place: int) -> np.ndarray:
    """As np.moveaxis, which takes several times as long on small arrays."""
    order = list(range(array.ndim))
    order.insert(place, order.pop(axis))
    return array.transpose(order)


def scm_slopes(scm: SCM, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The derivative of the joint `observed` by each free entry P(V_i = 1 | parents).

    Two arrays of shape (n, 2^n). The first says which entry of node i is in force in each cell (in
    flat order); entries are numbered by node, then by the parents' values. The second is the
    derivative of the cell by that entry; those by the node's other entries are 0. The joint is
    linear in each entry, so these are exact: what the entry's own factor leaves of the joint, with
    the sign of V_i. Needs mechanisms without zeros.
    """
    n = scm.graph.n
    values = np.arange(2**n) >> np.arange(n - 1, -1, -1)[:, None] & 1  # by node and cell
    places = np.zeros((n, n), dtype=int)  # of each parent's value in a context's number
    for node, parents in enumerate(scm.graph.parents):
        places[node, parents] = [1 << i for i in reversed(range(len(parents)))]
    starts = itertools.accumulate((1 << len(p) for p in scm.graph.parents[:-1]), initial=0)
    entries = places @ values + np.array(list(starts))[:, None]
    factors = np.concatenate([table.reshape(-1, 2) for table in scm.tables])[entries, values]
    return entries, (2 * values - 1) / factors * observed.reshape(-1)


def probability(joint: np.ndarray, target: Event, given: Event = ()) -> float:
    """P(target | given) from a joint of shape (2,) * n; nan where P(given) = 0."""
    whole = float(joint[event_index(given, joint.ndim)].sum())
    part = float(joint[event_index((*given, *target), joint.ndim)].sum())
    return part / whole if whole > 0 else float("nan")


def event_index(event: Event, n: int) -> tuple:
    """What selects an event's cells from an array of shape (2,) * n."""
    index: list[int | slice] = [slice(None)] * n
    for v, value in event:
        index[v] = value
    return tuple(index)


class EventCells(NamedTuple):
    """The cells of a joint, in flat order, that the events of some P(target | given) hold."""

    which: np.ndarray  # of all pairs of an event and a cell, sorted: the event's number
    cells: np.ndarray  # and the cell
    parts: list[int]  # by term: the number of the event (given, target)
    wholes: list[int]  # and of the event given


@functools.lru_cache(maxsize=8)
def event_cells(terms: tuple[tuple[Event, Event], ...], n: int) -> EventCells:
    """For each (target, given) of the terms; a joint has 2^n cells."""
    numbers: dict[tuple[int, int], int] = {}  # by the nodes of an event and those that are 1 in it

    def number(event: Event) -> int:
        nodes = ones = 0
        for v, value in event:
            nodes |= 1 << n - 1 - v
            ones |= value << n - 1 - v
        return numbers.setdefault((nodes, ones), len(numbers))

    parts = [number((*given, *target)) for target, given in terms]
    wholes = [number(given) for _, given in terms]
    about, wanted = np.array(list(numbers)).T[..., None]
    which, cells = (np.arange(2**n) & about == wanted).nonzero()
    return EventCells(which, cells, parts, wholes)
