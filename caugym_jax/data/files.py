"""Problems from files and back: official CauGym layouts, released parquet, and the model hub.

Layouts, told apart by a row's keys:

    official  problem, answer, Reason, Type            (+ solution, prompt, variant: our own files)
    verl      prompt (messages), reward_model.ground_truth   (+ answer (messages) = the trace)
    sft       prompt (messages), completion (messages), whose last line is the answer

Where a row does not say its variant (`variant`, or data_source `caugym_redundant`), the file's name
does (`redundant_dataset.json`), else it is base; but a file whose name says nothing and which holds
LACK_CONDITION answers is an insufficient set as a whole, so that a hint that goes by the variant
never depends on the single label.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from caugym_jax.causal.wording import LACK_HINT, STEP_BY_STEP
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS, VARIANTS, Problem

_LFS_POINTER = "version https://git-lfs"
_QUESTIONS = {  # how each task's question begins; PN and PS share theirs
    "ETT": r"For those with .+?, if their .+? had been ",
    "CDE": r"Conditioned on ",
    "NDE": r"Suppose the mediator keeps constant when ",
    "NIE": r"Suppose .+? is held constant and the mediator changes ",
    "ATE": r"If .+? is changed to be ",
}
_BOUND = re.compile(r"Given that (?:the )?(.+?) was (.+?) and (?:the )?.+? was .+?, what is the ")


def read_problems(paths: str | Path, variant: str | None = None) -> list[Problem]:
    """Reads every problem of one or several files, in order.

    Args:
      paths: a path; several, separated by commas; or `hf:owner/name[:split]` (split: train).
      variant: one of VARIANTS, overrides what files and rows say.

    Raises:
      UserError: a missing, empty, unreadable or unknown file, or a bad row, named by its place
        counted from 0.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"unknown variant '{variant}': choose one of {', '.join(VARIANTS)}")
    names = paths.split(",") if isinstance(paths, str) else [str(paths)]
    items = [item for name in names for item in read_items(name.strip(), variant)]
    for item in items:
        if isinstance(item, str):
            raise UserError(item)
    return items


