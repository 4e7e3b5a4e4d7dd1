"""Compiles every recipe of docs/pods.md for its TPU slice, and prints the table from the reports.

    python -m benchmarks.recipes --out=docs/pods [--only=14b]     # compiles those that are missing
    python -m benchmarks.recipes --out=docs/pods --table

Needs libtpu (requirements-tpu-compile.txt) and no TPU; a recipe takes some minutes of a core. A
report is kept also of a recipe that does not fit, as what `caugym_jax.compile --json` wrote. The
table shows the flags with which a report was made: to renew one, remove its file first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

LENGTHS = "2500,400"  # medians of completions and prompts of models that think first
SLICES = {
    "mistral-7b-instruct-v0.3": "v5p:2x2x2",
    "r1-distill-llama-8b": "v5p:2x2x2",
    "r1-distill-qwen-7b": "v5p:2x2x2",
    "r1-distill-qwen-14b": "v5p:2x2x4",
    "r1-distill-qwen-32b": "v5p:2x4x4",
}


def recipes() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """{name: (--config, --topology, overrides)}: the paper's models by all five methods. What runs
    choose by themselves (`runs/recipe.py`) is not typed."""
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for model, topology in SLICES.items():
        for method in ("sft", "dpo", "kto", "grpo", "ppo"):
            found[f"{method}-{model}"] = (f"{method}.py:{model}", topology, ())
    large = "r1-distill-qwen-14b"
    split = ("mesh.fsdp=32", "mesh.tensor=2")
    found[f"grpo-{large}-v5e"] = (f"grpo.py:{large}", "v5e:8x8", split)
    found["grpo-qwen3-30b-a3b"] = ("grpo.py:qwen3-30b-a3b", "v5p:2x4x4", ())
    two = ("mesh.slices=2", "mesh.data=2")
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
    if config.startswith(("grpo", "ppo")) and "mistral" not in config:
        command.append(f"--lengths={LENGTHS}")
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


def kept(report: dict) -> str:
    """What a report was made with beside its mesh: remat, and over how many devices heads are
    split for sampling."""
    tensor = report["sampling_mesh"]["tensor"]
    return f"remat {report['remat']}" + (f", sampling.tensor {tensor}" if tensor > 1 else "")


def table(out: Path) -> None:
    print("| report | slice | flags | with | programs: GiB a chip, seconds | a step | stated |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, topology, _) in recipes().items():
        file = out / f"{name}.json"
        if not file.exists():
            continue
        report = json.loads(file.read_text())
        programs = "; ".join(told(program) for program in report["programs"])
        flags, step = " ".join(report["overrides"]) or "none", report["step"]
        stated = f"{step['stated_seconds']:.3g} s" if "stated_seconds" in step else ""
        row = name, topology, flags, kept(report), programs, f"{step['seconds']:.3g} s", stated
        print(f"| {' | '.join(row)} |")


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
