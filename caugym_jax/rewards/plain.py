"""Rewards of items that are no causal problems: what the row says is right.

A completion's thoughts do not count: what follows the last `</think>` does, and nothing where a
thought was opened and not closed. A completion that was cut off is wrong.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from caugym_jax.data.items import truth
from caugym_jax.rewards.answer import final_text
from caugym_jax.rewards.limits import TimeIsUp, at_most
from caugym_jax.types import Item

SECONDS = 5.0  # for comparing two mathematical answers
LONGEST = 1000  # characters of a mathematical answer
_BOXED = re.compile(r"\\boxed\s*\{")
_TOWER = re.compile(r"\^\s*\{?[^{}]*\^|\^\s*\{?\s*\d{4,}|!")  # its value may not fit the memory


def math_reward(text: str, item: Item, truncated: bool = False) -> float | None:
    r"""1 where the answer in the last \boxed{}, or behind the last ####, equals the row's.

    Compared by math-verify: 0.5 equals \frac{1}{2}. None where the row has no truth.

    By hand: "So \boxed{72.0}" to a row with the answer "48 + 24 = 72\n#### 72": 1.
    """
    right = truth(item)
    if right is None:
        return None
    answer = stated(_final(text, truncated))
    if answer is None:
        return 0.0
    expected = stated(right) or right.strip()
    answer, expected = answer.removesuffix("."), expected.removesuffix(".")  # of a sentence
    if answer == expected:
        return 1.0
    if max(len(answer), len(expected)) > LONGEST or _TOWER.search(answer):
        return 0.0
    _library()  # takes a second, or more on a busy machine
    try:
        with at_most(SECONDS):
            return float(_equal(expected, answer))
    except TimeIsUp:
        return 0.0


def exact_reward(text: str, item: Item, truncated: bool = False) -> float | None:
    r"""1 where the answer is the row's, letter by letter; spaces at the ends do not count.

    The answer is what the last \boxed{} holds, or follows the last ####, or else the last line.
    None where the row has no truth.
    """
    right = truth(item)
    if right is None:
        return None
    final = _final(text, truncated)
    return float(bool(final) and _answer(final) == _answer(right))


def regex_reward(text: str, item: Item, truncated: bool = False) -> float | None:
    """1 where the row's `pattern`, a regular expression, is found; None where there is none."""
    pattern = item.columns.get("pattern")
    if not isinstance(pattern, str):
        return None
    return float(re.search(pattern, _final(text, truncated), re.DOTALL) is not None)


def length_reward(text: str, item: Item, truncated: bool = False) -> float:
    """Minus the completion's length, thoughts included, in thousands of characters."""
    return -len(text) / 1000


def stated(text: str) -> str | None:
    r"""What the last \boxed{} holds or the line of the last #### says, whichever comes later."""
    boxes = list(_BOXED.finditer(text))
    hashes = text.rfind("####")
    if boxes and boxes[-1].start() > hashes:
        return _inside(text, boxes[-1].end())
    if hashes < 0:
        return None
    return text[hashes + 4 :].strip().partition("\n")[0].strip() or None


def _inside(text: str, start: int) -> str | None:
    """The text from `start` up to the brace that closes; None where none does."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[start:i].strip()
    return None


def _answer(text: str) -> str:
    return stated(text) or text.strip().rpartition("\n")[2].strip()


def _final(text: str, truncated: bool) -> str:
    return "" if truncated else final_text(text) or ""


def _library() -> Any:
    import math_verify  # only here: sympy takes a second

    # It reports each time that its own limits, which would end ours, are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify


def _equal(expected: str, answer: str) -> bool:
    left, right = _parsed(expected), _parsed(answer)
    return bool(_library().verify(left, right, timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parsed(answer: str) -> list[Any]:
    return list(_library().parse(rf"\boxed{{{answer}}}", parsing_timeout=None))
