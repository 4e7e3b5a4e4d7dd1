"""Answered problems from files: what `evaluate` writes, or another tool in that format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caugym_jax.data.files import read_problems
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import Answered
from caugym_jax.rewards.answer import expected
from caugym_jax.types import Problem


def read_answers(path: str | Path) -> list[Answered]:
    """The items of one answers file. Raises UserError naming the file and the item."""
    answered = []
    for i, problem in enumerate(read_problems(str(path))):
        try:
            expected(problem)  # the label must hold a number or LACK_CONDITION
            answered.append(_answered(problem))
        except (ValueError, UserError) as error:
            raise UserError(f"{path}, item {i} (counting from 0): {error}") from error
    return answered


def _answered(problem: Problem) -> Answered:
    if "all_generated_answers" not in problem.extra:
        raise ValueError("no all_generated_answers: expected a list of the model's texts")
    texts = _list(problem, "all_generated_answers", (str, type(None))) or []
    truncated = _list(problem, "truncated", bool, len(texts))
    num_tokens = _list(problem, "num_tokens", int, len(texts))
    return Answered(
        problem=problem,
        completions=tuple(text or "" for text in texts),
        truncated=None if truncated is None else tuple(truncated),
        num_tokens=None if num_tokens is None else tuple(num_tokens),
    )


def _list(
    problem: Problem, key: str, kind: type | tuple[type, ...], length: int | None = None
) -> list[Any] | None:
    values = problem.extra.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"{key} must be a list of {getattr(kind, '__name__', 'texts')}")
    if length is not None and len(values) != length:
        raise ValueError(f"{key} has {len(values)} values for {length} answers")
    return values
