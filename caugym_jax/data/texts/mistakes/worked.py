"""Wrong solutions in the style of `worked`: what a small decoder must learn not to write.

A mistake of a known kind is put into the right worked solution, and everything behind it follows
from it, up to a final answer that is wrong: its number is off by TOLERANCE or more, or its verdict
is wrong.

    sign_flip         subtracts the other way round
    arithmetic_slip   one column is wrong: a digit, or a borrow that is forgotten
    misread_number    one digit of a printed probability is copied wrongly
    wrong_verdict     the number is right, the verdict is not
    false_zero        claims that the graph makes the effect zero
    invented_number   subtracts probabilities that nobody gave (where the effect is zero)
    no_work           only states an answer, and a wrong one
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from decimal import Decimal

from caugym_jax.causal.engine.answers import DEAD_ZONE, TOLERANCE, labelled, verdict
from caugym_jax.data.texts.worked import (
    ANSWER,
    ANSWER_END,
    ANSWER_PROB,
    FIRST_MINUS_SECOND,
    PLACES,
    SECOND_MINUS_FIRST,
    Difference,
    columns,
    difference_of,
    effect_of,
    format_columns,
    minuend,
    no_effect,
    work,
)
from caugym_jax.errors import UserError
from caugym_jax.types import Problem

ATTEMPTS = 100
_UNIT = 10**PLACES


def mistaken_work(
    problem: Problem, rng: random.Random, kinds: Sequence[str] | None = None
) -> tuple[str, str]:
    """(kind, text): a wrong worked solution of a problem that `work` solves.

    Args:
      problem: what `work` solves.
      rng: decides the kind, evenly among those that apply, and the details.
      kinds: of WORK_KINDS; None: all of them.

    Raises:
      UserError: `work` does not solve the problem, or none of the kinds applies to it.
    """
    right, parts = work(problem), difference_of(problem)
    order = list(WORK_KINDS if kinds is None else kinds)
    rng.shuffle(order)
    for kind in order:
        for _ in range(ATTEMPTS):
            text = _WRITERS[kind](problem, parts, rng)
            if text is None:
                break
            if _is_wrong(text, right, problem):
                return kind, text
    raise UserError(f"no mistake of the kinds {', '.join(order)} fits this {problem.task} problem")


def _is_wrong(text: str, right: str, problem: Problem) -> bool:
    """Whether the answer differs from both the worked and the labelled one."""
    said, worked_out = effect_of(text), effect_of(right)
    number, truth = Decimal(said["PROB"]), Decimal(worked_out["PROB"])
    label = truth if problem.lacks else labelled(problem)
    if min(abs(number - truth), abs(number - label)) >= TOLERANCE:
        return True
    matters = min(abs(truth), abs(label)) >= DEAD_ZONE
    return matters and said["ANSWER"] != worked_out["ANSWER"]


# The kinds: each a text, or None where the mistake does not apply -------------------------------


def _sign_flip(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    if parts is None:
        return None
    other = parts.second_given if parts.asked == parts.first_given else parts.first_given
    return parts._replace(asked=other).text


def _misread_number(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    if parts is None:
        return None
    if rng.choice(("first", "second")) == "first":
        return parts._replace(first=_one_digit_off(parts.first, rng)).text
    return parts._replace(second=_one_digit_off(parts.second, rng)).text


def _arithmetic_slip(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    """One column of the side that the answer is read from forgets a borrow or has a wrong digit."""
    if parts is None:
        return None
    smaller, larger = sorted((parts.first, parts.second))
    read = [(digit, borrow) for digit, borrow, _, _ in columns(larger, smaller)]
    forgetful = [i for i in range(1, PLACES) if read[i - 1][1]]
    if forgetful and rng.random() < 0.5:
        place = rng.choice(forgetful)
        above = columns(larger // 10**place, smaller // 10**place, PLACES - place)
        read[place:] = [(digit, borrow) for digit, borrow, _, _ in above]
    else:
        place = rng.randrange(PLACES)
        digit, borrow = read[place]
        read[place] = (digit + rng.randrange(1, 10)) % 10, borrow
    cells = [
        (*side, *cell[2:]) if parts.first == larger else (*cell[:2], *side)
        for side, cell in zip(read, columns(parts.first, parts.second), strict=True)
    ]
    size = sum(digit * 10**i for i, (digit, _) in enumerate(read))
    effect = size if parts.effect >= 0 else -size
    order = FIRST_MINUS_SECOND if parts.asked == parts.first_given else SECOND_MINUS_FIRST
    opening = parts.text.partition(order)[0]
    return f"{opening}{order}{format_columns(cells)}.{_object(parts.task, effect)}"


def _wrong_verdict(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    if parts is None:
        return None
    right = effect_of(parts.text)["ANSWER"]
    wrong = "No" if right == "Yes" else "Yes"
    return parts.text.replace(f"{ANSWER}{right}", f"{ANSWER}{wrong}")


def _false_zero(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    return None if parts is None else f"{no_effect(problem.task)}{_object(problem.task, 0, '0')}"


def _invented_number(problem: Problem, parts: Difference | None, rng: random.Random) -> str | None:
    if parts is not None:
        return None
    states = _states(problem)
    given, other = rng.sample(states, 2)
    numbers = rng.randrange(_UNIT), rng.randrange(_UNIT)
    return Difference(problem.task, numbers[0], given, numbers[1], other, states[0]).text


def _no_work(problem: Problem, parts: Difference | None, rng: random.Random) -> str:
    """A bare answer: the wrong sign, one wrong digit, or a number from nowhere."""
    effect = 0 if parts is None else parts.effect
    near = _one_digit_off(abs(effect), rng) * (-1 if effect < 0 else 1)
    said = rng.choice((-effect, near, rng.randrange(1 - _UNIT, _UNIT)))
    return _object(problem.task, said).removeprefix("\n")


_WRITERS: dict[str, Callable[[Problem, Difference | None, random.Random], str | None]] = {
    "sign_flip": _sign_flip,
    "arithmetic_slip": _arithmetic_slip,
    "misread_number": _misread_number,
    "wrong_verdict": _wrong_verdict,
    "false_zero": _false_zero,
    "invented_number": _invented_number,
    "no_work": _no_work,
}
WORK_KINDS = tuple(_WRITERS)


def _one_digit_off(number: int, rng: random.Random) -> int:
    """A number of PLACES digits that differs in one of them."""
    unit = 10 ** rng.randrange(PLACES)
    digit = number // unit % 10
    return number + (rng.choice([d for d in range(10) if d != digit]) - digit) * unit


def _states(problem: Problem) -> tuple[str, str]:
    """The treatment's (minuend, other) states."""
    story = problem.story
    assert story is not None  # `work` reads no other
    query = story.query
    states, first = story.states[query.x], minuend(query)
    return states[first], states[1 - first]


def _object(task: str, effect: int, number: str | None = None) -> str:
    """The answer object on a line of its own; `effect` in units of 10^-PLACES."""
    number = number or f"{'-' if effect < 0 else ''}0.{abs(effect):0{PLACES}d}"
    said = verdict(task, effect)
    return f"{ANSWER.removeprefix('.')}{said}{ANSWER_PROB}{number}{ANSWER_END}"
