"""Problems from files and back, whatever the layout of their rows (see `layouts`).

Where a row does not say its variant (`variant`, or data_source `caugym_redundant`), the file's name
does (`redundant_dataset.json`), else it is base; but a file whose name says nothing and which holds
LACK_CONDITION answers is an insufficient set as a whole, so that a hint that goes by the variant
never depends on the single label.

The released rephrased and omitted sets say position by position what the base set says. Their items
have the story of the base item at the same place, where the base file lies beside theirs
(rephrased_dataset.json beside base_dataset.json), and are unread otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from caugym_jax.data.layouts import ORIGINAL, declares_variant, is_causal, problem_of
from caugym_jax.data.raw import SUFFIXES, BadRow, file_rows, read_rows
from caugym_jax.data.released import is_released, released_path
from caugym_jax.errors import UserError
from caugym_jax.types import REWRITTEN, VARIANTS, Problem

_WEIGHTED = re.compile(r"(.+)=(\d+(?:\.\d*)?|\.\d+)")
_SHARED = ("Type", "answer")  # what a rewriting shares with its original


def read_problems(paths: str | Path, variant: str | None = None) -> list[Problem]:
    """Reads every problem of one or several files, in order.

    Args:
      paths: one or several sources, separated by commas. Each a path; `caugym:base` or another
        released file (`released`); `hf:owner/name[@config][:split]` (`raw`);
        `tfds:caugym/ate_base_problems[:split]` (`tfds`). The split is `train` if none is given.
      variant: one of VARIANTS, overrides what files and rows say.

    Raises:
      UserError: a missing, empty, unreadable or unknown file, or a bad row, named by its place
        counted from 0.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    names = paths.split(",") if isinstance(paths, str) else [str(paths)]
    return [item for name in names for item in good(read_items(name.strip(), variant))]


def good(items: list[Any]) -> list[Any]:
    """The items; UserError for the first that is a line saying what is wrong."""
    for item in items:
        if isinstance(item, str):
            raise UserError(item)
    return items


def weighted(paths: str) -> list[tuple[str, float]]:
    """The sources of `NAME=WEIGHT,...`, each with its weight; names alone are one source together.

    Raises:
      UserError: only some have a weight, or one is not above 0.
    """
    found = [_WEIGHTED.fullmatch(name.strip()) for name in paths.split(",")]
    if not any(found) or Path(paths).exists():
        return [(paths, 1.0)]
    if not all(found):
        raise UserError(f"'{paths}': give each of the files a weight (FILE=WEIGHT,...), or none")
    sources = [(match[1], float(match[2])) for match in found if match is not None]
    if min(weight for _, weight in sources) <= 0:
        raise UserError(f"'{paths}': weights must be above 0")
    return sources


def names_of(paths: str) -> list[str]:
    """The names of one or several sources, without weights."""
    return [name.strip() for part, _ in weighted(paths) for name in part.split(",")]


@contextlib.contextmanager
def naming(paths: str) -> Iterator[None]:
    """A complaint of what is done with these sources names them, unless it does so by itself."""
    try:
        yield
    except UserError as error:
        if any(name in str(error) for name in names_of(paths)):
            raise
        raise UserError(f"{paths}: {error}") from error


Made = TypeVar("Made")


def read_items(
    name: str,
    variant: str | None = None,
    make: Callable[[Any, Problem | None], Made] | None = None,
    rows: list[Any] | None = None,
) -> list[Any]:
    """The problems of one file in order; in a bad one's place, a line that says what is wrong.

    Args:
      make: what is made of each row and its problem, which is then None where the row is none;
        without it such a row is a bad one.
      rows: the file's, if at hand.

    Raises UserError where there is no file of problems at all.
    """
    rows = read_rows(name) if rows is None else rows
    if not rows:
        raise UserError(f"{name} holds no problems")
    path = released_path(name) if is_released(name) else Path(name)
    fallback = next((v for v in VARIANTS if path.stem == v or path.stem.startswith(v + "_")), None)

    def item(i: int, row: Any) -> Problem | str | None:
        if make is not None and isinstance(row, Mapping) and not is_causal(row):
            return None
        return tried(i, lambda: problem_of(row, variant, fallback))

    def tried(i: int, read: Callable[[], Any]) -> Any:
        if isinstance(rows[i], BadRow):
            return f"{name}, item {i} (counting from 0): {rows[i]}"
        try:
            return read()
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            return f"{name}, item {i} (counting from 0): {why}"

    items = [item(i, row) for i, row in enumerate(rows)]
    if fallback in REWRITTEN:
        for i, row in _with_originals(rows, items, path, fallback):
            items[i] = item(i, row)
    said = variant or fallback or any(map(declares_variant, rows))
    if not said and any(isinstance(p, Problem) and p.lacks for p in items):
        items = [
            dataclasses.replace(p, variant="insufficient") if isinstance(p, Problem) else p
            for p in items
        ]
    if make is None:
        return items

    def made(i: int, row: Any, problem: Any) -> Any:
        return problem if isinstance(problem, str) else tried(i, lambda: make(row, problem))

    return [made(i, row, problem) for i, (row, problem) in enumerate(zip(rows, items, strict=True))]


def _with_originals(
    rows: list[Any], items: list[Problem | str | None], path: Path, variant: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of unread items with the text of the base item that has their place and label."""
    unread = [i for i, p in enumerate(items) if isinstance(p, Problem) and p.unread]
    names = (path.with_name(f"base{path.stem.removeprefix(variant)}{s}") for s in SUFFIXES)
    base = next(filter(Path.exists, names), None)
    if not unread or base is None:
        return
    originals = file_rows(base)
    for i in unread:
        original = originals[i] if i < len(originals) else {}
        if [rows[i].get(key) for key in _SHARED] == [original.get(key) for key in _SHARED]:
            yield i, {**rows[i], ORIGINAL: original["problem"]}


def problem_record(problem: Problem) -> dict[str, Any]:
    """The row of the official layout that `read_problems` reads back as an equal Problem."""
    row: dict[str, Any] = {
        "problem": problem.text,
        "answer": problem.answer,
        "Reason": problem.reason,
        "Type": problem.task,
        "variant": problem.variant,
    }
    if problem.prompt is not None:
        row["prompt"] = problem.prompt if isinstance(problem.prompt, str) else list(problem.prompt)
    if problem.solution is not None:
        row["solution"] = problem.solution
    return row | problem.extra


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line; the file appears whole or not at all."""
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: Any) -> None:
    """Writes one indented JSON value; the file appears whole or not at all."""
    _write(path, [json.dumps(value, ensure_ascii=False, indent=1) + "\n"])


def _write(path: str | Path, chunks: Iterable[str]) -> None:
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            os.chmod(temporary, 0o644)
            file.writelines(chunks)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
