"""Rewards of a batch of completions: named functions, weights, and their weighted sum.

A reward function takes (completions, problems, truncated), three lists of length B, and returns a
list of B floats; None says "does not apply to this one". Anything callable will do; a user's own
is named "package.module:function".
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from caugym_jax.rewards.form import form_reward
from caugym_jax.types import Problem

Reward = Callable[[list[str], list[Problem], list[bool]], Sequence[float | None]]

DEFAULT_WEIGHTS: Mapping[str, float] = {"answer": 1.0, "form": 0.1}


def answer(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """1 where the completion is right under the strict rule, else 0."""
    return list(map(answer_reward, completions, problems, truncated))


def form(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """1 where the completion has the form asked for, else 0 (a think must be closed if opened)."""
    return list(map(form_reward, completions, problems, truncated))


def thinking_form(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """As `form`, for a reasoning model: exactly one `</think>` is required."""
    return [
        form_reward(text, problem, cut, thinking=True)
        for text, problem, cut in zip(completions, problems, truncated, strict=True)
    ]


_LARGEST = float(np.finfo(np.float32).max)
_OWN = {"answer": answer, "form": form, "thinking_form": thinking_form}


@dataclasses.dataclass(frozen=True)
class Scores:
    """The rewards of B completions under R reward functions."""

    names: tuple[str, ...]  # R names
    values: np.ndarray  # [B, R] float32, unweighted; NaN where a function returned None
    total: np.ndarray  # [B] float32: weighted sum over what is not NaN; NaN if nothing is


def find(name: str) -> Reward:
    """The reward function of a name: answer, form, thinking_form or "package.module:function"."""
    if name in _OWN:
        return _OWN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(_OWN)
        raise UserError(f'unknown reward {name!r}: use {known} or "package.module:function"')
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"reward {name!r} cannot be imported: {_told(error)}") from error
    if not callable(function):
        raise UserError(f"reward {name!r} is a {type(function).__name__}, not a function")
    return function


def parse_weights(weights: str | Mapping[str, float]) -> dict[str, float]:
    """`answer=1,my_module:my_reward=0.5` (or such a mapping) as {name: weight}.

    Raises:
      UserError: not of that form, or a reward function that cannot be found.
    """
    if isinstance(weights, str):
        pairs = [part.strip().rpartition("=") for part in weights.split(",") if part.strip()]
        try:
            weights = {name.strip(): float(value) for name, _, value in pairs}
        except ValueError as error:
            raise UserError(f"reward weights {weights!r}: write NAME=WEIGHT,...") from error
    for name in weights:
        find(name)
    if not weights:
        raise UserError("no reward function is named: give at least one weight")
    return dict(weights)


def score(
    completions: Sequence[str],
    problems: Sequence[Problem],
    truncated: Sequence[bool],
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> Scores:
    """Applies every reward function named in `weights` and adds them up.

        total_b = sum_r weight_r * value_{b,r}   over the r whose value is not None

    By hand: weights {answer: 1, form: 0.1}, a right answer in a wrong form: 1 * 1 + 0.1 * 0 = 1.
    Raises UserError naming the function and the item where one raises, or returns a wrong length
    or something that is neither None nor a finite number.
    """
    if not weights:
        raise UserError("no reward function is named: give at least one weight")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UserError(f"the weight of reward {name!r} is {weight}: it must be finite")
    batch = list(completions), list(problems), [bool(cut) for cut in truncated]
    if len({len(part) for part in batch}) != 1:
        lengths = ", ".join(str(len(part)) for part in batch)
        raise ValueError(f"completions, problems and truncated differ in length: {lengths}")
    columns = [_column(name, find(name), batch) for name in weights]
    values = np.array(columns, np.float32).reshape(len(columns), len(batch[0])).T
    total = np.nansum(values * np.array(list(weights.values()), np.float32), axis=1)
    total = np.where(np.isnan(values).all(axis=1), np.float32(np.nan), total)
    return Scores(tuple(weights), values, total.astype(np.float32))


def _column(
    name: str, function: Reward, batch: tuple[list[str], list[Problem], list[bool]]
) -> list[float]:
    size = len(batch[0])
    try:
        values = function(*(list(part) for part in batch))
    except Exception as error:
        item, told = _first_failure(function, batch, error)
        raise UserError(f"reward {name!r} raised at {item}: {told}") from error
    try:
        values = list(values)
    except TypeError:
        kind = type(values).__name__
        raise UserError(f"reward {name!r} returned a {kind}: it must return a list") from None
    if len(values) != size:
        raise UserError(f"reward {name!r} returned {len(values)} values for {size} completions")
    return [_finite(name, item, value) for item, value in enumerate(values)]


def _finite(name: str, item: int, value: float | None) -> float:
    if value is None:
        return math.nan
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result) or abs(result) > _LARGEST:
        raise UserError(
            f"reward {name!r} returned {value!r:.80} for item {item}: it must be finite or None"
        )
    return result


def _first_failure(
    function: Reward, batch: tuple[list[str], list[Problem], list[bool]], error: Exception
) -> tuple[str, str]:
    """Which item a function fails on, by calling it on one at a time."""
    for item, row in enumerate(zip(*batch, strict=True)):
        try:
            function(*([field] for field in row))
        except Exception as alone:
            return f"item {item}", _told(alone)
    return f"a batch of {len(batch[0])} (on no item alone)", _told(error)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
