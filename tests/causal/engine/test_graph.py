import itertools

import networkx as nx
import numpy as np
import pytest

from caugym_jax.causal.engine.graph import (
    Graph,
    adjustment_sets,
    d_separated,
    directed_path,
    draw_graph,
    independence_map,
    mask,
    mediators,
)
from caugym_jax.errors import UserError


def networkx(graph: Graph, cut: tuple[int, ...] = ()) -> nx.DiGraph:
    """The graph without the edges out of `cut`."""
    out = nx.DiGraph([edge for edge in graph.edges if edge[0] not in cut])
    out.add_nodes_from(range(graph.n))
    return out


def shuffled(rng: np.random.Generator, graph: Graph) -> Graph:
    """The graph with its nodes renumbered, so that the numbers follow no causal order."""
    new = rng.permutation(graph.n)
    return Graph(graph.n, tuple((int(new[i]), int(new[j])) for i, j in graph.edges))


def smallest(graph: Graph, x: int, y: int, max_size: int, **options) -> list[tuple[int, ...]]:
    sets = adjustment_sets(graph, x, y, range(max_size + 1), **options)
    return [z for z in sets if len(z) == len(sets[0])]


FORK = Graph(3, ((0, 1), (0, 2), (1, 2)))  # A confounds B -> C


