"""The methods side by side: the same model, the same number of problems and steps, fresh items.

    python benchmarks/methods.py --out=runs/study [--methods sft,dpo,kto,ppo,grpo] [--seeds 0,1,2]
        [--steps 25] [--batch_size 32] [--items 1000] [KEY=VALUE ...]

Every method goes on from the same model (the embedded one, or model.name=...) for --steps steps of
--batch_size problems each, and answers --items problems that no training saw, greedily, before and
after; each seed has its own problems. Finished runs in --out are kept, so that the command can be
repeated. Prints a Markdown table: strict accuracy in percent, the mean over seeds with the 95%
interval of all items together, and the range over seeds. OUT/methods.json holds the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the runs and methods.json")
    add("--methods", default="sft,dpo,kto,ppo,grpo")
    add("--seeds", default="0,1,2")
    add("--steps", type=int, default=25)
    add("--batch_size", type=int, default=32, help="problems a step")
    add("--items", type=int, default=1000, help="fresh problems asked before and after")
    add("more", nargs="*", metavar="KEY=VALUE", help="further settings of every run")
    args = parser.parse_args()
    settings = [
        f"steps={args.steps}",
        f"data.batch_size={args.batch_size}",
        f"evaluation.n={args.items}",
        f"evaluation.every={args.steps}",
        *args.more,
    ]
    rows = []
    for method in args.methods.split(","):
        for seed in map(int, args.seeds.split(",")):
            rows.append(one_run(args.out, method, seed, [f"seed={seed}", *settings]))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "items"}), flush=True)
    (args.out / "methods.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def one_run(out: Path, method: str, seed: int, settings: list[str]) -> dict:
    """Trains (or finds) one run and counts its right answers."""
    workdir, start = out / f"{method}-{seed}", time.perf_counter()
    command = [sys.executable, "-m", "caugym_jax.train", f"--config={method}.py"]
    command += [f"--workdir={workdir}", *(f"--config.{setting}" for setting in settings)]
    done = (workdir / "summary.json").exists()
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{method}-{seed}.log").open("a") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    seconds = None if done else round(time.perf_counter() - start)
    answerable = held_out(method, settings)
    right = {
        when: np.array(json.loads((workdir / f"{when}.json").read_text())["right"], bool)
        for when in ("before", "after")
    }
    row = {"method": method, "seed": seed, "seconds": seconds, "items": {}}
    for when, found in right.items():
        row[when] = round(float(found.mean()), 4)
        row[f"{when}_nonzero"] = round(float(found[answerable].mean()), 4)
        row["items"][when] = [found.astype(int).tolist(), answerable.astype(int).tolist()]
    return row


def held_out(method: str, settings: list[str]) -> np.ndarray:
    """[n] bool: which of a run's held-out problems have an answer that is not zero."""
    from caugym_jax.data.sources import problem_stream
    from caugym_jax.evals.held_out import STREAM
    from caugym_jax.evals.probe import nonzero
    from caugym_jax.runs.settings import load

    config = load(f"{method}.py", settings)
    source = problem_stream(config.evaluation, seed=config.seed + STREAM)
    return nonzero([source(i) for i in range(config.evaluation.n)])


def table(rows: list[dict]) -> str:
    """Markdown: the cold start (as every run found it), then each method."""
    lines = ["| | strict, all | strict, non-zero | seeds (non-zero) |", "|---|---|---|---|"]
    first = rows[0]["method"]
    named = [("cold start", "before", [r for r in rows if r["method"] == first])]
    for method in dict.fromkeys(r["method"] for r in rows):
        named.append((method, "after", [r for r in rows if r["method"] == method]))
    for name, when, runs in named:
        cells = [name]
        for chosen in (False, True):
            pooled = np.concatenate(
                [
                    np.array(right)[np.array(answerable, bool) | (not chosen)]
                    for right, answerable in (r["items"][when] for r in runs)
                ]
            )
            mean = float(pooled.mean())
            half = 1.96 * math.sqrt(mean * (1 - mean) / len(pooled))
            cells.append(f"{100 * mean:.1f} ± {100 * half:.1f}")
        spread = [100 * r[f"{when}_nonzero"] for r in runs]
        lines.append(f"| {' | '.join(cells)} | {min(spread):.1f} to {max(spread):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
