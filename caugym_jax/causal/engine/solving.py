"""From a problem's structure to its answer, by first principles.

The answer uses nothing but the graph and the printed numbers: whether the graph makes the effect
0; else every set of adjusters (and of mediators) that `adjustment.identifies` accepts and for which
the numbers give all that the formula of `estimands.by_identification` needs; else LACK_CONDITION. A
number is given if it is printed, or is the complement of printed ones, or, failing that, if the
graph's independencies make it equal to such a one. Arithmetic is decimal and nothing is rounded on
the way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from decimal import Decimal

from caugym_jax.causal.engine.adjustment import (
    adjustment_sets_of,
    affects,
    identifies,
    mediation_sets,
)
from caugym_jax.causal.engine.answers import ROUNDING, verdict
from caugym_jax.causal.engine.estimands import (
    Probability,
    by_identification,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import Graph, d_separated, graph_of, mask, mediators
from caugym_jax.causal.engine.queries import as_asked, has_zero_effect
from caugym_jax.causal.text.vocabulary import BadProblem, Unread
from caugym_jax.types import BOUND_TASKS, Event, Problem, Query, Story, Term


@dataclasses.dataclass(frozen=True)
class Solved:
    """The truth about a problem and what it rests on."""

    query: Query  # with the adjusters and mediators used, or `zero`
    value: Decimal | None  # None: the numbers do not determine it (LACK_CONDITION)
    verdict: str | None = None  # "Yes" or "No" to the question as asked, where it asks for one
    interval: tuple[Decimal, Decimal] | None = None  # PN, PS: what rounding the inputs can hide
    used: tuple[tuple[Term, Decimal], ...] = ()  # the numbers in the formula
    implied: tuple[Term, ...] = ()  # those of them that only the graph's independencies give
    others: tuple[tuple[tuple[int, ...], Decimal], ...] = ()  # by further adjustment sets

    @property
    def lacks(self) -> bool:
        return self.value is None


def truth(problem: Problem) -> Solved | None:
    """What a problem's story makes true; None where it is unread or its numbers are at odds.

    The truth of the problem, not of its label. Computed once for each story.
    """
    try:
        return None if problem.story is None else solve(problem.story)
    except (BadProblem, Unread):
        return None


@functools.lru_cache(maxsize=16384)
def solve(story: Story) -> Solved:
    """Answers what a story asks.

    Raises BadProblem where the numbers contradict each other, and Unread where the answer
    would be LACK_CONDITION but a sentence with a number was not understood.
    """
    graph, query = graph_of(story), as_asked(story.query)
    if _has_no_effect(graph, query):
        zero = Decimal(0)
        return Solved(dataclasses.replace(query, zero=True), zero, _verdict(story, zero))
    if query.task in ("NDE", "NIE"):
        query = dataclasses.replace(query, mediators=mediators(graph, query.x, query.y))
    printed = consistent(story.given)
    p = printed_probability(printed)
    found = list(_values(graph, query, printed, p))
    if not found:
        p = implied_probability(graph, printed)
        found = list(_values(graph, query, printed, p))
    if not found:
        if story.set_aside:
            raise Unread(f"cannot read the sentence {story.set_aside[0][:120]!r}")
        return Solved(query, None)
    query, value = found[0]
    terms = ingredients(query)
    return Solved(
        query,
        value,
        _verdict(story, value),
        reachable(query, p) if query.task in BOUND_TASKS else None,
        tuple((term, p(*term)) for term in terms),
        tuple(term for term in terms if not given_by(term, printed)),
        tuple((other.adjusters, v) for other, v in found[1:]),
    )


def _verdict(story: Story, value: Decimal) -> str | None:
    """The verdict on the question as it was asked."""
    return None if story.direction is None else verdict(story.query.task, value * story.direction)


# Adjustment -----------------------------------------------------------------------------------


def _values(
    graph: Graph, query: Query, printed: dict[Term, Decimal], p: Probability[Decimal]
) -> Iterator[tuple[Query, Decimal]]:
    """The estimand by every set that identifies it and that the numbers suffice for."""
    for through, adjusters in _candidates(query, printed):
        if not _valid(graph, query.task, query.x, query.y, adjusters, through):
            continue
        adjusted = dataclasses.replace(query, mediators=through, adjusters=adjusters)
        try:
            value = by_identification(adjusted, p)
        except KeyError:
            continue
        except ArithmeticError:
            raise BadProblem("the formula divides by a probability of 0") from None
        yield adjusted, Decimal(value)


def _candidates(
    query: Query, printed: dict[Term, Decimal]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(mediators, adjusters) that some printed conditional of the outcome has, as they appear.

    The formula needs P(y | x, m, z): its conditions, but for x and m, are z. Sets with all
    mediators come first, and after those that appear no adjuster and single ones; of sets with
    some mediators only (NDE, NIE), those that appear.
    """
    every = query.mediators
    found: dict[tuple[int, ...], None] = {}
    fewer: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
    mentioned: set[int] = set()
    for target, given in printed:
        mentioned |= {v for v, _ in (*target, *given)}
        if any(v == query.y for v, _ in target) and any(v == query.x for v, _ in given):
            rest = {v for v, _ in given} - {query.x}
            found[tuple(sorted(rest.difference(every)))] = None
            through = tuple(m for m in every if m in rest)
            if query.task in ("NDE", "NIE") and through != every:
                fewer[through, tuple(sorted(rest.difference(every)))] = None
    found[()] = None
    for node in sorted(mentioned - {query.x, query.y, *every}):
        found[(node,)] = None
    return [*((every, z) for z in found), *fewer]


_valid = functools.lru_cache(maxsize=16384)(identifies)