def test_adjustment_sets_worked_by_hand():
    assert smallest(FORK, 1, 2, 2) == [(0,)]
    assert smallest(FORK, 1, 2, 0) == []
    assert smallest(FORK, 0, 2, 2) == [()]
    collider = Graph(4, ((0, 2), (1, 2), (0, 3)))  # X=0 -> C <- 1: nothing to adjust
    assert smallest(collider, 0, 3, 2) == [()]
    m = Graph(5, ((0, 2), (1, 2), (0, 3), (1, 4), (3, 4)))  # M-bias: adjusting for 2 would open it
    assert smallest(m, 3, 4, 2) == [()]
    chain = Graph(4, ((0, 1), (1, 2), (0, 3), (2, 3)))  # X=2 <- 1 <- 0 -> Y=3: either 0 or 1
    assert smallest(chain, 2, 3, 2) == [(0,), (1,)]
    two = Graph(4, ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    assert smallest(two, 2, 3, 1) == []
    assert smallest(two, 2, 3, 2) == [(0, 1)]


def test_mediated_adjustment_sets():
    # A confounds X=1 and M=2 alone: the direct effect at a held M needs nothing, the natural
    # effects need A.
    graph = Graph(4, ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3)))
    assert mediators(graph, 1, 3) == (2,)
    assert smallest(graph, 1, 3, 1, held=(2,)) == [()]
    assert smallest(graph, 1, 3, 1, held=(2,), natural=True) == [(0,)]
    # A confounds M=2 and Y=3: X is as good as randomised, but holding M opens X -> M <- A.
    graph = Graph(4, ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    assert smallest(graph, 1, 3, 1) == [()]
    assert smallest(graph, 1, 3, 1, held=(2,)) == [(0,)]


def test_directed_path_follows_the_order_of_edges():
    graph = Graph(4, ((0, 3), (0, 1), (1, 2), (2, 3)))
    assert directed_path(graph, 0, 3) == (0, 3)
    assert directed_path(graph, 0, 3, indirect=True) == (0, 1, 2, 3)
    assert directed_path(graph, 3, 0) == ()
    assert directed_path(graph, 0, 1, indirect=True) == ()


@pytest.mark.parametrize("n", [3, 4, 5, 8, 10, 12])
def test_drawn_graphs_are_connected_and_topological(n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        graph = draw_graph(rng, n)
        assert all(i < j for i, j in graph.edges)
        assert nx.is_weakly_connected(networkx(graph))
        assert max(map(len, graph.parents)) <= 6


def test_a_cycle_is_refused():
    with pytest.raises(UserError, match="cycle"):
        Graph(2, ((0, 1), (1, 0)))
    with pytest.raises(UserError, match="cycle"):
        Graph(4, ((0, 1), (1, 2), (2, 3), (3, 1)))
    with pytest.raises(UserError, match="cycle"):
        Graph(1, ((0, 0),))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_sets_of_nodes_agree_with_networkx(n):
    rng = np.random.default_rng(n)
    for _ in range(30):
        graph = shuffled(rng, draw_graph(rng, n))
        other = networkx(graph)
        for v in range(n):
            assert graph.descendants[v] == nx.descendants(other, v)
            assert graph.parents[v] == tuple(sorted(other.predecessors(v)))
        x, y, *rest = (int(v) for v in rng.permutation(n))
        between = {v for path in nx.all_simple_paths(other, x, y) for v in path} - {x, y}
        assert mediators(graph, x, y) == tuple(sorted(between))
        path = directed_path(graph, x, y, indirect=True)
        assert bool(path) == bool(between)
        assert all(edge in graph.edges for edge in itertools.pairwise(path))
        for cut in ((), (x,), (x, rest[0])):
            for size in range(len(rest)):
                given = set(rest[:size])
                left = mask({x, *cut} - given)
                assert d_separated(
                    graph, left, 1 << y, mask(given), cut=mask(cut)
                ) == nx.is_d_separator(networkx(graph, cut), {x, *cut} - given, {y}, given)


def test_adjustment_agrees_with_the_criterion_written_out():
    """Pearl (2009), definition 3.3.1; Pearl (2001), theorem 2, by networkx."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        graph = shuffled(rng, draw_graph(rng, 6))
        x, y, *rest = (int(v) for v in rng.permutation(6))
        z = set(rest[: int(rng.integers(3))])
        for held in ((), mediators(graph, x, y)):
            below = nx.descendants(networkx(graph), x) | {x, y}
            direct = not z & (below | set(held)) and nx.is_d_separator(
                networkx(graph, (x, *held)), {x, *held}, {y}, z
            )
            natural = direct and (
                not held or nx.is_d_separator(networkx(graph, (x,)), {x}, set(held), z)
            )
            z_tuple = tuple(sorted(z))
            options = {"sizes": (len(z),), "held": held}
            assert (z_tuple in adjustment_sets(graph, x, y, **options)) == direct
            assert (z_tuple in adjustment_sets(graph, x, y, natural=True, **options)) == natural
            seen |= {(bool(held), direct, natural)}
    assert seen == {(a, b, c) for a in (False, True) for b, c in ((0, 0), (1, 1))} | {
        (True, True, False)
    }


def test_holding_a_node_forbids_adjusting_for_what_it_causes():
    # X=0 -> Y=3, M=1 -> Z=2 -> Y: with M held, Z is one of the ways in which M acts.
    graph = Graph(4, ((0, 3), (1, 2), (2, 3)))
    assert adjustment_sets(graph, 0, 3, (0, 1), held=(1,)) == [()]


def test_independence_map_worked_by_hand():
    # A -> C <- B: with C told first, A and B depend on each other and on it.
    collider = Graph(3, ((0, 2), (1, 2)))
    assert set(independence_map(collider, (0, 1, 2)).edges) == {(0, 2), (1, 2)}
    assert set(independence_map(collider, (2, 0, 1)).edges) == {(2, 0), (2, 1), (0, 1)}
    chain = Graph(3, ((0, 1), (1, 2)))
    assert set(independence_map(chain, (2, 1, 0)).edges) == {(2, 1), (1, 0)}


def test_independence_maps_agree_with_networkx():
    """An earlier node is a parent iff the other earlier ones do not separate it."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        graph = shuffled(rng, draw_graph(rng, 6))
        order = [int(v) for v in rng.permutation(6)]
        edges = set(independence_map(graph, order).edges)
        for place, node in enumerate(order):
            for v in order[:place]:
                rest = set(order[:place]) - {v}
                separated = nx.is_d_separator(networkx(graph), {v}, {node}, rest)
                assert ((v, node) in edges) == (not separated)
