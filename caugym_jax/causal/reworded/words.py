"""What a clause says of a graph's variables: which it names, and the state of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from caugym_jax.causal.reworded.states import HIGH, LOW, NEGATIONS, state_of
from caugym_jax.causal.reworded.stems import (
    akin_groups,
    common_stems,
    is_filler,
    stem_of,
    stems,
    words_of,
)
from caugym_jax.causal.vocabulary import Named, Unread

_OTHER = {LOW: HIGH, HIGH: LOW}
_NOT = frozenset(("not", "non", "never", "without"))
BEING = frozenset(("is", "are", "being", "was", "were"))
JOINING = frozenset(("and", "with", "but", "while", "is", "are", "being", "was", "were"))


Meaning = int | str | tuple[str, int]  # a variable, a state, a variable's state


class Unclear(Unread):
    """A clause that is not understood."""

    def __init__(self, why: str, clause: str) -> None:
        super().__init__(why)
        self.clause = clause


class Item(NamedTuple):
    """One meaningful word or run of words of a clause."""

    kind: str  # "node", "state", "epithet" (a state that is part of a name) or "word"
    value: int | str  # the variable; LOW or HIGH; the word
    of: int | None = None  # the variable that a state's own word names: "unemployed"
    weak: bool = False  # a variable that is not named in full


class Words:
    """Finds the variables of a graph, and their states, in clauses."""

    def __init__(
        self, names: Sequence[Sequence[str]], guesses: Mapping[str, Meaning] | None = None
    ) -> None:
        """names: for each variable the phrases that name it.

        guesses: what stems that are in no name mean: a variable, a state, or a variable's state.
        """
        self._names = [min(phrases, key=len) for phrases in names]
        self.variants = [{stems(phrase) for phrase in phrases} for phrases in names]
        self.cores = [frozenset().union(*variants) for variants in self.variants]
        self._having: dict[str, set[int]] = {}
        for node, core in enumerate(self.cores):
            for stem in core:
                self._having.setdefault(stem, set()).add(node)
        self._epithets = [
            {state_of(word) for phrase in phrases for word in words_of(phrase)} - {None}
            for phrases in names
        ]
        self._akin = self._kindred()
        self._guessed: dict[str, tuple[str, int | None]] = {}
        for stem, meaning in (guesses or {}).items():
            if isinstance(meaning, int):
                self._akin[stem] = meaning
            else:
                self._guessed[stem] = meaning if isinstance(meaning, tuple) else (meaning, None)

    def _kindred(self) -> dict[str, int]:
        """Words that are in no name but akin to a word of one variable, with that variable."""
        found: dict[str, int] = {}
        for group in akin_groups():
            nodes = set().union(*(self._having.get(stem, ()) for stem in group))
            if len(nodes) == 1:
                for stem in group - self._having.keys():
                    found[stem] = -1 if found.get(stem, min(nodes)) != min(nodes) else min(nodes)
        return {stem: node for stem, node in found.items() if node >= 0}

    def items(self, clause: str) -> list[Item]:
        """What a clause mentions, in its order; fillers are left out.

        A run of words that fits several variables, none exactly, counts as words. What is only
        akin to a name, or a part of one, does not count beside a name that is whole. "Not" turns
        the state that follows round, and says little of a name: "not employed".
        """
        found: list[Item] = []
        owners: set[int] = set()  # places of possessives, "the plant's"
        run: list[str] = []
        no = False

        def flush() -> None:
            if run:
                node = self._resolve(run)
                if node is None:
                    found.append(Item("word", " ".join(run)))
                else:
                    weak = frozenset(run) not in self.variants[node]
                    found.append(Item("node", node, weak=weak))
                run.clear()

        for word in words_of(clause):
            stem = self._known(word)
            state, of = self._state(word, stem)
            if word in _NOT or word.endswith("n't"):
                flush()
                no = True
            elif state:
                flush()
                found.append(Item("state", state if not no else _OTHER[state], of))
                no = False
            elif stem in self._having or (stem in self._akin and not run and not is_filler(word)):
                if run and not self._nodes([*run, stem]):
                    if stem == "health":
                        continue  # "respiratory health" where the text has health as well
                    flush()
                if no:
                    found.append(Item("state", LOW))
                    no = False
                if stem in self._having:
                    run.append(stem)
                else:
                    found.append(Item("node", self._akin[stem], weak=True))
                if word.endswith(("'s", "s'")) and not no:
                    flush()
                    owners.add(len(found) - 1)
            elif not is_filler(word) or word in JOINING:
                flush()
                found.append(Item("word", word))
                no = no and word in JOINING
        flush()
        return self._with_epithets(_with_owned(_without_needless(found, owners)))

    def unknown(self, clause: str) -> list[str]:
        """The stems of a clause's words that are neither of a name nor common."""
        stems = dict.fromkeys(
            stem_of(word)
            for word in words_of(clause)
            if state_of(word) is None and not is_filler(word)
        )
        known = (*self._having, *self._akin, *self._guessed)
        return [stem for stem in stems if stem not in known and stem not in common_stems()]

    def _state(self, word: str, stem: str) -> tuple[str | None, int | None]:
        """The state that a word says, and the variable that is part of the word: "unemployed" where
        employment is one, "inefficient" and "efficient" where efficiency is."""
        if stem in self._guessed:
            return self._guessed[stem]
        state = state_of(word)
        if state and stem in self._having:
            return state, _single(self._having[stem])
        for prefix in NEGATIONS:
            nodes = self._having.get(stem_of(word.removeprefix(prefix)), ())
            if word.startswith(prefix) and len(nodes) == 1 and state != HIGH:
                return LOW, _single(nodes)
        return state, None

    def _known(self, word: str) -> str:
        """A word's stem, or the one of a name that it is a compound or a derivation of.

        "beachgoers" where the beach is named, "competence" where being competent is.
        """
        stem = stem_of(word)
        if stem in self._having or stem in self._akin or len(word) < 7:
            return stem
        if state_of(word) or is_filler(word) or stem in common_stems():
            return stem
        return next((s for s in self._having if _derived(stem, s) or _compound(word, s)), stem)

    def _with_epithets(self, items: list[Item]) -> list[Item]:
        """The items; a state right before a name that it is part of, in some phrase, is marked."""
        for i, (item, after) in enumerate(zip(items, items[1:], strict=False)):
            if (item.kind, after.kind) != ("state", "node"):
                continue
            if item.value in self._epithets[after.value]:
                items[i] = Item("epithet", item.value)
        return items

    def name(self, node: int) -> str:
        return self._names[node]

    def nodes(self, clause: str) -> list[int]:
        return [value for kind, value, *_ in self.items(clause) if kind == "node"]

    def states(self, clause: str) -> list[str]:
        items = self.items(clause)
        found = [value for kind, value, *_ in items if kind == "state"]
        return found or [value for kind, value, *_ in items if kind == "epithet"]

    def events(self, clause: str) -> Named:
        """The (variable, state) pairs of a clause. Raises Unread where one lacks the other.

        "a and b are low", "low a and high b", "a is low and b high", "does not study". A variable
        that lacks a state does not count if it is not named in full: "farms with low rainfall".
        """
        items = self.items(clause)
        if (found := _paired(items)) is None:
            weak = [i for i, item in enumerate(items) if item.weak]
            ways = {_paired([*items[:i], *items[i + 1 :]]) for i in weak} - {None}
            if len(ways) != 1:
                raise Unread(f"not every variable has one state in {clause[:80]!r}")
            (found,) = ways
        return found

    def affirmed(self, clause: str) -> Named:
        """As `events`, but variables of which no state is told are affirmed: "being employed"."""
        nodes = self.nodes(clause)
        if nodes and not self.states(clause) and not negated(clause):
            return tuple((node, HIGH) for node in dict.fromkeys(nodes))
        return self.events(clause)

    def _nodes(self, run: list[str]) -> set[int]:
        return set.intersection(*(self._having[stem] for stem in run))

    def _resolve(self, run: list[str]) -> int | None:
        nodes = self._nodes(run)
        if len(nodes) > 1:
            nodes = {node for node in nodes if frozenset(run) in self.variants[node]}
        return nodes.pop() if len(nodes) == 1 else None


