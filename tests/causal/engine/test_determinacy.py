import numpy as np

from caugym_jax.causal.engine.determinacy import determined
from caugym_jax.causal.engine.estimands import by_identification, exact_probability, ingredients
from caugym_jax.causal.engine.graph import Graph
from caugym_jax.causal.engine.scm import SCM, draw_scm, joint
from caugym_jax.types import Query, Term

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


def test_what_is_open_moves_while_the_told_numbers_stay():
    """The direction that the derivatives promise, followed: P(b|a) told, P(a) free, moves ATE."""
    query = Query("ATE", 1, 2, 1, 1, adjusters=(0,))
    told = [term for term in ingredients(query) if term.given]
    scm = draw_scm(np.random.default_rng(2), FORK)
    assert not determined(scm, query, told)
    moved = SCM(FORK, (scm.tables[0][::-1], *scm.tables[1:]))
    values = [[exact_probability(joint(world))(*term) for term in told] for world in (scm, moved)]
    np.testing.assert_allclose(*values, atol=1e-12)
    one, other = (by_identification(query, exact_probability(joint(w))) for w in (scm, moved))
    assert abs(one - other) > 0.005


def test_a_clipped_bound_counts_as_determined():
    # X never prevents Y here: the lower bound of PN is clipped at 0 all around.
    tables = (np.array([0.5, 0.5]), np.array([[0.2, 0.8], [0.7, 0.3]]))
    query = Query("PN", 0, 1, 0, 0, bound="lower")
    assert determined(SCM(Graph(2, ((0, 1),)), tables), query, [])
    tables = (np.array([0.5, 0.5]), np.array([[0.7, 0.3], [0.2, 0.8]]))
    assert not determined(SCM(Graph(2, ((0, 1),)), tables), query, [])
    assert determined(SCM(Graph(2, ((0, 1),)), tables), query, ingredients(query))
