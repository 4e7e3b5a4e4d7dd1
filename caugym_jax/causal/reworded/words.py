"""Words: stems that make a variable, words that say little or much of one."""

from __future__ import annotations

import re
from typing import NamedTuple

from caugym_jax.causal.vocabulary import Named, Unread

LOW, HIGH = "low", "high"


def _list(text: str) -> list[str]:
    return text.split()


# Words that say which variable is meant no better than leaving them out.
_FILLER = frozenset(
    _list(
        """
        a an the of in on to for with by at from and or both their its his her your this that
        these those it level amount quantity degree state status overall general total
        individual person people subject one someone who whose which is are be being been was
        were value current currently same quality condition rate extent volume outcome observed
        given any also receive received get gets certain variable factor either each such as
        whether if how has have attainment content function functioning system student pattern
        reading measurement experiencing
        """
    )
)
# Of these, the ones that name a variable where nothing else does.
_LAST_RESORT = frozenset(("quality", "condition", "status"))
# Dropped where the phrase says more: "exam results" and "exam performance" are one variable.
_WEAK = frozenset(("perform", "result", "achiev", "attain", "succ", "productiv"))
_SYNONYMS = {  # by stem; also the misspellings of the released names
    "earn": "incom",
    "atmospher": "air",
    "accessibil": "availabil",
    "wellb": "health",
    "school": "educ",
    "rainfall": "rain",
    "rainfull": "rain",
    "precipit": "rain",
    "wheather": "weather",
    "apear": "appear",
    "vehicul": "car",
    "vehicl": "car",
    "automobil": "car",
    "transit": "transport",
    "happi": "happ",
    "predict": "forecast",
}
_SUFFIXES = tuple(
    _list(
        """
        ational ations ation ional ions ion ments ment ances ance ings ing ities ity ies ness
        ally al ly ed es s e y ic
        """
    )
)
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
_LITTLE = frozenset(
    _list(
        """
        low lower poor bad weak limited scarce minimal little insufficient small few fewer cold
        worsened unavailable inaccessible inclement minimally poorly irregularly unhealthily
        insufficiently unhealthy inadequate unfavorable reduced decreased diminished negative
        ineffective inefficient unreliable deficient lacking sparse short slow light young
        substandard subpar worse rare shallow unsuccessful irregular inaccurate narrow thin dim
        infrequent unfavourable adverse unsatisfactory inferior meager
        """
    )
)
_MUCH = frozenset(
    _list(
        """
        high higher good available accessible optimal extensively amply regularly healthily
        sufficiently adequately strong abundant substantial ample adequate large many hot
        healthy favorable elevated increased positive effective efficient reliable sufficient
        excellent extensive robust heavy long fast old warm improved productive rich plentiful
        successful regular accurate better outstanding greater dense wide frequent favourable
        considerable significant great satisfactory superior
        """
    )
)


class Item(NamedTuple):
    """One meaningful word or run of words of a clause."""

    kind: str  # "node", "state" or "word"
    value: int | str  # the variable; LOW or HIGH; the word


class Words:
    """Finds the variables of a graph, and their states, in clauses."""

    def __init__(self, cores: list[frozenset[str]]) -> None:
        self.cores = cores  # by variable: its stems
        self._having: dict[str, set[int]] = {}
        for node, core in enumerate(cores):
            for stem in core:
                self._having.setdefault(stem, set()).add(node)

    def items(self, clause: str) -> list[Item]:
        """What a clause mentions, in its order; fillers are left out.

        A run of words that fits several variables, none exactly, counts as words.
        """
        found: list[Item] = []
        run: list[str] = []

        def flush() -> None:
            if run:
                node = self._resolve(run)
                found.append(Item("word", " ".join(run)) if node is None else Item("node", node))
                run.clear()

        for word in _WORD.findall(clause.casefold()):
            stem = _stem(word)
            if stem in self._having:
                if run and not self._nodes([*run, stem]):
                    if stem == "health":
                        continue  # "respiratory health" where the text has health as well
                    flush()
                run.append(stem)
            elif word in _LITTLE or word in _MUCH:
                flush()
                found.append(Item("state", LOW if word in _LITTLE else HIGH))
            elif not _is_filler(word) or word in ("and", "is", "are", "being", "was", "were"):
                flush()
                found.append(Item("word", word))
        flush()
        return found

    def nodes(self, clause: str) -> list[int]:
        return [value for kind, value in self.items(clause) if kind == "node"]

    def states(self, clause: str) -> list[str]:
        return [value for kind, value in self.items(clause) if kind == "state"]

    def events(self, clause: str) -> Named:
        """The (variable, state) pairs of a clause. Raises Unread where one lacks the other.

        "a and b are low", "low a and high b", "a is low and b high"
        """
        pairs: list[tuple[int, str]] = []
        waiting: list[int] = []  # variables without a state so far
        state: str | None = None  # a state without its variable so far
        for kind, value in self.items(clause):
            if kind == "node" and state is not None:
                pairs.append((value, state))
                state = None
            elif kind == "node":
                waiting.append(value)
            elif kind == "state" and waiting:
                pairs += [(node, value) for node in waiting]
                waiting = []
            elif kind == "state":
                if state is not None:
                    raise Unread(f"two states in a row in {clause[:80]!r}")
                state = value
        if waiting or state is not None or not pairs:
            raise Unread(f"a variable without a state, or a state without one, in {clause[:80]!r}")
        if len(dict(pairs)) < len(set(pairs)):
            raise Unread(f"one variable in two states in {clause[:80]!r}")
        return tuple(dict.fromkeys(pairs))

    def affirmed(self, clause: str) -> Named:
        """As `events`, but a single variable without a state is affirmed: "of being employed"."""
        nodes = self.nodes(clause)
        if len(nodes) == 1 and not self.states(clause) and not negated(clause):
            return ((nodes[0], HIGH),)
        return self.events(clause)

    def _nodes(self, run: list[str]) -> set[int]:
        return set.intersection(*(self._having[stem] for stem in run))

    def _resolve(self, run: list[str]) -> int | None:
        nodes = self._nodes(run)
        if len(nodes) > 1:
            nodes = {node for node in nodes if self.cores[node] == set(run)}
        return nodes.pop() if len(nodes) == 1 else None


def negated(clause: str) -> bool:
    return re.search(r"\b(?:not|no|never|without)\b|n't\b", clause, re.I) is not None


def stems(phrase: str) -> frozenset[str]:
    """The stems of a phrase's content words; they make the variable."""
    words = _WORD.findall(phrase.casefold())
    found = frozenset(_stem(word) for word in words if not _is_filler(word))
    return found - _WEAK or found or frozenset(_stem(w) for w in words if w in _LAST_RESORT)


def _stem(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("'").replace("-", "")
    while suffix := next((s for s in _SUFFIXES if len(word) - len(s) > 3 and word.endswith(s)), ""):
        word = word.removesuffix(suffix)
    return _SYNONYMS.get(word, word)


def _is_filler(word: str) -> bool:
    return word in _FILLER or _stem(word) in _FILLER_STEMS


_FILLER_STEMS = frozenset(map(_stem, _FILLER))
