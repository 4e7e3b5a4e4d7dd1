"""Right or wrong, by two rules: the released scripts' (published) and ours (strict).

Report both. `published` exists to compare with published figures: it accepts a right number
anywhere in the text, thinking included, next to any number of wrong ones, and on insufficient
items the bare occurrence of LACK_CONDITION. `strict` is what headline claims use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from caugym_jax.causal.engine.answers import TOLERANCE
from caugym_jax.rewards.answer import expected, extract, is_right
from caugym_jax.types import LACK, Problem

SCORER_VERSION = "4"  # of both rules; raised whenever a grade changes

# `{"ANSWER":` or `{"PROB":`, white space anywhere. Linear: a run of it holds no other brace.
_SPACE = r"\s*+"
_KEY = f"(?:{_SPACE.join('ANSWER')}|{_SPACE.join('PROB')})"
_OPENING = re.compile(_SPACE.join((r"\{", '"', _KEY, '"', ":")))


def published(text: str, problem: Problem) -> bool:
    """The released evaluation scripts' grade of a completion. Never raises; linear time.

    All white space is removed; each stretch from `{"ANSWER":` or `{"PROB":` to the next `}` is
    lower-cased and read as JSON; right if `float(value of "prob")` of any of them is within 0.0005
    of the label in binary floating point. ANSWER is ignored. Where the label is LACK_CONDITION:
    right if that string occurs anywhere.
    """
    truth = expected(problem).prob
    if truth is None:
        return LACK in text
    label = float(truth)
    return any(abs(label - value) < float(TOLERANCE) for value in published_numbers(text))


def published_numbers(text: str) -> Iterator[float]:
    """The numbers that the released scripts see in a text, in order; NaN and infinity included."""
    opening = _OPENING.search(text)
    while opening:
        end = text.find("}", opening.end()) + 1
        if not end:
            return
        value = _published_number(text[opening.start() : end])
        if value is not None:
            yield value
        opening = _OPENING.search(text, end)


def _published_number(span: str) -> float | None:
    """The number of one `{...}`; None where it is not JSON or float() does not read its prob."""
    try:
        # parse_int: the same value, without Python's limit on the digits of an int.
        value = json.loads("".join(span.split()).lower(), parse_int=float).get("prob")
        return float(value) if isinstance(value, str | float) else None
    except (ValueError, RecursionError):
        return None


def strict(text: str, problem: Problem, truncated: bool = False) -> bool:
    """The strict grade of a completion (the rule: `caugym_jax.rewards.answer`). Never raises.

    Every item is graded. Where no verdict is checked (PN, PS, unread items, questions without a
    direction) the number alone decides.
    """
    return is_right(extract(text, truncated), expected(problem))


class Grades(NamedTuple):
    """Whether a completion is right, by both rules."""

    strict: bool
    published: bool


def grade(answer: str, problem: Problem, truncated: bool = False) -> Grades:
    """Grades a model's whole completion, reasoning included. Never raises."""
    return Grades(strict(answer, problem, truncated), published(answer, problem))
