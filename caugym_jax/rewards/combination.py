"""Rewards of a batch of completions: named functions, weights, and their weighted sum.

A user's own function is named "package.module:function" and has one of two signatures:

    f(completions, problems, truncated)   three lists of length B, if one parameter is `problems`
    f(completions, **columns)             TRL's: everything by keyword: `prompts`, `completions`,
                                          `completion_ids`, `truncated`, and the rows' columns by
                                          name, lists of length B; all of them where the function
                                          takes `**`, else those that it names

It returns B numbers (a list or an array), None for "does not apply to this one"; or a dict of such
lists, named parts, which are added up and logged one by one. An `async def` is awaited. As in TRL,
completions of conversations are messages, [{"role": "assistant", "content": ...}], in the second
form, and those of prompts that are texts are texts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.data.items import problem_item, truth
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward, verdict_reward
from caugym_jax.rewards.form import form_reward
from caugym_jax.rewards.limits import TimeIsUp, at_most
from caugym_jax.rewards.plain import exact_reward, length_reward, math_reward, regex_reward
from caugym_jax.rewards.steps import steps_reward
from caugym_jax.types import Item, Problem

Reward = Callable[..., Any]

DEFAULT_WEIGHTS: Mapping[str, float] = {"answer": 1.0, "form": 0.1}


def _thinking_form(text: str, problem: Problem, truncated: bool) -> float:
    """As `form_reward`, for a reasoning model: exactly one `</think>` is required."""
    return form_reward(text, problem, truncated, thinking=True)


# Of a completion, its problem, and whether it was cut off. None: does not apply.
_CAUSAL: dict[str, Callable[[str, Problem, bool], float | None]] = {
    "answer": answer_reward,
    "verdict": verdict_reward,
    "form": form_reward,
    "thinking_form": _thinking_form,
    "steps": steps_reward,
}
# The same of any item.
_PLAIN: dict[str, Callable[[str, Item, bool], float | None]] = {
    "math": math_reward,
    "exact": exact_reward,
    "regex": regex_reward,
    "length": length_reward,
}


class Row(NamedTuple):
    """A completion to judge."""

    completion: str
    item: Item
    truncated: bool
    ids: list[int]  # the completion's tokens


_LARGEST = float(np.finfo(np.float32).max)
ON_ERROR = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A reward function's failure on one item, which was therefore skipped."""

    name: str  # of the function
    item: int
    why: str
    where: str  # the item's file and row, or its place

    def __str__(self) -> str:
        return f"reward {self.name!r} skipped {self.where}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Rewards:
    """The rewards of B completions under R reward functions."""

    names: tuple[str, ...]  # R names
    values: np.ndarray  # [B, R] float32, unweighted; NaN where a function returned None
    total: np.ndarray  # [B] float32: weighted sum over what is not NaN; NaN if nothing is
    failures: tuple[Failure, ...] = ()  # with on_error="skip": what failed, each as None
    # "function/part" -> [B] float32, of functions that return parts; NaN as in values
    parts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def joined(parts: Sequence[tuple[Sequence[int], Rewards]]) -> Rewards:
    """The rewards of completions that were judged in parts.

    Args:
      parts: which of all completions each part's are, and their rewards; at least one part.
    """
    first = parts[0][1]
    count = sum(len(places) for places, _ in parts)
    values = np.full((count, len(first.names)), np.nan, np.float32)
    total = np.full(count, np.nan, np.float32)
    names = dict.fromkeys(name for _, rewards in parts for name in rewards.parts)
    found = {name: np.full(count, np.nan, np.float32) for name in names}
    failures: list[Failure] = []
    for places, rewards in parts:
        index = np.asarray(places, int)
        values[index], total[index] = rewards.values, rewards.total
        for name, column in rewards.parts.items():
            found[name][index] = column
        failures += [dataclasses.replace(f, item=int(index[f.item])) for f in rewards.failures]
    failures.sort(key=lambda failure: (first.names.index(failure.name), failure.item))
    return Rewards(first.names, values, total, tuple(failures), found)