def read_items(name: str, variant: str | None = None) -> list[Problem | str]:
    """The items of one file in order; in a bad one's place, a line that says what is wrong.

    Raises UserError where there is no file of problems at all.
    """
    rows = _hub_rows(name) if name.startswith("hf:") else _file_rows(Path(name))
    if not rows:
        raise UserError(f"{name} holds no problems")
    stem = Path(name).stem
    fallback = next((v for v in VARIANTS if stem == v or stem.startswith(v + "_")), None)
    items: list[Problem | str] = []
    for i, row in enumerate(rows):
        try:
            items.append(_problem(row, variant, fallback))
        except (KeyError, ValueError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            items.append(f"{name}, item {i} (counting from 0): {why}")
    said = variant or fallback or any(map(_declares_variant, rows))
    if not said and any(isinstance(p, Problem) and p.lacks for p in items):
        return [
            dataclasses.replace(p, variant="insufficient") if isinstance(p, Problem) else p
            for p in items
        ]
    return items


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
        row["prompt"] = problem.prompt
    if problem.solution is not None:
        row["solution"] = problem.solution
    return row | problem.extra


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line; the file appears whole or not at all."""
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: Any) -> None:
    """Writes one indented JSON value; the file appears whole or not at all."""
    _write(path, [json.dumps(value, ensure_ascii=False, indent=1) + "\n"])


def task_of(text: str) -> str | None:
    """The task a problem's text asks for, by its Instruction line or its question's template.

    PN and PS differ only in the printed codes: PN's actual world is (1, 1), PS's is (0, 0).
    None where the text says neither (rewritten problems without a task name).
    """
    named = re.search(r"^Instruction: .*?\((" + "|".join(TASKS) + r")\)", text, re.MULTILINE)
    if named:
        return named[1]
    question = text.rpartition("Question: ")[2]
    for task, opening in _QUESTIONS.items():
        if re.match(opening, question):
            return task
    bound = _BOUND.match(question)
    if bound:
        code = re.search(re.escape(f"{bound[1]} being {bound[2]} (") + r"[A-Z]=([01])\)", text)
        if code:
            return "PN" if code[1] == "1" else "PS"
    return None


def _problem(row: Any, variant: str | None, fallback: str | None) -> Problem:
    """One row of any layout; ValueError, TypeError or KeyError say what is wrong with it."""
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a JSON object, found {type(row).__name__}")
    row = dict(row)
    declared = _declared_variant(row)
    row.pop("variant", None)
    texts = _official_texts(row) if "problem" in row else _chat_texts(row)
    for key, value in texts.items():
        if value is None and key in ("prompt", "solution"):
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"'{key}' must be text, found {value!r:.60}")
    task = row.pop("Type", None) or task_of(texts["problem"])
    reason = row.pop("Reason", None) or {}
    if task not in TASKS:
        raise ValueError(f"'Type' must be one of {', '.join(TASKS)}, found {task!r}")
    if not isinstance(reason, Mapping):
        raise TypeError(f"'Reason' must be a JSON object, found {type(reason).__name__}")
    if declared is not None and declared not in VARIANTS:
        raise ValueError(f"'variant' must be one of {', '.join(VARIANTS)}, found {declared!r}")
    problem = Problem(
        text=texts["problem"],
        answer=texts["answer"],
        task=task,
        reason={step: said for step, said in reason.items() if said is not None},
        variant=variant or declared or fallback or "base",
        prompt=texts["prompt"],
        solution=texts["solution"],
        extra=row,
    )
    _check_answer(problem)
    return problem


def _declares_variant(row: Any) -> bool:
    return isinstance(row, Mapping) and bool(_declared_variant(row))


def _declared_variant(row: Mapping[str, Any]) -> Any:
    source = str(row.get("data_source")).removeprefix("caugym_")
    return row.get("variant") or (source if source in VARIANTS else None)


def _official_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Takes the texts out of a row of the official layout."""
    return {key: row.pop(key) for key in ("problem", "answer")} | {
        key: row.pop(key, None) for key in ("prompt", "solution")
    }


def _chat_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Takes the texts out of a row whose prompt holds the problem."""
    if row.get("prompt") is None:
        raise KeyError("problem")
    prompt = _message(row.pop("prompt"), "user")
    text = prompt.removesuffix(LACK_HINT).rstrip(" ").removesuffix(STEP_BY_STEP).rstrip(" \n")
    trace = row.pop("answer", None) or row.pop("completion", None)
    solution = None if trace is None else _message(trace, "assistant")
    if solution is not None and "reward_model" not in row:
        answer = solution.rpartition("\n")[2]
    else:
        answer = row.pop("reward_model")["ground_truth"]
    if "index" in (info := row.pop("extra_info", None) or {}):
        row["index"] = info["index"]
    return {"problem": text, "answer": answer, "prompt": prompt, "solution": solution}


def _check_answer(problem: Problem) -> None:
    try:
        good = problem.lacks or math.isfinite(problem.prob)
    except (ValueError, TypeError, KeyError):
        good = False
    if not good:
        raise ValueError(
            "'answer' must be LACK_CONDITION or JSON with a finite PROB, "
            f"found {problem.answer!r:.60}"
        )


def _message(messages: Any, role: str) -> str:
    """The only message, which must be `role`'s."""
    if isinstance(messages, str):
        return messages
    if len(messages) != 1 or messages[0]["role"] != role:
        raise ValueError(f"expected one {role} message, found {[m['role'] for m in messages]}")
    return messages[0]["content"]


def _file_rows(path: Path) -> list[Any]:
    if path.suffix not in (".json", ".jsonl", ".parquet"):
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
    if path.suffix == ".jsonl":
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
    """All rows of a hub data set's split."""
    match = re.fullmatch(r"hf:([^:/]+/[^:/]+)(?::(.+))?", name)
    if not match:
        raise UserError(f"'{name}': expected hf:owner/name or hf:owner/name:split")
    import datasets

    try:
        return datasets.load_dataset(match[1], split=match[2] or "train").to_list()
    except Exception as error:  # network, permission, name, split: the hub has one type for each
        raise UserError(f"cannot load {name} from the hub ({_line(error)})") from error


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
