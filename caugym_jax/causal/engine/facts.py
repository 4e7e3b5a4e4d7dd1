"""The probabilities of one world that each way to an answer needs, as they are printed.

Ways (see `routes`) share some of what they need; it is drawn once and printed the same for all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from caugym_jax.causal.engine.answers import four_decimals
from caugym_jax.causal.engine.estimands import (
    asked,
    assignments,
    by_identification,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import Graph
from caugym_jax.causal.engine.scm import draw_scm, event_cells, joint, probability
from caugym_jax.types import Event, Query, Term

MODELS = 16  # drawn at once
MARGIN = 0.0003  # between the exact answer and that of the printed numbers
DEGENERATE = {"0.0000", "1.0000"}

Key = tuple[frozenset, frozenset]  # about these variables or events, given these events
Printed = tuple[tuple[Term, str], ...]


class Answer(NamedTuple):
    """How well the printed numbers serve a way."""

    sound: bool  # they give its answer within MARGIN
    sharp: bool  # they give the same four decimals


class Facts:
    """The probabilities of one joint distribution as they are printed, each drawn once."""

    def __init__(
        self,
        rng: np.random.Generator,
        observed: np.ndarray,
        exact: dict[Query, float],
        hopeful: list[Query],
    ) -> None:
        self.rng, self.observed = rng, observed
        self.exact = exact  # the answer by each way
        self.hopeful = hopeful  # ways to which four decimals of each number seem to suffice
        self._printed: dict[Key, Printed] = {}
        self._answers: dict[Query, Answer] = {}

    def printed(self, keys: Iterable[Key]) -> Printed:
        return tuple(pair for key in keys for pair in self._sentences(key))

    def _sentences(self, key: Key) -> Printed:
        """One about a variable (either value) or an event, three about two variables."""
        if key not in self._printed:
            self._printed[key] = tuple(
                (term, f"{probability(self.observed, *term):.4f}") for term in self._terms(*key)
            )
        return self._printed[key]

    def _terms(self, target: frozenset, given: frozenset) -> list[Term]:
        conditions = self._shuffled(given)
        if any(isinstance(part, tuple) for part in target):
            return [Term(self._shuffled(target), conditions)]
        values = assignments(self._shuffled(target))
        dropped = int(self.rng.integers(len(values)))  # the others give it
        return [Term(value, conditions) for i, value in enumerate(values) if i != dropped]

    def _shuffled(self, parts: frozenset) -> tuple:
        ordered = sorted(parts)
        return tuple(ordered[i] for i in self.rng.permutation(len(ordered)).tolist())

    def answer(self, way: Query) -> Answer:
        if way not in self._answers:
            self._answers[way] = self._answer(way)
        return self._answers[way]

    def _answer(self, way: Query) -> Answer:
        given, exact = self.printed(keys(way)), self.exact[way]
        if DEGENERATE & {number for _, number in given}:
            return Answer(False, False)
        printed = {term: Decimal(number) for term, number in given}
        value = Decimal(by_identification(way, printed_probability(printed)))
        sharp = four_decimals(value) == four_decimals(Decimal(exact))
        return Answer(abs(float(value) - exact) < MARGIN, sharp)


def draw_facts(
    rng: np.random.Generator, base: Graph, ways: Sequence[Query], least: int
) -> Iterator[Facts]:
    """Those of MODELS random models on the graph in which `least` ways are hopeful."""
    joints = joint(draw_scm(rng, base, (MODELS,)))
    terms = tuple({term: None for way in ways for term in asked(way)})
    which, cells, parts, wholes = event_cells(terms, base.n)
    first = np.flatnonzero(np.diff(which, prepend=-1))
    sums = np.add.reduceat(joints.reshape(-1, MODELS)[cells], first)
    values = sums[parts] / sums[wholes]
    exact = _answers(ways, terms, values)
    hopeful = exact.round(4) == _answers(ways, terms, values.round(4)).round(4)
    for i in np.flatnonzero(hopeful.sum(axis=0) >= least):
        yield Facts(
            rng,
            np.ascontiguousarray(joints[..., i]),
            dict(zip(ways, exact[:, i].tolist(), strict=True)),
            list(itertools.compress(ways, hopeful[:, i])),
        )


def _answers(ways: Sequence[Query], terms: Sequence[Term], values: np.ndarray) -> np.ndarray:
    """By each way in each model, from the values of the terms in each model."""
    known: dict[tuple[Event, Event], np.ndarray] = dict(zip(terms, values, strict=True))
    one = np.ones(values.shape[1])
    return np.array(
        [
            by_identification(way, lambda target, given: known[target, given] if target else one)
            for way in ways
        ]
    )


@functools.lru_cache(maxsize=512)
def keys(way: Query) -> tuple[Key, ...]:
    """What a way needs."""
    kinds: dict[Key, list[Term]] = {}
    for term in ingredients(way):
        about = frozenset(v for v, _ in term.target), frozenset(term.given)
        kinds.setdefault(about, []).append(term)
    found: list[Key] = []
    for about, terms in kinds.items():
        whole = len(about[0]) == 1 or len(terms) > 2  # a distribution, not single events of it
        found += [about] if whole else [(frozenset(term.target), about[1]) for term in terms]
    return tuple(found)
