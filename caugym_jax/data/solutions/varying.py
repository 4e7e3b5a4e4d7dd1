"""Turns a generated problem's story into many: other names, states, orders, idle numbers, gaps.

What is asked and what its answer rests on stays; only `without_some` takes the answer away. The
numbers of idle sentences are made up: nothing rests on them.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import string
from collections.abc import Sequence

from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.text import wording
from caugym_jax.data.solutions import notation
from caugym_jax.data.solutions.conditions import condition_of
from caugym_jax.data.solutions.vocabulary import poles, state_pairs, words
from caugym_jax.types import Query, Story, Term

LETTERS = string.ascii_lowercase
LEADS = (
    *("a person's ", "the ", "level of ", "whether a person has ", "a student's ", "quality of "),
    *("a country's ", "degree of ", "availability of ", "amount of ", "a patient's ", "access to "),
)


def renamed(rng: random.Random, story: Story, *, states: bool) -> Story:
    """Other names, which often share words; with `states`, other states too.

    Without codes in the text the words alone tell which state is 0 (`_worded_states`).
    """
    lead = rng.choice(LEADS)
    names: dict[str, None] = {}
    while len(names) < len(story.names):
        names[_name(rng, lead)] = None
    pairs = story.states
    if states:
        pairs = tuple(_states(rng) if rng.random() < 0.7 else pair for pair in pairs)
    elif rng.random() < 0.7:
        pairs = tuple(_worded_states(rng) for _ in pairs)
    return dataclasses.replace(story, names=tuple(names), states=pairs)


def _name(rng: random.Random, lead: str) -> str:
    kind = rng.random()
    if kind < 0.35:
        return lead + " ".join(rng.choice(_nouns()) for _ in range(rng.randrange(1, 3)))
    if kind < 0.65:
        return " ".join(rng.choice(_nouns()) for _ in range(rng.randrange(1, 4)))
    if kind < 0.8:
        lengths = [rng.randrange(3, 10) for _ in range(rng.randrange(1, 3))]
        return " ".join("".join(rng.choices(LETTERS, k=k)) for k in lengths)
    return "".join(rng.choices(LETTERS, k=4))


@functools.cache
def _nouns() -> tuple[str, ...]:
    return tuple(word for word in words() if len(word) > 3 and word not in ("with", "whether"))


def _states(rng: random.Random) -> tuple[str, str]:
    """Any two words, in any order: codes tell which is 0."""
    if rng.random() < 0.5:
        pair = rng.choice(state_pairs())
        return pair if rng.random() < 0.5 else pair[::-1]
    drawn: dict[str, None] = {}
    while len(drawn) < 2:
        if rng.random() < 0.6:
            drawn[rng.choice(rng.choice(state_pairs()))] = None
        else:
            drawn["".join(rng.choices(LETTERS, k=rng.randrange(4, 9)))] = None
    zero, one = drawn
    return zero, one


def _worded_states(rng: random.Random) -> tuple[str, str]:
    """A pair whose order its words tell: each has its pole, and `not` is the other one.

    `not` before a word without a pole is 0.
    """
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(state_pairs())
    zeros, ones = poles()
    if kind < 0.75:
        return rng.choice(zeros), rng.choice(ones)
    if kind < 0.83:
        word = rng.choice(zeros)
        return word, f"not {word}"
    unknown = kind >= 0.92
    word = "".join(rng.choices(LETTERS, k=rng.randrange(4, 9))) if unknown else rng.choice(ones)
    return f"not {word}", word


def shuffled(rng: random.Random, story: Story) -> Story:
    """Its probabilities in another order."""
    return dataclasses.replace(story, given=tuple(rng.sample(story.given, len(story.given))))


def with_idle(rng: random.Random, story: Story, count: int, *, about_y: bool = True) -> Story:
    """Up to `count` more probabilities, of kinds that the formula does not use, at the end.

    about_y: whether they may be about the outcome (not where its absence must stay one).
    """
    query = story.query
    seen = {_variables(term) for term in ingredients(query)}
    seen |= {_variables(term) for term, _ in story.given}
    given = list(story.given)
    for _ in range(min(count, notation.MAX_ITEMS - len(given))):
        term = _idle(rng, query, len(story.names), about_y=about_y)
        if _variables(term) not in seen:
            seen.add(_variables(term))
            given.append((term, f"{rng.randrange(1, 10_000) / 10_000:.4f}"))
    return dataclasses.replace(story, given=tuple(given))


def _idle(rng: random.Random, query: Query, n: int, *, about_y: bool) -> Term:
    """A marginal, a joint or a conditional of any variables, the question's own among them."""
    nodes = rng.sample(range(n), n)
    if about_y:
        for node in (query.x, query.y):
            if rng.random() < 0.4:  # lures name what the question is about
                nodes.remove(node)
                nodes.insert(0, node)
    else:
        nodes.remove(query.y)
    events = [(node, rng.randrange(2)) for node in nodes]
    kind = rng.random()
    if kind < 0.2:
        return Term((events[0],))
    if kind < 0.4:
        return Term(tuple(events[:2]))
    conditions = min(len(events) - 1, rng.choice((1, 1, 2, 2, 3, 4)))
    return Term((events[0],), tuple(rng.sample(events[1 : conditions + 1], conditions)))


def _variables(term: Term) -> tuple[frozenset[int], frozenset[int]]:
    return frozenset(v for v, _ in term.target), frozenset(v for v, _ in term.given)


def with_fewer_edges(rng: random.Random, story: Story) -> Story:
    """One to three of its edges: what its numbers answer needs none."""
    count = min(len(story.edges), rng.randrange(1, 4))
    return dataclasses.replace(story, edges=tuple(rng.sample(story.edges, count)))


def without_some(rng: random.Random, story: Story) -> Story | None:
    """One or two of the cited numbers gone, where one is left and the rest does not give them."""
    query = story.query
    needed = {_events(term) for term in ingredients(query)}
    used = [i for i, (term, _) in enumerate(story.given) if _events(term) in needed]
    lost = [i for i in used if not _complemented(query, story.given[i][0])]
    count = min(len(lost), len(used) - 1, rng.choice((1, 1, 2)))
    if count < 1:
        return None
    dropped = set(rng.sample(lost, count))
    given = tuple(pair for i, pair in enumerate(story.given) if i not in dropped)
    return dataclasses.replace(story, given=given)


def _complemented(query: Query, term: Term) -> bool:
    """P(z) may be printed for both values: one gives the other."""
    return condition_of(query, term).startswith("z")


def _events(term: Term) -> tuple[frozenset, frozenset]:
    return frozenset(term.target), frozenset(term.given)


def worded(
    story: Story, *, codes: bool, instruction: bool, stop: bool, ending: Sequence[str]
) -> str:
    """A story as a prompt: the official text and what asks for steps (a gap, the hint or "")."""
    story = dataclasses.replace(story, codes=codes)
    text = wording.problem_text(story, instruction=instruction, stop=stop)
    return "".join([text, ending[0], wording.STEP_BY_STEP, *ending[1:]])
