"""Words and their stems: what makes two phrases name one variable."""

from __future__ import annotations

import functools
import re

from caugym_jax.causal.reworded.lexicon import AKIN, COMMON, FILLER, LAST_RESORT, SAME
from caugym_jax.causal.reworded.states import state_of

_SUFFIXES = tuple(
    """
    ational ations ation ional ions ion ments ment ances ance ings ing ities ity ies ness
    ally ical al ly ive ous ful able ed es s e y ic
    """.split()  # noqa: SIM905
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+|'(?= ))*")


def stems(phrase: str) -> frozenset[str]:
    """The stems of a phrase's content words; they make the variable."""
    words = [word for word in words_of(phrase) if state_of(word) is None]
    found = frozenset(stem_of(word) for word in words if not is_filler(word))
    if found:
        return found
    words = words_of(phrase)
    return frozenset(stem_of(w) for w in words if not is_filler(w)) or frozenset(
        stem_of(w) for w in words if w in LAST_RESORT
    )


def words_of(phrase: str) -> list[str]:
    """The words in small letters; hyphens part them, but for well-being."""
    phrase = re.sub(r"\bwell[- ]being", "wellbeing", phrase.casefold())
    phrase = phrase.replace("neither ", "not ").replace(" nor ", " and not ")
    phrase = re.sub(r"\bas well\b", "and", phrase.replace("or not", ""))
    phrase = phrase.replace("physical activity", "exercise").replace("on time", "punctual")
    phrase = re.sub(r"\b(?:a lot|lots)\b", "plenty", phrase)
    phrase = re.sub(r"(?<=k |b |l |g |t )experience\b", "expertise", phrase)  # work experience
    phrase = re.sub(r"\bresult(?:s|ed|ing)? in\b|\byields?(?= (?:an?|the) )", "make", phrase)
    return _WORD.findall(phrase)


@functools.cache
def stem_of(word: str) -> str:
    """A word without its endings; the first word of its class where it has synonyms."""
    stem = _cut(word)
    return _classes().get(stem, stem)


def _cut(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("'")
    while suffix := next((s for s in _SUFFIXES if len(word) - len(s) > 3 and word.endswith(s)), ""):
        word = word.removesuffix(suffix)
    return word


@functools.cache
def _classes() -> dict[str, str]:
    lines = [[_cut(word) for word in line.split()] for line in SAME.strip().splitlines()]
    return {word: line[0] for line in lines for word in line}


@functools.cache
def _classed() -> frozenset[str]:
    return frozenset(SAME.split())


@functools.cache
def akin_groups() -> tuple[frozenset[str], ...]:
    return tuple(frozenset(map(stem_of, line.split())) for line in AKIN.strip().splitlines())


@functools.cache
def akin(stem: str) -> frozenset[str]:
    """The stems akin to one."""
    return frozenset().union(*(group for group in akin_groups() if stem in group))


@functools.cache
def is_filler(word: str) -> bool:
    return word in FILLER or (_cut(word) in _filler_stems() and word not in _classed())


@functools.cache
def common_stems() -> frozenset[str]:
    return frozenset(map(stem_of, COMMON))


@functools.cache
def _filler_stems() -> frozenset[str]:
    return frozenset(map(_cut, FILLER))
