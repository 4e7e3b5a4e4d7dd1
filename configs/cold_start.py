"""Cold start of the model inside the package: SFT of a random tiny decoder on mixed traces.

    python -m caugym_jax.train --config=cold_start.py

All traces are right, but only some show their work: the others state the bare answer. A decoder of
this size cannot subtract in its head, so what it learns to state at once is mostly wrong and what
it works out is mostly right. Which of the two pays is left for GRPO to find out.
"""

from configs import sft


def get_config(arg: str | None = None):
    config = sft.get_config(arg)
    config.steps = 600
    config.data.direct_fraction = 0.6
    config.optim.update(decay="linear", decay_from=0.6, final_ratio=0.05)
    return config
