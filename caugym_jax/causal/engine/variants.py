"""What a variant changes: released defaults, distractors, missing numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from caugym_jax.causal.engine.graph import Graph
from caugym_jax.types import Term


class Released(NamedTuple):
    """How a released set was drawn; also for `hard`, which is ours."""

    nodes: tuple[int, int]  # smallest and largest graph
    adjusters: tuple[int, ...]  # sizes of the adjustment set
    zero_fraction: float  # share of structural zeros
    codes: bool  # whether states carry codes such as "(A=0)"
    bound_adjusters: tuple[int, ...] | None = None  # of PN and PS, where they differ
    mediators: int = 1  # the most that NDE and NIE have


_SMALL = Released(nodes=(3, 5), adjusters=(0, 1), zero_fraction=1 / 3, codes=False)
RELEASED = {
    "base": _SMALL,
    "rephrased": _SMALL,
    "omitted": _SMALL,
    # Two in three of PN and PS need no adjustment, the set's name notwithstanding.
    "deconfounding": Released((8, 8), (1,), 0.0, codes=True, bound_adjusters=(0, 0, 1)),
    "redundant": Released((8, 8), (0, 1), 0.1, codes=True),
    "insufficient": Released((8, 8), (0, 1), 0.0, codes=True),
    "hard": Released((5, 7), (0, 1, 2), 1 / 6, codes=True, mediators=2),
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
