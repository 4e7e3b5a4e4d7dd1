"""Problems whose labels come from the structural model, not from the engine's formulas."""

from decimal import Decimal

import numpy as np

from caugym_jax.causal.engine.estimands import by_definition, ingredients
from caugym_jax.causal.engine.graph import draw_graph
from caugym_jax.causal.engine.queries import draw_query
from caugym_jax.causal.engine.scm import draw_scm, joint, probability
from caugym_jax.causal.text.names import draw_names
from caugym_jax.causal.text.wording import problem_text
from caugym_jax.types import Query, Story


def told(seed: int, task: str, zero: bool = False, size: int = 1) -> tuple[str, float, Query]:
    """The text of a random problem, its exact answer by enumeration, and its query."""
    rng = np.random.default_rng(seed)
    while True:
        graph = draw_graph(rng, int(rng.integers(4, 7)))
        query = draw_query(rng, graph, task, zero=zero, size=0 if zero else size, through=1)
        if query is not None:
            break
    scm = draw_scm(rng, graph)
    observed = joint(scm)
    terms = ingredients(query)
    given = tuple((term, f"{probability(observed, *term):.6f}") for term in terms)
    names, states = draw_names(rng, ("real", "random", "fake")[seed % 3], graph.n)
    story = Story(names, states, graph.edges, given, query, codes=bool(seed % 2))
    text = problem_text(story, instruction=seed % 4 < 2)
    return text, by_definition(query, scm), query


def near(value: Decimal, exact: float, tolerance: float = 1e-4) -> bool:
    return abs(float(value) - exact) < tolerance
