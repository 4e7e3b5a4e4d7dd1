import numpy as np

from caugym_jax.causal.estimands import Query, Term, ingredients
from caugym_jax.causal.graph import Graph
from caugym_jax.causal.scm import draw_scm
from caugym_jax.causal.variants import determined, distractors

CHAIN = Graph(3, ((0, 1), (1, 2)))
FORK = Graph(3, ((0, 1), (0, 2), (1, 2)))


def model(graph):
    return draw_scm(np.random.default_rng(0), graph)


def test_all_ingredients_determine_the_estimand():
    for query in (
        Query("ATE", 1, 2, 1, 1, adjusters=(0,)),
        Query("ETT", 1, 2, 1, 1, adjusters=(0,)),
        Query("NDE", 0, 2, 1, 1, mediators=(1,)),
    ):
        terms = ingredients(query)
        assert determined(model(FORK), query, terms)
        assert not determined(model(FORK), query, terms[:-2])
        assert not determined(model(FORK), query, [])


def test_a_number_that_another_gives_is_not_missing():
    query = Query("ATE", 1, 2, 1, 1, adjusters=(0,))
    assert determined(model(FORK), query, ingredients(query)[:-1])  # P(A=1) = 1 - P(A=0)


def test_independence_in_the_graph_counts():
    # A -> B -> C: P(C=1|A,B) does not depend on A, so that one of the two is enough.
    query = Query("NIE", 0, 2, 1, 1, mediators=(1,))
    told = [
        Term(((2, 1),), ((1, 0), (0, 1))),
        Term(((2, 1),), ((1, 1), (0, 1))),
        Term(((1, 0),), ((0, 1),)),
        Term(((1, 0),), ((0, 0),)),
    ]
    assert determined(model(CHAIN), query, told)
    assert not determined(model(FORK), query, told)  # there A -> C as well


def test_distractors_repeat_nothing():
    rng = np.random.default_rng(1)
    query = Query("ATE", 1, 2, 1, 1, adjusters=(0,))
    for _ in range(50):
        extra = distractors(rng, FORK, query, [])
        assert len(set(extra)) == 2
        told = ingredients(query)
        graph = Graph(5, ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4)))
        for term in distractors(rng, graph, query, told):
            assert term not in told
            assert not {v for v, _ in term.target} & {v for v, _ in term.given}
