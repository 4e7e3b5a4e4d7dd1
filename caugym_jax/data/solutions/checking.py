"""Reads a solution and judges every step of it, without the code that writes solutions.

A step is right if it follows from what is written before it, so that one slip costs one step. What
went wrong first has a kind (those of the paper):

    task         the header: which states are asked about; or the formula of another task
    graph        an effect said to be zero that is not, or a zero effect calculated
    formula      another formula of the task; LACK_CONDITION where nothing lacks, or its opposite
    application  a number listed wrong or with a wrong condition; a step that the formula does not
                 have; an operand that is not what it is called
    arithmetic   a digit, a carry, a row of a product or a quotient, the answer's own digits
    unexpected   anything that is not in the notation, and a solution that does not end
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from caugym_jax.data.solutions import notation as n
from caugym_jax.data.solutions import writing
from caugym_jax.data.solutions.conditions import Plan

KINDS = ("task", "graph", "formula", "application", "arithmetic", "unexpected")
_START = re.compile(r"X=[01] Y=[01]")
_HEADER = re.compile(r"X=([01]) Y=([01])")
_ITEM = re.compile(r" (\d+)\) ([^ :]+): #(\d+)=([01]\.\d{4})")
_FORMULA = re.compile(r" => ([A-Za-z(), ]+?)(?: missing ([^ :]+):)?$")
_DECIMALS = "|".join(rf"(?: {o}0\.1)? {o}1\.\d {o}2\.\d {o}3\.\d {o}4\.\d" for o in ("a", "b"))
_SPELT = re.compile(rf" ([^ :]+): #(\d+)=({_DECIMALS})")
_CITED = re.compile(r" ([^ :]+): #(\d+)=([01]\.\d{4})")
_DIGIT = re.compile(r" ([deghmnv])([0-5])\.([+-]?\d)(\*?)(?:\|(\d))?")
_ROW = re.compile(r" m4\.(\d\d) m3\.(\d\d) m2\.(\d\d) m1\.(\d\d) m0\.([+-]\d+)")
_ANSWER = re.compile(r'\{(?:"ANSWER": "(Yes|No)", )?"PROB": "(-?[01](?:\.\d{4})?)"\}')

Digits = tuple[int, ...]  # what stands before the point, then four decimals
ZERO: Digits = (0,) * 5


@dataclasses.dataclass(frozen=True)
class Step:
    """One line, or one entry of the first line."""

    text: str
    kind: str | None  # None: right

    @property
    def right(self) -> bool:
        return self.kind is None


def in_notation(text: str) -> bool:
    """Whether a text begins like a solution."""
    return _START.match(text) is not None


def check(text: str, plan: Plan) -> list[Step]:
    """Every step of a solution of the problem that the plan describes."""
    first, *lines = text.split("\n")
    steps, items, formula = _opening(first, plan)
    if formula is None:
        return [*steps, *(Step(line, "unexpected") for line in lines)]
    listed = {condition: (k, number) for k, (condition, number) in enumerate(items, 1)}
    steps += _Follower(listed, formula, plan).follow(lines)
    return steps


def failure(steps: Sequence[Step]) -> str | None:
    """The kind of the first step that is not right."""
    return next((step.kind for step in steps if not step.right), None)


def _opening(line: str, plan: Plan) -> tuple[list[Step], list[writing.Item], str | None]:
    """The first line: header, list, formula."""
    header = _HEADER.match(line)
    if header is None:
        return [Step(line, "unexpected")], [], None
    asked = int(header[1]), int(header[2])
    steps = [Step(header[0], None if asked == (plan.x, plan.y) else "task")]
    items: list[writing.Item] = []
    place = header.end()
    while found := _ITEM.match(line, place):
        k, condition, tag, number = found.groups()
        items.append(writing.Item(condition, int(number.replace(".", ""))))
        right = int(k) == int(tag) == len(items) <= len(plan.items)
        right = right and items[-1] == plan.items[len(items) - 1]
        steps.append(Step(found[0], None if right else "application"))
        place = found.end()
    if len(items) < len(plan.items):
        steps.append(Step("(numbers not listed)", "application"))
    named = _FORMULA.match(line[place:])
    if named is None:
        return [*steps, Step(line[place:], "unexpected")], items, None
    steps.append(Step(named[0], _formula_kind(named[1], named[2], plan)))
    return steps, items, named[1]


def _formula_kind(formula: str, missing: str | None, plan: Plan) -> str | None:
    if (formula, missing) == (plan.formula, plan.missing):
        return None
    if n.ZERO in (formula, plan.formula):
        return "graph"
    same_task = any({formula, plan.formula} <= set(fs) for fs in n.FORMULAS_OF.values())
    return "formula" if same_task else "task"


def digits_of(number: int) -> Digits:
    return number // 10_000, *(int(d) for d in f"{number % 10_000:04d}")


class _Wrong(Exception):
    """A line is not right; its message is the kind."""


class _Follower:
    """Goes through the lines of a calculation with what they say, right or wrong."""

    def __init__(self, listed: dict[str, tuple[int, int]], formula: str, plan: Plan) -> None:
        self.listed = listed
        self.formula = formula
        self.below = formula.endswith("(ETT)")  # Yes is a number below 0
        self.registers: dict[str, Digits] = {}
        self.product: Digits = ZERO
        self.factor: Digits = ZERO
        self.divisor: Digits = ZERO
        self.rest: Digits = ZERO
        self.fifth = 0
        self.places: list[int] = []  # of a product, still to be multiplied by
        self.division: tuple[str, ...] = ("q0.1",)  # heads that the next row may have
        self.quotient: list[int] = []
        self.expected = _skeleton(formula, listed, plan)

    def follow(self, lines: Sequence[str]) -> list[Step]:
        steps = []
        ended = False
        for line in lines:
            try:
                if ended:
                    raise _Wrong("unexpected")
                ended = self.line(line)
                steps.append(Step(line, None))
            except _Wrong as wrong:
                steps.append(Step(line, str(wrong)))
                ended = ended or line.startswith(("{", "LACK"))
        return steps if ended else [*steps, Step("(no answer)", "unexpected")]

    def line(self, line: str) -> bool:
        """Judges a line and takes its results in; True where it is the last one."""
        if line == n.LACK_END[1:]:
            return self.want("lack")
        if line.startswith("{"):
            self.answer(line)
            return True
        head, colon, rest = line.partition(":")
        if not colon:
            raise _Wrong("unexpected")
        if head[:1] in "xqb" and head[1:2].isdigit():
            place, value = int(head[1]), int(head[3:])
            self.row(head[0], place, value, rest)
        elif head in ("*", "*M"):
            self.multiplier(head, rest)
        else:
            self.step(head, rest)
        return False

    def want(self, *found: str) -> bool:
        """The formula's next step must be this one."""
        expected = next(self.expected, None)
        if expected != found:
            raise _Wrong("application")
        return True

    # Sums ---------------------------------------------------------------------------------

    def step(self, head: str, rest: str) -> None:
        operands, place = [], 0
        while spelt := _SPELT.match(rest, place):
            operands.append((spelt[1], int(spelt[2]), spelt[3]))
            place = spelt.end()
        letters = [digits[1] for _, _, digits in operands]
        if letters not in ([], ["b"], ["a", "b"]):
            raise _Wrong("unexpected")
        name = head[1] if head[0] == "-" else head[0]
        a, b, sign = self.operands(head, [_spelt_digits(o[2]) for o in operands])
        written = self.result(name, rest[place:])
        problem = None
        try:
            self.want(head, *(o[0] for o in operands))
            for condition, tag, digits in operands:
                self.cited(condition, tag, _spelt_digits(digits))
        except _Wrong as wrong:
            problem = wrong
        if head == "-E":
            self.divisor = b
        if problem:
            raise problem
        self.columns(written, a, b, sign)

    def operands(self, head: str, spelt: list[Digits]) -> tuple[Digits, Digits, int]:
        r = {name: self.registers.get(name, ZERO) for name in n.SUMS}
        known = {
            "E=D-G": (r["D"], r["G"], -1),
            "E=H-G": (r["H"], r["G"], -1),
            "G=0": (ZERO, ZERO, -1),
        }
        known |= dict.fromkeys(("H=G+", "G=G+", "V=G+", "N=G+"), (r["G"], self.product, 1))
        if head in known and not spelt:
            return known[head]
        if head == "-E" and len(spelt) == 1:
            return ZERO, spelt[0], -1
        if head in ("D", "G", "E", "M", "V", "N") and len(spelt) == 2:
            return spelt[0], spelt[1], -1
        raise _Wrong("unexpected")

    def result(self, name: str, text: str) -> list[re.Match]:
        """The digits of a sum as written, which later steps go on with."""
        found = list(_DIGIT.finditer(text))
        places = [int(f[2]) for f in found]
        if "".join(f[0] for f in found) != text or {f[1] for f in found} != {name.lower()}:
            raise _Wrong("unexpected")
        fifth = found.pop(0) if places[:1] == [5] else None
        if [place for place in places if place != 5] != [4, 3, 2, 1, 0]:
            raise _Wrong("unexpected")
        value = [int(f[3]) for f in found]
        self.registers[name] = (value[4], value[3], value[2], value[1], value[0])
        if fifth is not None and (int(fifth[3]), fifth[4]) != (self.fifth_place(), ""):
            raise _Wrong("arithmetic")
        return found

    def fifth_place(self) -> int:
        """What a quotient's numerator has at the fifth place: of a product, or nothing."""
        return self.fifth if self.formula.endswith("over Z") else 0

    def columns(self, written: list[re.Match], a: Digits, b: Digits, sign: int) -> None:
        carry, below = 0, 0
        for found, place in zip(written, (4, 3, 2, 1), strict=False):
            total = a[place] + sign * (b[place] + carry)
            carry = 0 if 0 <= total < 10 else 1
            if (int(found[3]), len(found[4])) != (total % 10, carry):
                raise _Wrong("arithmetic")
            if found[5] is not None:  # the digit of the number's negative: 0 - it, with a borrow
                below = 0 - total % 10 - below
                if int(found[5]) != below % 10:
                    raise _Wrong("arithmetic")
                below = int(below < 0)
        if int(written[4][3]) != a[0] + sign * (b[0] + carry):
            raise _Wrong("arithmetic")

    def cited(self, condition: str, tag: int, value: Digits) -> None:
        place, number = self.listed.get(condition, (0, 0))
        if tag != place or value != digits_of(number):
            raise _Wrong("application")

    # Products and quotients ---------------------------------------------------------------

    def multiplier(self, head: str, rest: str) -> None:
        self.product, self.places = ZERO, list(n.PLACES)
        if head == "*M":
            self.factor = self.registers.get("M", ZERO)
            self.want(head)
            return
        cited = _CITED.fullmatch(rest)
        if cited is None:
            raise _Wrong("unexpected")
        self.factor = digits_of(int(cited[3].replace(".", "")))
        self.want(head, cited[1])
        self.cited(cited[1], int(cited[2]), self.factor)

    def row(self, kind: str, place: int, value: int, rest: str) -> None:
        """A product's row (x), a quotient's (q) or the divisor added back (b)."""
        if kind == "q" and place == 4 and not rest:  # the last digit: its rest is not asked for
            due, self.division = self.division, ()
            self.quotient.append(value)
            self.in_turn(f"q4.{value}", due)
            return
        found = _ROW.fullmatch(rest)
        if found is None:
            raise _Wrong("unexpected")
        written = [int(text) for text in found.groups()]
        (self.product_row if kind == "x" else self.quotient_row)(kind, place, value, written)

    def product_row(self, kind: str, place: int, value: int, written: list[int]) -> None:
        due = self.places.pop(0) if self.places else None
        above = self.product
        self.product = (
            written[4] // 10,
            written[4] % 10,
            written[3] % 10,
            written[2] % 10,
            written[1] % 10,
        )
        self.fifth = written[0] % 10
        if due != place or value != self.factor[place]:
            raise _Wrong("application")
        self.multiplied(written, self.registers.get("E", ZERO), value, above)

    def quotient_row(self, kind: str, place: int, value: int, written: list[int]) -> None:
        due, above = self.division, self.rest
        e, factor = self.registers.get("E", ZERO), value
        if kind == "b":
            e, factor = self.divisor, 1
        elif place == 0:
            above = self.registers.get("N", ZERO)
        else:
            new = self.fifth_place() if place == 1 else 0
            above = (10 * above[0] + above[1], above[2], above[3], above[4], new)
        self.rest = (written[4], written[3] % 10, written[2] % 10, written[1] % 10, written[0] % 10)
        if kind == "q" and self.rest[0] < 0:
            self.division = (f"b{place}.{value - 1}",)
        else:
            self.division = tuple(f"q{place + 1}.{q}" for q in range(10))
        if place and kind == "q":
            self.quotient.append(value)
        elif place and self.quotient:
            self.quotient[-1] = value
        self.in_turn(f"{kind}{place}.{value}", due)
        self.multiplied(written, e, factor, above)

    def in_turn(self, head: str, due: tuple[str, ...]) -> None:
        """A quotient's rows follow each other: the next place, or the divisor added back."""
        if head not in due:
            raise _Wrong("arithmetic")

    def multiplied(self, written: list[int], e: Digits, factor: int, above: Digits) -> None:
        carry = 0
        for total, place in zip(written, (4, 3, 2, 1), strict=False):
            if total != e[place] * factor + above[place] + carry:
                raise _Wrong("arithmetic")
            carry = total // 10
        if written[4] != max(-20, min(19, e[0] * factor + above[0] + carry)):
            raise _Wrong("arithmetic")

    # The answer ---------------------------------------------------------------------------

    def answer(self, line: str) -> None:
        found = _ANSWER.fullmatch(line)
        if found is None:
            raise _Wrong("unexpected")
        self.want("answer")
        verdict, number = found[1], round(float(found[2]) * 10_000)
        if self.formula == n.ZERO:
            right = (verdict, found[2]) == ("No", "0")
        elif "bound" in self.formula:
            right = verdict is None and number == self.bound()
        else:
            value = writing.number(self.registers.get("V", ZERO))
            positive = value < 0 if self.below else value > 0
            right = (verdict, number) == ("Yes" if positive else "No", value)
        if not right:
            raise _Wrong("arithmetic")

    def bound(self) -> int:
        """A quotient's digits, cut to 0 and 1."""
        if self.registers.get("N", ZERO)[0] < 0:
            return 0
        if not self.quotient and self.rest[0] >= 0:
            return 10_000
        return sum(max(0, q) * 10 ** (3 - i) for i, q in enumerate(self.quotient[:4]))


