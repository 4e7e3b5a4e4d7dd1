"""Binary structural causal models with an exact joint distribution.

Mechanism of node i: P(V_i = 1 | parents) = sigmoid(b_i + sum_j w_ij parent_j), b ~ N(0, 1),
w ~ N(0, variance 2). All 2^n states are enumerated: nothing is sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from caugym_jax.causal.graph import Graph

Event = tuple[tuple[int, int], ...]  # ((variable, value), ...)


@dataclasses.dataclass(frozen=True)
class SCM:
    """A graph with one conditional table per node.

    tables[i] has one axis of length 2 per parent of i (in increasing order of node), then one
    for i itself; it sums to 1 over the last axis.
    """

    graph: Graph
    tables: tuple[np.ndarray, ...]


def draw_scm(rng: np.random.Generator, graph: Graph) -> SCM:
    """Random logistic mechanisms on the graph."""
    tables = []
    for parents in graph.parents:
        logit = np.full((2,) * len(parents), rng.standard_normal())
        for axis, weight in enumerate(rng.normal(0.0, np.sqrt(2.0), len(parents))):
            logit[(slice(None),) * axis + (1,)] += weight
        one = 1.0 / (1.0 + np.exp(-logit))
        tables.append(np.stack([1.0 - one, one], axis=-1))
    return SCM(graph, tuple(tables))


def factorised(graph: Graph, observed: np.ndarray) -> SCM:
    """The model on the graph whose joint is `observed`, which must factorise along the graph."""
    tables = []
    for node, parents in enumerate(graph.parents):
        axes = (*parents, node)
        margin = observed.sum(axis=tuple(v for v in range(graph.n) if v not in axes))
        margin = np.moveaxis(margin, sorted(axes).index(node), -1)
        tables.append(margin / margin.sum(axis=-1, keepdims=True))
    return SCM(graph, tuple(tables))


def joint(scm: SCM, edges: Mapping[tuple[int, int], int] | None = None) -> np.ndarray:
    """P(V_0 = v_0, ..., V_{n-1} = v_{n-1}), shape (2,) * n, where some edges carry fixed values.

    With edges = {(p, c): v}, node c behaves as if its parent p were v, whatever p is; every
    node keeps its own mechanism. Fixing all edges out of x gives the distribution of
    (X, V_x): the natural value of X together with the others' potential outcomes (the
    factorisation of a single-world intervention graph, Richardson & Robins 2013); fixing some
    of them gives path-specific worlds such as Y_{x, M_x'} (Pearl 2001).
    """
    edges = edges or {}
    n = scm.graph.n
    result = np.ones((1,) * n)
    for node, (parents, table) in enumerate(zip(scm.graph.parents, scm.tables, strict=True)):
        fixed = tuple(edges.get((p, node), slice(None)) for p in parents)
        axes = [p for p, value in zip(parents, fixed, strict=True) if isinstance(value, slice)]
        factor = np.moveaxis(table[fixed], -1, int(np.searchsorted(axes, node)))
        shape = [2 if v == node or v in axes else 1 for v in range(n)]
        result = result * factor.reshape(shape)
    return result


def scm_directions(scm: SCM, observed: np.ndarray) -> np.ndarray:
    """The derivative of the joint `observed` by each free entry P(V_i = 1 | parents).

    Shape (entries, 2, ..., 2), by node, then by the parents' values; the joint is linear in each
    entry, so these are exact: what the entry's own factor leaves of the joint, with the sign of
    V_i, where the parents have their values. Needs mechanisms without zeros.
    """
    n = scm.graph.n
    cells = np.arange(2**n)
    parts = []
    for node, (parents, table) in enumerate(zip(scm.graph.parents, scm.tables, strict=True)):
        context = sum((cells >> n - 1 - p & 1) << i for i, p in enumerate(reversed(parents)))
        value = cells >> n - 1 - node & 1
        own = table.reshape(-1, 2)[context, value]
        part = np.zeros((2 ** len(parents), 2**n))
        part[context, cells] = np.where(value, 1.0, -1.0) / own * observed.reshape(-1)
        parts.append(part)
    return np.concatenate(parts).reshape(-1, *(2,) * n)


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
