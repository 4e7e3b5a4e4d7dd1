import numpy as np

from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.engine.graph import Graph
from caugym_jax.causal.engine.variants import distractors
from caugym_jax.types import Query

FORK = Graph(3, ((0, 1), (0, 2), (1, 2)))


def test_distractors_repeat_nothing():
    rng = np.random.default_rng(1)
    query = Query("ATE", 1, 2, 1, 1, adjusters=(0,))
    for _ in range(50):
        extra = distractors(rng, FORK, 2, [])
        assert len(set(extra)) == 2
        told = ingredients(query)
        graph = Graph(5, ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4)))
        for term in distractors(rng, graph, 2, told):
            assert term not in told
            assert not {v for v, _ in term.target} & {v for v, _ in term.given}
