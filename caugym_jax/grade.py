"""Grades answers produced anywhere, by the released scripts' rule and by the strict one.

  python -m caugym_jax.grade --data=ANSWERS.jsonl[,MORE.jsonl] --out=results.json

Each line of ANSWERS.jsonl is an item of an official test file (problem, answer, Type, ...) with
`all_generated_answers`: a list of texts. The evaluate command writes such files, with
`truncated` (a list of true/false) and `num_tokens` (a list of counts) beside it; both are optional.
Prints a table and writes results.json, one entry per file, named by the file's name without its
ending.

What kind of set a file holds goes by the items' `variant` field, else by the file's name
(base, rephrased, omitted, deconfounding, redundant, insufficient, hard; rephrased_dataset.jsonl),
else it is base. It decides only whether verdicts are checked: not on rephrased and omitted items.
Whether an item lacks a condition goes by its own `answer`.

Unlike the released scripts, which skip them, items without any answer count as wrong. Needs no
accelerator and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caugym_jax.cli import commands
from caugym_jax.data.files import read_problems, write_json
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import Answered, results, summarize, table
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


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.grade", __doc__)
    parser.add_argument("--data", required=True, help="answers, .jsonl; several: by commas")
    parser.add_argument("--out", required=True, help="the results.json to write")
    args = parser.parse_args(argv)
    paths = [Path(name.strip()) for name in args.data.split(",") if name.strip()]
    if len({path.stem for path in paths}) != len(paths) or not paths:
        raise UserError(f"--data={args.data}: expected files with different names")
    sets, samples = {}, set()
    for path in paths:
        answered = read_answers(path)
        samples |= {len(item.completions) for item in answered}
        sets[path.stem] = summarize(answered)
    settings = {"samples": samples.pop() if len(samples) == 1 else None}
    write_json(args.out, results(None, settings, sets))
    print(table(sets))
    print(f"\nwrote {args.out}")


if __name__ == "__main__":
    commands.run(main)