def _paired(items: list[Item]) -> Named | None:
    """The (variable, state) pairs of a clause's items; None where one lacks the other."""
    pairs: list[tuple[int, str]] = []
    waiting: list[int] = []  # variables without a state so far
    affirmed: set[int] = set()  # of these, the ones that follow "is", as adjectives do
    state: str | None = None  # a state without its variable so far
    tentative = loose = False  # the last pair's state, the state at hand: part of the name?
    for i, (kind, value, *_) in enumerate(items):
        last_kind = items[i - 1].kind if i else ""
        before_node = i + 1 < len(items) and items[i + 1].kind == "node"
        if kind == "node" and state is not None:
            pairs.append((value, state))
            state, tentative, loose = None, loose, False
        elif kind == "node":
            if pairs and pairs[-1][0] == value and not waiting:
                continue  # named again
            if last_kind == "word" and items[i - 1].value in BEING:
                affirmed.add(value)  # "who are happy"
            waiting.append(value)
            tentative = False
        elif kind == "epithet":
            if state is None:
                state, loose = value, True
        elif kind == "state" and tentative and not waiting and not before_node:
            pairs[-1] = (pairs[-1][0], value)
            tentative = False
        elif kind == "state" and waiting:
            pairs += [(node, value) for node in waiting]
            waiting = []
        elif kind == "state":
            if last_kind == "state" and state is None and pairs and pairs[-1][1] == value:
                continue  # "widely available"
            if state is not None and state != value and not loose:
                return None
            state, loose = value, False
        elif value in ("and", "with", "but", "while"):
            tentative = False
    if waiting and affirmed >= set(waiting):
        pairs += [(node, HIGH) for node in waiting]
        waiting = []
    if waiting or state is not None or not pairs or len(dict(pairs)) < len(set(pairs)):
        return None
    return tuple(dict.fromkeys(pairs))


