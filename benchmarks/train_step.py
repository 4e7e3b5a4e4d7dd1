"""Training speed: AdamW steps of a small random Qwen2, all tokens as targets, in tokens a second.

    python benchmarks/train_step.py [--torch] [--rows 8] [--length 512] [--rounds 5]

With --torch (needs PyTorch and transformers) the same step in PyTorch runs in turn with ours, in
one process with as many threads, so that a machine whose speed drifts treats both alike. Prints
one JSON line per side: best and median tokens/s of the rounds, wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

ROUND = 3  # steps a round


def ours(rows: int, length: int, remat: str):
    import jax
    import numpy as np

    from caugym_jax.algorithms.sft import sft
    from caugym_jax.algorithms.step import Learner
    from caugym_jax.devices.mesh import make_mesh
    from caugym_jax.models.config import ModelConfig
    from caugym_jax.models.transformer import Model, layout
    from caugym_jax.objectives.optim import Optim, make_optimizer
    from caugym_jax.types import Batch

    config = ModelConfig(
        family="qwen2",
        vocab_size=8192,
        d_model=256,
        num_layers=4,
        num_heads=8,
        num_kv_heads=2,
        head_dim=32,
        d_ff=1024,
        qkv_bias=True,
        tied=True,
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    rng = np.random.default_rng(0)
    shape = (rows, length)
    tokens = rng.integers(1, 8192, shape).astype(np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    batch = Batch(tokens, np.ones(shape, np.float32), np.ones(shape, np.int32), places)
    with jax.set_mesh(mesh):
        model = Model(config, remat=remat)
        optimizer = make_optimizer(layout(config), 1000, Optim(peak=1e-4))
        algorithm = sft(Learner(model, optimizer, mesh))
        state = algorithm.init(model.init(jax.random.key(0)))

    def run():
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(ROUND):
                experience, _, _ = algorithm.prepare(state, lambda: batch)
                state, metrics = algorithm.update(state, experience)
            return float(metrics["loss"])

    return run


def theirs(rows: int, length: int):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    tokens = torch.randint(1, 8192, (rows, length))

    def run():
        for _ in range(ROUND):
            optimizer.zero_grad(set_to_none=True)
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return loss.item()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--remat", default="none", help="what is recomputed (ours)")
    args = parser.parse_args()
    sides = {"caugym_jax": ours(args.rows, args.length, args.remat)}
    if args.torch:
        sides["torch"] = theirs(args.rows, args.length)
    seconds = {name: [] for name in sides}
    for run in sides.values():
        run()  # compile and warm up
    for _ in range(args.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    tokens = ROUND * args.rows * args.length
    for name, times in seconds.items():
        line = {
            "side": name,
            "rows": args.rows,
            "length": args.length,
            "best_tokens_per_s": round(tokens / min(times)),
            "median_tokens_per_s": round(tokens / statistics.median(times)),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
