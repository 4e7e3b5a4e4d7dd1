"""The roofline model of `caugym_jax.compile` against measured steps on this machine's CPU.

    python benchmarks/roofline.py [--rounds 5]

AdamW updates (`algorithms/sft.py`) of random decoders of three sizes, all tokens as targets. The
machine's numbers are measured in the same run (`planning/machine.py`). Both are in seconds of
process CPU time, so that other work on the machine does not count. Prints a JSON line a size, and
exits with status 1 if a prediction is off by more than a fifth.
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

# (D, layers, heads, key/value heads, F, V, rows, tokens a row)
SIZES = {
    "0.9M": (128, 4, 4, 2, 384, 2048, 16, 128),
    "5M": (256, 4, 8, 2, 1024, 4096, 8, 256),
    "20M": (512, 5, 8, 4, 1536, 8192, 4, 512),
}


def measure(size: tuple[int, ...], rounds: int) -> tuple[float, object]:
    """(seconds of an update, its `Work`)."""
    import jax
    import numpy as np

    from caugym_jax.algorithms.sft import sft
    from caugym_jax.algorithms.step import Learner
    from caugym_jax.devices.mesh import make_mesh
    from caugym_jax.models.config import ModelConfig
    from caugym_jax.models.transformer import Model, layout
    from caugym_jax.models.work import Work
    from caugym_jax.objectives.optim import Optim, make_optimizer
    from caugym_jax.types import Batch

    D, L, N, K, F, V, rows, width = size
    config = ModelConfig("llama", V, D, L, N, K, D // N, F)
    mesh = make_mesh(devices=jax.devices()[:1])
    tokens = np.random.default_rng(0).integers(1, V, (rows, width)).astype(np.int32)
    places = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    batch = Batch(tokens, np.ones(tokens.shape, np.float32), np.ones_like(tokens), places)
    times = []
    with jax.set_mesh(mesh):
        model = Model(config)
        optimizer = make_optimizer(layout(config), 1000, Optim(peak=1e-4))
        algorithm = sft(Learner(model, optimizer, mesh))
        state = algorithm.init(model.init(jax.random.key(0)))
        experience, _, _ = algorithm.prepare(state, lambda: batch)
        for _ in range(rounds + 1):
            start = time.process_time()
            state, metrics = algorithm.update(state, experience)
            jax.block_until_ready((state, metrics))
            times.append(time.process_time() - start)
    work = Work(config, rows, width, width, train=True, itemsize=4)
    return statistics.median(times[1:]), work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from caugym_jax.planning.machine import measured
    from caugym_jax.planning.roofline import CPU, parameters, predict

    chip = measured(clock=time.process_time)
    told = {"gflops": chip.flops / 1e9, "gbytes_a_second": chip.bandwidth / 1e9}
    print(json.dumps({name: round(value, 1) for name, value in told.items()}))
    worst = 0.0
    for name, size in SIZES.items():
        seconds, work = measure(size, rounds)
        found = predict(work, chip, CPU, 1)
        ratio = found.seconds / seconds
        worst = max(worst, abs(ratio - 1))
        print(
            json.dumps(
                {
                    "model": name,
                    "parameters": parameters(work.model),
                    "measured": round(seconds, 4),
                    "predicted": round(found.seconds, 4),
                    "ratio": round(ratio, 3),
                    "arithmetic": round(found.arithmetic, 4),
                    "memory": round(found.memory, 4),
                    "optimiser": round(found.optimiser, 4),
                }
            ),
            flush=True,
        )
    if worst > 0.2:
        sys.exit(f"a prediction is off by {100 * worst:.0f}%, more than a fifth")


if __name__ == "__main__":
    main()
