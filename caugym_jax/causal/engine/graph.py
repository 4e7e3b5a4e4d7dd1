"""Causal graphs: drawing them, and the graphical questions that identification asks.

A graph's nodes are 0..n-1 in a topological order, so that every edge (i, j) has i < j (their
letters in formulas: `types.letter`). A graph may also be built from edges in any order of nodes
as long as it has no cycle (texts written by others need not name nodes in causal order).

Sets of nodes are bit masks inside: bit v stands for node v.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from caugym_jax.errors import UserError
from caugym_jax.types import Story

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
        parents = self.parent_masks
        left = (1 << self.n) - 1  # nodes not yet found to have all their causes before them
        while left:
            sources = mask(v for v in members(left) if not parents[v] & left)
            if not sources:
                raise UserError(
                    f"the graph {self.edges} has a cycle: causes must come before effects"
                )
            left ^= sources

    @functools.cached_property
    def parent_masks(self) -> tuple[int, ...]:
        masks = [0] * self.n
        for i, j in self.edges:
            masks[j] |= 1 << i
        return tuple(masks)

    @functools.cached_property
    def child_masks(self) -> tuple[int, ...]:
        masks = [0] * self.n
        for i, j in self.edges:
            masks[i] |= 1 << j
        return tuple(masks)

    @functools.cached_property
    def descendant_masks(self) -> tuple[int, ...]:
        return tuple(_closure(self.child_masks, effects) for effects in self.child_masks)

    @functools.cached_property
    def ancestor_masks(self) -> tuple[int, ...]:
        return tuple(_closure(self.parent_masks, causes) for causes in self.parent_masks)

    @functools.cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each node its parents in increasing order."""
        return tuple(map(members, self.parent_masks))

    @functools.cached_property
    def descendants(self) -> tuple[frozenset[int], ...]:
        """For each node those that a directed path leads to (itself excluded)."""
        return tuple(frozenset(members(reached)) for reached in self.descendant_masks)


def graph_of(story: Story) -> Graph:
    """A story's graph, shared between the many problems that are asked about one."""
    return _graph(len(story.names), story.edges)


_graph = functools.lru_cache(maxsize=4096)(Graph)


def mask(nodes: Iterable[int]) -> int:
    """The set of nodes as a bit mask."""
    out = 0
    for node in nodes:
        out |= 1 << node
    return out


@functools.lru_cache(maxsize=1 << 14)
def members(nodes: int) -> tuple[int, ...]:
    """The nodes of a bit mask in increasing order."""
    return tuple(v for v in range(nodes.bit_length()) if nodes >> v & 1)


def _closure(steps: tuple[int, ...], start: int) -> int:
    """`start` and all that repeated steps lead to from it."""
    reached = new = start
    while new:
        ahead = 0
        for v in members(new):
            ahead |= steps[v]
        new = ahead & ~reached
        reached |= new
    return reached


def d_separated(graph: Graph, xs: int, ys: int, given: int, *, cut: int = 0) -> bool:
    """Whether `given` d-separates xs from ys once the edges out of `cut` are gone; bit masks."""
    return _separated(*_without_edges_from(graph, cut), xs, ys, given)


def _without_edges_from(graph: Graph, cut: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The masks of parents and of children once the edges out of `cut` are gone."""
    parents, children = graph.parent_masks, graph.child_masks
    if cut:
        parents = tuple([causes & ~cut for causes in parents])
        children = tuple([0 if cut >> v & 1 else own for v, own in enumerate(children)])
    return parents, children


def _separated(
    parents: tuple[int, ...], children: tuple[int, ...], xs: int, ys: int, given: int
) -> bool:
    """Whether `given` d-separates xs from ys.

    Walks all active paths from xs (Shachter's Bayes ball): a node not in `given` passes on to its
    children, and to its parents if reached from a child; a node reached from a parent passes on to
    its other parents if it or a descendant is in `given`. Linear in the edges.
    """
    opened = _closure(parents, given)  # with a member of `given` at or below it
    from_child, from_parent = xs & ~given, 0
    new_up, new_down = from_child, 0
    while new_up | new_down:
        up = down = 0
        for v in members(new_up):
            up |= parents[v]
            down |= children[v]
        for v in members(new_down & ~given):
            down |= children[v]
        for v in members(new_down & opened):
            up |= parents[v]
        new_up, new_down = up & ~given & ~from_child, down & ~from_parent
        from_child |= new_up
        from_parent |= new_down
        if (from_child | from_parent) & ys:
            return False
    return True


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


def independence_map(graph: Graph, order: Sequence[int]) -> Graph:
    """The sparsest graph along an order that every distribution of `graph` factorises along.

    A node's parents are those earlier nodes that the other earlier ones do not d-separate from it
    (Verma & Pearl 1990; unique where the distribution is positive): those that a path in the moral
    graph of all their ancestors leads to without passing another.
    """
    parents, children = graph.parent_masks, graph.child_masks
    edges: list[tuple[int, int]] = []
    before = kept = 0  # the earlier nodes; these with all their ancestors
    for node in order:
        kept |= graph.ancestor_masks[node] | 1 << node
        reached = new = 1 << node
        while new:
            near = 0
            for v in members(new):
                near |= parents[v]
                for child in members(children[v] & kept):
                    near |= parents[child] | 1 << child
            new = near & ~reached & ~before
            reached |= near
        edges += [(cause, node) for cause in members(reached & before)]
        before |= 1 << node
    return Graph(graph.n, tuple(sorted(edges)))


def directed_path(graph: Graph, x: int, y: int, *, indirect: bool = False) -> tuple[int, ...]:
    """The first directed path from x to y, depth first in the order of edges; () if there is none.

    With `indirect`, the first one with at least three vertices.
    """

    def search(path: tuple[int, ...]) -> tuple[int, ...]:
        for cause, child in graph.edges:
            if cause != path[-1]:
                continue
            if child == y:
                if not indirect or len(path) > 1:
                    return (*path, y)
            elif y in graph.descendants[child]:
                return search((*path, child))
        return ()

    return search((x,))


def mediators(graph: Graph, x: int, y: int) -> tuple[int, ...]:
    """All nodes strictly inside a directed path from x to y, in increasing order."""
    below = graph.descendant_masks
    return tuple(m for m in members(below[x]) if below[m] >> y & 1)


def adjustment_sets(
    graph: Graph,
    x: int,
    y: int,
    sizes: Iterable[int],
    *,
    held: tuple[int, ...] = (),
    natural: bool = False,
) -> list[tuple[int, ...]]:
    """All sets of the given sizes that satisfy the back-door criterion for (x, y).

    Pearl (2009), definition 3.3.1: no member descends from x, and the set d-separates x from y
    once the edges out of x are cut.

    With `held` (all mediators from x to y) the set separates x and the held nodes jointly from y
    once the edges out of all of them are cut and holds no descendant of any, so that it identifies
    the controlled direct effect; with `natural` it separates x from the mediators as well, so that
    it identifies the natural effects (Pearl 2001, theorem 2).
    """
    treated = affected = 1 << x | mask(held)
    for v in (x, *held):
        affected |= graph.descendant_masks[v]
    around = _without_edges_from(graph, treated)
    inside = _without_edges_from(graph, 1 << x) if natural and held else None

    def valid(z: int) -> bool:
        if not _separated(*around, treated, 1 << y, z):
            return False
        return inside is None or _separated(*inside, 1 << x, mask(held), z)

    others = [v for v in range(graph.n) if v != y and not affected >> v & 1]
    return [z for size in sizes for z in itertools.combinations(others, size) if valid(mask(z))]
