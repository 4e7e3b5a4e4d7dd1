"""What a half of the grammar holds, and the slots of its sentences.

Every sentence is a template with slots in braces; a slot's name says what fills it:

    cause effect middle        one variable         causes effects    two or more of them
    given target other held    events, as a clause ("_c": rain is low) or as a noun ("_n": rain
                               being low), in one of the half's own ways
    p q                        probabilities
    x y                        the variables of the question
    to away asked other_state  state words: X as set and as it was, Y as asked and as it was
    bound task quantity        which bound; ATE ...; average treatment effect ...
    form                       the JSON object that the answer looks like
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from caugym_jax.types import TASKS

Templates = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Half:
    """One of two sets of wordings that share no template."""

    headers: Templates  # what world it is
    edges: Templates  # cause, effect
    fan_outs: Templates  # cause, effects
    fan_ins: Templates  # causes, effect
    chains: Templates  # cause, middle, effect
    joiners: Templates  # between two sentences about edges that become one
    intros: Templates  # before the probabilities; may be left out
    conditionals: Templates  # given, target, p
    pairs: Templates  # given, target, p, other, q: one target under two conditions
    marginals: Templates  # target (one event), p
    joints: Templates  # target (several events), p
    clauses: Templates  # name, state: an event as a clause
    nouns: Templates  # name, state: an event as a noun
    instructions: Templates  # quantity, task, x, y; may be left out
    labels: Templates  # before the question; may be left out
    questions: Mapping[str, Templates]  # by task
    bounds: Mapping[str, Templates]  # "lower", "upper"
    formats: Templates  # form: a verdict and a number
    bound_formats: Templates  # form: a number

    def slots(self) -> Iterator[tuple[str, Templates]]:
        """Every set of templates with what it is for."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                yield from ((f"{field.name} {key}", templates) for key, templates in value.items())
            else:
                yield field.name, value


FORM = '{"ANSWER": "Yes", "PROB": "0.1234"}'
BOUND_FORM = '{"PROB": "0.1234"}'
SLOT = re.compile(r"\{(\w+)\}")

# Where names are known they are read as one character each: that of their node.
FIRST_MARK, LAST_MARK = "\ue000", "\uf8ff"
NAME = f"[{FIRST_MARK}-{LAST_MARK}]"
_STATE = f"[^{FIRST_MARK}-{LAST_MARK}]+?"
_PATTERNS = {
    **dict.fromkeys(("cause", "effect", "middle"), rf"(?:{NAME}|[\w'/ -]+?)"),
    **dict.fromkeys(("causes", "effects"), rf"(?:{NAME}|[\w'/, -])+?"),
    **dict.fromkeys(("x", "y", "name"), NAME),
    **dict.fromkeys(("to", "away", "asked", "other_state", "state"), _STATE),
    **dict.fromkeys(("p", "q"), r"[-+]?\d+(?:\.\d+)?%?"),
    "task": "|".join(TASKS),
    "quantity": "[a-z ]+",
}


class Match(NamedTuple):
    """A sentence as a template and what fills its slots."""

    template: str
    slots: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Matcher:
    """A template turned round: from a sentence to what fills its slots."""

    template: str
    mark: str  # its longest literal: a sentence without it does not match

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled on first use: there are hundreds of templates."""
        return re.compile(_pattern(self.template))

    def match(self, sentence: str) -> Match | None:
        found = self.pattern.fullmatch(sentence) if self.mark in sentence else None
        return Match(self.template, found.groupdict()) if found else None


@functools.cache
def matchers(templates: Templates) -> tuple[Matcher, ...]:
    """Matchers, the most specific (most literal) template first."""
    ordered = sorted(templates, key=lambda t: -len(SLOT.sub("", t)))
    return tuple(Matcher(t, max(SLOT.split(t)[::2], key=len)) for t in ordered)


def _pattern(template: str) -> str:
    seen: set[str] = set()
    pieces = []
    for i, piece in enumerate(SLOT.split(template)):
        if i % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece in seen:
            pieces.append(f"(?P={piece})")
        else:
            seen.add(piece)
            pieces.append(f"(?P<{piece}>{_PATTERNS.get(piece, '.+?')})")
    return "".join(pieces)
