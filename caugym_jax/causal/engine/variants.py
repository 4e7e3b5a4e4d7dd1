"""What a variant changes: released defaults, distractors, missing numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caugym_jax.causal.engine.graph import Graph
from caugym_jax.types import Term

# The released sets: graph sizes, sizes of the adjustment set, share of structural zeros, and
# whether states carry codes such as "(A=0)". `bound_adjusters`: sizes of PN's and PS's adjustment
# sets, where they differ. For `hard`, which is ours, `mediators` as well: the most that NDE and NIE
# have.
RELEASED = {
    "base": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "rephrased": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "omitted": {"nodes": (3, 5), "adjusters": (0, 1), "zero_fraction": 1 / 3, "codes": False},
    "deconfounding": {
        "nodes": (8, 8),
        "adjusters": (1,),
        "bound_adjusters": (0, 0, 1),  # two in three need none, the set's name notwithstanding
        "zero_fraction": 0.0,
        "codes": True,
    },
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
ATTEMPTS = 20  # draws for one distractor
EXTRA_SENTENCES = 2  # redundant: sentences appended; insufficient: sentences dropped
# Kinds of distractors and their shares in the released set: (targets, conditions).
KINDS = {(1, 0): 0.06, (2, 0): 0.11, (1, 1): 0.25, (1, 2): 0.46, (1, 3): 0.10, (1, 4): 0.02}


def distractors(
    rng: np.random.Generator, graph: Graph, count: int, printed: Sequence[Term]
) -> list[Term]:
    """So many terms about the same world that no printed term is about, of the released kinds.

    They may be about the treatment and the outcome too. Fewer, where a small graph has no more.
    """
    kinds = [kind for kind in KINDS if sum(kind) < graph.n]
    shares = np.array([KINDS[kind] for kind in kinds])
    seen = {_variables(term) for term in printed}
    found: list[Term] = []
    for _ in range(ATTEMPTS * count):
        targets, conditions = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        nodes = rng.choice(graph.n, size=targets + conditions, replace=False)
        values = rng.integers(2, size=targets + conditions)
        events = tuple(zip(nodes.tolist(), values.tolist(), strict=True))
        term = Term(events[:targets], events[targets:])
        if len(found) < count and _variables(term) not in seen:
            seen.add(_variables(term))
            found.append(term)
    return found


def _variables(term: Term) -> tuple[frozenset[int], frozenset[int]]:
    return frozenset(v for v, _ in term.target), frozenset(v for v, _ in term.given)
