"""Which sets identify: our graph criteria against dowhy's identification, on random graphs.

dowhy pins an older SciPy than ours may be, so it lives in an environment of its own:

    python -m venv .venv-dowhy && .venv-dowhy/bin/python -m pip install -r requirements-dowhy.txt
    .venv-dowhy/bin/python -m pytest -m dowhy tests/parity/test_dowhy.py

Elsewhere these tests are skipped, and say so.
"""

import itertools

import networkx as nx
import numpy as np
import pytest

from caugym_jax.causal.engine.adjustment import adjustment_sets_of, identifies, mediation_sets
from caugym_jax.causal.engine.graph import (
    Graph,
    adjustment_sets,
    d_separated,
    draw_graph,
    mediators,
)
from caugym_jax.types import letter

auto = pytest.importorskip(
    "dowhy.causal_identifier.auto_identifier",
    reason="dowhy is not installed: see requirements-dowhy.txt",
    exc_type=ImportError,
)

pytestmark = pytest.mark.dowhy

SEEDS = range(60)


def drawn(seed: int) -> tuple[Graph, nx.DiGraph, list[tuple[int, int]]]:
    """A graph, the same with letters, and the pairs of which the first causes the second."""
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, int(rng.integers(3, 8)))
    theirs = nx.DiGraph()
    theirs.add_nodes_from(map(letter, range(graph.n)))
    theirs.add_edges_from((letter(a), letter(b)) for a, b in graph.edges)
    pairs = [(x, y) for x in range(graph.n) for y in graph.descendants[x]]
    return graph, theirs, pairs


def nodes(names) -> tuple[int, ...]:
    return tuple(sorted(ord(name) - ord("A") for name in names))


def their_sets(theirs, x: int, y: int, **options) -> set[tuple[int, ...]]:
    found = auto.identify_backdoor(
        theirs,
        [letter(x)],
        [letter(y)],
        list(theirs),
        auto.BackdoorAdjustment.BACKDOOR_EXHAUSTIVE,
        **options,
    )
    return {nodes(each.get_adjustment_variables()) for each in found}


def connected(graph: Graph, x: int, y: int, node: int) -> bool:
    """What dowhy considers at all: nodes that are dependent on the treatment or the outcome."""
    return not all(d_separated(graph, 1 << end, 1 << node, 0) for end in (x, y))


@pytest.mark.parametrize("seed", SEEDS)
def test_back_door_sets_of_any_size_are_the_same(seed):
    graph, theirs, pairs = drawn(seed)
    for x, y in pairs:
        eligible = [
            v
            for v in range(graph.n)
            if v not in (x, y, *graph.descendants[x]) and connected(graph, x, y, v)
        ]
        every = adjustment_sets(graph, x, y, range(graph.n))
        ours = {z for z in every if set(z) <= set(eligible)}
        assert ours == their_sets(theirs, x, y)
        for task in ("ATE", "ETT", "PN", "PS"):
            every = adjustment_sets_of(graph, task, x, y, graph.n)
            assert ours <= set(every)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_adjustment_criterion_with_unobserved_variables(seed):
    """dowhy gives one set, by another algorithm (van der Zander et al. 2014), or none exists."""
    graph, theirs, pairs = drawn(seed)
    rng = np.random.default_rng(seed)
    for x, y in pairs:
        others = [v for v in range(graph.n) if v not in (x, y)]
        observed = [v for v in others if rng.random() < 0.6]
        found = auto.identify_generalized_adjustment_set(
            theirs, [letter(x)], [letter(y)], [letter(v) for v in (x, y, *observed)]
        )
        ours = [z for z in subsets(observed) if identifies(graph, "ATE", x, y, z)]
        assert bool(found) == bool(ours)
        for each in found:
            assert nodes(each.get_adjustment_variables()) in ours


@pytest.mark.parametrize("seed", SEEDS)
def test_direct_effects_are_separated(seed):
    """dowhy's sets for a direct effect separate x from y but for the edge: ours with mediators."""
    graph, theirs, pairs = drawn(seed)
    for x, y in pairs:
        if (x, y) not in graph.edges:
            continue
        separating = their_sets(theirs, x, y, direct_effect=True)
        pairs_of_sets = mediation_sets(graph, "NDE", x, y)
        held = mediators(graph, x, y)
        pairs_of_sets += [(held, z) for z in adjustment_sets_of(graph, "CDE", x, y, 2, held)]
        for through, z in pairs_of_sets:
            whole = tuple(sorted((*through, *z)))
            if all(connected(graph, x, y, v) for v in whole):
                assert whole in separating


def subsets(items) -> list[tuple[int, ...]]:
    return [s for size in range(len(items) + 1) for s in itertools.combinations(items, size)]
