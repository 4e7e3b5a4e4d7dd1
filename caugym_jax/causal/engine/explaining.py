"""The engine's answer in a person's words: names instead of letters, and the reasons."""

from __future__ import annotations

from collections.abc import Iterable

from caugym_jax.causal.engine.answers import four_decimals
from caugym_jax.causal.engine.solving import Solved, sufficient, valid_sets
from caugym_jax.causal.text.wording import EFFECTS, question
from caugym_jax.types import Event, Story, Term

MOST = 8  # further adjustment sets that are named
FORMULAS = {
    "ATE": "sum over {z} of [P({y} | {to}, {z}) - P({y} | {away}, {z})] P({z})",
    "CDE": "sum over {z} of [P({y} | {to}, {h}, {z}) - P({y} | {away}, {h}, {z})] P({z})",
    "ETT": "P({y} | {away}) - sum over {z} of P({y} | {to}, {z}) P({z} | {away})",
    "NDE": (
        "sum over {m}, {z} of [P({y} | {to}, {m}, {z}) - P({y} | {away}, {m}, {z})] "
        "P({m} | {away}, {z}) P({z})"
    ),
    "NIE": (
        "sum over {m}, {z} of P({y} | {away}, {m}, {z}) "
        "[P({m} | {to}, {z}) - P({m} | {away}, {z})] P({z})"
    ),
    "upper": (
        "min(1, [sum over {z} of P({y} | {to}, {z}) P({z}) - P({to}, {y})] / P({away}, {other}))"
    ),
    "lower": (
        "max(0, [P({other}) - sum over {z} of P({other} | {to}, {z}) P({z})] / P({away}, {other}))"
    ),
}


def named_event(story: Story, event: Event) -> str:
    """ "drug=yes, age=old" """
    return ", ".join(f"{story.names[v]}={story.states[v][value]}" for v, value in event)


def named_term(story: Story, term: Term) -> str:
    """ "P(recovery=yes | drug=yes, age=old)" """
    given = f" | {named_event(story, term.given)}" if term.given else ""
    return f"P({named_event(story, term.target)}{given})"


def formula(story: Story, solved: Solved) -> str:
    """The formula that was used, with names; what it does not sum over is left out."""
    query = solved.query
    parts = {
        "y": named_event(story, query.outcome),
        "other": named_event(story, query.other_outcome),
        "to": named_event(story, query.to),
        "away": named_event(story, query.away),
        "h": named_event(story, query.held),
        "z": ", ".join(story.names[v] for v in query.adjusters),
        "m": ", ".join(story.names[v] for v in query.mediators),
    }
    text = FORMULAS[query.bound or query.task]
    if not parts["z"]:
        for piece in (" P({z})", ", {z}", " P({z} | {away})"):
            text = text.replace(piece, "")
        text = text.replace("sum over {z} of ", "")
    if not parts["m"]:  # NDE without a mediator is the difference itself
        text = text.replace("{m}, {z}", "{z}").replace(" P({m} | {away}, {z})", "")
        for piece in (", {m}", " P({m} | {away})", "sum over {m} of "):
            text = text.replace(piece, "")
    return text.format(**parts)


def explanation(story: Story, solved: Solved) -> list[str]:
    """What the engine found and why, a line each.

    The answer, the formula with its numbers, the adjustment set and the other valid ones, the
    interval that rounding can hide (PN, PS), and for LACK_CONDITION which numbers would suffice.
    """
    query = solved.query
    x, y = story.names[query.x], story.names[query.y]
    lines = [f"The {EFFECTS[query.task]} ({query.task}) of {x} on {y}.", question(story)]
    if query.zero:
        return [
            *lines,
            f"The graph has no such path from {x} to {y}: the effect is 0.",
            _answer(solved),
        ]
    if solved.lacks:
        lines.append("Answer: LACK_CONDITION, the given numbers do not determine it.")
        for terms in sufficient(story):
            needed = "; ".join(named_term(story, term) for term in terms)
            lines.append(f"It would suffice to know: {needed}")
        return lines
    lines.append(f"Adjusts for: {_set(story, query.adjusters)}.")
    if query.task in ("NDE", "NIE"):
        lines.append(f"Mediators: {_set(story, query.mediators)}.")
    numbers = dict(solved.others)
    others = [z for z in valid_sets(story, query) if z != query.adjusters]
    if others:
        shown = [_set(story, z) + (f" ({numbers[z]:.4f})" if z in numbers else "") for z in others]
        more = f" and {len(shown) - MOST} more" if len(shown) > MOST else ""
        lines.append(f"Other valid sets: {', '.join(shown[:MOST])}{more}.")
    lines.append(f"Formula: {formula(story, solved)}")
    for term, value in solved.used:
        how = " (by an independence of the graph)" if term in solved.implied else ""
        lines.append(f"  {named_term(story, term)} = {four_decimals(value)}{how}")
    if solved.interval is not None:
        low, high = solved.interval
        lines.append(f"Rounding of the given numbers allows {low:.4f} to {high:.4f}.")
    return [*lines, _answer(solved)]


def _answer(solved: Solved) -> str:
    assert solved.value is not None  # LACK_CONDITION has lines of its own
    said = f", {solved.verdict}" if solved.verdict else ""
    return f"Answer: {four_decimals(solved.value)}{said}"


def _set(story: Story, nodes: Iterable[int]) -> str:
    """ "{age, dose}" """
    return f"{{{', '.join(story.names[v] for v in nodes)}}}"
