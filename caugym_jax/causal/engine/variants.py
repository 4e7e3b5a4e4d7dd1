"""What a variant changes: released defaults, distractors, missing numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caugym_jax.causal.engine.graph import Graph
from caugym_jax.types import Query, Term

# The released sets: graph sizes, sizes of the adjustment set, share of structural zeros, and
# whether states carry codes such as "(A=0)". For `hard`, which is ours, `mediators` as well: the
# most that NDE and NIE have.
RELEASED = {
    "base": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "rephrased": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "omitted": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "deconfounding": {"nodes": (8, 8), "adjusters": (1,), "zero_fraction": 0.0, "codes": True},
    "redundant": {"nodes": (8, 8), "adjusters": (0, 1), "zero_fraction": 0.1, "codes": True},
    "insufficient": {"nodes": (8, 8), "adjusters": (0, 1), "zero_fraction": 0.0, "codes": True},
    "hard": {
        "nodes": (5, 7),
        "adjusters": (0, 1, 2),
        "zero_fraction": 1 / 6,
        "codes": True,
        "mediators": 2,
    },
}
EXTRA_SENTENCES = 2  # redundant: sentences appended; insufficient: sentences dropped
MAX_CONDITIONS = 3  # of a distractor


def distractors(
    rng: np.random.Generator, graph: Graph, query: Query, printed: Sequence[Term]
) -> list[Term]:
    """Terms about the same world that neither the query nor any printed term is about."""
    seen = {_variables(term) for term in printed}
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
