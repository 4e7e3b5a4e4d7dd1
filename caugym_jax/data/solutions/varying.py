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
from caugym_jax.types import BOUND_TASKS, Query, Story, Term

LETTERS = string.ascii_lowercase
LEADS = (
    *("a person's ", "the ", "level of ", "whether a person has ", "a student's ", "quality of "),
    *("a country's ", "degree of ", "availability of ", "amount of ", "a patient's ", "access to "),
)
LINKS = ("of", "in", "of the", "in the", "for", "to", "on", "at", "with", "from", "of a", "by")


def renamed(rng: random.Random, story: Story, *, states: bool) -> Story:
    """Other names, which often share words; with `states`, other states too.

    Without codes in the text the words alone tell which state is 0 (`_worded_states`).
    """
    names = _names(rng, len(story.names))
    pairs = story.states
    if states:
        drawn = ((name, pair, rng.random() < 0.7) for name, pair in zip(names, pairs, strict=True))
        pairs = tuple(_states(rng, name) if other else pair for name, pair, other in drawn)
    elif rng.random() < 0.7:
        pairs = tuple(_worded_states(rng, name) for name in names)
    return dataclasses.replace(story, names=names, states=pairs)


def _names(rng: random.Random, count: int) -> tuple[str, ...]:
    """Distinct names of one world: some begin or end alike, some are others made longer."""
    lead = rng.choice(LEADS) if rng.random() < 0.7 else _owner(_word(rng)) + " "
    tail = f" {rng.choice(LINKS)} {_word(rng)}"
    shared = [_word(rng) for _ in range(rng.randrange(2, 6))]
    remarks = 0.3 if rng.random() < 0.12 else 0.0
    names: dict[str, str] = {}  # as they would be with a capital: those must differ too
    while len(names) < count:
        name = _name(rng, lead, tail, shared, list(names.values()))
        if rng.random() < remarks:
            name += _remark(rng)
        names.setdefault(name.capitalize(), name)
    return tuple(names.values())


def _name(
    rng: random.Random, lead: str, tail: str, shared: Sequence[str], others: Sequence[str]
) -> str:
    kind = rng.random()
    if kind < 0.22:
        return lead + _phrase(rng, shared, 1, 2)
    if kind < 0.34:
        return _phrase(rng, shared, 1, 2) + tail
    if kind < 0.58:
        return " ".join(rng.choice(_nouns()) for _ in range(rng.randrange(1, 4)))
    if kind < 0.70:
        parts = [_phrase(rng, shared, 1, 3) for _ in range(rng.randrange(2, 4))]
        return f" {rng.choice(LINKS)} ".join(parts)
    if kind < 0.76 and others:
        other = rng.choice(others)
        return f"{_word(rng)} {other}" if rng.random() < 0.5 else f"{other} {_word(rng)}"
    if kind < 0.88:
        return " ".join(_spelled(rng, 3, 10) for _ in range(rng.randrange(1, 3)))
    return _spelled(rng, 4, 5)


def _phrase(rng: random.Random, shared: Sequence[str], low: int, high: int) -> str:
    """So many words, of which some are those that the world's names share."""
    count = rng.randrange(low, high + 1)
    return " ".join(rng.choice(shared) if rng.random() < 0.3 else _word(rng) for _ in range(count))


def _word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.66:
        return rng.choice(_nouns())
    if kind < 0.86:
        return _spelled(rng, 2, 11)
    if kind < 0.92:
        return _owner(rng.choice(_nouns()))
    if kind < 0.96:
        return f"{rng.choice(_nouns())}-{_spelled(rng, 2, 7)}"
    if kind < 0.98:
        return _spelled(rng, 2, 4).upper()
    return str(rng.randrange(100))


def _owner(word: str) -> str:
    return word + ("'" if word.endswith("s") else "'s")


def _spelled(rng: random.Random, low: int, below: int) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(low, below)))


