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

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from caugym_jax.data.layouts import ORIGINAL, declares_variant, is_causal, problem_of
from caugym_jax.data.released import is_released, released_path
from caugym_jax.errors import UserError
from caugym_jax.types import REWRITTEN, VARIANTS, Problem

_SUFFIXES = (".json", ".jsonl", ".parquet")
_SHARED = ("Type", "answer")  # what a rewriting shares with its original
_LFS_POINTER = "version https://git-lfs"
_JSON_LINES = re.compile(r'\{"[^\n]*\}\s*(?:$|\n\{")')  # .json files of CaLM: an object a line


def read_problems(paths: str | Path, variant: str | None = None) -> list[Problem]:
    """Reads every problem of one or several files, in order.

    Args:
      paths: one or several sources, separated by commas. Each a path; `caugym:base` or another
        released file (`released`); `hf:owner/name[:split]`, a hub data set or a folder of one;
        `tfds:caugym/ate_base_problems[:split]` (`tfds`). The split is `train` if none is given.
      variant: one of VARIANTS, overrides what files and rows say.

    Raises:
      UserError: a missing, empty, unreadable or unknown file, or a bad row, named by its place
        counted from 0.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    names = paths.split(",") if isinstance(paths, str) else [str(paths)]
    items = [item for name in names for item in read_items(name.strip(), variant)]
    problems = []
    for item in items:
        if isinstance(item, str):
            raise UserError(item)
        problems.append(item)
    return problems


Made = TypeVar("Made")


def read_items(
    name: str,
    variant: str | None = None,
    make: Callable[[Any, Problem | None], Made] | None = None,
) -> list[Any]:
    """The problems of one file in order; in a bad one's place, a line that says what is wrong.

    Args:
      make: what is made of each row and its problem, which is then None where the row is none;
        without it such a row is a bad one.

    Raises UserError where there is no file of problems at all.
    """
    rows = read_rows(name)
    if not rows:
        raise UserError(f"{name} holds no problems")
    path = released_path(name) if is_released(name) else Path(name)
    fallback = next((v for v in VARIANTS if path.stem == v or path.stem.startswith(v + "_")), None)

    def item(i: int, row: Any) -> Problem | str | None:
        if make is not None and isinstance(row, Mapping) and not is_causal(row):
            return None
        return tried(i, lambda: problem_of(row, variant, fallback))

    def tried(i: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (KeyError, ValueError, TypeError) as error:
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
    names = (path.with_name(f"base{path.stem.removeprefix(variant)}{s}") for s in _SUFFIXES)
    base = next(filter(Path.exists, names), None)
    if not unread or base is None:
        return
    originals = _file_rows(base)
    for i in unread:
        original = originals[i] if i < len(originals) else {}
        if [rows[i].get(key) for key in _SHARED] == [original.get(key) for key in _SHARED]:
            yield i, {**rows[i], ORIGINAL: original["problem"]}


def read_rows(name: str) -> list[Any]:
    """The rows of one source (any that `read_problems` takes) as they are."""
    if name.startswith("hf:"):
        return _hub_rows(name)
    if name.startswith("tfds:"):
        from caugym_jax.data.tfds import tfds_rows  # only here: it needs the package

        return tfds_rows(name)
    return _file_rows(released_path(name) if is_released(name) else Path(name))


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


def _file_rows(path: Path) -> list[Any]:
    if path.suffix not in _SUFFIXES:
        raise UserError(f"{path}: expected a .json, .jsonl or .parquet file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if data.startswith(_LFS_POINTER.encode()):
        raise UserError(f"{path} is a Git LFS pointer, not the data: run `git lfs pull`")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if path.suffix == ".jsonl" or _JSON_LINES.match(text):
        lines = enumerate(text.split("\n"), 1)  # not splitlines: JSON text may hold U+2028
        return [_parse(line, path, number) for number, line in lines if line.strip()]
    rows = _parse(text, path, 1)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list of items, found {type(rows).__name__}")
    return rows


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from error


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({_line(error)})") from error


def _hub_rows(name: str) -> list[dict[str, Any]]:
    """All rows of a split of a hub data set, or of a folder with the files of one."""
    found = re.fullmatch(r"hf:(.*?)(?::([^:/]+))?", name, re.DOTALL)
    assert found is not None, name  # callers know that it begins with hf:
    source, split = found.groups()
    if not re.fullmatch(r"[^:/]+/[^:/]+", source) and not Path(source).is_dir():
        raise UserError(f"'{name}': expected hf:owner/name, hf:owner/name:split or hf:FOLDER")
    import datasets

    try:
        return datasets.load_dataset(source, split=split or "train").to_list()
    except Exception as error:  # network, permission, name, split: the hub has one type for each
        raise UserError(f"cannot load {name} ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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
