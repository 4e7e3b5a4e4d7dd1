import itertools

import numpy as np
import pytest

from caugym_jax.causal.engine.graph import Graph, draw_graph
from caugym_jax.causal.engine.scm import (
    SCM,
    draw_scm,
    event_cells,
    joint,
    probability,
    scm_slopes,
)

# A -> B with P(A=1) = 0.25, P(B=1|A=0) = 0.5, P(B=1|A=1) = 0.9.
PAIR = SCM(Graph(2, ((0, 1),)), (np.array([0.75, 0.25]), np.array([[0.5, 0.5], [0.1, 0.9]])))


def test_joint_worked_by_hand():
    np.testing.assert_allclose(joint(PAIR), [[0.375, 0.375], [0.025, 0.225]], atol=1e-15)
    # B behaves as if A were 1, A keeps its own distribution.
    np.testing.assert_allclose(
        joint(PAIR, {(0, 1): 1}), [[0.075, 0.675], [0.025, 0.225]], atol=1e-15
    )
    assert probability(joint(PAIR), ((1, 1),)) == pytest.approx(0.6)
    assert probability(joint(PAIR), ((0, 1),), ((1, 1),)) == pytest.approx(0.375)
    assert np.isnan(probability(np.array([1.0, 0.0]), ((0, 1),), ((0, 1),)))


@pytest.mark.parametrize("n", [3, 5, 7])
def test_joint_is_the_product_of_mechanisms(n):
    rng = np.random.default_rng(n)
    scm = draw_scm(rng, draw_graph(rng, n))
    whole = joint(scm)
    assert whole.sum() == pytest.approx(1.0, abs=1e-12)
    for state in itertools.product((0, 1), repeat=n):
        factors = (
            table[(*(state[p] for p in parents), state[node])]
            for node, (parents, table) in enumerate(zip(scm.graph.parents, scm.tables, strict=True))
        )
        assert whole[state] == pytest.approx(np.prod(list(factors)), abs=1e-15)


def test_mechanisms_are_logistic():
    rng = np.random.default_rng(0)
    graph = Graph(3, ((0, 2), (1, 2)))
    logits = []
    for _ in range(4000):
        one = draw_scm(rng, graph).tables[2][..., 1]
        logit = np.log(one / (1 - one))
        assert logit[1, 1] == pytest.approx(logit[0, 1] + logit[1, 0] - logit[0, 0], abs=1e-9)
        logits.append(logit[1, 1])
    assert np.std(logits) == pytest.approx(np.sqrt(1 + 2 * 2), rel=0.05)


def test_directions_are_the_derivatives():
    rng = np.random.default_rng(3)
    scm = draw_scm(rng, draw_graph(rng, 4))
    step = 1e-3
    entries, slopes = scm_slopes(scm, joint(scm))
    entry = 0
    for node, table in enumerate(scm.tables):
        for parents in np.ndindex(table.shape[:-1]):
            moved = table.copy()
            moved[parents] += (-step, step)
            tables = (*scm.tables[:node], moved, *scm.tables[node + 1 :])
            change = (joint(SCM(scm.graph, tables)) - joint(scm)) / step
            direction = np.where(entries[node] == entry, slopes[node], 0.0).reshape(change.shape)
            np.testing.assert_allclose(direction, change, atol=1e-12)
            entry += 1
    assert entries.max() == entry - 1


def test_many_models_at_once_are_each_a_model():
    rng = np.random.default_rng(4)
    graph = draw_graph(rng, 5)
    scm = draw_scm(rng, graph, (3,))
    whole = joint(scm)
    assert whole.shape == (2,) * 5 + (3,)
    for i in range(3):
        one = SCM(graph, tuple(table[..., i] for table in scm.tables))
        np.testing.assert_array_equal(whole[..., i], joint(one))
    assert len({float(value) for value in whole[(0,) * 5]}) == 3


def test_the_cells_of_events_sum_to_their_probabilities():
    rng = np.random.default_rng(5)
    observed = joint(draw_scm(rng, draw_graph(rng, 4)))
    terms = (((((1, 0),)), ((3, 1), (0, 0))), (((2, 1), (0, 1)), ()), (((1, 1),), ((3, 1), (0, 0))))
    which, cells, parts, wholes = event_cells(terms, 4)
    sums = np.bincount(which, observed.reshape(-1)[cells])
    assert wholes[0] == wholes[2] and len(sums) == 5
    for term, part, whole in zip(terms, parts, wholes, strict=True):
        assert sums[part] / sums[whole] == pytest.approx(probability(observed, *term), abs=1e-15)
