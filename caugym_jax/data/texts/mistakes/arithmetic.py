"""Mistakes in the arithmetic: the right question, computed wrongly.

Each takes a Case and a random generator; None: not this time, or the mistake does not apply.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from decimal import Decimal

from caugym_jax.causal.engine.answers import verdict
from caugym_jax.causal.engine.estimands import assignments, printed_probability
from caugym_jax.data.texts.mistakes.case import GRAPHICAL, Case, Wrong, one_digit_off, resolved
from caugym_jax.types import BOUND_TASKS, letter

_SYMBOL = re.compile(r"P\([^()]*\)")
_BOUND = re.compile(r"(.+? bound of \w+: )m\w+\{\d, \[([^-]+)-([^-]+)\]/([^}]+)\}")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def misread_number(case: Case, rng: random.Random) -> Wrong | None:
    if case.query.zero or case.problem.lacks:
        return None
    term, number = rng.choice(list(case.needed.items()))
    misread = {term: one_digit_off(number, rng)}
    made = resolved(case, case.graph, case.query, case.needed | misread)
    return None if any(")=-" in step for step in made.steps) else made  # no negative complement


def wrong_verdict(case: Case, rng: random.Random) -> Wrong | None:
    if not case.problem.verdict or case.query.zero:
        return None
    right = case.problem.verdict
    wrong = "No" if right == "Yes" else "Yes"
    *steps, last = case.steps
    return Wrong([*steps, last.replace(f"{right}.", f"{wrong}.")], case.label, wrong)


def arithmetic_slip(case: Case, rng: random.Random) -> Wrong | None:
    if case.query.zero or case.problem.lacks:
        return None
    if case.query.task in BOUND_TASKS:
        return bound(case, slip=rng)
    *steps, arithmetic, _ = case.steps
    begun, _, result = arithmetic.rpartition("=")
    return _concluded(case, steps, begun, one_digit_off(Decimal(result), rng))


def missing_step(case: Case, rng: random.Random) -> Wrong | None:
    query = case.query
    if query.zero or case.problem.lacks:
        return None
    if query.task in BOUND_TASKS:
        return bound(case, formula=rng.choice(("undivided", "unclipped")))
    sides, values = _sides(case.steps[GRAPHICAL]), case.steps[GRAPHICAL + 1].split("\t")
    if query.adjusters or query.mediators and query.task in ("NDE", "NIE"):
        weights = "".join(map(letter, query.adjusters or query.mediators))
        weight = rf"P\((?:[{weights}](?:=\d)?,?)+(?:\|[^()]*)?\)"
        dropped = (
            rf"-{weight}(?=\])" if query.task == "NIE" and not query.adjusters else rf"\*{weight}"
        )
        sides = [re.sub(dropped, "", side) for side in sides]
    else:
        sides = [sides[-1].partition("-")[0]]  # nothing is subtracted
    numbers = dict(value.rsplit("=", 1) for value in values)
    numeric = _SYMBOL.sub(lambda match: numbers[match[0]], sides[-1])
    shown = "\t".join(value for value in values if value.rsplit("=", 1)[0] in sides[-1])
    steps = [*case.steps[:GRAPHICAL], "=".join([query.task, *sides]), shown]
    begun = query.task if numeric in numbers.values() else f"{query.task}={numeric}"
    return _concluded(case, steps, begun, _evaluated(numeric))


def _concluded(case: Case, steps: list[str], begun: str, value: Decimal) -> Wrong:
    task, said = case.query.task, verdict(case.query.task, value)
    sign = ">" if value > 0 else "<"
    last = f"{task}={value:.4f}{sign}0 so the answer is {said}."
    return Wrong([*steps, f"{begun}={value:.4f}", last], value, said)


def bound(
    case: Case, *, formula: str = "whole", flipped: bool = False, slip: random.Random | None = None
) -> Wrong | None:
    """PN, PS with another last step. formula: whole, undivided, unclipped, or do: P(y|do x)."""
    if case.problem.lacks:
        return None
    first, second = case.steps
    p, query = printed_probability(case.printed), case.query
    found = _BOUND.match(second)
    assert found is not None  # the second step of a bound has this form
    head, s_left, s_right, s_actual = found.groups()
    upper = query.bound == "upper"
    asked = query.outcome if upper else query.other_outcome
    weighted = (p(asked, (*query.to, *z)) * p(z, ()) for z in assignments(query.adjusters))
    do = sum(weighted, Decimal(0))
    if formula == "do":
        said = f"{head}{s_left if upper else s_right}\n={do:.4f}"
        return Wrong([first, said], do)
    other = p((*query.to, *query.outcome) if upper else query.other_outcome, ())
    actual = p((*query.away, *query.other_outcome), ())
    left, right = (do, other) if upper else (other, do)
    if flipped:
        left, right, s_left, s_right = right, left, s_right, s_left
    symbols, numbers, result = f"{s_left}-{s_right}", f"{left:.4f}-{right:.4f}", left - right
    if formula != "undivided":
        symbols, numbers = f"[{symbols}]/{s_actual}", f"({numbers})/{actual:.4f}"
        result /= actual
    if slip is not None:
        result = one_digit_off(round(result, 4), slip)
    lines = [symbols, numbers, f"{result:.4f}"]
    if formula != "unclipped":
        result = min(Decimal(1), result) if upper else max(Decimal(0), result)
        clip = "min{1" if upper else "max{0"
        lines = [*(f"{clip}, {line}}}" for line in lines), f"{result:.4f}"]
    return Wrong([first, head + "\n=".join(lines)], result)


def _sides(step: str) -> list[str]:
    """ "ATE=P(B=1|A=1)-P(B=1|A=0)" -> ["P(B=1|A=1)-P(B=1|A=0)"]: split at the outer "="."""
    depth, parts = 0, [""]
    for character in step:
        depth += (character in "([{") - (character in ")]}")
        if character == "=" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts[1:]


def _evaluated(expression: str) -> Decimal:
    """The value of sums, differences and products of decimal numbers in square brackets."""

    def value(node: ast.expr) -> Decimal:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), expression
        return Decimal(repr(node.value))

    return value(ast.parse(expression.replace("[", "(").replace("]", ")"), mode="eval").body)