def find(name: str) -> Reward:
    """The reward function of a name: one of our own, or "package.module:function"."""
    if name in _CAUSAL or name in _PLAIN:
        return _CAUSAL.get(name) or _PLAIN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join([*_CAUSAL, *_PLAIN])
        raise UserError(f'unknown reward {name!r}: use {known} or "package.module:function"')
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"reward {name!r} cannot be imported: {_described(error)}") from error
    if not callable(function):
        raise UserError(f"reward {name!r} is a {type(function).__name__}, not a function")
    return function


def check_rewards(items: Sequence[Item], weights: Mapping[str, float], name: str | None) -> None:
    """Refuses a file with a row that no reward function applies to.

    Args:
      name: the file's.

    Raises:
      UserError: there is such a row, or a function names a column that no row has.
    """
    columns = {key for item in items for key in item.columns}
    for reward in weights:
        if reward not in _CAUSAL and reward not in _PLAIN:
            missing = [x for x in _named(find(reward), required=True) if x not in columns]
            if missing:
                raise UserError(
                    f"reward {reward!r} takes {', '.join(map(repr, missing))}, and no row of "
                    f"{name} has such a column: they have {', '.join(sorted(columns))}"
                )
    for i, item in enumerate(items):
        if not any(_applies(reward, item) for reward in weights):
            raise UserError(
                f"{item.where or f'{name}, item {i}'} (counting from 0): none of the rewards "
                f"{', '.join(weights)} "
                "applies to it; for rows with an answer of their own choose math or exact, for "
                'others regex, length or "package.module:function" (reward_weights=math=1)'
            )


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
    items: Sequence[Item | Problem],
    truncated: Sequence[bool],
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    on_error: str = "stop",
    timeout: float | None = None,
    ids: Sequence[list[int]] | None = None,
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
    whole = [problem_item(x) if isinstance(x, Problem) else x for x in items]
    tokens = [[]] * len(whole) if ids is None else ids
    rows = [
        Row(text, item, bool(cut), own)
        for text, item, cut, own in zip(completions, whole, truncated, tokens, strict=True)
    ]
    columns, failures = [], []
    parts: dict[str, np.ndarray] = {}
    for name in weights:
        column, found, failed = _column(_caller(name), rows, timeout)
        if failed and on_error == "stop":
            item, why = min(failed.items())
            raise UserError(f"reward {name!r} failed at {whole[item].named(item)}: {why}")
        columns.append(column)
        parts |= {f"{name}/{part}": np.array(x, np.float32) for part, x in found.items()}
        failures += [Failure(name, i, why, whole[i].named(i)) for i, why in sorted(failed.items())]
    values = np.array(columns, np.float32).reshape(len(columns), len(rows)).T
    total = np.nansum(values * np.array(list(weights.values()), np.float32), axis=1)
    total = np.where(np.isnan(values).all(axis=1), np.float32(np.nan), total)
    return Rewards(tuple(weights), values, total.astype(np.float32), tuple(failures), parts)


Call = Callable[[list[Row]], Any]  # rows -> what a function returns for them
# A function's values, or those of its parts by name ("" where it has none).
Values = dict[str, list[Any]]


def _caller(name: str) -> Call:
    """How the function of a name is called."""
    if name in _CAUSAL:
        causal = _CAUSAL[name]
        return lambda rows: [
            None if r.item.problem is None else causal(r.completion, r.item.problem, r.truncated)
            for r in rows
        ]
    if name in _PLAIN:
        plain = _PLAIN[name]
        return lambda rows: [plain(row.completion, row.item, row.truncated) for row in rows]
    function = find(name)
    if _takes_problems(function):
        return lambda rows: function(
            [row.completion for row in rows],
            [row.item.problem for row in rows],
            [row.truncated for row in rows],
        )
    return lambda rows: function(**_keywords(function, rows))


