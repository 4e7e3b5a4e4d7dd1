"""The tokens of a worked solution, and what they have in common.

A number is four decimals, written as two tokens: "0.58", "14". A digit that takes part in a
calculation is one token that says the operand (a, b: the numbers as printed; d, e, g, h, n: results
of steps; m: a product's row; v: the answer), the place (1 to 4: decimals; 0: what stands before
the point, and the sign) and the digit. `*` marks a borrow or a carry to the next place.

Each token carries features, (kind, value) pairs: tokens that share one start training with a
shared part of their embedding (`models/shared_rows.py`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

MAX_ITEMS = 16  # printed numbers that a text may have
PLACES = (4, 3, 2, 1)  # of decimals, in the order of a calculation
DECIMALS = len(PLACES)

# Formulas: the conditions they cite, in this order. The question sets X to x+ (x- is the other
# value) and asks about Y = y (y' is the other value); z is the adjuster, m the mediator.
FORMULAS = {
    "difference": "y|x+ y|x-",
    "difference (ETT)": "y|x- y|x+",
    "over Z": "y|x+,z0 y|x-,z0 z0 y|x+,z1 y|x-,z1",
    "over M": "y|x+,m0 y|x-,m0 m0|x- y|x+,m1 y|x-,m1",
    "over Z (ETT)": "y|x- y|x+,z0 z0|x- y|x+,z1",
    "direct, over M and Z": (
        "z0 y|x+,m0,z0 y|x-,m0,z0 m0|x-,z0 y|x+,m1,z0 y|x-,m1,z0 "
        "y|x+,m0,z1 y|x-,m0,z1 m0|x-,z1 y|x+,m1,z1 y|x-,m1,z1"
    ),
    "indirect, over M": "y|x-,m0 m0|x+ m0|x- y|x-,m1",
    "indirect, over M and Z": (
        "z0 y|x-,m0,z0 m0|x+,z0 m0|x-,z0 y|x-,m1,z0 y|x-,m0,z1 m0|x+,z1 m0|x-,z1 y|x-,m1,z1"
    ),
    "upper bound": "y|x+ y,x+ y',x-",
    "lower bound": "y'|x+ y' y',x-",
    "upper bound, over Z": "y|x+,z0 z0 y|x+,z1 y,x+ y',x-",
    "lower bound, over Z": "y'|x+,z0 z0 y'|x+,z1 y' y',x-",
}
# What texts print beside what a formula cites: the other value of an adjuster.
BESIDE = {
    "over Z": "z1",
    "over Z (ETT)": "z1|x-",
    "upper bound, over Z": "z1",
    "lower bound, over Z": "z1",
}
# A task's formulas, the simplest first; PN and PS by their bound.
FORMULAS_OF = {
    "ATE": ("difference", "over Z"),
    "CDE": ("difference", "over Z"),
    "ETT": ("difference (ETT)", "over Z (ETT)"),
    "NDE": ("difference", "over Z", "over M", "direct, over M and Z"),
    "NIE": ("indirect, over M", "indirect, over M and Z"),
    "upper": ("upper bound", "upper bound, over Z"),
    "lower": ("lower bound", "lower bound, over Z"),
}
ZERO, LACKING = "zero", "lacking"
IDLE = "o"  # the condition of a number that the formula does not need
SUMS = ("D", "G", "E", "M", "H", "N")  # results of additions and subtractions


def condition(role: str, x: int, y: int) -> str:
    """A role with the states of the question put in, e.g. y|x-,z0 -> y0|x1,z0 (x 0, y 0)."""
    role = role.replace("y'", f"Y{1 - y}").replace("y", f"Y{y}")
    return role.replace("x+", f"x{x}").replace("x-", f"x{1 - x}").lower()


@functools.lru_cache(maxsize=256)
def cited(formula: str, x: int, y: int) -> tuple[str, ...]:
    """The conditions that a formula cites."""
    return tuple(condition(role, x, y) for role in FORMULAS[formula].split())


@functools.lru_cache(maxsize=256)
def printed(formula: str, x: int, y: int) -> frozenset[str]:
    """The conditions that a text prints for a formula."""
    beside = BESIDE.get(formula, "").split()
    return frozenset(cited(formula, x, y)) | {condition(role, x, y) for role in beside}


def high(number: int) -> str:
    """The first half of a number in units of 0.0001."""
    return f"{number // 10_000}.{number // 100 % 100:02d}"


def low(number: int) -> str:
    return f"{number % 100:02d}"


def item(k: int) -> str:
    return f" {k})"


def tag(k: int) -> str:
    return f" #{k}="


def role(condition: str) -> str:
    return f" {condition}:"


def form(formula: str) -> str:
    return f" => {formula}"


def step(name: str) -> str:
    """The head of a step, on a line of its own."""
    return f"\n{name}:"


def digit(operand: str, place: int, value: int) -> str:
    return f" {operand}{place}.{value}"


def result(name: str, place: int, value: int, mark: int) -> str:
    return f" {name.lower()}{place}.{value}{'*' * mark}"


def top(name: str, value: int) -> str:
    """What stands before the point: -2 to 1, two's-complement style (-1: the number minus one)."""
    return f" {name.lower()}0.{value:+d}"


