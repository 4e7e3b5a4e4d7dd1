"""Grades answers produced anywhere, by the released scripts' rule and by the strict one.

  python -m caugym_jax.grade --data=ANSWERS.jsonl[,MORE.jsonl] --out=results.json

Each line of ANSWERS.jsonl is an item of an official test file (problem, answer, Type, ...) with
`all_generated_answers`: a list of texts. The evaluate command writes such files, with
`truncated` (a list of true/false) and `num_tokens` (a list of counts) beside it; both are optional.
Where the model's prompt opened a thought, so that an answer without `</think>` was cut off inside
it and is none, `thinking: true` or --thinking says so.
Files of other tools are read too: what lm-eval's --log_samples and Inspect (as JSON) write, and
any rows whose answers stand under --answers_key; other benchmarks' questions are as well
(`evals/suites.py`).

Prints a table and writes results.json, one entry per file, named by the file's name without its
ending.

Whether an item lacks a condition goes by its own `answer`, its verdict by its problem's text. Items
of the rephrased and omitted sets go by the text of the base item that they rewrite: their column
`original_problem` (which `evaluate` writes), else the base file beside theirs. Where there is none
they are unread, and their number alone is scored; the table says how many are.

Unlike the released scripts, which skip them, items without any answer count as wrong. Needs no
accelerator and no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.data.files import write_json
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import results, summarize, table
from caugym_jax.evals.answers import read_answers


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.grade", __doc__)
    parser.add_argument("--data", required=True, help="answers, .jsonl; several: by commas")
    parser.add_argument("--out", required=True, help="the results.json to write")
    parser.add_argument("--thinking", action="store_true", help="the prompts opened a <think>")
    parser.add_argument("--answers_key", help="the key of the answers in files of other tools")
    args = parser.parse_args(argv)
    paths = [Path(name.strip()) for name in args.data.split(",") if name.strip()]
    if len({path.stem for path in paths}) != len(paths) or not paths:
        raise UserError(f"--data={args.data}: expected files with different names")
    sets, samples = {}, set()
    for path in paths:
        answered = read_answers(path, args.answers_key)
        if args.thinking:
            answered = [dataclasses.replace(item, thinking=True) for item in answered]
        samples |= {len(item.completions) for item in answered}
        sets[path.stem] = summarize(answered)
    settings = {"samples": samples.pop() if len(samples) == 1 else None}
    write_json(args.out, results(None, settings, sets))
    print(table(sets))
    print(f"\nwrote {args.out}")


if __name__ == "__main__":
    commands.run(main)
