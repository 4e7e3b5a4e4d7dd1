"""Binary structural causal models with an exact joint distribution.

Mechanism of node i: P(V_i = 1 | parents) = sigmoid(b_i + sum_j w_ij parent_j), b ~ N(0, 1),
w ~ N(0, variance 2). All 2^n states are enumerated: nothing is sampled.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from caugym_jax.causal.graph import Graph

SCALE = np.sqrt(2.0)  # of the weights
Event = tuple[tuple[int, int], ...]  # ((variable, value), ...)


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
            margin = np.moveaxis(margin, place, -1)
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
            table = np.moveaxis(table, len(axes), place)
        shape = [1] * n
        for v in (*axes, node):
            shape[v] = 2
        result = result * table.reshape(*shape, *table.shape[len(axes) + 1 :])
    return result


def scm_directions(scm: SCM, observed: np.ndarray) -> np.ndarray:
    """The derivative of the joint `observed` by each free entry P(V_i = 1 | parents).

    Shape (entries, 2, ..., 2), by node, then by the parents' values; the joint is linear in each
    entry, so these are exact: what the entry's own factor leaves of the joint, with the sign of
    V_i, where the parents have their values. Needs mechanisms without zeros.
    """
    n = scm.graph.n
    cells = np.arange(2**n)
    values = cells >> np.arange(n - 1, -1, -1)[:, None] & 1  # by node and cell
    places = np.zeros((n, n), dtype=int)  # of each parent's value in a context's number
    for node, parents in enumerate(scm.graph.parents):
        places[node, parents] = [1 << i for i in reversed(range(len(parents)))]
    sizes = [1 << len(parents) for parents in scm.graph.parents]
    starts = np.array([0, *itertools.accumulate(sizes)])
    entries = starts[:-1, None] + places @ values  # the entry in force, by node and cell
    factors = np.concatenate([table.reshape(-1, 2) for table in scm.tables])[entries, values]
    directions = np.zeros((starts[-1], 2**n))
    directions[entries, cells] = np.where(values, 1.0, -1.0) / factors * observed.reshape(-1)
    return directions.reshape(-1, *(2,) * n)


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


def event_cells(events: Sequence[Event], n: int) -> np.ndarray:
    """Which of the 2^n cells of a joint (in their flat order) each event holds: 1.0 or 0.0."""
    about = [sum(1 << n - 1 - v for v, _ in event) for event in events]
    wanted = [sum(value << n - 1 - v for v, value in event) for event in events]
    inside = np.arange(2**n) & np.array(about)[:, None] == np.array(wanted)[:, None]
    return inside.astype(float)
