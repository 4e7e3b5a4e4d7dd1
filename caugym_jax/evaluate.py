"""Answers every problem of official-format files with a model and grades the answers.

  python -m caugym_jax.evaluate --model=runs/grpo --data=base_dataset.json --out=answers
  python -m caugym_jax.evaluate --model=smollm2-135m --data=a.json,b.jsonl --out=answers --limit=20

MODEL is a run's workdir, a Hugging Face folder, a GGUF file, a preset's name, a hub id, or a
model in the package: `embedded`, `embedded-start`. For each file NAME.json OUT gets NAME.jsonl: the
items' own fields with `all_generated_answers` (texts), `truncated` and `num_tokens`, one value a
sample.
OUT/results.json holds the figures of both scorers. An interrupted evaluation goes on where it
stopped when the same command is run again; a larger --limit adds items to a finished one. N items
are drawn by --seed, of all tasks equally many.

Other benchmarks are known by their rows (`evals/suites.py`): MATH-500, AMC, Minerva, GSM8K,
CLadder, CLEAR and CausalProbe, as files or, after `data.fetch --set=suites`, by name: suites:gsm8k.

The published protocol is 5 samples at temperature 0.6, top-p 0.95, at most 8192 new tokens, and the
hint that LACK_CONDITION may be the answer on the insufficient set only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.devices import processes, starting
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    starting.prepare()
    with processes.connected():
        from caugym_jax.data.files import write_json
        from caugym_jax.devices.mesh import MeshShape
        from caugym_jax.evals.accuracy import results, table
        from caugym_jax.evals.answering import Protocol, evaluate
        from caugym_jax.runs.opening import ModelSettings
        from caugym_jax.sampling.picking import Settings

        model = ModelSettings(args.model, dtype=args.dtype)
        shape = MeshShape(fsdp=args.fsdp, tensor=args.tensor)
        picking = Settings(args.temperature, args.top_k, args.top_p, args.min_p)
        protocol = Protocol(
            args.samples, picking, args.max_new_tokens, args.lack_hint, args.seed, args.batch_size
        )
        settings, sets = evaluate(
            model, shape, args.data, args.out, protocol, args.limit, args.step
        )

        def report() -> None:
            write_json(args.out / "results.json", results(args.model, settings, sets))
            print(table(sets))
            print(f"\nwrote {args.out / 'results.json'}")

        processes.first(report)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--model", required=True, help="workdir, folder, .gguf, preset, hub id or `embedded`")
    add("--data", required=True, help="problem files; several: by commas")
    add("--out", type=commands.folder, required=True, help="folder to write")
    add("--samples", type=_positive, default=5, help="answers per problem (default 5)")
    add("--temperature", type=float, default=0.6, help="0: greedy (default 0.6)")
    add("--top_p", type=float, default=0.95, help="1: off (default 0.95)")
    add("--top_k", type=int, default=0, help="0: off (default)")
    add("--min_p", type=float, default=0.0, help="0: off (default)")
    add("--max_new_tokens", type=_positive, help="(default 1024, or what the model takes)")
    add("--limit", type=_positive, help="only N items of each file, evenly over its tasks")
    add("--lack_hint", choices=("insufficient", "all", "none"), default="insufficient")
    add("--seed", type=int, default=0)
    add("--batch_size", type=_positive, help="problems at a time (default: 64, or what fits)")
    add("--step", type=commands.step, help="a run's: a number, or best (default: the newest)")
    add("--dtype", choices=("float32", "bfloat16"), help="(default bfloat16, on a CPU float32)")
    add("--fsdp", type=_positive, default=1, help="devices that share the weights' width")
    add("--tensor", type=_positive, default=1, help="devices that share heads and vocabulary")
    args = parser.parse_args(argv)
    args.data = [name.strip() for name in args.data.split(",") if name.strip()]
    names = [Path(path).stem for path in args.data]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--data={','.join(args.data)}: expected files with different names")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    commands.run(main)
