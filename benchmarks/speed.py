"""Speed, side by side with what a user would pick instead.

  python -m benchmarks.speed [--torch] [--tunix=PYTHON] [--rows=NAME,...] [--out=speed.json] [--dry]

A random Qwen2 in float32 (4 layers, width 256, vocabulary 8192, tied: 5.9M parameters) does the
same work on every side, by turns, so that a machine whose speed drifts treats all alike: PyTorch
(with transformers) in this process, Tunix in a process of its own with the Python that is given.
Compilation and a warm-up are not counted. `tokens/s` is by the wall clock, which means something
on an idle machine only; `per cpu-s` is per second of processor time.

  sft_step       an AdamW step on 8 x 512 tokens, all of them targets
  sample_equal   16 prompts of 128 tokens, 256 new ones each, temperature 1
  sample_top_p   the same with top_p 0.95
  sample_shared  8 samples of each of 8 prompts of 512 tokens, 128 new ones
  sample_mixed   64 prompts of 128 tokens; lengths lognormal, median a third of 256, cut there
  update_packed  a GRPO update on 24 completions of lognormal lengths: packed rows, and padded ones
  update_prompts_once
                 the same on 8 short completions of each of 16 prompts: a prompt is read once
  update_preferences
                 a DPO update on 16 pairs: packed rows, and padded ones
  start          `train --config=grpo.py`: seconds to the first step, without and with kept programs
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import OURS, SAMPLINGS, UPDATES, Case, shrink
from caugym_jax.devices import starting

ROWS = ("sft_step", *SAMPLINGS, *UPDATES, "start")
PAUSE = 0.5  # seconds between two sides: OpenMP's threads go on spinning for a while
COMPILED = "/jax/core/compile/backend_compile_duration"  # jax's event for each program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", action="store_true", help="PyTorch and transformers, too")
    parser.add_argument("--tunix", metavar="PYTHON", help="one that has Tunix installed")
    parser.add_argument("--rows", default=",".join(ROWS), help="(default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--dry", action="store_true", help="tiny sizes: whether everything runs")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    names = args.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no rows {', '.join(sorted(unknown))}: choose from {', '.join(ROWS)}")
    if args.dry:
        shrink()
        args.rounds = 1
    starting.prepare()
    import jax

    from caugym_jax.planning.machine import measured as measured_chip

    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event == COMPILED else None
    )
    peak, rows, begun = measured_chip().flops, [], time.perf_counter()
    for name in names:
        compiled.clear()
        row = started() if name == "start" else compared(name, args, peak)
        rows.append({"name": name} | row | {"programs": len(compiled)})
        print(json.dumps(rows[-1]), flush=True)
        print(f"{time.perf_counter() - begun:.0f} s so far", file=sys.stderr, flush=True)

    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "dry": args.dry,
        "peak_flops": peak,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "rows": rows,
    }
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def compared(name: str, args: argparse.Namespace, peak: float) -> dict[str, Any]:
    """One row: every side's figures, and ratios of ours to theirs (tokens/s, best rounds): theirs
    is PyTorch's, or, of an update, that in padded rows.

    Args:
      peak: operations a second that this machine does in large products.
    """
    from benchmarks import sides

    case = sides.build(name)
    if args.torch and name not in UPDATES:
        from benchmarks import torch_sides

        case.sides["torch"] = torch_sides.build(name)
    if args.tunix and name not in UPDATES and name != "sample_mixed":  # no limit for each row
        case.sides["tunix"] = Tunix(args.tunix, name, args.dry)
    figures = measured(case, args.rounds)
    ours = figures[OURS]["tokens/s"]
    other = next((s for s in case.sides if name in UPDATES and s != OURS), "torch")
    theirs = figures.get(other, {}).get("tokens/s")
    share = None if case.flops is None else ours / case.tokens * case.flops / peak
    return {
        "unit": "tokens/s",
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs and ours / theirs,
        "ratios": {side: ours / f["tokens/s"] for side, f in figures.items() if side != OURS},
        "of_peak": share,
        "sides": figures,
    }


def measured(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Each side's tokens a second, by the wall clock and by processor time: best and median."""
    wall = {side: [] for side in case.sides}
    cpu = {side: [] for side in case.sides}
    first = {}
    for side, run in case.sides.items():
        print(f"  {side}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        run(0)
        first[side] = time.perf_counter() - start
    for seed in range(1, rounds + 1):
        for side, run in case.sides.items():
            time.sleep(PAUSE)
            start = time.perf_counter(), time.process_time()
            there = run(seed)  # of another process: (wall, processor) seconds
            own = time.perf_counter() - start[0], time.process_time() - start[1]
            for times, seconds in zip((wall, cpu), there or own, strict=True):
                times[side].append(seconds)
    return {
        side: {
            "tokens/s": case.tokens / min(wall[side]),
            "median": case.tokens / statistics.median(wall[side]),
            "per cpu-s": case.tokens / min(cpu[side]),
            "first_call_s": first[side],
        }
        for side in case.sides
    }


class Tunix:
    """A side in another process: `benchmarks/tunix_side.py` with its own Python."""

    def __init__(self, python: str, name: str, dry: bool):
        script = Path(__file__).with_name("tunix_side.py")
        self._child = subprocess.Popen(
            [python, str(script), name, *["--dry"] * dry],
            cwd=script.parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, seed: int) -> tuple[float, float]:
        """(wall, processor) seconds of one call there."""
        print(seed, file=self._child.stdin, flush=True)
        for line in self._child.stdout:
            if line.startswith("seconds "):
                wall, cpu = map(float, line.split()[1:])
                return wall, cpu
        raise RuntimeError(f"Tunix ended with status {self._child.wait()}")


def started() -> dict[str, Any]:
    """Seconds from the command to its first step: with an empty cache of programs, and again."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMP")}
        environment["CAUGYM_CACHE"] = folder
        seconds = [_first_step(Path(folder, name), environment) for name in ("cold", "warm")]
    return {"unit": "s", "ours": seconds[1], "theirs": seconds[0], "ratio": seconds[1] / seconds[0]}


def _first_step(workdir: Path, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "caugym_jax.train", "--config=grpo.py"]
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, f"--workdir={workdir}", "--config.steps=1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        metrics = workdir / "metrics.jsonl"
        while not (metrics.exists() and '"step": 1' in metrics.read_text()):
            if run.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended before its first step")
            time.sleep(0.05)
        return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':<20}{'side':<24}{'tokens/s':>10}{'median':>9}{'per cpu-s':>11}{'ratio':>7}"]
    for row in rows:
        if row["unit"] == "s":
            lines.append(f"{row['name']:<20}cold {row['theirs']:.1f} s, warm {row['ours']:.1f} s")
            continue
        for side, f in row["sides"].items():
            ratio = f"{row['ratios'][side]:>7.2f}" if side in row["ratios"] else ""
            figures = f"{f['tokens/s']:>10.0f}{f['median']:>9.0f}{f['per cpu-s']:>11.0f}{ratio}"
            lines.append(f"{row['name']:<20}{side:<24}{figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
