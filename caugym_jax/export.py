"""Writes a run's model as a Hugging Face folder, which `transformers` (or vLLM, TRL) loads.

    python -m caugym_jax.export --workdir=runs/grpo --out=my-model
    python -m caugym_jax.export --workdir=runs/grpo --out=my-model --step=40 --dtype=bfloat16
    python -m caugym_jax.export --workdir=runs/lora --out=my-adapter --adapter

OUT holds sharded safetensors, config.json, generation_config.json, the tokenizer and its chat
template, and README.md, the model card (base, method, data, command, versions, figures); it appears
whole or not at all and must not exist yet (or be empty). Weights go from the checkpoint to OUT one
by one, with little more than the largest in memory. Adapters (config.lora) are merged into their
base, on this machine's devices; with --adapter OUT holds them alone, as `peft` stores them.
--gguf=f16 or q8_0 writes a GGUF file into OUT too (llama, qwen2, qwen3; byte-level BPE).
--push=OWNER/NAME uploads OUT to the hub as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from caugym_jax.cli import commands
from caugym_jax.devices import processes


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    from caugym_jax.runs.exporting import add_gguf, export, export_adapter, push

    if args.adapter:
        text = export_adapter(args.workdir, args.out, args.step)
    else:
        text = export(args.workdir, args.out, args.step, args.dtype)
    if processes.is_first():
        print(text)
        if args.gguf:
            print(add_gguf(args.out, args.gguf))
        if args.push:
            print(push(args.out, args.push))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.export", __doc__)
    add = parser.add_argument
    add("--workdir", type=commands.folder, required=True, help="folder of a run")
    add("--out", type=commands.folder, required=True, help="folder to write")
    add("--step", type=commands.step, help="a number, or best (default: the newest)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default float32)")
    add("--gguf", choices=("f16", "q8_0"), help="write OUT/model-KIND.gguf too, for llama.cpp")
    add("--push", metavar="OWNER/NAME", help="upload OUT to the hub as well")
    add("--adapter", action="store_true", help="the trained adapter alone, in PEFT's format")
    args = parser.parse_args(argv)
    if args.gguf and (args.adapter or args.dtype != "float32"):
        parser.error("--gguf goes with whole models in float32, without --adapter and --dtype")
    return args


if __name__ == "__main__":
    commands.run(main)
