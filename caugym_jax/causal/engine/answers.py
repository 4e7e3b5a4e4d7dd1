"""What an answer is: a number, a verdict, a label; and the tolerances, each in its one home."""

from __future__ import annotations

import json
from decimal import Decimal

from caugym_jax.types import BOUND_TASKS, LACK, Problem

TOLERANCE = Decimal("0.0005")  # two numbers closer than this are the same answer
DEAD_ZONE = Decimal("0.001")  # of an effect smaller than this either verdict is right
ROUNDING = Decimal("0.00005")  # the most by which a number printed to four decimals is off


def verdict(task: str, value: float | Decimal) -> str | None:
    """ "Yes" if the question's outcome becomes more likely, else "No"; None for PN and PS.

    ETT's number is actual minus counterfactual, its question asks for the counterfactual: Yes
    iff the number is negative.
    """
    if task in BOUND_TASKS:
        return None
    return "Yes" if (value < 0 if task == "ETT" else value > 0) else "No"


def four_decimals(value: Decimal) -> str:
    """The official number format: rounded once to four decimals, no trailing zeros, no "-0"."""
    text = f"{round(value, 4):f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def label(task: str, value: Decimal | None, said: str | None = None) -> str:
    """The official `answer`, e.g. {"ANSWER": "No", "PROB": "-0.0843"}; None is LACK_CONDITION.

    said: the verdict to state; None: the right one.
    """
    if value is None:
        return LACK
    said, number = said or verdict(task, value), {"PROB": four_decimals(value)}
    return json.dumps(number if said is None else {"ANSWER": said, **number})


def labelled(problem: Problem) -> Decimal:
    """The number of a problem's label, which must have one."""
    return Decimal(str(json.loads(problem.answer)["PROB"]))
