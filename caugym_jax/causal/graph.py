"""Causal graphs: drawing them, and the graphical questions that identification asks.

A graph's nodes are 0..n-1 in a topological order, so that every edge (i, j) has i < j; a node's
letter in formulas is `letter(node)`. A graph may also be built from edges in any order of nodes
as long as it has no cycle (texts written by others need not name nodes in causal order).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable

import networkx as nx
import numpy as np

from caugym_jax.errors import UserError

# Share of the n(n-1)/2 possible edges that are present, measured on the released problems.
DENSITY = {3: 0.75, 4: 0.67, 5: 0.63, 6: 0.53, 7: 0.40, 8: 0.38, 9: 0.26, 10: 0.38}
MAX_PARENTS = 6
MAX_NODES = 16  # the joint has 2^n cells


@dataclasses.dataclass(frozen=True)
class Graph:
    """A directed acyclic graph on nodes 0..n-1."""

    n: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not nx.is_directed_acyclic_graph(self.nx):
            raise UserError(f"the graph {self.edges} has a cycle: causes must come before effects")

    @functools.cached_property
    def nx(self) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from(self.edges)
        return graph

    @functools.cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each node its parents in increasing order."""
        return tuple(tuple(sorted(self.nx.predecessors(node))) for node in range(self.n))

    @functools.cached_property
    def descendants(self) -> tuple[frozenset[int], ...]:
        """For each node those that a directed path leads to (itself excluded)."""
        return tuple(frozenset(nx.descendants(self.nx, node)) for node in range(self.n))


def letter(node: int) -> str:
    """The letter that stands for a node in formulas: A, B, C ..."""
    return chr(ord("A") + node)


def draw_graph(rng: np.random.Generator, n: int) -> Graph:
    """A weakly connected random graph: edge (i, j), i < j, with probability DENSITY[n]."""
    pairs = list(itertools.combinations(range(n), 2))
    density = DENSITY.get(n, min(1.0, 3.5 / max(n - 1, 1)))
    while True:
        edges = [pair for pair, u in zip(pairs, rng.random(len(pairs)), strict=True) if u < density]
        if _connected(n, edges) and _in_degree(edges) <= MAX_PARENTS:
            return Graph(n, tuple(edges))


def _connected(n: int, edges: Iterable[tuple[int, int]]) -> bool:
    group = list(range(n))
    for i, j in edges:
        old, new = group[i], group[j]
        group = [new if g == old else g for g in group]
    return len(set(group)) == 1


def _in_degree(edges: Iterable[tuple[int, int]]) -> int:
    targets = [j for _, j in edges]
    return max(map(targets.count, targets), default=0)


def directed_path(graph: Graph, x: int, y: int, *, indirect: bool = False) -> tuple[int, ...]:
    """The first directed path from x to y, depth first in the order of edges; () if there is none.

    With `indirect`, the first one with at least three vertices.
    """

    def search(path: tuple[int, ...]) -> tuple[int, ...]:
        for child in graph.nx.successors(path[-1]):
            if child == y:
                if not indirect or len(path) > 1:
                    return (*path, y)
            elif y in graph.descendants[child]:
                return search((*path, child))
        return ()

    return search((x,))


def mediators(graph: Graph, x: int, y: int) -> tuple[int, ...]:
    """All nodes strictly inside a directed path from x to y, in increasing order."""
    return tuple(m for m in sorted(graph.descendants[x]) if y in graph.descendants[m])


def adjustment_sets(
    graph: Graph,
    x: int,
    y: int,
    max_size: int,
    *,
    held: tuple[int, ...] = (),
    natural: bool = False,
) -> list[tuple[int, ...]]:
    """The smallest sets that satisfy the back-door criterion for (x, y); [] if none has max_size.

    Pearl (2009), definition 3.3.1: no member descends from x, and the set d-separates x from y
    once the edges out of x are cut. All sets of the smallest size that has one are returned.

    `held` and `natural`: as in `is_adjustment_set`.
    """
    candidates = [v for v in range(graph.n) if v not in (x, y) and v not in graph.descendants[x]]
    for size in range(max_size + 1):
        found = [
            z
            for z in itertools.combinations(candidates, size)
            if is_adjustment_set(graph, x, y, z, held=held, natural=natural)
        ]
        if found:
            return found
    return []


def is_adjustment_set(
    graph: Graph,
    x: int,
    y: int,
    z: tuple[int, ...],
    *,
    held: tuple[int, ...] = (),
    natural: bool = False,
) -> bool:
    """Whether z satisfies the back-door criterion for (x, y), whatever its size.

    With `held` (all mediators from x to y) z separates x and the mediators jointly from y once
    the edges out of all of them are cut, so that it identifies the controlled direct effect; with
    `natural` it separates x from the mediators as well, so that it identifies the natural effects
    (Pearl 2001, theorem 2).
    """
    if {x, y, *held, *graph.descendants[x]} & set(z):
        return False
    if not nx.is_d_separator(_cut(graph, frozenset({x, *held})), {x, *held}, {y}, set(z)):
        return False
    if not (natural and held):
        return True
    return nx.is_d_separator(_cut(graph, frozenset({x})), {x}, set(held), set(z))


@functools.lru_cache(maxsize=256)
def _cut(graph: Graph, sources: frozenset[int]) -> nx.DiGraph:
    """The graph without the edges out of the sources; not to be changed."""
    cut = nx.DiGraph()
    cut.add_nodes_from(range(graph.n))
    cut.add_edges_from(edge for edge in graph.edges if edge[0] not in sources)
    return cut
