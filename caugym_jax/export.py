"""Writes a run's model as a Hugging Face folder, which `transformers` (or vLLM, TRL) loads.

    python -m caugym_jax.export --workdir=runs/grpo --out=my-model
    python -m caugym_jax.export --workdir=runs/grpo --out=my-model --step=40 --dtype=bfloat16
    python -m caugym_jax.export --workdir=runs/lora --out=my-adapter --adapter

OUT holds sharded safetensors, config.json, generation_config.json, the tokenizer and its chat
template; it appears whole or not at all and must not exist yet (or be empty). Weights go from the
checkpoint to OUT one by one, with little more than the largest in memory. Adapters (config.lora)
are merged into their base, on this machine's devices; with --adapter OUT holds them alone, as
`peft` stores them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    if not (args.workdir / "checkpoints").is_dir():
        raise UserError(f"{args.workdir} holds no checkpoints: give the --workdir of a run")

    import jax

    from caugym_jax.data.tokenizer import load_tokenizer
    from caugym_jax.devices.mesh import make_mesh
    from caugym_jax.models.hub import load_config
    from caugym_jax.models.peft import save_adapter
    from caugym_jax.models.save import save_pretrained
    from caugym_jax.runs.opening import (
        ModelSettings,
        base_of,
        lora_of,
        open_adapters,
        open_model,
        stored_params,
    )

    config = load_config(args.workdir / "model")
    lora = lora_of(args.workdir)
    # Spread over all devices: the model may be larger than the memory of one.
    mesh = make_mesh(data=-1, fsdp=math.gcd(jax.device_count(), config.d_model))
    if args.adapter:
        if lora is None:
            raise UserError(f"{args.workdir} trained the whole model: export it without --adapter")
        base = base_of(args.workdir)
        adapters = open_adapters(args.workdir, mesh, args.step)
        save_adapter(args.out, config, lora, adapters, base)
        if jax.process_index() == 0:
            print(f"wrote {args.out}: an adapter of rank {lora.rank} for {base}")
            print(f'load it with peft.PeftModel.from_pretrained(base_model, "{args.out}")')
        return
    if lora is None:
        params = stored_params(args.workdir, config, args.step)
        tokenizer = load_tokenizer(args.workdir / "model")
    else:
        _, params, tokenizer = open_model(ModelSettings(str(args.workdir), step=args.step), mesh)
    save_pretrained(args.out, config, params, tokenizer=tokenizer, dtype=args.dtype)
    if jax.process_index() == 0:
        size = sum(file.stat().st_size for file in args.out.glob("*.safetensors"))
        print(f"wrote {args.out}: {size / 1e6:.1f} MB of {args.dtype} weights")
        print(f'load it with transformers.AutoModelForCausalLM.from_pretrained("{args.out}")')


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.export", __doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of a run")
    add("--out", type=Path, required=True, help="folder to write")
    add("--step", type=int, help="which checkpoint (default: the newest)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default float32)")
    add("--adapter", action="store_true", help="the trained adapter alone, in PEFT's format")
    return parser.parse_args(argv)


if __name__ == "__main__":
    commands.run(main)
