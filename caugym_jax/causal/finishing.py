"""From a story and its numbers to a Problem: text, label, steps, structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

from caugym_jax.causal.estimands import Query, Term, ingredients, printed_probability, verdict
from caugym_jax.causal.graph import Graph
from caugym_jax.causal.solution import lacking_steps, symbolic_steps
from caugym_jax.causal.wording import Story
from caugym_jax.types import LACK, Problem


def finished(
    graph: Graph,
    story: Story,
    text: str,
    value: Decimal | None,
    exact: float,
    *,
    variant: str,
    kind: str,
    **record: int,
) -> Problem:
    """The problem with its label, its steps and its structure (`Problem.extra`).

    value: the estimand from the numbers told; None: they do not determine it (LACK_CONDITION).
    exact: the estimand itself.
    kind: of names. record: further entries of the structure.
    """
    query = story.query
    told = {term: Decimal(number) for term, number in story.given}
    if value is None:
        answer = LACK
        reason = lacking_steps(graph, query, not_told(ingredients(query), told))
    else:
        answer = label(query, value)
        reason = symbolic_steps(graph, query, told)
    extra = {**structure(story, exact, kind), **record}
    return Problem(text, answer, query.task, reason, variant, extra=extra)


def not_told(terms: Sequence[Term], told: dict[Term, Decimal]) -> list[Term]:
    """Those of the terms that the told ones and their complements do not give."""
    p = printed_probability(told)

    def absent(term: Term) -> bool:
        try:
            p(*term)
        except KeyError:
            return True
        return False

    return list(filter(absent, terms))


def label(query: Query, value: Decimal) -> str:
    """The official `answer`, e.g. {"ANSWER": "No", "PROB": "-0.0843"}."""
    said = verdict(query, value)
    number = {"PROB": four_decimals(value)}
    return json.dumps(number if said is None else {"ANSWER": said, **number})


def four_decimals(value: Decimal) -> str:
    """The official number format: rounded once to four decimals, no trailing zeros, no "-0"."""
    text = f"{round(value, 4):f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def structure(story: Story, exact: float, kind: str) -> dict:
    """The problem as JSON-serialisable structure. Events are lists of [node, value]."""
    query = story.query
    return {
        "graph": {"nodes": list(story.names), "edges": [list(edge) for edge in story.edges]},
        "states": [list(pair) for pair in story.states],
        "names": kind,
        "x": query.x,
        "y": query.y,
        "x_value": query.x_value,
        "y_value": query.y_value,
        "adjusters": list(query.adjusters),
        "mediators": list(query.mediators),
        "mediator_values": list(query.mediator_values),
        "bound": query.bound,
        "zero": query.zero,
        "given": [
            {
                "target": [list(e) for e in term.target],
                "given": [list(e) for e in term.given],
                "p": number,
            }
            for term, number in story.given
        ],
        "exact": float(exact),
    }
