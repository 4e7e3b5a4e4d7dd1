"""Compiles every recipe of docs/pods.md for its TPU slice, and prints the table from the reports.

    python -m benchmarks.recipes --out=docs/pods [--only=14b]     # compiles those that are missing
    python -m benchmarks.recipes --out=docs/pods --table

Needs libtpu (requirements-tpu-compile.txt) and no TPU; a recipe takes some minutes of a core. A
report is kept also of a recipe that does not fit, as what `caugym_jax.compile --json` wrote.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

# What is said of a method on a slice: what the backward pass makes again, and how many prompts are
# sampled at a time by devices arranged how.
DOTS = ("model.remat=dots",)
ATTENTION = ("model.remat=attention",)
SLICES = {
    "mistral-7b-instruct-v0.3": "v5p:2x2x2",
    "r1-distill-llama-8b": "v5p:2x2x2",
    "r1-distill-qwen-7b": "v5p:2x2x2",
    "r1-distill-qwen-14b": "v5p:2x2x4",
    "r1-distill-qwen-32b": "v5p:2x4x4",
}
HEADS = {"r1-distill-qwen-7b": 4}  # 28 of them: not to be split over 8 devices


def recipes() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """{name: (--config, --topology, overrides)}: the paper's models by all five methods."""
    found = {}
    for model, topology in SLICES.items():
        for method in ("sft", "dpo", "kto", "grpo", "ppo"):
            kept = DOTS
            if method in ("grpo", "ppo"):
                large = method == "ppo" or "32b" in model
                kept = ATTENTION if large and "mistral" not in model else DOTS
                at_a_time = 128 if method == "ppo" and "mistral" not in model else 32  # prompts
                kept += (f"sampling.tensor={HEADS.get(model, 8)}",)
                kept += (f"{method}.sample_batch_size={at_a_time}",)
            found[f"{method}-{model}"] = (f"{method}.py:{model}", topology, kept)
    large = "r1-distill-qwen-14b"
    sampled = ("sampling.tensor=8", "grpo.sample_batch_size=16")
    split = ("mesh.fsdp=32", "mesh.tensor=2", *sampled)
    found[f"grpo-{large}-v5e"] = (f"grpo.py:{large}", "v5e:8x8", split)
    found["grpo-qwen3-30b-a3b"] = ("grpo.py:qwen3-30b-a3b", "v5p:2x4x4", ())
    two = ("mesh.slices=2", "mesh.data=2", *DOTS, *sampled)
    found[f"grpo-{large}-two-slices"] = (f"grpo.py:{large}", "v5p:2x2x4", two)
    return found


def compile_one(name: str, out: Path) -> None:
    config, topology, overrides = recipes()[name]
    command = [
        sys.executable,
        "-m",
        "caugym_jax.compile",
        f"--config={config}",
        f"--topology={topology}",
        f"--json={out / name}.json",
        *(f"--config.{override}" for override in overrides),
    ]
    print(" ".join(command[1:]), flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if not (out / f"{name}.json").exists():  # it was not compiled at all
        raise SystemExit(done.stderr.strip() or f"{name}: ended with status {done.returncode}")


def told(program: dict) -> str:
    """One program in a line: its peak, how often it takes how long, its utilisation."""
    p, peak, times = program["predicted"], program["memory"]["peak"], program["times_a_step"]
    size = "?" if peak is None else f"{peak / 2**30:.1f}"
    often = "" if times == 1 else f"{times} x "
    verdict = "" if program["fits"] else ", **does not fit**"
    used = f", MFU {100 * p['mfu']:.0f}%" if program["name"] == "update" else ""
    return f"{program['name']} {size}, {often}{p['seconds']:.3g} s{used}{verdict}"


def table(out: Path) -> None:
    print("| report | slice | flags | programs: GiB a chip, seconds | a step |")
    print("|---|---|---|---|---|")
    for name, (_, topology, overrides) in recipes().items():
        file = out / f"{name}.json"
        if not file.exists():
            continue
        report = json.loads(file.read_text())
        programs = "; ".join(told(program) for program in report["programs"])
        flags, step = " ".join(overrides), report["step"]
        print(f"| {name} | {topology} | {flags} | {programs} | {step['seconds']:.3g} s |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the reports")
    parser.add_argument("--only", default="", help="recipes whose name holds this")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    options = parser.parse_args()
    if not options.table:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in recipes():
            if options.only in name and not (options.out / f"{name}.json").exists():
                compile_one(name, options.out)
    table(options.out)


if __name__ == "__main__":
    main()
