"""The seven estimands, each derived twice by code that shares no formula.

`by_definition` reads counterfactuals off the structural model itself (worlds in which some edges
carry fixed values). `by_identification` computes the same quantity from conditional
probabilities of the observed joint, as a solver of the text must; its probabilities may be
floats (the exact joint), decimals (the printed numbers) or arrays (of many models), and
`ingredients` lists those that a problem has to print.

Notation: x is the value that the question sets X to, x' the other one, y the value asked about,
Z = adjusters (a back-door set), M = mediators (all of them).

    ATE  sum_z [P(y|x,z) - P(y|x',z)] P(z)
    CDE  sum_z [P(y|x,m,z) - P(y|x',m,z)] P(z)
    ETT  P(y|x') - sum_z P(y|x,z) P(z|x')               (actual minus counterfactual)
    NDE  sum_m sum_z [P(y|x,m,z) - P(y|x',m,z)] P(m|x',z) P(z)
    NIE  sum_m sum_z P(y|x',m,z) [P(m|x,z) - P(m|x',z)] P(z)
    PN, PS  upper: min{1, [P(y|do x) - P(x,y)] / P(x',y')}
            lower: max{0, [P(y') - P(y'|do x)] / P(x',y')}     (Tian & Pearl 2000)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from caugym_jax.causal.engine.scm import SCM, joint, probability
from caugym_jax.types import Event, Query, Term

# The formulas take whatever adds, multiplies and compares: float, Decimal, an array, a number with
# its slope (determinacy). What `by_identification` returns is what its probabilities are.
N = TypeVar("N")
Number = Any
Probability = Callable[[Event, Event], N]  # (target, given) -> P(target | given)


@functools.lru_cache(maxsize=512)
def assignments(variables: tuple[int, ...]) -> tuple[Event, ...]:
    """All joint values of binary variables, 0 before 1; ((),) for no variable."""
    values = itertools.product((0, 1), repeat=len(variables))
    return tuple(tuple(zip(variables, v, strict=True)) for v in values)


# By definition --------------------------------------------------------------------------------


def by_definition(query: Query, scm: SCM) -> float:
    """The estimand from the structural model's own counterfactual worlds."""
    y = query.y

    def edges(node: int, value: int) -> dict[tuple[int, int], int]:
        return {edge: value for edge in scm.graph.edges if edge[0] == node}

    def world(*fixed: Mapping[tuple[int, int], int]) -> float:
        """P(Y = y) where the edges carry the given values, later ones overriding."""
        carried = {edge: value for part in fixed for edge, value in part.items()}
        return probability(joint(scm, carried), query.outcome)

    to, away = edges(query.x, query.x_value), edges(query.x, 1 - query.x_value)
    direct = {edge: value for edge, value in to.items() if edge[1] == y}
    direct_away = {edge: value for edge, value in away.items() if edge[1] == y}
    match query.task:
        case "ATE":
            return world(to) - world(away)
        case "CDE":
            held = [edges(node, value) for node, value in query.held]
            return world(to, *held) - world(away, *held)
        case "ETT":
            actual = probability(joint(scm), query.outcome, query.away)
            return actual - probability(joint(scm, to), query.outcome, query.away)
        case "NDE":
            return world(away, direct) - world(away)
        case "NIE":
            return world(to, direct_away) - world(away)
        case "PN" | "PS":
            return _frechet(query, scm, to)
    raise ValueError(query.task)


def _frechet(query: Query, scm: SCM, to: Mapping[tuple[int, int], int]) -> float:
    """Bounds of P(Y_x = y | x', y') from its two margins within X = x' (Frechet)."""
    observed = joint(scm)
    actual = probability(observed, query.other_outcome, query.away)
    would = probability(joint(scm, to), query.outcome, query.away)
    if query.bound == "upper":
        return min(actual, would) / actual
    return max(0.0, actual + would - 1.0) / actual


# By identification ----------------------------------------------------------------------------


def by_identification(query: Query, p: Probability[N]) -> N:
    """The estimand from conditional probabilities p(target, given); p((), ...) must be 1."""
    estimand: N = _IDENTIFIED[query.task](query, p)
    return estimand


@functools.lru_cache(maxsize=512)
def asked(query: Query) -> tuple[Term, ...]:
    """The probabilities that `by_identification` asks for."""
    terms: dict[Term, None] = {}

    def p(target: Event, given: Event) -> float:
        if target:
            terms[Term(target, given)] = None
        return 1.0

    by_identification(query, p)
    return tuple(terms)


def _contrast(query: Query, p: Probability[Number]) -> Number:
    y, held = query.outcome, query.held
    return sum(
        (p(y, (*query.to, *held, *z)) - p(y, (*query.away, *held, *z))) * p(z, ())
        for z in assignments(query.adjusters)
    )


