"""Problems as the rows that each method trains on, and rows as .json, .jsonl or .parquet files.

Rows by purpose, messages being lists of {"content", "role"} as TRL reads them:

    problems  problem, answer, Reason, Type, id, Structure: the official test-set schema, the
              last two being the index and the graph, query and numbers as structure
    sft       prompt and completion as messages (the steps, then the answer as JSON)
    dpo       prompt, chosen and rejected as messages (chosen: as sft; rejected: a wrong solution),
              kind (which mistake, of texts.mistakes.KINDS), answer, Type, id
    kto       prompt and completion as messages, label (of each two rows in turn one is right),
              kind ("right" or which mistake), answer, Type, id
    rl        data_source, prompt, ability, reward_model, extra_info: the released RL schema
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from caugym_jax.causal.text.wording import LACK_HINT, STEP_BY_STEP
from caugym_jax.data.texts.mistakes import Mistake, mistaken
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.errors import UserError
from caugym_jax.types import LACKING_VARIANTS, Problem, Story

PARQUET_ROWS = 10_000  # held in memory at a time


def make_row(
    purpose: str, problem: Problem, index: int, *, seed: int = 0, split: str = "train"
) -> dict[str, Any]:
    """The row of one problem; a function of its arguments alone.

    Args:
      purpose: one of PURPOSES.
      index, seed: the problem's place in its stream; what a row draws at random follows them.
      split: the name written into rl rows.
    """
    return _ROWS[purpose](problem, index, seed, split)


def wording_options(purpose: str) -> dict[str, bool]:
    """Options of `generate_problems` with which a purpose's released rows are worded."""
    return {"codes": True, "instruction": False} if purpose == "rl" else {}


# Rows -----------------------------------------------------------------------------------------


def _problem_row(problem: Problem, index: int, seed: int, split: str) -> dict[str, Any]:
    assert problem.story is not None  # generated problems have one
    return {
        "problem": problem.text,
        "answer": problem.answer,
        "Reason": steps_of(problem),
        "Type": problem.task,
        "id": _id(index),
        "Structure": structure(problem.story),
    }


def _sft_row(problem: Problem, index: int, seed: int, split: str) -> dict[str, Any]:
    return {
        "prompt": _prompt(problem),
        "completion": _said(steps_of(problem), problem.answer),
    }


def _dpo_row(problem: Problem, index: int, seed: int, split: str) -> dict[str, Any]:
    wrong = _mistake(problem, index, seed)
    return {
        "prompt": _prompt(problem),
        "chosen": _said(steps_of(problem), problem.answer),
        "rejected": _said(wrong.reason, wrong.answer),
        "kind": wrong.kind,
        "answer": problem.answer,
        "Type": problem.task,
        "id": _id(index),
    }


def _kto_row(problem: Problem, index: int, seed: int, split: str) -> dict[str, Any]:
    pair, place = divmod(index, 2)
    right = place == random.Random(f"kto {seed} {pair}").randrange(2)
    if right:
        kind, completion = "right", _said(steps_of(problem), problem.answer)
    else:
        wrong = _mistake(problem, index, seed)
        kind, completion = wrong.kind, _said(wrong.reason, wrong.answer)
    return {
        "prompt": _prompt(problem),
        "completion": completion,
        "label": right,
        "kind": kind,
        "answer": problem.answer,
        "Type": problem.task,
        "id": _id(index),
    }


def _rl_row(problem: Problem, index: int, seed: int, split: str) -> dict[str, Any]:
    return {
        "data_source": f"caugym_{problem.variant}",
        "prompt": _message("user", f"{problem.text} {STEP_BY_STEP}"),
        "ability": "math",
        "reward_model": {"ground_truth": problem.answer, "style": "rule"},
        "extra_info": {"index": index, "split": split},
    }


def structure(story: Story) -> dict[str, Any]:
    """A generated story as JSON-serialisable structure. Events are lists of [node, value]."""
    query, exact = story.query, story.exact
    assert exact is not None  # a generated story has it
    record = {
        "graph": {"nodes": list(story.names), "edges": [list(edge) for edge in story.edges]},
        "states": [list(pair) for pair in story.states],
        "names": story.name_kind,
        "x": query.x,
        "y": query.y,
        "x_value": query.x_value,
        "y_value": query.y_value,
        "adjusters": list(query.adjusters),
        "mediators": list(query.mediators),
        "mediator_values": list(query.mediator_values),
        "bound": query.bound,
        "zero": query.zero,
        "given": [
            {
                "target": [list(event) for event in term.target],
                "given": [list(event) for event in term.given],
                "p": number,
            }
            for term, number in story.given
        ],
        "exact": float(exact),
    }
    return record if story.block is None else {**record, "block": story.block}


def _mistake(problem: Problem, index: int, seed: int) -> Mistake:
    return mistaken(problem, random.Random(f"mistake {seed} {index}"))


def _id(index: int) -> str:
    return f"item_{index:07d}"


def _prompt(problem: Problem) -> list[dict[str, str]]:
    lacking = problem.variant in LACKING_VARIANTS
    ask = f"{STEP_BY_STEP} {LACK_HINT}" if lacking else STEP_BY_STEP
    return _message("user", f"{problem.text}\n{ask}")


def _said(reason: dict[str, str], answer: str) -> list[dict[str, str]]:
    steps = "\n".join(f"{name}: {step}" for name, step in reason.items())
    return _message("assistant", f"{steps}\n{answer}")


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"content": content, "role": role}]


_ROWS: dict[str, Callable[[Problem, int, int, str], dict[str, Any]]] = {
    "problems": _problem_row,
    "sft": _sft_row,
    "dpo": _dpo_row,
    "kto": _kto_row,
    "rl": _rl_row,
}
PURPOSES = tuple(_ROWS)


# Files ----------------------------------------------------------------------------------------


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows to a file whose ending, one of SUFFIXES, decides its format: .json (one list),
    .jsonl (one object a line) or .parquet. The file appears whole or not at all.

    Raises UserError for another ending or where the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _WRITERS[path.suffix](partial, rows)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_suffix(path: str | Path, name: str | None = None) -> None:
    """UserError unless `write_rows` can write the path; `name` is what the message calls it."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{name or path}: end the name in {', '.join(SUFFIXES)}")


def _write_json(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            file.write(("[\n" if i == 0 else ",\n") + json.dumps(row, indent=2))
        file.write("\n]\n")


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa  # only here: the other formats start without it
    import pyarrow.parquet as pq

    rows = iter(rows)
    batch = list(itertools.islice(rows, PARQUET_ROWS))
    schema = pa.schema(_columns(pa, batch[0]))
    with pq.ParquetWriter(path, schema) as writer:
        while batch:
            if "Structure" in schema.names:  # its lists differ in depth: kept as JSON text
                batch = [{**row, "Structure": json.dumps(row["Structure"])} for row in batch]
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            batch = list(itertools.islice(rows, PARQUET_ROWS))


def _columns(pa: Any, row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Arrow types of the columns of one kind of row."""
    text, messages = pa.string(), pa.list_(pa.struct({"content": pa.string(), "role": pa.string()}))
    types = {
        "Reason": pa.struct({f"Step {i}": text for i in range(1, 8)}),
        "prompt": messages,
        "completion": messages,
        "chosen": messages,
        "rejected": messages,
        "label": pa.bool_(),
        "reward_model": pa.struct({"ground_truth": text, "style": text}),
        "extra_info": pa.struct({"index": pa.int64(), "split": text}),
    }
    return [(name, types.get(name, text)) for name in row]


_WRITERS = {".json": _write_json, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
SUFFIXES = tuple(_WRITERS)
