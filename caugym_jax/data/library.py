"""Problems and their answers from Python: docs/library.md. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from caugym_jax.causal.engine import solving
from caugym_jax.causal.engine.answers import label
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.text.reading import read
from caugym_jax.data.texts.solution import explain
from caugym_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Solution:
    """The exact answer to a problem text."""

    answer: str  # as a label: {"ANSWER": "Yes", "PROB": "0.1234"}, or LACK_CONDITION
    value: float | None  # the number asked for; None: the text does not determine it
    verdict: str | None  # "Yes" or "No", where the question asks for one
    steps: dict[str, str]  # graph, adjustment set, formula, numbers, result


def problems(tasks: Sequence[str] | str, n: int, seed: int = 0, **options: Any) -> list[Problem]:
    """Problems 0 to n - 1 of the stream that (tasks, seed, options) define, with exact labels.

    Args:
      tasks: of ATE, CDE, ETT, NDE, NIE, PN, PS; or one of them.
      options: `variant`, `nodes` and more, as of the command generate.

    Raises:
      UserError: an unknown task or option value, or a request that no problem meets.
    """
    tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    return list(generate_problems(tasks, n, seed, **options))


def solve(text: str) -> Solution:
    """Reads a problem text and answers it from the graph and the numbers that it prints.

    Raises:
      UserError: the text is not understood, or its numbers contradict each other.
    """
    story = read(text)
    solved = solving.solve(story)
    answer = label(story.query.task, solved.value, solved.verdict)
    value = None if solved.value is None else float(solved.value)
    return Solution(answer, value, solved.verdict, explain(story))
