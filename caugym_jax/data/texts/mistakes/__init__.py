"""Wrong solutions, by the mistake that makes them wrong.

Each is a whole solution in the released steps, consistent from the mistake onwards, whose answer
is wrong beyond doubt: its number is 0.0005 or more from the label (PN, PS: and outside what
rounding the printed numbers can reach), or its verdict is wrong where |effect| >= 0.001.

    sign_flip           the difference the other way round
    wrong_formula       another task's formula; PN, PS: P(y|do(x)) itself
    ignored_confounder  no adjustment: one stratum's numbers are taken for everybody's
    ignored_mediator    NDE: one mediator value's numbers are taken for all; NIE: how x moves the
                        mediator is left out, P(y|x',m=1) - P(y|x',m=0)
    missing_step        weights not applied, nothing subtracted, not divided, or not clipped
    arithmetic_slip     one digit of the computed result is wrong
    misread_number      one digit of a printed number is wrong
    wrong_verdict       the number is right, the verdict is not
    false_zero          denies that the graph lets x affect y
    false_path          affirms it where the graph does not (numbers not printed are invented)
    invented_number     invents the numbers that an insufficient problem does not print
    false_lack          says LACK_CONDITION although the numbers suffice
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from caugym_jax.data.texts.mistakes import arithmetic, reasoning
from caugym_jax.data.texts.mistakes.case import answer_of, case_of, is_wrong
from caugym_jax.errors import UserError
from caugym_jax.types import Problem

__all__ = ["KINDS", "Mistake", "mistaken"]

ATTEMPTS = 20
_KINDS = {
    "sign_flip": reasoning.sign_flip,
    "wrong_formula": reasoning.wrong_formula,
    "ignored_confounder": reasoning.ignored_confounder,
    "ignored_mediator": reasoning.ignored_mediator,
    "missing_step": arithmetic.missing_step,
    "arithmetic_slip": arithmetic.arithmetic_slip,
    "misread_number": arithmetic.misread_number,
    "wrong_verdict": arithmetic.wrong_verdict,
    "false_zero": reasoning.false_zero,
    "false_path": reasoning.false_path,
    "invented_number": reasoning.invented_number,
    "false_lack": reasoning.false_lack,
}
KINDS = tuple(_KINDS)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One wrong solution."""

    kind: str  # of KINDS
    reason: dict[str, str]  # the steps, as Problem.reason
    answer: str  # as Problem.answer


def mistaken(problem: Problem, rng: random.Random, kinds: Sequence[str] | None = None) -> Mistake:
    """A wrong solution of a problem.

    Args:
      problem: one that has its story, as the generator makes them.
      rng: decides the kind, evenly among those that apply, and the details.
      kinds: of KINDS; None: all of them.

    Raises:
      UserError: the problem is unread, or none of the kinds applies to it.
    """
    case = case_of(problem)
    order = list(KINDS if kinds is None else kinds)
    rng.shuffle(order)
    for kind in order:
        for _ in range(ATTEMPTS):
            try:
                made = _KINDS[kind](case, rng)
            except (KeyError, ArithmeticError):  # a number that is not given; division by 0
                break
            if made is None:
                continue
            if is_wrong(case, made):
                steps = {f"Step {i}": step for i, step in enumerate(made.steps, 1)}
                return Mistake(kind, steps, answer_of(case, made))
    raise UserError(f"no mistake of the kinds {', '.join(order)} fits this {problem.task} problem")
