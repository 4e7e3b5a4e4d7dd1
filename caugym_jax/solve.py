"""Reads problem texts, answers them by the exact engine, and audits their labels. No model.

    python -m caugym_jax.solve --data=base_dataset.json
    python -m caugym_jax.solve --data=test.json,train.parquet --out=audit.json
    python -m caugym_jax.solve --data=base_dataset.json --explain=3

Prints, per file: how far the labels agree with the answers, by task (number within 0.0005; Yes or
No, either where |effect| < 0.001); how well a graph-free rule and the best constant answer do; the
defects found; the items that could not be read. Shares are of the items that were read.

--out writes {"n", "prob": {"all", "by_task"}, "verdict": {"all", "by_task"}, "unread", "shortcut",
"constant", "defects": [{"item", "kind", "why"}], ...}; with several files also "files", by name,
and a defect says its "file". --explain=I says how item I (counting from 0) is answered: in
words, as `ask` does, then in the letters and steps of the released solutions.

Exit status: 1 where an item is broken (not the schema, a cycle, contradictory numbers): it is named
and the rest goes on. Texts in other people's words have the structure of the base items that they
rewrite (rephrased_dataset.json beside base_dataset.json), and are counted as unread without those.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from caugym_jax.causal.engine.audit import Marks, check, marks, summary
from caugym_jax.causal.engine.explaining import explanation
from caugym_jax.causal.text.vocabulary import describe
from caugym_jax.cli import commands
from caugym_jax.cli.workers import in_order, worker_count
from caugym_jax.data.files import read_items, write_json
from caugym_jax.data.texts.solution import explain
from caugym_jax.errors import UserError
from caugym_jax.types import LACK, TASKS, Problem

CHUNK = 200  # items that a worker solves at a time
SHOWN = 12  # defects of a kind, and unread items, that are printed


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.solve", __doc__)
    parser.add_argument("--data", required=True, help="problems; several files: by commas")
    parser.add_argument("--out", help="the JSON file to write")
    parser.add_argument("--explain", type=int, metavar="I", help="print the steps of item I")
    parser.add_argument(
        "--workers", type=int, help="processes (default: all cores for 2,000 items or more)"
    )
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.data.split(",") if name.strip()]
    if not names:
        raise UserError("--data: give at least one file")
    if args.explain is not None:
        _explain(names[0], args.explain)
        return
    files, broken = {}, 0
    for name in names:
        marked, bad_rows = _marked(name, args.workers)
        files[name] = (marked, bad_rows)
        broken += len(bad_rows) + sum(item.broken for item in marked)
        print(_report(name, summary(marked)))
        for why in bad_rows:
            print(f"error: {why}", file=sys.stderr)
    if args.out:
        write_json(args.out, _result(files))
        print(f"wrote {args.out}")
    if broken:
        raise UserError(f"{broken} broken items, named above")


def _marked(name: str, workers: int | None) -> tuple[list[Marks], list[str]]:
    """The items of a file beside the solver's answers; what is wrong with the other rows."""
    items = read_items(name)
    good = [(i, problem) for i, problem in enumerate(items) if isinstance(problem, Problem)]
    chunks = (good[start : start + CHUNK] for start in range(0, len(good), CHUNK))
    marked = in_order(_marks, chunks, worker_count(workers, len(good)))
    bad_rows = [problem for problem in items if not isinstance(problem, Problem)]
    return list(itertools.chain.from_iterable(marked)), bad_rows


def _marks(chunk: list[tuple[int, Problem]]) -> list[Marks]:
    """Solves some items; runs in a worker process."""
    return [marks(check(problem, item)) for item, problem in chunk]


def _result(files: dict[str, tuple[list[Marks], list[str]]]) -> dict:
    if len(files) == 1:
        ((marked, bad_rows),) = files.values()
        return {**summary(marked), "bad_rows": bad_rows}
    parts = {Path(name).name: {**summary(m), "bad_rows": bad} for name, (m, bad) in files.items()}
    whole = summary([item for marked, _ in files.values() for item in marked])
    for kind in ("defects", "unread_items"):
        whole[kind] = [{"file": name, **d} for name, part in parts.items() for d in part[kind]]
    whole["bad_rows"] = [why for part in parts.values() for why in part["bad_rows"]]
    return {**whole, "files": parts}


def _report(name: str, found: dict) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    tasks = [task for task in TASKS if task in found["prob"]["by_task"]]
    lines = [
        f"{name}: {found['n']} items, {found['unread']} unread",
        f"  {'agreement, %':<14}" + "".join(f"{column:>8}" for column in ("all", *tasks)),
    ]
    for what, row in (("number", "prob"), ("yes or no", "verdict")):
        shares = [found[row]["all"], *(found[row]["by_task"].get(task) for task in tasks)]
        lines.append(f"  {what:<14}" + "".join(f"{percent(share):>8}" for share in shares))
    lines.append(
        f"  without reading: graph-free rule {percent(found['shortcut'])} %, "
        f"best constant {percent(found['constant'])} %"
    )
    kinds = Counter(defect["kind"] for defect in found["defects"])
    for kind, count in kinds.items():
        lines.append(f"  {kind}: {count}")
        own = [defect for defect in found["defects"] if defect["kind"] == kind]
        lines += _shown(own)
    if found["unread_items"]:
        lines.append(f"  unread: {found['unread']}")
        lines += _shown(found["unread_items"])
    return "\n".join(lines)


def _shown(items: list[dict]) -> list[str]:
    lines = [f"    item {item['item']}: {item['why']}" for item in items[:SHOWN]]
    more = len(items) - SHOWN
    return [*lines, f"    and {more} more (--out has all)"] if more > 0 else lines


def _explain(name: str, item: int) -> None:
    """Prints the graph's legend, the steps and the answer of one item."""
    items = read_items(name)
    if not 0 <= item < len(items):
        raise UserError(f"--explain={item}: {name} has the items 0 to {len(items) - 1}")
    problem = items[item]
    if not isinstance(problem, Problem):
        raise UserError(problem)
    checked = check(problem, item)
    story = problem.story
    if checked.solved is None or story is None:
        raise UserError(f"{name}, item {item}: {checked.unread}")
    print("\n".join(explanation(story, checked.solved)), "", sep="\n")
    print("\n".join(describe(story, node) for node in range(len(story.names))))
    for step, text in explain(story).items():
        print(f"{step}: {text}")
    solved = checked.solved
    print(f"Answer: {LACK if solved.lacks else f'{solved.value:.4f}'} {solved.verdict or ''}")
    print(f"Label: {problem.answer}")


if __name__ == "__main__":
    commands.run(main)
