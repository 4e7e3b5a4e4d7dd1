"""What each way to an answer needs to be told of one world, and how it is told.

A *route* is one way to the answer of a query: mediators and adjusters that identify it on some
graph. Routes share what they need to be told; it is told once, in the same words, whichever asks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from caugym_jax.causal.estimands import (
    Query,
    Term,
    assignments,
    by_identification,
    exact_probability,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.finishing import four_decimals
from caugym_jax.causal.scm import probability

MARGIN = 0.0003  # between the exact answer and that of the told numbers
DEGENERATE = {"0.0000", "1.0000"}

Route = tuple[tuple[int, ...], tuple[int, ...]]  # mediators, adjusters
Key = tuple[frozenset, frozenset]  # told about these variables or events, given these events
Told = tuple[tuple[Term, str], ...]


class Telling:
    """The sentences about one joint distribution; each is drawn once, and then the same."""

    def __init__(self, rng: np.random.Generator, observed: np.ndarray, query: Query) -> None:
        self.rng, self.observed, self.query = rng, observed, query
        self._told: dict[Key, Told] = {}
        self._exact: dict[Route, float] = {}
        self._answers: dict[Route, Answer] = {}

    def told(self, keys: Iterable[Key]) -> Told:
        return tuple(pair for key in keys for pair in self._sentences(key))

    def _sentences(self, key: Key) -> Told:
        """One about a variable (either value) or an event, three about two variables."""
        if key not in self._told:
            self._told[key] = tuple(
                (term, f"{probability(self.observed, *term):.4f}") for term in self._terms(*key)
            )
        return self._told[key]

    def _terms(self, target: frozenset, given: frozenset) -> list[Term]:
        told = self._shuffled(given)
        if any(isinstance(part, tuple) for part in target):
            return [Term(self._shuffled(target), told)]
        values = assignments(self._shuffled(target))
        dropped = int(self.rng.integers(len(values)))  # the others give it
        return [Term(value, told) for i, value in enumerate(values) if i != dropped]

    def _shuffled(self, parts: frozenset) -> tuple:
        ordered = sorted(parts)
        return tuple(ordered[i] for i in self.rng.permutation(len(ordered)))

    def keys(self, route: Route) -> tuple[Key, ...]:
        """What a route needs to be told."""
        return _keys(by_route(self.query, route))

    def exact(self, route: Route) -> float:
        if route not in self._exact:
            p = exact_probability(self.observed)
            self._exact[route] = by_identification(by_route(self.query, route), p)
        return self._exact[route]

    def answer(self, route: Route) -> Answer:
        if route not in self._answers:
            self._answers[route] = self._answer(route)
        return self._answers[route]

    def _answer(self, route: Route) -> Answer:
        query = by_route(self.query, route)
        told = self.told(self.keys(route))
        exact = self.exact(route)
        if DEGENERATE & {number for _, number in told}:
            return Answer(False, False)
        printed = {term: Decimal(number) for term, number in told}
        value = Decimal(by_identification(query, printed_probability(printed)))
        sharp = four_decimals(value) == four_decimals(Decimal(exact))
        return Answer(abs(float(value) - exact) < MARGIN, sharp)


class Answer(NamedTuple):
    """How well the numbers told serve a route."""

    sound: bool  # the numbers told give it within MARGIN
    sharp: bool  # they give the same four decimals


def by_route(query: Query, route: Route) -> Query:
    return dataclasses.replace(query, mediators=route[0], adjusters=route[1])


@functools.lru_cache(maxsize=4096)
def _keys(query: Query) -> tuple[Key, ...]:
    kinds: dict[Key, list[Term]] = {}
    for term in ingredients(query):
        about = frozenset(v for v, _ in term.target), frozenset(term.given)
        kinds.setdefault(about, []).append(term)
    keys: list[Key] = []
    for about, terms in kinds.items():
        whole = len(about[0]) == 1 or len(terms) > 2  # a distribution, not single events of it
        keys += [about] if whole else [(frozenset(term.target), about[1]) for term in terms]
    return tuple(keys)