def answer_digit(place: int, value: int, mark: int, negated: int) -> str:
    """A digit of the answer and the one it would be if the answer is below 0."""
    return f" v{place}.{value}{'*' * mark}|{negated}"


def multiply_add(place: int, value: int) -> str:
    return f" m{place}.{value:02d}"


def multiply_top(value: int) -> str:
    return f" m0.{value:+d}"


def times(place: int, value: int) -> str:
    """The head of a product's row: the multiplier's digit at a place."""
    return f"\nx{place}.{value}:"


def quotient(place: int, value: int) -> str:
    return f"\nq{place}.{value}:"


def back(place: int, value: int) -> str:
    """The head of a row that adds the divisor back; value: the digit that is then right."""
    return f"\nb{place}.{value}:"


HEADER_X = ("X=0", "X=1")
HEADER_Y = (" Y=0", " Y=1")
MISSING = " missing"
LACK_END = "\nLACK_CONDITION"
JSON_START = {
    (verdict, sign): f'\n{{"ANSWER": "{verdict}", "PROB": "{sign}'
    for verdict in ("Yes", "No")
    for sign in ("", "-")
}
JSON_BOUND = '\n{"PROB": "'
JSON_END = '"}'
JSON_ZERO = '\n{"ANSWER": "No", "PROB": "0"}'
JSON_ONE = '\n{"PROB": "1.0000"}'
JSON_NONE = '\n{"PROB": "0.0000"}'
OPERATIONS = (
    *("D", "G", "E", "M", "V", "N"),
    *("E=D-G", "E=H-G", "G=0", "-E", "H=G+", "G=G+", "V=G+", "N=G+", "*", "*M"),
)

Feature = tuple[str, object]


class Tokens(NamedTuple):
    """Each text that is one token, and its features."""

    features: dict[str, tuple[Feature, ...]]

    def add(self, text: str, *features: Feature) -> None:
        self.features.setdefault(text, features)


@functools.cache
def solution_tokens() -> dict[str, tuple[Feature, ...]]:
    """Every token that a solution may hold, in a fixed order, with its features."""
    tokens = Tokens({})
    _add_numbers(tokens)
    _add_list(tokens)
    _add_sums(tokens)
    _add_products(tokens)
    _add_answers(tokens)
    return tokens.features