def _has_no_effect(graph: Graph, query: Query) -> bool:
    """Whether the graph alone makes the effect 0 (where CDE may hold some mediators only)."""
    if query.task == "CDE":
        return not affects(graph, query.x, query.y, query.mediators)
    return has_zero_effect(graph, query.task, query.x, query.y)


def valid_sets(story: Story, query: Query, max_size: int = 2) -> list[tuple[int, ...]]:
    """All sets of at most max_size adjusters that the graph allows, with the query's mediators."""
    return adjustment_sets_of(
        graph_of(story), query.task, query.x, query.y, max_size, query.mediators
    )


def sufficient(story: Story, max_size: int = 2) -> list[tuple[Term, ...]]:
    """The smallest sets of further numbers that would determine an answer which lacks some.

    Each set serves one way to identify the estimand, by at most `max_size` adjusters; a number that
    follows from the others as a complement is not asked for twice.
    """
    graph, query = graph_of(story), as_asked(story.query)
    if query.task in ("NDE", "NIE"):
        ways = mediation_sets(graph, query.task, query.x, query.y, max_size)
    else:
        held = query.mediators
        sets = adjustment_sets_of(graph, query.task, query.x, query.y, max_size, held)
        ways = [(held, z) for z in sets]
    p = implied_probability(graph, consistent(story.given))
    found = {
        _unknown(dataclasses.replace(query, mediators=through, adjusters=z), p)
        for through, z in ways
    }
    fewest = min(map(len, found), default=0)
    return sorted(terms for terms in found if len(terms) == fewest)


def _unknown(query: Query, p: Probability[Decimal]) -> tuple[Term, ...]:
    """The terms of a formula that the numbers do not give, but for complements among them."""
    missing: list[Term] = []
    for term in ingredients(query):
        supposed = dict.fromkeys(missing, Decimal(0))
        if not _gives(p, term) and not given_by(term, supposed):
            missing.append(term)
    return tuple(missing)


def _gives(p: Probability[Decimal], term: Term) -> bool:
    try:
        p(*term)
    except KeyError:
        return False
    return True


# Numbers --------------------------------------------------------------------------------------


def consistent(given: tuple[tuple[Term, str], ...]) -> dict[Term, Decimal]:
    """The printed numbers by term. Raises BadProblem where they contradict each other.

    A probability printed twice must be the same, the probabilities of all values of a variable must
    not sum to other than 1, and a joint one must not exceed its margins, all up to rounding.
    """
    printed: dict[Term, Decimal] = {}
    known: dict[tuple[frozenset, frozenset], Decimal] = {}
    for term, number in given:
        value = Decimal(number)
        place = frozenset(term.target), frozenset(term.given)
        if abs(known.setdefault(place, value) - value) > 2 * ROUNDING:
            raise BadProblem(f"one probability is printed twice, as {known[place]} and {value}")
        printed.setdefault(term, value)
    for (target, conditions), value in known.items():
        if len(target) == 1:
            ((node, state),) = target
            other = known.get((frozenset({(node, 1 - state)}), conditions))
            if other is not None and abs(1 - value - other) > 4 * ROUNDING:
                raise BadProblem(f"{value} and {other}, for the two values of one variable")
            continue
        for event in target:
            margin = known.get((frozenset({event}), conditions))
            if margin is not None and value - margin > 2 * ROUNDING:
                raise BadProblem(f"a joint probability, {value}, exceeds its margin, {margin}")
    return printed


def given_by(term: Term, printed: dict[Term, Decimal]) -> bool:
    """Whether the printed numbers and their complements give a term."""
    return _gives(printed_probability(printed), term)


def implied_probability(graph: Graph, printed: dict[Term, Decimal]) -> Probability[Decimal]:
    """As `printed_probability`, and by d-separation in the graph.

    P(t | c, a) = P(t | c) = P(t | c, b) where t is independent of the variables of a and b given
    those of c, with c the events that both conditions share.
    """
    direct = printed_probability(printed)
    conditions = list(dict.fromkeys(term.given for term in printed))

    def p(target: Event, given: Event) -> Decimal:
        try:
            return direct(target, given)
        except KeyError:
            pass
        targets = mask(v for v, _ in target)
        for other in conditions:
            common = mask(v for v, _ in set(given) & set(other))
            differing = mask(v for v, _ in set(given) ^ set(other))
            if targets & differing or not d_separated(graph, targets, differing, common):
                continue
            try:
                return direct(target, other)
            except KeyError:
                continue
        raise KeyError(target, given)

    return p


def reachable(query: Query, p: Probability[Decimal]) -> tuple[Decimal, Decimal]:
    """The least and the largest bound (PN, PS) if each printed input is off by its rounding.

    The bound is clip((do - other) / actual) or clip((other - do) / actual), monotone in each
    input: extremes lie where numerator and denominator move as far as they can.
    """
    adjusters = set(query.adjusters)
    sign = 1 if query.bound == "upper" else -1  # of P(y|do x) in the numerator
    actual = {*query.away, *query.other_outcome}

    def moved(numerator: int, denominator: int) -> Probability[Decimal]:
        def shifted(target: Event, given: Event) -> Decimal:
            if not target:
                return Decimal(1)
            if set(target) == actual:
                step = denominator
            elif given or (adjusters and {v for v, _ in target} == adjusters):
                step = numerator * sign
            else:
                step = -numerator * sign
            return min(max(p(target, given) + step * ROUNDING, Decimal(0)), Decimal(1))

        return shifted

    try:
        bounds = [
            Decimal(by_identification(query, moved(numerator, denominator)))
            for numerator in (-1, 1)
            for denominator in (-1, 1)
        ]
    except ArithmeticError:  # the denominator may be 0: anything can be reached
        return Decimal(0), Decimal(1)
    return min(bounds), max(bounds)
