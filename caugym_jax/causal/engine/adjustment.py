"""Every set of variables that identifies an effect by the formulas of `estimands`.

The back-door criterion (`graph.is_adjustment_set`) is enough, but not needed; these conditions
are both (the tests compare them with the formulas' values on random models). F is the set of the
nodes on the causal paths in question, x excluded, with all that descend from these.

    ATE, ETT, PN, PS   the adjustment criterion for the effect of x on y (Shpitser, VanderWeele &
                       Robins 2010; Perkovic et al. 2018): Z holds no node of F, and d-separates x
                       from y once the first edges of the causal paths from x to y are removed. It
                       admits descendants of x that no causal path runs through. ETT's formula is
                       right iff ATE's is: x is binary and P(y_x) = P(x) P(y|x) + P(x') P(y_x|x').
    CDE                the same for the joint effect of x and M, which are held, on y (of paths
                       that leave these nodes at once)
    NDE, NIE           (1) Z holds no node of F for x and y; (2) M and Z together d-separate x from
                       y once the edge x -> y is removed, so that M meets every other causal path;
                       (3) Z satisfies the adjustment criterion for the effect of x on M. Pearl's
                       conditions (2001, theorem 2) ask in place of (2) that Z suffice for the
                       joint effect of x and M on y, which is more: a variable that confounds y
                       and a later mediator need not be adjusted for where an earlier mediator is
                       in M as well.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator

from caugym_jax.causal.engine.graph import Graph, d_separated, mask, mediators


def identifies(
    graph: Graph, task: str, x: int, y: int, z: tuple[int, ...], through: tuple[int, ...] = ()
) -> bool:
    """Whether the task's formula with adjusters z and mediators `through` is right in every model.

    `through` is what CDE holds and what NDE and NIE sum over; other tasks ignore it. The graph must
    let x affect y (else the effect is 0 and no formula is needed).
    """
    match task:
        case "CDE":
            return adjusts(graph, (x, *through), (y,), z)
        case "NDE" | "NIE":
            if _causal_paths(graph, (x,), (y,))[1] & mask(z) or set(z) & {x, y, *through}:
                return False
            indirect = _without(graph, frozenset({(x, y)}))
            if not d_separated(indirect, 1 << x, 1 << y, mask((*through, *z))):
                return False
            return not through or adjusts(graph, (x,), through, z)
    return adjusts(graph, (x,), (y,), z)


def affects(graph: Graph, x: int, y: int, held: tuple[int, ...] = ()) -> bool:
    """Whether a directed path leads from x to y and meets none of the nodes that are held."""
    first, _ = _causal_paths(graph, (x, *held), (y,))
    return any(a == x for a, _ in first)


def adjustment_sets_of(
    graph: Graph, task: str, x: int, y: int, max_size: int = 2, through: tuple[int, ...] = ()
) -> list[tuple[int, ...]]:
    """All adjuster sets of at most max_size nodes that `identifies` accepts, smaller ones first."""
    others = [v for v in range(graph.n) if v not in (x, y, *through)]
    return [z for z in _subsets(others, max_size) if identifies(graph, task, x, y, z, through)]


def mediation_sets(
    graph: Graph, task: str, x: int, y: int, max_size: int = 2
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """NDE, NIE: all pairs (mediators, adjusters) of at most max_size nodes each that identify.

    The mediators are some of those between x and y, not necessarily all: on x -> a -> b -> y
    either of a and b will do.
    """
    return [
        (through, z)
        for through in _subsets(mediators(graph, x, y), max_size)
        for z in adjustment_sets_of(graph, task, x, y, max_size, through)
    ]


def _subsets(nodes: Iterable[int], max_size: int) -> Iterator[tuple[int, ...]]:
    nodes = sorted(nodes)
    for size in range(min(max_size, len(nodes)) + 1):
        yield from itertools.combinations(nodes, size)


def adjusts(
    graph: Graph, sources: tuple[int, ...], targets: tuple[int, ...], z: tuple[int, ...]
) -> bool:
    """The adjustment criterion for the joint effect of the sources on the targets."""
    first, forbidden = _causal_paths(graph, sources, targets)
    wanted = mask(z)
    if wanted & (forbidden | mask(sources) | mask(targets)):
        return False
    return d_separated(_without(graph, first), mask(sources), mask(targets), wanted)


@functools.lru_cache(maxsize=4096)
def _causal_paths(
    graph: Graph, sources: tuple[int, ...], targets: tuple[int, ...]
) -> tuple[frozenset[tuple[int, int]], int]:
    """First edges of the causal paths that leave the sources at once; F (a bit mask)."""
    leads = set(targets)  # the targets, and what leads to one without meeting a source
    waiting = list(targets)
    while waiting:
        for parent in graph.parents[waiting.pop()]:
            if parent not in leads and parent not in sources:
                leads.add(parent)
                waiting.append(parent)
    first = frozenset((a, b) for a, b in graph.edges if a in sources and b in leads)
    forbidden = 0
    for _, b in first:
        forbidden |= 1 << b | graph.descendant_masks[b]
    return first, forbidden


@functools.lru_cache(maxsize=4096)
def _without(graph: Graph, edges: frozenset[tuple[int, int]]) -> Graph:
    return Graph(graph.n, tuple(edge for edge in graph.edges if edge not in edges))
