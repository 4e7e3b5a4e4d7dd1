"""Writes a run's model as a Hugging Face folder, which `transformers` (or vLLM, TRL) loads.

    python -m caugym_jax.export --workdir=runs/grpo --out=my-model
    python -m caugym_jax.export --workdir=runs/grpo --out=my-model --step=40 --dtype=bfloat16

OUT holds sharded safetensors, config.json, generation_config.json, the tokenizer and its chat
template. It appears whole or not at all and must not exist yet (or be empty).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from caugym_jax import cli
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    if not (args.workdir / "checkpoints").is_dir():
        raise UserError(f"{args.workdir} holds no checkpoints: give the --workdir of a run")

    import jax

    from caugym_jax.models.hub import load_config
    from caugym_jax.models.save import save_pretrained
    from caugym_jax.runs import open_model
    from caugym_jax.sharding import make_mesh

    # Spread over all devices: the model may be larger than the memory of one.
    width = load_config(args.workdir / "model").d_model
    mesh = make_mesh(data=-1, fsdp=math.gcd(jax.device_count(), width))
    model, params, tokenizer = open_model(str(args.workdir), mesh, step=args.step)
    save_pretrained(args.out, model.config, params, tokenizer=tokenizer, dtype=args.dtype)
    if jax.process_index() == 0:
        size = sum(file.stat().st_size for file in args.out.glob("*.safetensors"))
        print(f"wrote {args.out}: {size / 1e6:.1f} MB of {args.dtype} weights")
        print(f'load it with transformers.AutoModelForCausalLM.from_pretrained("{args.out}")')


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser("caugym_jax.export", __doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of a run")
    add("--out", type=Path, required=True, help="folder to write")
    add("--step", type=int, help="which checkpoint (default: the newest)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default float32)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