def _keywords(function: Reward, rows: list[Row]) -> dict[str, list[Any]]:
    """What a function of TRL's signature is called with."""

    def completion_of(row: Row) -> Any:
        conversational = not isinstance(row.item.prompt, str)
        message = {"role": "assistant", "content": row.completion}
        return [message] if conversational else row.completion

    columns = dict.fromkeys(key for row in rows for key in row.item.columns)
    given = {
        key: [row.item.columns.get(key) for row in rows]
        for key in columns
        if key not in ("prompt", "completion")
    } | {
        "prompts": [
            row.item.prompt if isinstance(row.item.prompt, str) else list(row.item.prompt)
            for row in rows
        ],
        "completions": list(map(completion_of, rows)),
        "completion_ids": [list(row.ids) for row in rows],
        "truncated": [row.truncated for row in rows],
    }
    if any(p.kind is p.VAR_KEYWORD for p in _parameters(function)):
        return given
    missing = [None] * len(rows)
    return {name: given.get(name, missing) for name in _named(function)}


_GIVEN = ("prompts", "completions", "completion_ids", "truncated")


def _parameters(function: Reward) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise UserError(f"reward {function!r} has no readable signature: wrap it") from error


def _takes_problems(function: Reward) -> bool:
    return any(p.name == "problems" for p in _parameters(function))


def _named(function: Reward, required: bool = False) -> list[str]:
    """The names of its parameters; `required`: of those that a column must fill."""
    if required and _takes_problems(function):
        return []
    names = []
    for p in _parameters(function):
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        if not required or (p.default is p.empty and p.name not in _GIVEN):
            names.append(p.name)
    return names


def _applies(name: str, item: Item) -> bool:
    if name in _CAUSAL:
        return item.problem is not None
    if name in ("math", "exact"):
        return truth(item) is not None
    if name == "regex":
        return isinstance(item.columns.get("pattern"), str)
    return True


def _column(
    call: Call, rows: list[Row], timeout: float | None
) -> tuple[list[float], dict[str, list[float]], dict[int, str]]:
    """The function's values, NaN for None; its parts' values; on which items it failed, and why."""
    items, failed = list(range(len(rows))), {}
    values, why = _called(call, rows, timeout)
    if values is None:
        share = None if timeout is None else timeout / max(1, len(rows))
        for item in items:
            alone, reason = _called(call, [rows[item]], share)
            if alone is None:
                failed[item] = reason
        items = [item for item in items if item not in failed]
        if failed and items:
            values, why = _called(call, [rows[item] for item in items], timeout)
        if values is None:
            failed |= {
                item: f"in a batch of {len(items)}, though not alone: {why}" for item in items
            }
    parts = {name: [math.nan] * len(rows) for name in values or ()}
    for name, found in (values or {}).items():
        for item, value in zip(items, found, strict=True):
            try:
                parts[name][item] = math.nan if value is None else _finite(value)
            except ValueError as error:
                failed[item] = str(error)
    column = [math.nan] * len(rows)
    for item in items:
        known = [part[item] for part in parts.values() if not math.isnan(part[item])]
        if known and item not in failed:
            column[item] = math.fsum(known)
    return column, {name: part for name, part in parts.items() if name}, failed


def _called(call: Call, rows: list[Row], seconds: float | None) -> tuple[Values | None, str]:
    """What the function returns for these rows; or None and what was wrong."""
    try:
        with at_most(seconds):
            returned = call(rows)
            if inspect.iscoroutine(returned):
                returned = asyncio.run(returned)
            parts = returned if isinstance(returned, Mapping) else {"": returned}
            values = {}
            for name, part in parts.items():
                if not isinstance(part, Iterable):
                    return None, f"it returned a {type(part).__name__}: must be a list"
                values[str(name)] = list(part)
    except TimeIsUp:
        return None, f"it took longer than {seconds:.3g} s (reward_timeout)"
    except Exception as error:  # whatever a user's function raises
        return None, f"it raised {_described(error)}"
    for part in values.values():
        if len(part) != len(rows):
            return None, f"it returned {len(part)} values for {len(rows)} completions"
    return values, ""


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
