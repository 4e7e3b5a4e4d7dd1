"""Writes fresh CauGym problems with exact truth, in the official schema.

    python -m caugym_jax.generate --tasks=ATE,ETT --n=1000 --seed=0 --out=train.jsonl
    python -m caugym_jax.generate --tasks=ATE --variant=deconfounding --n=500 --out=test.json
    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=rl --out=rl.parquet

Problem i depends on (seed, i) and the options alone. The file's ending decides its format:
.json (one list), .jsonl (one object a line) or .parquet. --for decides its columns:

    problems  problem, answer, Reason, Type, id, Structure: the official test-set schema, the
              last two being the index and the graph, query and numbers as structure
    sft       prompt and completion as chat messages (the steps, then the answer as JSON)
    rl        data_source, prompt, ability, reward_model, extra_info: the released RL schema
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from caugym_jax import cli
from caugym_jax.causal.generating import GENERATED_VARIANTS, generate_problems
from caugym_jax.causal.names import KINDS
from caugym_jax.causal.wording import LACK_HINT, STEP_BY_STEP
from caugym_jax.errors import UserError
from caugym_jax.types import Problem

PROGRESS_SECONDS = 5.0
PARQUET_ROWS = 10_000  # held in memory at a time


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    write = _WRITERS.get(Path(args.out).suffix)
    if write is None:
        raise UserError(f"--out={args.out}: end the name in {', '.join(_WRITERS)}")
    if args.n < 1:
        raise UserError(f"--n={args.n}: ask for at least one problem")
    problems = generate_problems(
        args.tasks,
        args.n,
        args.seed,
        variant=args.variant,
        nodes=args.nodes,
        names=args.names,
        adjusters=args.adjusters,
        zero_fraction=args.zero_fraction,
        codes=True if args.codes is None and args.purpose == "rl" else args.codes,
        instruction=False if args.purpose == "rl" else None,
    )
    row = _ROWS[args.purpose]
    rows = (row(problem, i, args.split) for i, problem in enumerate(problems))
    _write_whole(Path(args.out), write, _progress(rows, args.n))
    print(f"wrote {args.n} problems to {args.out}")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser("caugym_jax.generate", __doc__)
    add = parser.add_argument
    add("--tasks", type=_words, required=True, help="e.g. ATE,ETT (of the seven tasks)")
    add("--variant", default="base", help=f"one of {', '.join(GENERATED_VARIANTS)}")
    add("--n", type=int, required=True, help="number of problems")
    add("--seed", type=int, default=0, help="a non-negative number (default 0)")
    add("--out", required=True, help="file to write: .json, .jsonl or .parquet")
    add("--for", dest="purpose", choices=_ROWS, default="problems", help="columns to write")
    add("--nodes", type=_range, help="graph sizes, e.g. 3..5 (default: as the released set)")
    add("--names", type=_words, default=KINDS, help="of real,random,fake (default: all)")
    add("--adjusters", type=_numbers, help="sizes of the adjustment set, e.g. 0,1")
    add("--zero_fraction", type=float, help="share of problems whose effect the graph makes 0")
    add("--codes", action=argparse.BooleanOptionalAction, help='write "(A=0)" after states')
    add("--split", default="train", help="the name written into rl rows (default train)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0,1") from None


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("..")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 3..5") from None


# Rows -----------------------------------------------------------------------------------------


def _problem_row(problem: Problem, index: int, split: str) -> dict:
    return {
        "problem": problem.text,
        "answer": problem.answer,
        "Reason": problem.reason,
        "Type": problem.task,
        "id": f"item_{index:07d}",
        "Structure": problem.extra,
    }


def _sft_row(problem: Problem, index: int, split: str) -> dict:
    steps = "\n".join(f"{name}: {step}" for name, step in problem.reason.items())
    ask = f"{STEP_BY_STEP} {LACK_HINT}" if problem.lacks else STEP_BY_STEP
    return {
        "prompt": _message("user", f"{problem.text}\n{ask}"),
        "completion": _message("assistant", f"{steps}\n{problem.answer}"),
    }


def _rl_row(problem: Problem, index: int, split: str) -> dict:
    return {
        "data_source": f"caugym_{problem.variant}",
        "prompt": _message("user", f"{problem.text} {STEP_BY_STEP}"),
        "ability": "math",
        "reward_model": {"ground_truth": problem.answer, "style": "rule"},
        "extra_info": {"index": index, "split": split},
    }


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"content": content, "role": role}]


_ROWS: dict[str, Callable[[Problem, int, str], dict]] = {
    "problems": _problem_row,
    "sft": _sft_row,
    "rl": _rl_row,
}


# Files ----------------------------------------------------------------------------------------


def _write_json(path: Path, rows: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            file.write(("[\n" if i == 0 else ",\n") + json.dumps(row, indent=2))
        file.write("\n]\n")


def _write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[dict]) -> None:
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


def _columns(pa: Any, row: dict) -> list[tuple[str, Any]]:
    """Arrow types of the columns of one kind of row."""
    text, messages = pa.string(), pa.list_(pa.struct({"content": pa.string(), "role": pa.string()}))
    types = {
        "Reason": pa.struct({f"Step {i}": text for i in range(1, 8)}),
        "prompt": messages,
        "completion": messages,
        "reward_model": pa.struct({"ground_truth": text, "style": text}),
        "extra_info": pa.struct({"index": pa.int64(), "split": text}),
    }
    return [(name, types.get(name, text)) for name in row]


_WRITERS = {".json": _write_json, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


def _write_whole(path: Path, write: Callable[[Path, Iterable[dict]], None], rows) -> None:
    """Writes beside the target, then renames: the file is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial, rows)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _progress(rows: Iterator[dict], n: int) -> Iterator[dict]:
    """Passes rows on, telling the rate and the remaining time every few seconds."""
    start = told = time.monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS:
            told, rate = now, done / (now - start)
            line = f"{done}/{n} problems, {rate:.0f}/s, {(n - done) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
