"""What a variant changes: released defaults, distractors, missing numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caugym_jax.causal.estimands import Query, Term, by_identification, exact_probability
from caugym_jax.causal.graph import Graph
from caugym_jax.causal.scm import SCM, joint, probability, scm_directions

# The released sets: graph sizes, sizes of the adjustment set, share of structural zeros, and
# whether states carry codes such as "(A=0)".
RELEASED = {
    "base": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "omitted": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "deconfounding": {"nodes": (8, 8), "adjusters": (1,), "zero_fraction": 0.0, "codes": True},
    "redundant": {"nodes": (8, 8), "adjusters": (0, 1), "zero_fraction": 0.1, "codes": True},
    "insufficient": {"nodes": (8, 8), "adjusters": (0, 1), "zero_fraction": 0.0, "codes": True},
}
EXTRA_SENTENCES = 2  # redundant: sentences appended; insufficient: sentences dropped
MAX_CONDITIONS = 3  # of a distractor


def distractors(
    rng: np.random.Generator, graph: Graph, query: Query, told: Sequence[Term]
) -> list[Term]:
    """Terms about the same world that answering the query does not need and nothing told holds."""
    seen = {_variables(term) for term in told}
    found: list[Term] = []
    while len(found) < EXTRA_SENTENCES:
        count = int(rng.integers(1, min(1 + MAX_CONDITIONS, graph.n - 1) + 1))
        nodes = [int(v) for v in rng.choice(graph.n, size=count + 1, replace=False)]
        values = [int(v) for v in rng.integers(2, size=count + 1)]
        target, *given = zip(nodes, values, strict=True)
        term = Term((target,), tuple(given))
        if _variables(term) not in seen:
            seen.add(_variables(term))
            found.append(term)
    return found


def _variables(term: Term) -> tuple[frozenset[int], frozenset[int]]:
    return frozenset(v for v, _ in term.target), frozenset(v for v, _ in term.given)


def determined(scm: SCM, query: Query, told: Sequence[Term]) -> bool:
    """False where the told probabilities certainly leave the estimand open on this graph.

    A small change of the mechanisms that keeps every told probability and moves the estimand
    proves it open: one exists iff the estimand's gradient is not in the row space of the told
    probabilities' Jacobian with respect to the free entries of the mechanisms. (True may also
    mean that a bound is clipped here and open elsewhere.)
    """
    observed = joint(scm)
    directions = scm_directions(scm)
    step = 1e-5

    def slope(quantity) -> np.ndarray:
        ahead = np.array([quantity(observed + step * d) for d in directions])
        behind = np.array([quantity(observed - step * d) for d in directions])
        return (ahead - behind) / (2 * step)

    def estimand(world: np.ndarray) -> float:
        return by_identification(query, exact_probability(world))

    gradient = slope(estimand)
    size = np.linalg.norm(gradient)
    if size < 1e-6:
        return True
    gradient = gradient / size
    rows = [slope(lambda world, term=term: probability(world, *term)) for term in told]
    if not rows:
        return False
    weights, *_ = np.linalg.lstsq(np.array(rows).T, gradient, rcond=1e-7)
    return bool(np.linalg.norm(np.array(rows).T @ weights - gradient) < 1e-3)
