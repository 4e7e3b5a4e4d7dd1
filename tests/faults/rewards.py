"""A reward function that can be made to fail."""

import math
import time

from tests.end_to_end import tiny_config

KINDS = ("raises", "hangs", "gives NaN", "gives too few")

fault: tuple[str, int, float] | None = None  # kind, at which call, at which share of the items
_calls = 0
_poison: str | None = None  # the completion on which it fails from then on


def prepare(new: tuple[str, int, float] | None) -> None:
    global fault, _calls, _poison
    fault, _calls, _poison = new, 0, None


def spread(completions, problems, truncated):
    """`tiny_config.spread`, unless it is to fail."""
    global _calls, _poison
    _calls += 1
    values = tiny_config.spread(completions, problems, truncated)
    if fault is None:
        return values
    kind, call, share = fault
    if _calls == call:
        _poison = completions[int(share * len(completions))]
    if _poison is None or _poison not in completions:
        return values
    place = completions.index(_poison)
    if kind == "raises":
        raise RuntimeError("the judge is down")
    if kind == "hangs":
        time.sleep(10_000)
    if kind == "gives NaN":
        values[place] = math.nan
    if kind == "gives too few":
        values.pop()
    return values
