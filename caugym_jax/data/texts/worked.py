"""Worked arithmetic: a solution a very small decoder can learn to write, and a person can check.

For ATE, CDE and ETT without adjustment, and for NDE where nothing mediates either, the problem
prints two conditional probabilities and asks for their difference. The worked text cites both in
printed order, each with its condition, says which is subtracted from which, and then subtracts
*both ways* digit by digit from the right, marking every borrow with `*`. Nothing has to be guessed
before it is computed: exactly the direction whose last column borrows is the negative one, so that
sign and verdict follow from the last column.

    With the treatment being low the probability is 0.8445, with it being high the probability is
    0.9288. The effect is the first minus the second.
    Digits from the right, first - second | second - first, * marks a borrow:
    (7*|3)(5*|4)(1|8*)(9*|0).
    {"ANSWER": "No", "PROB": "-0.0843"}

Left of each bar is a digit of 0.8445 - 0.9288: its last column borrows, so it is negative and the
size is read on the right of the bars, 3 4 8 0 backwards.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from caugym_jax.causal.engine.answers import verdict
from caugym_jax.causal.engine.solving import solve
from caugym_jax.errors import UserError
from caugym_jax.types import Problem, Query, Term

PLACES = 4  # decimals of every printed probability

OPENING = "With the treatment"
AGAIN = ", with it"
IS = " the probability is 0."
_SUBTRACT = ".\nDigits from the right, first - second | second - first, * marks a borrow: "
FIRST_MINUS_SECOND = ". The effect is the first minus the second" + _SUBTRACT
SECOND_MINUS_FIRST = ". The effect is the second minus the first" + _SUBTRACT
NO_PATH = "No probability is needed: the treatment is not a cause of the outcome."
NO_EDGE = "No probability is needed: the treatment has no direct effect on the outcome."
ANSWER = '.\n{"ANSWER": "'
ANSWER_PROB = '", "PROB": "'
ANSWER_END = '"}'

TASKS = ("ATE", "CDE", "ETT", "NDE")


def columns(first: int, second: int, places: int = PLACES) -> list[tuple[int, bool, int, bool]]:
    """Subtracts `places`-digit integers both ways, least significant column first.

    Returns: per column (digit of first - second modulo 10, borrows, digit of second - first
    modulo 10, borrows). The last column's borrow is the sign: at most one direction borrows there.

    By hand: 12 - 30, two places: column 1: 2 - 0 = 2, no borrow | 0 - 2 = 8, borrow;
    column 2: 1 - 3 = 8, borrow | 3 - 1 - 1 = 1, no borrow. So first - second = -18.
    """
    out = []
    borrow_left = borrow_right = 0
    for _ in range(places):
        first, a = divmod(first, 10)
        second, b = divmod(second, 10)
        left, right = a - b - borrow_left, b - a - borrow_right
        borrow_left, borrow_right = int(left < 0), int(right < 0)
        out.append((left % 10, bool(borrow_left), right % 10, bool(borrow_right)))
    return out


def format_columns(cells: list[tuple[int, bool, int, bool]]) -> str:
    """`(7*|3)(5*|4)`: left digit, `*` where it borrows, right digit, `*` where it borrows."""
    return "".join(f"({a}{'*' * x}|{b}{'*' * y})" for a, x, b, y in cells)


def work_difference(
    task: str, first: str, first_given: str, second: str, second_given: str, asked: str
) -> str:
    """The worked text for two probabilities `0.dddd` given two values of the treatment.

    Args:
      first, second: decimal numbers in [0, 1) as printed, in printed order.
      first_given, second_given: the treatment's value in each sentence.
      asked: the value whose probability is the minuend: the named value, the actual one
        in ETT. Must be one of the two.
    """
    if asked not in (first_given, second_given) or first_given == second_given:
        raise UserError(
            f"the asked value {asked!r} must be exactly one of {first_given!r} and "
            f"{second_given!r}; give a problem in the official wording"
        )
    a, b = _digits(first), _digits(second)
    cells = columns(int(a), int(b))
    effect = (int(a) - int(b)) * (1 if asked == first_given else -1)
    order = FIRST_MINUS_SECOND if asked == first_given else SECOND_MINUS_FIRST
    sign = "-" if effect < 0 else ""
    return (
        f"{OPENING} being {first_given}{IS}{a}{AGAIN} being {second_given}{IS}{b}{order}"
        f"{format_columns(cells)}{ANSWER}{verdict(task, effect)}{ANSWER_PROB}"
        f"{sign}0.{abs(effect):0{PLACES}d}{ANSWER_END}"
    )


class Difference(NamedTuple):
    """What a worked solution subtracts; the probabilities in units of 10^-PLACES."""

    task: str
    first: int  # in printed order
    first_given: str  # the treatment's state in its condition
    second: int
    second_given: str
    asked: str  # the state whose probability is the minuend

    @property
    def effect(self) -> int:
        return (self.first - self.second) * (1 if self.asked == self.first_given else -1)

    @property
    def text(self) -> str:
        first, second = (f"0.{number:0{PLACES}d}" for number in (self.first, self.second))
        return work_difference(
            self.task, first, self.first_given, second, self.second_given, self.asked
        )


def work(problem: Problem) -> str:
    """The worked solution of an ATE, CDE, ETT or NDE problem. Raises as `difference_of`."""
    found = difference_of(problem)
    if found is not None:
        return found.text
    return f"{no_effect(problem.task)}{ANSWER[1:]}No{ANSWER_PROB}0{ANSWER_END}"


def difference_of(problem: Problem) -> Difference | None:
    """What a problem's worked solution subtracts; None where the graph makes the effect zero.

    Raises UserError where the answer is not the difference of two printed probabilities (another
    task, an adjustment, an NDE with a mediator), and where the problem is unread.
    """
    if problem.task not in TASKS:
        raise UserError(f"worked solutions cover {', '.join(TASKS)}, not {problem.task}")
    story = problem.story
    if story is None:
        raise UserError(f"no worked solution of an unread problem ({problem.unread})")
    solved = solve(story)
    if solved.query.zero:
        return None
    needed = [_events(term) for term, _ in solved.used]
    printed = [(term, number) for term, number in story.given if _events(term) in needed]
    if len(needed) != 2 or len(printed) != 2:
        raise UserError(
            f"{problem.task}: worked solutions need two printed probabilities and no adjustment, "
            f"this answer needs {len(needed)} of which {len(printed)} are printed"
        )
    query, states = story.query, story.states[story.query.x]
    (first, first_given), (second, second_given) = (
        (int(_digits(number)), states[dict(term.given)[query.x]]) for term, number in printed
    )
    asked = states[minuend(query)]
    return Difference(problem.task, first, first_given, second, second_given, asked)


def minuend(query: Query) -> int:
    """The treatment's value whose probability comes first: the named one, the actual one in ETT."""
    ((_, value),) = query.away if query.task == "ETT" else query.to
    return value


def _events(term: Term) -> tuple[frozenset, frozenset]:
    return frozenset(term.target), frozenset(term.given)


def no_effect(task: str) -> str:
    """Why the graph makes the effect zero."""
    return NO_EDGE if task in ("CDE", "NDE") else NO_PATH


def effect_of(solution: str) -> dict[str, str]:
    """The answer object a worked text ends with."""
    return json.loads(solution[solution.rindex("{") :])


def _digits(number: str) -> str:
    """The decimals of a probability below one, padded to PLACES."""
    whole, _, decimals = number.partition(".")
    if whole != "0" or len(decimals) > PLACES:
        raise UserError(f"worked digits need a probability 0.dddd below one, not {number}")
    return decimals.ljust(PLACES, "0")
