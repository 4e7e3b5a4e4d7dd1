import networkx as nx
import numpy as np
import pytest

from caugym_jax.causal.graph import Graph, adjustment_sets, directed_path, draw_graph, mediators
from caugym_jax.errors import UserError

FORK = Graph(3, ((0, 1), (0, 2), (1, 2)))  # A confounds B -> C


def test_adjustment_sets_worked_by_hand():
    assert adjustment_sets(FORK, 1, 2, 2) == [(0,)]
    assert adjustment_sets(FORK, 1, 2, 0) == []
    assert adjustment_sets(FORK, 0, 2, 2) == [()]
    collider = Graph(4, ((0, 2), (1, 2), (0, 3)))  # X=0 -> C <- 1: nothing to adjust
    assert adjustment_sets(collider, 0, 3, 2) == [()]
    m = Graph(5, ((0, 2), (1, 2), (0, 3), (1, 4), (3, 4)))  # M-bias: adjusting for 2 would open it
    assert adjustment_sets(m, 3, 4, 2) == [()]
    chain = Graph(4, ((0, 1), (1, 2), (0, 3), (2, 3)))  # X=2 <- 1 <- 0 -> Y=3: either 0 or 1
    assert adjustment_sets(chain, 2, 3, 2) == [(0,), (1,)]
    two = Graph(4, ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    assert adjustment_sets(two, 2, 3, 1) == []
    assert adjustment_sets(two, 2, 3, 2) == [(0, 1)]


def test_mediated_adjustment_sets():
    # A confounds X=1 and M=2 alone: the direct effect at a held M needs nothing, the natural
    # effects need A.
    graph = Graph(4, ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3)))
    assert mediators(graph, 1, 3) == (2,)
    assert adjustment_sets(graph, 1, 3, 1, held=(2,)) == [()]
    assert adjustment_sets(graph, 1, 3, 1, held=(2,), natural=True) == [(0,)]
    # A confounds M=2 and Y=3: X is as good as randomised, but holding M opens X -> M <- A.
    graph = Graph(4, ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    assert adjustment_sets(graph, 1, 3, 1) == [()]
    assert adjustment_sets(graph, 1, 3, 1, held=(2,)) == [(0,)]


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
        assert nx.is_weakly_connected(graph.nx)
        assert max(map(len, graph.parents)) <= 6


def test_a_cycle_is_refused():
    with pytest.raises(UserError, match="cycle"):
        Graph(2, ((0, 1), (1, 0)))
