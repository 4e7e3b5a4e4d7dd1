"""Writes solutions: what was asked, the numbers with their conditions, the formula, the steps.

Every weighted sum is one product: p A + (1 - p) B = B + (A - B) p. Subtraction is ten's complement
and least significant digit first, with `*` for a borrow or a carry. A product is four rows of
five tokens, each digit x multiplier + what stood there + carry. A quotient guesses a digit, and a
rest below 0 is put right by a row that adds the divisor back.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from caugym_jax.data.solutions import notation as n

Digits = tuple[int, ...]  # what stands before the point, then four decimals


class Item(NamedTuple):
    """A printed number in units of 0.0001, and its condition."""

    condition: str
    number: int


def written(
    formula: str,
    items: Sequence[Item],
    x: int,
    y: int,
    rng: random.Random | None = None,
    missing: str | None = None,
) -> list[str]:
    """The tokens of a whole solution.

    formula: of n.FORMULAS, or n.ZERO.
    missing: the condition that the text lacks.
    rng: where given, quotient digits are guessed as a pupil would (see `Steps`).
    """
    tokens = [*listed(items, x, y), n.form(formula)]
    if missing is not None:
        return [*tokens, n.MISSING, n.role(missing), n.LACK_END]
    return [*tokens, *worked(formula, items, x, y, rng)]


def listed(items: Sequence[Item], x: int, y: int) -> list[str]:
    """What was asked, then every printed number in printed order."""
    tokens = [n.HEADER_X[x], n.HEADER_Y[y]]
    for k, (condition, number) in enumerate(items, 1):
        tokens += [n.item(k), n.role(condition), n.tag(k), n.high(number), n.low(number)]
    return tokens


def worked(
    formula: str, items: Sequence[Item], x: int, y: int, rng: random.Random | None = None
) -> list[str]:
    """The steps after the formula's name, up to the answer as JSON."""
    if formula == n.ZERO:
        return [n.JSON_ZERO]
    return calculated(formula, Steps(n.cited(formula, x, y), places(items), rng))