def _compound(word: str, stem: str) -> bool:
    return len(stem) > 4 and word.startswith(stem)


def _derived(stem: str, other: str) -> bool:
    """Whether two stems share all but their ends, and at least six letters."""
    common = os.path.commonprefix((stem, other))
    return len(common) >= max(6, 0.75 * max(len(stem), len(other)))


def _single(nodes: Iterable[int]) -> int | None:
    """The one node, if there is one."""
    first, *others = nodes
    return None if others else first


def _with_owned(items: list[Item]) -> list[Item]:
    """The items; a state beside no variable is followed by the one that is part of its word."""
    found: list[Item] = []
    for i, item in enumerate(items):
        found.append(item)
        near = [j for j in (i - 1, i + 1) if 0 <= j < len(items)]
        near += [i - 2] if i > 1 and items[i - 1].value in BEING else []
        if item.of is not None and not any(items[j].kind == "node" for j in near):
            found.append(Item("node", item.of))
    return found


def _without_needless(items: list[Item], owners: set[int]) -> list[Item]:
    """The items without owners of the next one, and without weak ones beside a name that is not."""

    def is_node(i: int) -> bool:
        return 0 <= i < len(items) and items[i].kind == "node"

    needless = {i for i in owners if is_node(i) and is_node(i + 1)}
    weak = {i for i, item in enumerate(items) if item.weak}
    kept = {i for i in range(len(items)) if is_node(i)} - weak - needless
    needless |= {i for i in weak if i - 1 in kept or i + 1 in kept}
    return [item for i, item in enumerate(items) if i not in needless]


def negated(clause: str) -> bool:
    return re.search(r"\b(?:not|no|never|without)\b|n't\b", clause, re.I) is not None