def _remark(rng: random.Random) -> str:
    """What stands in brackets behind a name: values with strokes, or examples."""
    words = [_word(rng) for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.5:
        return f" ({'/'.join(words)})"
    start = "e.g. " if rng.random() < 0.7 else ""
    return f" ({start}{rng.choice((', ', ' and ')).join(words)})"


@functools.cache
def _nouns() -> tuple[str, ...]:
    return tuple(word for word in words() if len(word) > 3 and word not in ("with", "whether"))


def _states(rng: random.Random, name: str) -> tuple[str, str]:
    """Any two of a variable's states, in any order: codes tell which is 0."""
    kind = rng.random()
    if kind < 0.4:
        pair = rng.choice(state_pairs())
    elif kind < 0.55:
        word = _state(rng)
        pair = word, f"not {word}"
    elif kind < 0.7:
        rest = _rest(rng, name)
        pair = f"{_state(rng)} {rest}", f"{_state(rng)} {rest}"
    else:
        pair = _state(rng), _state(rng)
    if pair[0] == pair[1]:
        return _states(rng, name)
    return pair if rng.random() < 0.5 else pair[::-1]


def _state(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(rng.choice(state_pairs()))
    if kind < 0.68:
        return f"not {rng.choice(rng.choice(state_pairs()))}"
    return _spelled(rng, 4, 9) if kind < 0.9 else f"{_word(rng)} {_word(rng)}"


def _rest(rng: random.Random, name: str) -> str:
    """What follows both words of a pair: the variable's name, or one or two words."""
    if rng.random() < 0.4:
        return name
    return " ".join(_word(rng) for _ in range(rng.randrange(1, 3)))


def _worded_states(rng: random.Random, name: str) -> tuple[str, str]:
    """A pair whose order its words tell: each has its pole, and `not` is the other one.

    `not` before a word without a pole is 0.
    """
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(state_pairs())
    zeros, ones = poles()
    zero, one = rng.choice(zeros), rng.choice(ones)
    if kind < 0.68:
        return zero, one
    if kind < 0.75:
        rest = _rest(rng, name)
        return f"{zero} {rest}", f"{one} {rest}"
    if kind < 0.83:
        word = zero if kind < 0.81 else f"not {one}"
        return word, f"not {word}"
    word = _spelled(rng, 4, 9) if kind >= 0.92 else one
    return f"not {word}", word


def shuffled(rng: random.Random, story: Story) -> Story:
    """Its probabilities in another order."""
    return dataclasses.replace(story, given=tuple(rng.sample(story.given, len(story.given))))


def with_idle(rng: random.Random, story: Story, count: int, *, about_y: bool = True) -> Story:
    """Up to `count` more probabilities that the formula does not use, at the end.

    about_y: whether they may be about the outcome, or like a needed one but for a state or a
        variable (neither where what lacks must go on lacking).
    """
    query = story.query
    needed = ingredients(query)
    told = [_events(term) for term in (*needed, *(term for term, _ in story.given))]
    about = {_variables(term) for term in (*needed, *(term for term, _ in story.given))}
    given = list(story.given)
    for _ in range(min(count, notation.MAX_ITEMS - len(given))):
        if about_y and given and rng.random() < 0.4:
            term = _like(rng, rng.choice(given)[0], len(story.names))
            known = _events(term) in told
        else:
            term = _idle(rng, query, len(story.names), about_y=about_y)
            known = _variables(term) in about
        if not known:
            told.append(_events(term))
            about.add(_variables(term))
            given.append((term, f"{rng.randrange(1, 10_000) / 10_000:.4f}"))
    return dataclasses.replace(story, given=tuple(given))


def _like(rng: random.Random, term: Term, n: int) -> Term:
    """A term like another: other states, another variable somewhere, a condition more or less."""
    target, given = list(term.target), list(term.given)
    others = sorted(set(range(n)) - {v for v, _ in (*target, *given)})
    kind = rng.random()
    if kind < 0.15 and given:
        given.remove(rng.choice(given))
    elif kind < 0.3 and others and len(target) == 1:
        given.insert(rng.randrange(len(given) + 1), (rng.choice(others), rng.randrange(2)))
    elif kind < 0.6 and others:
        events = rng.choice([part for part in (target, given) if part])
        events[rng.randrange(len(events))] = rng.choice(others), rng.randrange(2)
    else:
        turned = rng.choice([v for v, _ in (*target, *given)])  # at least this one's state
        target, given = (
            [(v, 1 - s if v == turned or rng.random() < 0.3 else s) for v, s in part]
            for part in (target, given)
        )
    return Term(tuple(target), tuple(given))


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


def renumbered(rng: random.Random, story: Story) -> Story:
    """Other numbers for the outcome's conditionals, of kinds that a drawn world seldom has.

    They have few different digits, or differ by little, or some are 1 or 0. An effect is computed
    from any numbers; of PN and PS, whose quotient needs sound ones, the story stays as it is.
    """
    y, kind = story.query.y, rng.randrange(3)
    if story.query.task in BOUND_TASKS:
        return story
    few, middle = rng.choices(range(10), k=2), rng.randrange(100, 9900)

    def other(number: str) -> str:
        if kind == 0:
            return "0." + "".join(str(rng.choice(few)) for _ in range(notation.DECIMALS))
        if kind == 1:
            return f"{(middle + rng.randrange(-60, 60)) / 10_000:.4f}"
        return rng.choice((number, number, "1.0000", "1.0000", "0.0000"))

    given = ((term, other(number) if _is_of(term, y) else number) for term, number in story.given)
    return dataclasses.replace(story, given=tuple(given))


def _is_of(term: Term, node: int) -> bool:
    """Whether a term is a conditional probability of that variable alone."""
    return bool(term.given) and [v for v, _ in term.target] == [node]


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