def places(items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """Of each condition its place in the list and its number."""
    return {item.condition: (k, item.number) for k, item in enumerate(items, 1)}


def calculated(formula: str, steps: Steps) -> list[str]:
    """The tokens of a formula's steps."""
    _FORMULAS[formula](steps)
    return steps.tokens


def digits(number: int) -> Digits:
    return number // 10_000, *(number // 10 ** (4 - place) % 10 for place in (1, 2, 3, 4))


def number(d: Digits) -> int:
    """The inverse of `digits`; what stands before the point may be negative."""
    return d[0] * 10_000 + d[1] * 1_000 + d[2] * 100 + d[3] * 10 + d[4]


class Steps:
    """A calculation as tokens. Operands are named by their place in the formula, from 1."""

    def __init__(
        self,
        conditions: Sequence[str],
        at: Mapping[str, tuple[int, int]],
        rng: random.Random | None = None,
    ) -> None:
        self.conditions = conditions
        self.at = at  # condition -> (place in the text, number)
        self.rng = rng
        self.tokens: list[str] = []

    def say(self, *tokens: str) -> None:
        self.tokens += tokens

    def found(self, result: int, size: int) -> int:
        """A result of one place, below `size`, as it is written down."""
        return result

    def cite(self, k: int) -> Digits:
        """An operand as it stands in the text: " z0: #3=0.7820"."""
        condition = self.conditions[k - 1]
        place, value = self.at[condition]
        self.say(n.role(condition), n.tag(place), n.high(value), n.low(value))
        return digits(value)

    def spell(self, k: int, operand: str) -> Digits:
        """An operand digit by digit: " y0|x0: #1= a1.5 a2.8 a3.1 a4.4"."""
        condition = self.conditions[k - 1]
        place, value = self.at[condition]
        d = digits(value)
        self.say(n.role(condition), n.tag(place))
        if d[0]:
            self.say(n.digit(operand, 0, 1))
        self.say(*(n.digit(operand, p, d[p]) for p in (1, 2, 3, 4)))
        return d

    def column_sums(self, name: str, a: Digits, b: Digits, sign: int) -> Digits:
        """a + b or a - b from the last place on; `V` says each digit's negative too."""
        carry, found, zeros = 0, [], True
        for p in n.PLACES:
            total = a[p] + sign * (b[p] + carry)
            value, carry = self.found(total % 10, 10), int(not 0 <= total < 10)
            if name == "V":
                self.say(n.answer_digit(p, value, carry, -value % 10 if zeros else 9 - value))
                zeros = zeros and value == 0
            else:
                self.say(n.result(name, p, value, carry))
            found.append(value)
        before = max(-2, min(1, a[0] + sign * (b[0] + carry)))
        self.say(n.top(name, before))
        return before, *found[::-1]

    def minus(self, name: str, i: int, j: int) -> Digits:
        """name = operand i - operand j"""
        self.say(n.step(name))
        a, b = self.spell(i, "a"), self.spell(j, "b")
        if name == "N":
            self.say(n.result("N", 5, 0, 0))
        return self.column_sums(name, a, b, -1)

    def less(self, title: str, a: Digits, b: Digits) -> Digits:
        """E = a - b of two results."""
        self.say(n.step(title))
        return self.column_sums(title.strip("-")[0], a, b, -1)

    def plus(self, title: str, a: Digits, product: Digits, fifth: int | None = None) -> Digits:
        """V = G + the product"""
        self.say(n.step(title))
        if fifth is not None:
            self.say(n.result("N", 5, fifth, 0))
        return self.column_sums(title[0], a, product, 1)

    def times(self, e: Digits, k: int) -> tuple[Digits, int]:
        """E x operand k"""
        self.say(n.step("*"))
        return self.rows(e, self.cite(k))

    def rows(self, e: Digits, p: Digits) -> tuple[Digits, int]:
        """e times a number below 1, a row for each of its digits: (product, 5th decimal)."""
        above, fifth = (0, 0, 0, 0, 0), 0
        for i in n.PLACES:
            self.say(n.times(i, p[i]))
            row = self.row(e, p[i], above)
            above = row[0] // 10, row[0] % 10, row[1], row[2], row[3]
            fifth = row[4]
        return above, fifth

    def row(self, e: Digits, factor: int, above: Digits) -> Digits:
        """e x factor + above; what stands before the point is not cut to one digit."""
        carry, found = 0, [0] * 5
        for p in n.PLACES:
            total = self.found(e[p] * factor + above[p] + carry, 100)
            carry, found[p] = divmod(total, 10)
            self.say(n.multiply_add(p, total))
        found[0] = max(-20, min(19, e[0] * factor + above[0] + carry))
        self.say(n.multiply_top(found[0]))
        return tuple(found)

    def answer(self, v: Digits, *, below: bool = False) -> None:
        """The effect as JSON. below: Yes is a number below 0 (ETT)."""
        value = number(v)
        verdict = "Yes" if (value < 0 if below else value > 0) else "No"
        value, sign = abs(value), "-" if value < 0 else ""
        self.say(n.JSON_START[verdict, sign], n.high(value), n.low(value), n.JSON_END)

    def bound(self, numerator: Digits, fifth: int, k: int) -> None:
        """The numerator / operand k, cut to 0 and 1, as JSON."""
        if numerator[0] < 0:
            self.say(n.JSON_NONE)
            return
        self.say(n.step("-E"))
        divisor = self.spell(k, "b")
        negative = self.column_sums("E", (0,) * 5, divisor, -1)
        self.say(n.quotient(0, 1))
        rest = self.row(negative, 1, numerator)
        if rest[0] >= 0:
            self.say(n.JSON_ONE)
            return
        self.say(n.back(0, 0))
        rest = self.row(divisor, 1, rest)
        found: list[int] = []
        for place in (1, 2, 3, 4):
            new = fifth if place == 1 else 0
            guess = self.guess(10 * number(rest) + new, number(divisor), last=place == 4)
            self.say(n.quotient(place, guess))
            found.append(guess)
            if place == 4:
                break
            rest = self.row(negative, guess, (10 * rest[0] + rest[1], *rest[2:], new))
            if rest[0] < 0:
                found[-1] -= 1
                self.say(n.back(place, guess - 1))
                rest = self.row(divisor, 1, rest)
        value = sum(max(0, q) * 10 ** (4 - place) for place, q in enumerate(found, 1))
        self.say(n.JSON_BOUND, n.high(value), n.low(value), n.JSON_END)

    def guess(self, rest: int, divisor: int, *, last: bool) -> int:
        """A digit of a quotient: right, or (rng, but for the last one) now and then one too large,
        which a row puts right, so that a learner meets what its own slips lead to."""
        if not divisor:
            return 9
        up = 0.1 if self.rng is None else 0.25 * self.rng.random()
        digit = max(0, min(9, int((rest + up * divisor) // divisor)))
        slips = not last and self.rng is not None and self.rng.random() < 0.08
        return digit + 1 if slips and digit < 9 and rest / divisor - digit > 0.5 else digit


# Formulas: operands are numbered as in n.FORMULAS ---------------------------------------------


def _difference(s: Steps) -> None:
    s.answer(s.minus("V", 1, 2))


def _difference_ett(s: Steps) -> None:
    s.answer(s.minus("V", 1, 2), below=True)


def _mixture(s: Steps, i: int, j: int, k: int, l: int, weight: int) -> tuple[Digits, Digits]:  # noqa: E741
    """(i - j) p + (k - l)(1 - p) as (G, product): G = k - l, product = (i - j - G) p."""
    d, g = s.minus("D", i, j), s.minus("G", k, l)
    product, _ = s.times(s.less("E=D-G", d, g), weight)
    return g, product


def _over_z(s: Steps) -> None:
    s.answer(s.plus("V=G+", *_mixture(s, 1, 2, 4, 5, 3)))


def _over_z_ett(s: Steps) -> None:
    e, g = s.minus("E", 4, 2), s.minus("G", 1, 4)
    product, _ = s.times(e, 3)
    s.answer(s.plus("V=G+", g, product), below=True)


def _direct(s: Steps) -> None:
    h = s.plus("H=G+", *_mixture(s, 2, 3, 5, 6, 4))
    g = s.plus("G=G+", *_mixture(s, 7, 8, 10, 11, 9))
    _merge(s, h, g)


def _merge(s: Steps, h: Digits, g: Digits) -> None:
    """h z0 + g (1 - z0)"""
    product, _ = s.times(s.less("E=H-G", h, g), 1)
    s.answer(s.plus("V=G+", g, product))


def _change(s: Steps, y0: int, m_to: int, m_away: int, y1: int) -> tuple[Digits, Digits]:
    """(y0 - y1)(m_to - m_away) as (G, product), for a multiplier M that may be below 0: its
    digits stand for M + 1 then, and G = y1 - y0 takes one (y0 - y1) off."""
    m, e = s.minus("M", m_to, m_away), s.minus("E", y0, y1)
    g = s.minus("G", y1, y0) if m[0] < 0 else s.less("G=0", (0,) * 5, (0,) * 5)
    s.say(n.step("*M"))
    product, _ = s.rows(e, m)
    return g, product


def _indirect(s: Steps) -> None:
    s.answer(s.plus("V=G+", *_change(s, 1, 2, 3, 4)))


def _indirect_over_z(s: Steps) -> None:
    h = s.plus("H=G+", *_change(s, 2, 3, 4, 5))
    g = s.plus("G=G+", *_change(s, 6, 7, 8, 9))
    _merge(s, h, g)


def _upper(s: Steps) -> None:
    s.bound(s.minus("N", 1, 2), 0, 3)


def _lower(s: Steps) -> None:
    s.bound(s.minus("N", 2, 1), 0, 3)


def _bound_over_z(s: Steps, e: tuple[int, int], g: tuple[int, int]) -> None:
    difference, rest = s.minus("E", *e), s.minus("G", *g)
    product, fifth = s.times(difference, 2)
    s.bound(s.plus("N=G+", rest, product, fifth), fifth, 5)


def _upper_over_z(s: Steps) -> None:
    _bound_over_z(s, (1, 3), (3, 4))


def _lower_over_z(s: Steps) -> None:
    _bound_over_z(s, (3, 1), (4, 3))


_FORMULAS = {
    "difference": _difference,
    "difference (ETT)": _difference_ett,
    "over Z": _over_z,
    "over M": _over_z,
    "over Z (ETT)": _over_z_ett,
    "direct, over M and Z": _direct,
    "indirect, over M": _indirect,
    "indirect, over M and Z": _indirect_over_z,
    "upper bound": _upper,
    "lower bound": _lower,
    "upper bound, over Z": _upper_over_z,
    "lower bound, over Z": _lower_over_z,
}
