"""States that no list knows: "urban" and "rural" where they stand beside a location."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from caugym_jax.causal.reworded.states import HIGH, LOW
from caugym_jax.causal.reworded.stems import common_stems, stem_of
from caugym_jax.causal.reworded.words import BEING, JOINING, Item, Words

Meaning = tuple[str, int]  # a state and its variable
MAX_OPEN = 2  # variables of which one state is learnt and one known, which it may equal or not


def learned_states(words: Words, clauses: Iterable[str]) -> list[Mapping[str, Meaning]]:
    """What the unknown words beside variables may mean, by stem.

    Of two such words of one variable each is one state; which is called low does not matter. A
    single one beside known states is either of them.
    """
    beside: dict[int, dict[frozenset[str], None]] = {}
    known: set[int] = set()
    for clause in clauses:
        items = words.items(clause)
        for i, item in enumerate(items):
            if item.kind == "state" and (node := _owner(items, i, i + 1)) is not None:
                known.add(node)
        for start, end in _runs(items):
            node = _owner(items, start, end)
            if node is not None:
                run = frozenset(stem_of(str(item.value)) for item in items[start:end])
                beside.setdefault(node, {})[run] = None
    sure: dict[str, Meaning] = {}
    open_ones: list[list[dict[str, Meaning]]] = []
    for node, runs in beside.items():
        shared = frozenset.intersection(*runs) if len(runs) > 1 else frozenset()
        own = [run - shared for run in runs if run - shared]
        if len(own) == 1:
            states = (LOW, HIGH) if node in known else (LOW,)
            open_ones.append([dict.fromkeys(own[0], (state, node)) for state in states])
        elif len(own) == 2 and node not in known and not own[0] & own[1]:
            sure |= dict.fromkeys(own[0], (LOW, node)) | dict.fromkeys(own[1], (HIGH, node))
    if sum(len(ways) > 1 for ways in open_ones) > MAX_OPEN or not (sure or open_ones):
        return []
    ways = itertools.product(*open_ones)
    return [sure | {s: m for part in way for s, m in part.items()} for way in ways]


def _runs(items: list[Item]) -> Iterable[tuple[int, int]]:
    """From where to where there are unknown words."""
    unknown = [
        item.kind == "word"
        and item.value not in JOINING
        and not any(stem_of(word) in common_stems() for word in str(item.value).split())
        for item in items
    ]
    for is_unknown, places in itertools.groupby(range(len(items)), key=unknown.__getitem__):
        run = list(places)
        if is_unknown:
            yield run[0], run[-1] + 1


def _owner(items: list[Item], start: int, end: int) -> int | None:
    """The variable that some items say something of: "rural location", "location is rural"."""
    if end < len(items) and items[end].kind == "node":
        return int(items[end].value)
    if start > 1 and items[start - 1].value in BEING:
        start -= 1
    if start > 0 and items[start - 1].kind == "node":
        return int(items[start - 1].value)
    return None
