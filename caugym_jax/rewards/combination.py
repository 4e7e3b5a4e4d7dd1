"""Rewards of a batch of completions: named functions, weights, and their weighted sum.

A reward function takes (completions, problems, truncated), three lists of length B, and returns a
list of B floats; None says "does not apply to this one". Anything callable will do; a user's own
is named "package.module:function".
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward, verdict_reward
from caugym_jax.rewards.form import form_reward
from caugym_jax.rewards.steps import steps_reward
from caugym_jax.types import Problem

Reward = Callable[[list[str], list[Problem], list[bool]], Sequence[float | None]]

DEFAULT_WEIGHTS: Mapping[str, float] = {"answer": 1.0, "form": 0.1}


def answer(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """1 where the completion is right under the strict rule, else 0."""
    return list(map(answer_reward, completions, problems, truncated))


def verdict(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """1 where Yes or No is right, else 0; None where the question asks for neither."""
    return list(map(verdict_reward, completions, problems, truncated))


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


def steps(
    completions: list[str], problems: list[Problem], truncated: list[bool]
) -> list[float | None]:
    """The share of the numbers needed from which sound arithmetic leads to the answer (`steps`)."""
    return list(map(steps_reward, completions, problems, truncated))


_LARGEST = float(np.finfo(np.float32).max)
_OWN = {
    "answer": answer,
    "verdict": verdict,
    "form": form,
    "thinking_form": thinking_form,
    "steps": steps,
}
ON_ERROR = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A reward function's failure on one item, which was therefore skipped."""

    name: str  # of the function
    item: int
    why: str

    def __str__(self) -> str:
        return f"reward {self.name!r} skipped item {self.item}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Rewards:
    """The rewards of B completions under R reward functions."""

    names: tuple[str, ...]  # R names
    values: np.ndarray  # [B, R] float32, unweighted; NaN where a function returned None
    total: np.ndarray  # [B] float32: weighted sum over what is not NaN; NaN if nothing is
    failures: tuple[Failure, ...] = ()  # with on_error="skip": what failed, each as None


def find(name: str) -> Reward:
    """The reward function of a name: one of `_OWN`, or "package.module:function"."""
    if name in _OWN:
        return _OWN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(_OWN)
        raise UserError(f'unknown reward {name!r}: use {known} or "package.module:function"')
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"reward {name!r} cannot be imported: {_described(error)}") from error
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


def combine(
    completions: Sequence[str],
    problems: Sequence[Problem],
    truncated: Sequence[bool],
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    on_error: str = "stop",
    timeout: float | None = None,
) -> Rewards:
    """Applies every reward function named in `weights` and adds them up.

        total_b = sum_r weight_r * value_{b,r}   over the r whose value is not None

    By hand: weights {answer: 1, form: 0.1}, a right answer in a wrong form: 1 * 1 + 0.1 * 0 = 1.

    A function fails on an item where it raises or returns something that is neither None nor a
    finite number, and on all items where it does not return a list of their length. With
    on_error="stop" the first failure is a UserError that names the function and the item; with
    "skip" each counts as None and is listed in `Rewards.failures`. Where a function raises, the
    items on which it does so alone have failed, and it is applied once more to the others together.

    A function that takes longer than `timeout` seconds (None: as long as it likes) is interrupted,
    which counts as raising; one item alone then gets its share of them. So it takes three times
    that at most. In another thread than the main one there is no limit.
    """
    if on_error not in ON_ERROR:
        raise UserError(f"on_error={on_error!r}: use {' or '.join(ON_ERROR)}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise UserError(f"timeout={timeout}: must be a positive number of seconds, or None")
    if not weights:
        raise UserError("no reward function is named: give at least one weight")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UserError(f"the weight of reward {name!r} is {weight}: it must be finite")
    rows = list(zip(completions, problems, map(bool, truncated), strict=True))
    columns, failures = [], []
    for name in weights:
        column, failed = _column(find(name), rows, timeout)
        if failed and on_error == "stop":
            item, why = min(failed.items())
            raise UserError(f"reward {name!r} failed at item {item}: {why}")
        columns.append(column)
        failures += [Failure(name, item, why) for item, why in sorted(failed.items())]
    values = np.array(columns, np.float32).reshape(len(columns), len(rows)).T
    total = np.nansum(values * np.array(list(weights.values()), np.float32), axis=1)
    total = np.where(np.isnan(values).all(axis=1), np.float32(np.nan), total)
    return Rewards(tuple(weights), values, total.astype(np.float32), tuple(failures))


Row = tuple[str, Problem, bool]


def _column(
    function: Reward, rows: list[Row], timeout: float | None
) -> tuple[list[float], dict[int, str]]:
    """The function's values, NaN for None; on which items it failed, and why."""
    items, failed = list(range(len(rows))), {}
    values, why = _called(function, rows, timeout)
    if values is None:
        share = None if timeout is None else timeout / max(1, len(rows))
        for item in items:
            alone, reason = _called(function, [rows[item]], share)
            if alone is None:
                failed[item] = reason
        items = [item for item in items if item not in failed]
        if failed and items:
            values, why = _called(function, [rows[item] for item in items], timeout)
        if values is None:
            failed |= {
                item: f"in a batch of {len(items)}, though not alone: {why}" for item in items
            }
    column = [math.nan] * len(rows)
    for item, value in zip(items, values or (), strict=False):
        try:
            column[item] = math.nan if value is None else _finite(value)
        except ValueError as error:
            failed[item] = str(error)
    return column, failed


def _called(
    function: Reward, rows: list[Row], seconds: float | None
) -> tuple[list[float | None] | None, str]:
    """What the function returns for these rows as a list; or None and what was wrong."""
    completions = [text for text, _, _ in rows]
    problems = [problem for _, problem, _ in rows]
    truncated = [cut for _, _, cut in rows]
    try:
        with _at_most(seconds):
            values = function(completions, problems, truncated)
            if not isinstance(values, Iterable):
                return None, f"it returned a {type(values).__name__}: must be a list"
            values = list(values)
    except _TimeIsUp:
        return None, f"it took longer than {seconds:.3g} s (reward_timeout)"
    except Exception as error:  # whatever a user's function raises
        return None, f"it raised {_described(error)}"
    if len(values) != len(rows):
        return None, f"it returned {len(values)} values for {len(rows)} completions"
    return values, ""


class _TimeIsUp(BaseException):
    """Not an Exception, so that no function takes it for one of its own."""


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Raises _TimeIsUp in the block after so many seconds, in the main thread."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # once more, were it caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _finite(value: float) -> float:
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result) or abs(result) > _LARGEST:
        raise ValueError(f"it returned {value!r:.80}: must be finite or None")
    return result


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
