"""Tries seeded faults on tiny runs and checks what is promised: see docs/reliability.md.

    python -m tests.faults.harness --trials=200 --seed=0 --out=faults.json [--resume]
    python -m tests.faults.harness --out=faults.json --table

Every fourth trial is of whole processes; of the others thirty share a process, which is replaced
where a trial hangs or crashes it. OUT is complete after every trial; with --resume those that are
in it are not tried again. Exit status 1: a promise was broken.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax

from caugym_jax.cli import commands
from caugym_jax.errors import UserError
from caugym_jax.runs.log import write_text
from tests.faults import files, kills, plan
from tests.tiny_model import make_tiny_model

importlib.import_module("caugym_jax.runs.loop")  # all that a run imports, before the forks

PATIENCE = 300.0  # seconds for one trial in the common process
BATCH = 40  # trials, of which 30 share a process


def main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    done = {}
    if args.resume and args.out.exists():
        stored = json.loads(args.out.read_text())
        if stored["seed"] != args.seed:
            raise UserError(f"{args.out} has seed {stored['seed']}: give --seed={stored['seed']}")
        done = {trial["number"]: trial for trial in stored["results"]}
    elif args.out.exists():
        raise UserError(f"{args.out} exists: add --resume, or choose another --out")
    trials = [plan.draw(args.seed, i) for i in range(args.trials)]
    trials = [trial for trial in trials if re.search(args.only, trial.kind)]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        left = [trial for trial in trials if trial.number not in done]
        bench = _prepare(Path(folder), {trial.method for trial in left})

        def keep(trial: plan.Trial, result: dict) -> None:
            done[trial.number] = trial.as_json() | result
            results = [done[number] for number in sorted(done)]
            write_text(args.out, json.dumps({"seed": args.seed, "results": results}, indent=1))
            said = "ok" if result["ok"] else "BROKEN"
            print(f"{trial.number} {trial.kind} ({trial.method}): {said}: {result['outcome']}"
                  f" [{result['seconds']} s]", file=sys.stderr, flush=True)  # fmt: skip
            for path in bench.folder.glob(f"trial-{trial.number}*"):
                if result["ok"]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            _in_one_process(bench, [t for t in batch if t.level == "files"], keep)
            for trial in batch:
                if trial.level == "processes":
                    tried = _tried(lambda trial=trial: kills.attempt(bench, trial), trial, bench)
                    keep(trial, tried)
    broken = [number for number in sorted(done) if not done[number]["ok"]]
    print(table({"seed": args.seed, "results": [done[n] for n in sorted(done)]}))
    if broken:
        raise UserError(f"{len(broken)} of {len(done)} trials broke a promise: {broken}")


def _tried(attempt: Callable[[], dict], trial: plan.Trial, bench: files.Bench) -> dict:
    start = time.perf_counter()
    try:
        result = {"ok": True} | attempt()
        if trial.level == "processes":
            check = lambda: bench.compare(bench.folder / f"trial-{trial.number}", trial.method)  # noqa: E731
            if (why := _in_child(check)) is not None:
                raise files.Wrong(why)
    except Exception as error:
        if not isinstance(error, files.Wrong):
            traceback.print_exc()
        result = {"ok": False, "outcome": f"{type(error).__name__}: {error}"[:600], "detail": ""}
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def _prepare(folder: Path, methods: set[str]) -> files.Bench:
    """The tiny model and the undisturbed runs. This process itself touches no device."""
    for key, value in {
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(key, value)
    bench = files.Bench(folder, folder / "model")

    def make() -> None:
        make_tiny_model(folder)
        for method in sorted(methods):
            bench.make(method)

    if (why := _in_child(make, 4 * PATIENCE)) is not None:
        raise UserError(f"the undisturbed runs failed: {why}")
    return bench


def _in_child(work: Callable[[], None], seconds: float = PATIENCE) -> str | None:
    """Why work() in a child of this process failed; None: it did not."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        why = ""
        try:
            work()
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
        os.write(write, why.encode()[:4000])
        os._exit(bool(why))
    os.close(write)
    status = kills.wait(child, seconds)
    with os.fdopen(read, "rb") as pipe:
        why = pipe.read().decode()
    if status is None:
        return f"not ended after {seconds:g} s"
    return None if status == 0 else why or f"exit status {status}"


def _in_one_process(bench: files.Bench, trials: list[plan.Trial], keep: Callable) -> None:
    """Tries them all in a child, which tells of each as it ends."""
    while trials:
        told = bench.folder / f"told-{trials[0].number}.jsonl"
        told.touch()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException), told.open("a") as file:
                for trial in trials:
                    result = _tried(lambda trial=trial: files.attempt(bench, trial), trial, bench)
                    file.write(json.dumps(result) + "\n")
                    file.flush()
            os._exit(0)
        trials = trials[_follow(child, told, trials, keep) :]


def _follow(child: int, told: Path, trials: list[plan.Trial], keep: Callable) -> int:
    """How many trials came to an end, the one that ended their process included."""
    kept, last, status = 0, time.monotonic(), None
    while kept < len(trials):
        lines = told.read_text().split("\n")[:-1]
        for line in lines[kept:]:
            keep(trials[kept], json.loads(line))
            kept, last = kept + 1, time.monotonic()
        if status is not None and kept < len(trials):
            why = f"the process crashed (exit status {status})"
        elif time.monotonic() - last > PATIENCE:
            why, status = f"hangs: not ended after {PATIENCE:g} s", kills.wait(child, 0)
        else:
            found, code = os.waitpid(child, os.WNOHANG) if status is None else (0, 0)
            if found:
                status = os.waitstatus_to_exitcode(code)
            time.sleep(0.05)
            continue
        keep(trials[kept], {"ok": False, "outcome": why, "detail": "", "seconds": PATIENCE})
        return kept + 1
    if status is None:
        kills.wait(child, PATIENCE)
    return kept


def table(stored: dict) -> str:
    """The results as a Markdown table."""
    rows: dict[str, list[dict]] = {}
    for result in stored["results"]:
        rows.setdefault(result["kind"], []).append(result)
    lines = ["| fault | trials | broken | what came of it | seconds, median / most |",
             "|---|---|---|---|---|"]  # fmt: skip
    for kind in [*plan.FILES, *plan.PROCESSES]:
        if not (found := rows.get(kind)):
            continue
        counts: dict[str, int] = {}
        for result in found:
            outcome = result["outcome"] if result["ok"] else "BROKEN"
            counts[outcome] = counts.get(outcome, 0) + 1
        came = "; ".join(f"{outcome} {n}" for outcome, n in sorted(counts.items()))
        seconds = sorted(result["seconds"] for result in found)
        broken = sum(not result["ok"] for result in found)
        middle = seconds[len(seconds) // 2]
        lines.append(f"| {kind} | {len(found)} | {broken} | {came} | {middle} / {seconds[-1]} |")
    total = stored["results"]
    lines.append(f"| all | {len(total)} | {sum(not r['ok'] for r in total)} | | |")
    stops = [result["seconds to stop"] for result in total if "seconds to stop" in result]
    if stops:
        lines.append(f"\nFrom a signal to the end of the process: at most {max(stops)} s.")
    return "\n".join(lines)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = commands.parser("tests.faults.harness", __doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a regular expression of the kinds to try")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the table of OUT, try nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    commands.run(main)
