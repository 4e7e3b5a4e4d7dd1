"""The symbolic solution in the steps and notation of the released problems."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from caugym_jax.causal.estimands import (
    Query,
    Term,
    assignments,
    by_identification,
    printed_probability,
    verdict,
)
from caugym_jax.causal.graph import Graph, directed_path, letter
from caugym_jax.causal.scm import Event


def symbolic_steps(graph: Graph, query: Query, printed: Mapping[Term, Decimal]) -> dict[str, str]:
    """The official `Reason`: {"Step 1": ..., ...} from the graph, the query and the numbers."""
    steps = [_relevance(graph, query)]
    if not query.zero:
        steps += [
            f"Identification of the Causal Effect. P({letter(query.y)}|do({letter(query.x)})) can "
            "be identified.",
            f"Find a valid backdoor adjustment set: {_set(query.adjusters)}.",
            *_worked(query, printed),
        ]
    return {f"Step {i}": step for i, step in enumerate(steps, 1)}


def _relevance(graph: Graph, query: Query) -> str:
    x, y = letter(query.x), letter(query.y)
    check = f"Check whether treatment ({x}) is a cause of outcome ({y}). "
    if query.zero:
        return (
            f"{check}Node {x} is not a cause of node {y} because there is no directed path from "
            f"{x} to {y}. So the answer is No."
        )
    path = "->".join(map(letter, directed_path(graph, query.x, query.y)))
    return (
        f"{check}Node {x} is a cause of node {y} because there is one or more directed paths from "
        f"{x} to {y} (e.g. {path})."
    )


def _set(variables: tuple[int, ...]) -> str:
    return f"{{{','.join(map(letter, variables))}}}" if variables else "empty set"


def _worked(query: Query, printed: Mapping[Term, Decimal]) -> list[str]:
    """Formula, numbers, arithmetic, verdict."""
    p = printed_probability(printed)
    task, symbols, terms, numbers = query.task, *_FORMULAS[query.task](query)
    values = {symbol(term): f"{p(*term):.4f}" for term in terms}
    for name, value in values.items():
        numbers = numbers.replace(name, value)
    result = by_identification(query, p)
    sign = ">" if result > 0 else "<"
    return [
        f"{task}={symbols}",
        "\t".join(f"{symbol(term)}={values[symbol(term)]}" for term in terms),
        f"{task}={numbers}={result:.4f}",
        f"{task}={result:.4f}{sign}0 so the answer is {verdict(query, result)}.",
    ]


def symbol(term: Term) -> str:
    """ "P(C=1|A=0,B=1)" """
    target, given = _events(term.target), _events(term.given)
    return f"P({target}|{given})" if given else f"P({target})"


def _events(event: Event) -> str:
    return ",".join(f"{letter(v)}={value}" for v, value in event)


def _ate(query: Query) -> tuple[str, list[Term], str]:
    y, to, away = query.outcome, query.to, query.away
    do = f"P({_events(y)}|do({_events(to)}))-P({_events(y)}|do({_events(away)}))"
    if not query.adjusters:
        terms = [Term(y, to), Term(y, away)]
        plain = "-".join(map(symbol, terms))
        return f"{do}={plain}", terms, plain
    z = ",".join(map(letter, query.adjusters))
    total = (
        f"sum_{{{z}}} [P({_events(y)}|{_events(to)},{z})*P({z})"
        f"-P({_events(y)}|{_events(away)},{z})*P({z})]"
    )
    terms, parts = [], []
    for values in assignments(query.adjusters):
        a, b, c = Term(y, (*to, *values)), Term(y, (*away, *values)), Term(values)
        terms += [a, b, c]
        parts.append(f"[{symbol(a)}*{symbol(c)}-{symbol(b)}*{symbol(c)}]")
    expanded = "+".join(parts)
    return f"{do}={total}={expanded}", terms, expanded


def _ett(query: Query) -> tuple[str, list[Term], str]:
    y, to, away = query.outcome, query.to, query.away
    name = letter(query.y)
    mean = f"E[{name}_{{{_events(away)}}}-{name}_{{{_events(to)}}}|{_events(away)}]"
    actual = Term(y, away)
    if not query.adjusters:
        terms = [actual, Term(y, to)]
        plain = "-".join(map(symbol, terms))
        return f"{mean}={plain}", terms, plain
    z = ",".join(map(letter, query.adjusters))
    total = f"sum_{{{z}}} P({_events(y)}|{_events(to)},{z})*P({z}|{_events(away)})"
    terms, parts = [actual], []
    for values in assignments(query.adjusters):
        a, b = Term(y, (*to, *values)), Term(values, away)
        terms += [a, b]
        parts.append(f"{symbol(a)}*{symbol(b)}")
    expanded = f"{symbol(actual)}-[{'+'.join(parts)}]"
    return f"{mean}={symbol(actual)}-{total}={expanded}", terms, expanded


_FORMULAS = {"ATE": _ate, "ETT": _ett}