def _spelt_digits(text: str) -> Digits:
    """ " a1.5 a2.8 a3.1 a4.4" -> (0, 5, 8, 1, 4)"""
    found = {int(place): int(value) for place, value in re.findall(r"[ab](\d)\.(\d)", text)}
    return tuple(found.get(place, 0) for place in range(5))


def _skeleton(
    formula: str, listed: dict[str, tuple[int, int]], plan: Plan
) -> Iterator[tuple[str, ...]]:
    """The heads of a formula's steps with the conditions they cite, then how it ends."""
    c = dict(enumerate(n.cited(formula, plan.x, plan.y), 1)) if formula in n.FORMULAS else {}
    if plan.missing is not None or any(x not in listed for x in c.values()):
        yield ("lack",)
        return
    match formula:
        case n.ZERO:
            pass
        case "difference" | "difference (ETT)":
            yield "V", c[1], c[2]
        case "over Z" | "over M":
            yield from _mixture(c, 1, 2, 4, 5, 3)
            yield ("V=G+",)
        case "over Z (ETT)":
            yield "E", c[4], c[2]
            yield "G", c[1], c[4]
            yield "*", c[3]
            yield ("V=G+",)
        case "direct, over M and Z":
            yield from _mixture(c, 2, 3, 5, 6, 4)
            yield ("H=G+",)
            yield from _mixture(c, 7, 8, 10, 11, 9)
            yield from _merged(c)
        case "indirect, over M":
            yield from _change(c, listed, 1, 2, 3, 4)
            yield ("V=G+",)
        case "indirect, over M and Z":
            yield from _change(c, listed, 2, 3, 4, 5)
            yield ("H=G+",)
            yield from _change(c, listed, 6, 7, 8, 9)
            yield from _merged(c)
        case "upper bound" | "lower bound":
            a, b = (1, 2) if formula == "upper bound" else (2, 1)
            yield "N", c[a], c[b]
            if listed[c[a]][1] >= listed[c[b]][1]:
                yield "-E", c[3]
        case "upper bound, over Z" | "lower bound, over Z":
            upper = formula.startswith("upper")
            e, g = ((1, 3), (3, 4)) if upper else ((3, 1), (4, 3))
            yield "E", c[e[0]], c[e[1]]
            yield "G", c[g[0]], c[g[1]]
            yield "*", c[2]
            yield ("N=G+",)
            p = {i: listed[c[i]][1] for i in c}
            if (p[e[0]] - p[e[1]]) * p[2] + (p[g[0]] - p[g[1]]) * 10_000 >= 0:
                yield "-E", c[5]
    yield ("answer",)


def _mixture(c: dict[int, str], i: int, j: int, k: int, m: int, w: int) -> Iterator[tuple]:
    yield "D", c[i], c[j]
    yield "G", c[k], c[m]
    yield ("E=D-G",)
    yield "*", c[w]


def _merged(c: dict[int, str]) -> Iterator[tuple]:
    yield ("G=G+",)
    yield ("E=H-G",)
    yield "*", c[1]
    yield ("V=G+",)


def _change(
    c: dict[int, str], listed: dict[str, tuple[int, int]], i: int, q: int, r: int, j: int
) -> Iterator[tuple]:
    yield "M", c[q], c[r]
    yield "E", c[i], c[j]
    if listed[c[q]][1] < listed[c[r]][1]:
        yield "G", c[j], c[i]
    else:
        yield ("G=0",)
    yield ("*M",)


def score(text: str, plan: Plan) -> float:
    """The share of a solution's steps that are right, less the share that are wrong; at least 0.

    By hand: of 10 steps one is wrong: 9/10 - 1/10 = 0.8.
    """
    steps = check(text, plan)
    wrong = sum(not step.right for step in steps)
    return max(0.0, (len(steps) - 2 * wrong) / len(steps))
