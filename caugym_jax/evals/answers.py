"""Files of answers: one JSON line an item, with `all_generated_answers`. Imports no jax."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caugym_jax.data.raw import read_rows
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import Answered
from caugym_jax.evals.foreign import ANSWERS, answer_rows
from caugym_jax.evals.suites import Question, items_of
from caugym_jax.rewards.answer import expected
from caugym_jax.runs.log import write_text
from caugym_jax.types import Problem


def set_name(path: str) -> str:
    """The name of a file's answers: the file's own without the ending."""
    return Path(path).stem.replace(":", "-")


def read_answers(path: str | Path, key: str | None = None) -> list[Answered]:
    """The items of an answers file, this project's or another tool's (`foreign`).

    Args:
      key: where the answers stand, if elsewhere than these tools put them.

    Raises:
      UserError: an item's label or answers cannot be read (file and item are named).
    """
    try:
        rows = answer_rows(read_rows(str(path), answers=True), key)
    except (ValueError, KeyError, TypeError, StopIteration, AttributeError) as error:
        raise UserError(f"{path}: unknown layout of answers ({error})") from error
    answered = []
    for i, item in enumerate(items_of(rows, str(path))[0]):
        try:
            if isinstance(item, Problem):
                expected(item)  # the label must hold a number or LACK_CONDITION
            answered.append(_answered(item))
        except (ValueError, UserError) as error:
            place = item.row if isinstance(item, Question) else i
            raise UserError(f"{path}, item {place} (counting from 0): {error}") from error
    return answered


def _answered(problem: Problem | Question) -> Answered:
    if ANSWERS not in problem.extra:
        raise ValueError(f"no {ANSWERS}: expected a list of the model's texts (or --answers_key)")
    texts = _list(problem, ANSWERS, (str, type(None))) or []
    truncated = _list(problem, "truncated", bool, len(texts))
    num_tokens = _list(problem, "num_tokens", int, len(texts))
    return Answered(
        problem=problem,
        completions=tuple(text or "" for text in texts),
        truncated=None if truncated is None else tuple(truncated),
        num_tokens=None if num_tokens is None else tuple(num_tokens),
        thinking=problem.extra.get("thinking") is True,
    )


def _list(
    problem: Problem | Question, key: str, kind: type | tuple[type, ...], length: int | None = None
) -> list[Any] | None:
    values = problem.extra.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"{key} must be a list of {getattr(kind, '__name__', 'texts')}")
    if length is not None and len(values) != length:
        raise ValueError(f"{key} has {len(values)} values for {length} answers")
    return values


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder of answers, or checks that those in it were given with these settings.

    Raises:
      UserError: they were not (the differences are listed).
    """
    stored = out / "settings.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = json.loads(stored.read_text()) if stored.exists() else settings
    except ValueError as error:
        raise UserError(
            f"{stored} is damaged: choose another --out, or remove that file to go on with the "
            "settings given"
        ) from error
    except OSError as error:
        raise UserError(f"cannot use {out}: {error.strerror}") from error
    changed = [
        f"{key} was {before.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise UserError(
            f"{out} holds answers given with other settings ({'; '.join(changed)}): choose another "
            "--out, or remove that one"
        )
    write_text(stored, json.dumps(settings, indent=1) + "\n")


class AnswersFile:
    """An answers file while it is written.

    Lines are added to NAME.partial.jsonl, each batch forced to disk; the file takes its own name
    when all problems are answered. A line that a kill cut short is written again.
    """

    def __init__(self, path: Path):
        self._path = path
        self._partial = path.with_name(f"{path.stem}.partial.jsonl")
        self._current = self._partial if self._partial.exists() else path
        self._lines = _whole_lines(self._current)

    def done(self, problems: Sequence[Problem | Question]) -> int:
        """How many of the problems, from the first, have their answers in the file.

        Raises:
          UserError: the answers are to other problems, or a line is damaged.
        """
        for i, (line, problem) in enumerate(zip(self._lines, problems, strict=False)):
            try:
                answered = json.loads(line)["problem"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"line {i + 1} of the answers in {self._path.parent} is damaged: remove it and "
                    f"what follows it from {self._current.name}"
                ) from error
            if answered != problem.text:
                raise UserError(
                    f"{self._path} answers other problems than the data's (item {i}, counting from "
                    "0): choose another --out"
                )
        return len(self._lines)

    @property
    def texts(self) -> list[Any]:
        """The problems that are answered, as far as they can be read."""
        found = []
        for line in self._lines:
            try:
                found.append(json.loads(line)["problem"])
            except (ValueError, KeyError, TypeError):
                break
        return found

    @property
    def complete(self) -> bool:
        """Whether all problems of an earlier evaluation are answered."""
        return self._path.exists()

    def reopen(self) -> None:
        """Keeps the whole lines; more are added after them."""
        write_text(self._partial, "".join(line + "\n" for line in self._lines))

    def add(self, items: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        try:
            with self._partial.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self._partial} ({error.strerror}): run the same command again to "
                "go on"
            ) from error

    def finish(self) -> None:
        os.replace(self._partial, self._path)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end in a newline; none if there is no file."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]
