"""The work of benchmarks/speed.py by Tunix (0.1.7), for a Python that has it installed.

Reads a seed a line and prints `seconds WALL CPU` after each call. Started by benchmarks/speed.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as sampling
from tunix.models.qwen2 import model as qwen2
from tunix.sft import peft_trainer, utils

from benchmarks.cases import SAMPLINGS, SHAPE, STEPS, TRAINED, Sampling, shrink

END = 2  # an end token, which is never drawn


class Numbers:
    """A tokenizer of numbers between spaces."""

    def encode(self, text: str, **_: object) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: object, **_: object) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0  # none

    def eos_id(self) -> int:
        return END

    def pad_id(self) -> int:
        return 0

    def dedup_bos_ids(self, ids: list[int]) -> list[int]:
        return ids


def decoder() -> tuple[qwen2.ModelConfig, qwen2.Qwen2]:
    """The random model; every matrix drawn, as Tunix starts its feed-forward layers at zero."""
    s = SHAPE
    config = qwen2.ModelConfig(
        num_layers=s["layers"],
        vocab_size=s["vocab"],
        embed_dim=s["width"],
        hidden_dim=s["ffn"],
        num_heads=s["heads"],
        head_dim=s["width"] // s["heads"],
        num_kv_heads=s["kv_heads"],
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat_config=qwen2.RematConfig.NONE,
    )
    model = qwen2.Qwen2(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    drawn = {
        path: jnp.asarray(rng.normal(0, 0.02, x.shape), jnp.float32)
        for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param))
        if not any("norm" in str(part) for part in path)
    }
    state = nnx.state(model, nnx.Param)
    for path, x in nnx.to_flat_state(state):
        x.value = drawn.get(path, x.value)
    nnx.update(model, state)
    return config, model


def sft_step() -> Callable[[int], None]:
    _, model = decoder()
    shape = TRAINED["rows"], TRAINED["length"]
    tokens = np.random.default_rng(2).integers(3, SHAPE["vocab"], shape).astype(np.int32)
    trainer = peft_trainer.PeftTrainer(
        model, optax.adamw(1e-4), peft_trainer.TrainingConfig(eval_every_n_steps=1000)
    ).with_gen_model_input_fn(
        lambda batch: {
            "input_tokens": batch.input_tokens,
            "input_mask": batch.input_mask,
            "positions": utils.build_positions_from_mask(batch.input_mask),
            "attention_mask": utils.make_causal_attn_mask(batch.input_mask),
        }
    )
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    batch = peft_trainer.TrainingInput(
        input_tokens=jnp.asarray(tokens), input_mask=jnp.ones(shape, bool)
    )

    def run(seed: int) -> None:
        for _ in range(STEPS):
            loss, *_ = step(batch)
        float(loss)

    return run


def sample(s: Sampling) -> Callable[[int], None]:
    config, model = decoder()
    cache = sampling.CacheConfig(
        cache_size=s.prompt + s.new,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    sampler = sampling.Sampler(model, Numbers(), cache)
    drawn = np.random.default_rng(1).integers(3, SHAPE["vocab"], (s.prompts, s.prompt))
    prompts = [" ".join(map(str, row)) for row in np.repeat(drawn, s.samples, axis=0)]

    def run(seed: int) -> None:
        out = sampler(
            prompts,
            max_generation_steps=s.new,
            max_prompt_length=s.prompt,
            temperature=1.0,
            top_p=s.top_p,
            seed=seed,
            forbidden_tokens=[0, END],
        )
        assert sum(map(len, out.tokens)) == len(prompts) * s.new

    return run


def main() -> None:
    name = sys.argv[1]
    if "--dry" in sys.argv:
        shrink()
    run = sft_step() if name == "sft_step" else sample(SAMPLINGS[name])
    for line in sys.stdin:
        start = time.perf_counter(), time.process_time()
        run(int(line))
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"seconds {wall} {cpu}", flush=True)


if __name__ == "__main__":
    main()
