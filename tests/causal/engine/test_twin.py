"""PN and PS: their bounds against a linear program, their exact values against enumerated noise."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from caugym_jax.causal.engine.estimands import by_definition, by_identification, exact_probability
from caugym_jax.causal.engine.graph import Graph, draw_graph
from caugym_jax.causal.engine.queries import draw_query
from caugym_jax.causal.engine.scm import SCM, draw_scm, joint, probability
from caugym_jax.types import BOUND_TASKS, Query
from tests.causal.engine.twin import probability_of_causation


def drawn(seed: int, task: str, n: int) -> tuple[Query, SCM]:
    """A random PN or PS question whose case, X = x' and Y = y', is not rare."""
    rng = np.random.default_rng((seed, n, BOUND_TASKS.index(task)))
    while True:
        graph = draw_graph(rng, n)
        query = draw_query(rng, graph, task, zero=False, size=int(rng.integers(2)), through=0)
        if query is None:
            continue
        scm = draw_scm(rng, graph)
        if probability(joint(scm), (*query.away, *query.other_outcome)) > 0.01:
            return query, scm


def bound(query: Query, scm: SCM, which: str) -> float:
    """By both derivations, which agree."""
    query = Query(
        query.task, query.x, query.y, query.x_value, query.y_value, query.adjusters, bound=which
    )
    value = by_identification(query, exact_probability(joint(scm)))
    assert value == pytest.approx(by_definition(query, scm), abs=1e-12)
    return value


# The bounds are what the data leave open ---------------------------------------------------------


def program(query: Query, scm: SCM, known: tuple[int, ...]) -> tuple[float, float]:
    """The least and largest P(Y_x = y | x', y') over all distributions of (X, Y_0, Y_1).

    Given P(X, Y), with Y = Y_X, and P(Y_v = 1) for the values v of X in `known`.
    """
    cells = list(itertools.product((0, 1), repeat=3))  # (X, Y_0, Y_1)
    observed = joint(scm)
    rows, right = [], []
    for a, b in itertools.product((0, 1), repeat=2):
        rows.append([cell[0] == a and cell[1 + a] == b for cell in cells])
        right.append(probability(observed, ((query.x, a), (query.y, b))))
    for v in known:
        edges = {edge: v for edge in scm.graph.edges if edge[0] == query.x}
        rows.append([cell[1 + v] == 1 for cell in cells])
        right.append(probability(joint(scm, edges), ((query.y, 1),)))
    x, y = query.x_value, query.y_value
    case = probability(observed, (*query.away, *query.other_outcome))
    wanted = [cell[0] == 1 - x and cell[2 - x] == 1 - y and cell[1 + x] == y for cell in cells]
    wanted = np.array(wanted, float) / case
    ends = []
    for sign in (1, -1):
        found = linprog(
            sign * wanted,
            A_eq=np.array(rows, float),
            b_eq=right,
            bounds=(0, 1),
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert found.success, found.message
        ends.append(sign * found.fun)
    return ends[0], ends[1]


@pytest.mark.parametrize("task", BOUND_TASKS)
@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_bounds_are_those_of_the_linear_program(task, n):
    ends = set()
    for seed in range(15):
        query, scm = drawn(seed, task, n)
        lower, upper = bound(query, scm, "lower"), bound(query, scm, "upper")
        for known in ((query.x_value,), (0, 1)):  # P(y_x') adds nothing
            assert program(query, scm, known) == pytest.approx((lower, upper), abs=1e-8)
        ends |= {lower == 0, upper == 1}
    assert ends == {False, True}  # clipped ones and others


# The value itself --------------------------------------------------------------------------------


def test_worked_by_hand():
    # X -> Y; P(Y=1|X=0) = .2, P(Y=1|X=1) = .7. Y = [U < .2] or [U < .7].
    # PS: X = 0, Y = 0 means U >= .2; Y_1 = 1 where U < .7: .5/.8. PN: U < .7; Y_0 = 0: .5/.7.
    scm = SCM(Graph(2, ((0, 1),)), (np.array([0.5, 0.5]), np.array([[0.8, 0.2], [0.3, 0.7]])))
    assert probability_of_causation(Query("PS", 0, 1, 1, 1), scm) == pytest.approx(0.5 / 0.8)
    assert probability_of_causation(Query("PN", 0, 1, 0, 0), scm) == pytest.approx(0.5 / 0.7)
    # Y does not cause X: no one's X would have been otherwise.
    assert probability_of_causation(Query("PS", 1, 0, 1, 1), scm) == 0.0


@pytest.mark.parametrize("task", BOUND_TASKS)
@pytest.mark.parametrize("n", [3, 4])
def test_twin_network_equals_enumerated_noise(task, n):
    for seed in range(6):
        query, scm = drawn(seed, task, n)
        if max(map(len, scm.graph.parents)) < 3:
            by_noise = over_the_noise(scm, query)
            assert probability_of_causation(query, scm) == pytest.approx(by_noise, abs=1e-12)


def over_the_noise(scm: SCM, query: Query) -> float:
    """P(Y_x = y | x', y') by enumerating the intervals of every node's noise."""
    cuts = [np.unique([0.0, *table[..., 1].ravel(), 1.0]) for table in scm.tables]
    both_cases = actual_cases = 0.0
    for cell in itertools.product(*(range(len(c) - 1) for c in cuts)):
        weight = np.prod([c[i + 1] - c[i] for c, i in zip(cuts, cell, strict=True)])
        noise = [(c[i] + c[i + 1]) / 2 for c, i in zip(cuts, cell, strict=True)]

        def run(force=None, noise=noise):
            state = []
            for node, (parents, table) in enumerate(
                zip(scm.graph.parents, scm.tables, strict=True)
            ):
                one = table[(*(state[p] for p in parents), 1)]
                state.append(force if force is not None and node == query.x else noise[node] < one)
                state[-1] = int(state[-1])
            return state

        state = run()
        if (state[query.x], state[query.y]) == (1 - query.x_value, 1 - query.y_value):
            actual_cases += weight
            both_cases += weight * (run(query.x_value)[query.y] == query.y_value)
    return both_cases / actual_cases


@pytest.mark.parametrize("task", BOUND_TASKS)
@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_the_value_lies_within_its_bounds(task, n):
    for seed in range(25):
        query, scm = drawn(seed, task, n)
        exact = probability_of_causation(query, scm)
        lower, upper = bound(query, scm, "lower"), bound(query, scm, "upper")
        assert lower - 1e-12 <= exact <= upper + 1e-12


def test_without_confounding_the_noise_is_monotone_and_the_value_is_the_lower_bound():
    # X -> Y alone: Y_0 and Y_1 share one threshold noise, so that fewest change (Pearl 2009, 9.2).
    rng = np.random.default_rng(0)
    for _ in range(20):
        scm = draw_scm(rng, Graph(2, ((0, 1),)))
        for task in BOUND_TASKS:
            value = int(task == "PS")
            query = Query(task, 0, 1, value, value)
            assert probability_of_causation(query, scm) == pytest.approx(
                bound(query, scm, "lower"), abs=1e-12
            )
