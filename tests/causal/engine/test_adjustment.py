"""Which sets identify: claimed by graph, checked by numbers on random models."""

import dataclasses
import itertools

import numpy as np
import pytest

from caugym_jax.causal.engine.adjustment import (
    adjustment_sets_of,
    adjusts,
    identifies,
    mediation_sets,
)
from caugym_jax.causal.engine.estimands import by_definition, by_identification, exact_probability
from caugym_jax.causal.engine.graph import Graph, adjustment_sets, draw_graph, mediators
from caugym_jax.causal.engine.queries import adjusters, has_zero_effect
from caugym_jax.causal.engine.scm import SCM, joint
from caugym_jax.types import BOUND_TASKS, TASKS, Query


def generic(rng: np.random.Generator, graph: Graph) -> SCM:
    """Tables without structure: what holds on three of them holds in (almost) every model."""
    ones = [rng.uniform(0.05, 0.95, (2,) * len(parents)) for parents in graph.parents]
    return SCM(graph, tuple(np.stack([1 - one, one], axis=-1) for one in ones))


def questions(rng, graph: Graph):
    """Queries of all tasks but the bounds, for all pairs that the graph lets affect each other."""
    for task in TASKS:
        if task in BOUND_TASKS:
            continue
        for x, y in itertools.permutations(range(graph.n), 2):
            if y not in graph.descendants[x] or has_zero_effect(graph, task, x, y):
                continue
            x_value, y_value = (int(v) for v in rng.integers(2, size=2))
            held = mediators(graph, x, y) if task == "CDE" else ()
            values = tuple(int(v) for v in rng.integers(2, size=len(held)))
            yield Query(task, x, y, x_value, y_value, (), held, values)


def holds(query: Query, truths: list[float], observed: list) -> bool:
    """Whether the formula gives the number of the definition, in every model."""
    values = [by_identification(query, p) for p in observed]
    return all(abs(value - truth) < 1e-9 for value, truth in zip(values, truths, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_a_set_is_claimed_iff_its_formula_is_right(seed):
    """On each graph drawn: all tasks, all pairs, all sets of at most two nodes each."""
    rng = np.random.default_rng(seed)
    counts = {True: 0, False: 0}
    for n in (3, 4, 5, 5, 6):
        graph = draw_graph(rng, n)
        models = [generic(rng, graph) for _ in range(3)]
        observed = [exact_probability(joint(scm)) for scm in models]
        for query in questions(rng, graph):
            truths = [by_definition(query, scm) for scm in models]
            x, y, task = query.x, query.y, query.task
            natural = task in ("NDE", "NIE")
            between = mediators(graph, x, y)
            for through in subsets(between) if natural else [query.mediators]:
                claimed = adjustment_sets_of(graph, task, x, y, 2, through)
                for z in subsets(set(range(n)) - {x, y, *through}):
                    asked = dataclasses.replace(query, adjusters=z, mediators=through)
                    right = holds(asked, truths, observed)
                    assert right == (z in claimed), (graph.edges, asked)
                    counts[right] += 1
            if natural:
                assert mediation_sets(graph, task, x, y) == [
                    (through, z)
                    for through in subsets(between)
                    for z in adjustment_sets_of(graph, task, x, y, 2, through)
                ]
    assert min(counts.values()) > 100


def subsets(nodes) -> list[tuple[int, ...]]:
    return [s for size in range(3) for s in itertools.combinations(sorted(nodes), size)]


def test_bounds_ask_for_the_same_sets_as_ate():
    rng = np.random.default_rng(7)
    for _ in range(20):
        graph = draw_graph(rng, 6)
        for x, y in itertools.permutations(range(6), 2):
            if y in graph.descendants[x]:
                sets = [adjustment_sets_of(graph, task, x, y) for task in ("ATE", "ETT", "PN")]
                assert sets[0] == sets[1] == sets[2]


@pytest.mark.parametrize("task", TASKS)
def test_back_door_sets_are_among_them(task):
    """And the smallest sets are back-door sets, but for mediation, where Pearl's ask for more."""
    rng = np.random.default_rng(TASKS.index(task))
    more = 0
    for _ in range(80):
        graph = draw_graph(rng, int(rng.integers(4, 9)))
        for x, y in itertools.permutations(range(graph.n), 2):
            if y not in graph.descendants[x] or has_zero_effect(graph, task, x, y):
                continue
            natural = task in ("NDE", "NIE")
            through = mediators(graph, x, y) if natural or task == "CDE" else ()
            every = adjustment_sets_of(graph, task, x, y, 2, through)
            back_door = adjustment_sets(graph, x, y, range(3), held=through, natural=natural)
            assert set(back_door) <= set(every)
            more += len(every) > len(back_door)
            if not natural:
                smallest = [z for z in every if len(z) == len(every[0])]
                assert smallest == adjusters(graph, task, x, y, 2)
    assert more


def test_by_hand():
    # x -> y, x -> w: w descends from x, but no causal path runs through it.
    fork = Graph(3, ((0, 1), (0, 2)))
    assert adjustment_sets_of(fork, "ATE", 0, 1) == [(), (2,)]
    assert adjusters(fork, "ATE", 0, 1, 2) == [()]
    # x -> w -> y: w is on the path.
    chain = Graph(3, ((0, 1), (1, 2)))
    assert adjustment_sets_of(chain, "ATE", 0, 2) == [()]
    # x -> y -> w: nor may a descendant of y be.
    assert not identifies(Graph(3, ((0, 1), (1, 2))), "ATE", 0, 1, (2,))
    # x -> w <- u -> y, x -> y: w opens the path by u, which then closes it.
    collider = Graph(4, ((0, 1), (0, 2), (3, 2), (3, 1)))
    assert adjustment_sets_of(collider, "ATE", 0, 1) == [(), (3,), (2, 3)]
    # x -> a -> b -> y, x -> y: either mediator will do, or both.
    through = Graph(4, ((0, 1), (1, 2), (2, 3), (0, 3)))
    assert mediation_sets(through, "NIE", 0, 3) == [((1,), ()), ((2,), ()), ((1, 2), ())]
    # a -> y as well: b alone leaves x -> a -> y open; a alone meets every path.
    through = Graph(4, ((0, 1), (1, 2), (1, 3), (2, 3), (0, 3)))
    assert mediation_sets(through, "NDE", 0, 3) == [((1,), ()), ((1, 2), ())]
    # u -> m, u -> y: adjust for u; for x -> y jointly with m, too.
    confounded = Graph(4, ((0, 1), (1, 2), (0, 2), (3, 1), (3, 2)))
    assert mediation_sets(confounded, "NDE", 0, 2) == [((1,), (3,))]
    assert adjusts(confounded, (0,), (2,), ()) and not adjusts(confounded, (0, 1), (2,), ())
    # u -> b, u -> y: with a in M too, b's confounder is harmless; Pearl's conditions ask for it.
    later = Graph(5, ((0, 1), (1, 2), (0, 3), (1, 3), (2, 3), (4, 2), (4, 3)))
    assert adjustment_sets_of(later, "NDE", 0, 3, through=(1, 2)) == [(), (4,)]
    assert adjusters(later, "NDE", 0, 3, 2) == [(4,)]