def _add_numbers(tokens: Tokens) -> None:
    for n in range(101):
        one = (("one", 1),) * (n == 100)
        digits = ("place 1", n // 10 % 10), ("place 2", n % 10)
        tokens.add(high(100 * n), ("type", "high"), *digits, *one)
    for n in range(100):
        tokens.add(low(n), ("type", "low"), ("place 3", n // 10), ("place 4", n % 10))


def _add_list(tokens: Tokens) -> None:
    for value in (0, 1):
        tokens.add(HEADER_X[value], ("type", "header x"), (f"given x{value}", 1))
        tokens.add(HEADER_Y[value], ("type", "header y"), (f"target y{value}", 1))
    for k in range(1, MAX_ITEMS + 1):
        tokens.add(item(k), ("type", "item"), ("number", k))
        tokens.add(tag(k), ("number", k))
    states = [(x, y) for x in (0, 1) for y in (0, 1)]
    conditions = [c for f in FORMULAS for x, y in states for c in sorted(printed(f, x, y))]
    for name in (*dict.fromkeys(conditions), IDLE):
        tokens.add(role(name), ("type", "condition"), *_events(name))
    for formula in (*FORMULAS, ZERO, LACKING):
        tokens.add(form(formula), ("type", "formula"))
    tokens.add(MISSING, ("type", "missing"))
    tokens.add(LACK_END, ("type", "answer"))


def _events(name: str) -> list[Feature]:
    """ "y0|x1,z0" -> its target and given events, with and without their values."""
    target, _, given = name.partition("|")
    events = [("target", e) for e in target.split(",")]
    events += [("given", e) for e in given.split(",") if e]
    return [(f"{side} {part}", 1) for side, event in events for part in (event[0], event)]


def _add_sums(tokens: Tokens) -> None:
    for name in OPERATIONS:
        tokens.add(step(name), ("type", "step"))
    for operand in "ab":
        tokens.add(digit(operand, 0, 1), *_digit(operand, 0, 1))
        for place in PLACES:
            for value in range(10):
                tokens.add(digit(operand, place, value), *_digit(operand, place, value))
    for name in SUMS:
        for place in (5, *PLACES) if name == "N" else PLACES:
            for value in range(10):
                for mark in (0, 1):
                    features = *_digit(name, place, value), ("mark", mark)
                    tokens.add(result(name, place, value, mark), *features)
    for name in (*SUMS, "V"):
        for value in (-2, -1, 0, 1):
            tokens.add(top(name, value), ("type", "top"), ("operand", name), ("top", value))
    for place in PLACES:
        for value in range(10):
            for mark in (0, 1):
                for negated in sorted({(10 - value) % 10, 9 - value}):
                    features = *_digit("V", place, value), ("mark", mark), ("negated", negated)
                    tokens.add(answer_digit(place, value, mark, negated), *features)


def _digit(operand: str, place: int, value: int) -> tuple[Feature, ...]:
    return ("type", "digit"), ("operand", operand), ("place", place), ("digit", value)


def _add_products(tokens: Tokens) -> None:
    for place in PLACES:
        for value in range(100):
            digits = ("digit", value % 10), ("carry", value // 10)
            tokens.add(multiply_add(place, value), ("type", "row"), ("place", place), *digits)
    for value in range(-20, 20):
        top = ("digit", value % 10), ("tens", value // 10), ("below 0", int(value < 0))
        tokens.add(multiply_top(value), ("type", "row's top"), *top)
    for place in PLACES:
        for value in range(10):
            tokens.add(times(place, value), ("type", "times"), *_factor(place, value))
    for place in (0, *PLACES):
        for value in range(10):
            features = *_factor(place, value), ("quotient", value)
            tokens.add(quotient(place, value), ("type", "quotient"), *features)
    for place in (0, 1, 2, 3):
        for value in range(-1, 10):
            tokens.add(back(place, value), ("type", "back"), ("place", place), ("quotient", value))


def _factor(place: int, value: int) -> tuple[Feature, ...]:
    return ("place", place), ("factor", value)


def _add_answers(tokens: Tokens) -> None:
    for text in (*JSON_START.values(), JSON_BOUND, JSON_END):
        tokens.add(text, ("type", "json"))
    for text in (JSON_ZERO, JSON_ONE, JSON_NONE):
        tokens.add(text, ("type", "answer"))
