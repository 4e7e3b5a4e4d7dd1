"""Writes fresh CauGym problems with exact truth, in the official schema.

    python -m caugym_jax.generate --tasks=ATE,ETT --n=1000 --seed=0 --out=train.jsonl
    python -m caugym_jax.generate --tasks=ATE --variant=deconfounding --n=500 --out=test.json
    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=rl --out=rl.parquet

Problem i depends on (seed, i) and the options alone, not on the number of --workers. The file's
ending decides its format: .json (one list), .jsonl (one object a line) or .parquet. --for decides
its columns (listed in caugym_jax/data/rows.py): the official schema, or what a method trains on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from caugym_jax.causal.engine.generating import (
    GENERATED_VARIANTS,
    ORDERS,
    WORDINGS,
    generate_problems,
    settings,
)
from caugym_jax.causal.engine.hard import TWINS
from caugym_jax.causal.text.names import KINDS
from caugym_jax.cli import commands
from caugym_jax.cli.workers import in_order, worker_count
from caugym_jax.data.rows import PURPOSES, check_suffix, make_row, write_rows
from caugym_jax.errors import UserError
from caugym_jax.types import Problem

PROGRESS_SECONDS = 5.0
CHUNK = 200  # problems, or a few more, that a worker makes at a time


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    check_suffix(args.out, f"--out={args.out}")
    if args.n < 1:
        raise UserError(f"--n={args.n}: ask for at least one problem")
    options = {
        "variant": args.variant,
        "nodes": args.nodes,
        "names": args.names,
        "adjusters": args.adjusters,
        "zero_fraction": args.zero_fraction,
        "codes": True if args.codes is None and args.purpose == "rl" else args.codes,
        "instruction": False if args.purpose == "rl" else None,
        "wordings": args.wordings,
        "sentences": args.sentences,
        "idle": args.idle,
    }
    settings(args.tasks, **options)  # refuses what is wrong before anything starts
    row = functools.partial(make_row, args.purpose, seed=args.seed, split=args.split)
    work = functools.partial(_rows, row, args.tasks, args.seed, options)
    workers = worker_count(args.workers, args.n)
    chunks = in_order(work, _chunks(args.n, len(args.tasks)), workers)
    rows = itertools.chain.from_iterable(chunks)
    with contextlib.closing(chunks):
        write_rows(args.out, _progress(rows, args.n))
    print(f"wrote {args.n} problems to {args.out}")


def _chunks(n: int, tasks: int) -> Iterator[range]:
    """Ranges of problems that break no block of the hard variant."""
    size = -(-CHUNK // (TWINS * tasks)) * TWINS * tasks
    return (range(start, min(start + size, n)) for start in range(0, n, size))


def _rows(
    row: Callable[[Problem, int], dict],
    tasks: Sequence[str],
    seed: int,
    options: dict[str, Any],
    places: range,
) -> list[dict]:
    """The rows of some problems; runs in a worker process."""
    problems = generate_problems(tasks, len(places), seed, start=places.start, **options)
    return [row(problem, i) for i, problem in zip(places, problems, strict=True)]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.generate", __doc__)
    add = parser.add_argument
    add("--tasks", type=_words, required=True, help="e.g. ATE,ETT (of the seven tasks)")
    add("--variant", default="base", help=f"one of {', '.join(GENERATED_VARIANTS)}")
    add("--n", type=int, required=True, help="number of problems")
    add("--seed", type=int, default=0, help="a non-negative number (default 0)")
    add("--out", required=True, help="file to write: .json, .jsonl or .parquet")
    add("--for", dest="purpose", choices=PURPOSES, default="problems", help="columns to write")
    add("--nodes", type=_range, help="graph sizes, e.g. 3..5 (default: as the released set)")
    add("--names", type=_words, default=KINDS, help="of real,random,fake,shared (default: first 3)")
    add("--adjusters", type=_numbers, help="sizes of the adjustment set, e.g. 0,1")
    add("--zero_fraction", type=float, help="share of problems whose effect the graph makes 0")
    add("--codes", action=argparse.BooleanOptionalAction, help='write "(A=0)" after states')
    add("--wordings", choices=WORDINGS, default="train", help="half of the rephrased wordings")
    add("--sentences", choices=ORDERS, default="usual", help="order of the probabilities")
    add("--idle", type=int, default=0, help="up to so many more probabilities that nothing needs")
    add("--workers", type=int, help="processes (default: all cores for 2,000 problems or more)")
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


def _progress(rows: Iterator[dict], n: int) -> Iterator[dict]:
    """Passes rows on, telling the rate and the remaining time every few seconds."""
    start = printed = time.monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - printed >= PROGRESS_SECONDS:
            printed, rate = now, done / (now - start)
            line = f"{done}/{n} problems, {rate:.0f}/s, {(n - done) / rate:.0f} s left"
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    commands.run(main)