def _ett(query: Query, p: Probability[Number]) -> Number:
    y = query.outcome
    counterfactual = sum(
        p(y, (*query.to, *z)) * p(z, query.away) for z in assignments(query.adjusters)
    )
    return p(y, query.away) - counterfactual


def _nde(query: Query, p: Probability[Number]) -> Number:
    y = query.outcome
    return sum(
        (p(y, (*query.to, *m, *z)) - p(y, (*query.away, *m, *z)))
        * p(m, (*query.away, *z))
        * p(z, ())
        for z in assignments(query.adjusters)
        for m in assignments(query.mediators)
    )


def _nie(query: Query, p: Probability[Number]) -> Number:
    y = query.outcome
    return sum(
        p(y, (*query.away, *m, *z)) * (p(m, (*query.to, *z)) - p(m, (*query.away, *z))) * p(z, ())
        for z in assignments(query.adjusters)
        for m in assignments(query.mediators)
    )


def _bound(query: Query, p: Probability[Number]) -> Number:
    asked = query.outcome if query.bound == "upper" else query.other_outcome
    do = sum(p(asked, (*query.to, *z)) * p(z, ()) for z in assignments(query.adjusters))
    actual = p((*query.away, *query.other_outcome), ())
    if query.bound == "upper":
        return _least(1, (do - p((*query.to, *query.outcome), ())) / actual)
    return _most(0, (p(asked, ()) - do) / actual)


def _least(limit: int, number: Number) -> Number:
    return np.minimum(limit, number) if isinstance(number, np.ndarray) else min(limit, number)


def _most(limit: int, number: Number) -> Number:
    return np.maximum(limit, number) if isinstance(number, np.ndarray) else max(limit, number)


_IDENTIFIED: dict[str, Callable[[Query, Probability[Number]], Number]] = {
    "ATE": _contrast,
    "CDE": _contrast,
    "ETT": _ett,
    "NDE": _nde,
    "NIE": _nie,
    "PN": _bound,
    "PS": _bound,
}


def exact_probability(observed: np.ndarray) -> Probability[float]:
    """The conditional probabilities of an exact joint of shape (2,) * n."""
    return lambda target, given: probability(observed, target, given) if target else 1.0


def printed_probability(printed: Mapping[Term, Decimal]) -> Probability[Decimal]:
    """Looks up printed numbers, whatever the order of events; complements fill a last value.

    Raises KeyError where the numbers do not determine the probability asked for.
    """
    known = {(frozenset(t.target), frozenset(t.given)): value for t, value in printed.items()}

    def p(target: Event, given: Event) -> Decimal:
        if not target:
            return Decimal(1)
        found = known.get((frozenset(target), frozenset(given)))
        if found is not None:
            return found
        others = [a for a in assignments(tuple(v for v, _ in target)) if a != tuple(target)]
        return 1 - sum((known[frozenset(a), frozenset(given)] for a in others), Decimal(0))

    return p


# What has to be printed -----------------------------------------------------------------------


def ingredients(query: Query) -> list[Term]:
    """The terms that the released problems print for this query, in their order."""
    if query.zero:
        return []
    y, to, away = query.outcome, query.to, query.away
    zs, ms = assignments(query.adjusters), assignments(query.mediators)
    terms: list[Term] = []
    match query.task:
        case "ATE" | "CDE":
            held = query.held
            for z in zs:
                terms += [Term(y, (*to, *held, *z)), Term(y, (*away, *held, *z)), Term(z)]
        case "ETT":
            terms.append(Term(y, away))
            for z in zs:
                terms += [Term(y, (*z, *to)), Term(z, away)]
        case "NDE" if not query.mediators:
            for z in zs:
                terms += [Term(y, (*to, *z)), Term(y, (*away, *z))]
                terms += [Term(z)] if z != zs[-1] else []
        case "NDE":
            for z in zs:
                terms += [Term(z)] if z != zs[-1] else []
                for m in ms:
                    terms += [Term(y, (*m, *to, *z)), Term(y, (*m, *away, *z))]
                    terms += [Term(m, (*away, *z))] if m != ms[-1] else []
        case "NIE":
            for z in zs:
                terms += [Term(z)] if z != zs[-1] else []
                for m in ms:
                    terms.append(Term(y, (*m, *away, *z)))
                    if m != ms[-1]:
                        terms += [Term(m, (*to, *z)), Term(m, (*away, *z))]
        case "PN" | "PS":
            asked = y if query.bound == "upper" else query.other_outcome
            for z in zs:
                terms += [Term(asked, (*to, *z)), Term(z)]
            actual = Term((*away, *query.other_outcome))
            if query.bound == "upper":
                terms += sorted([Term((*to, *y)), actual])
            else:
                terms += [Term(asked), actual]
    return [term for term in terms if term.target]
