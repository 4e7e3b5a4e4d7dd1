"""The tiny decoder from random weights on worked solutions: the first stage of the embedded model.

    python -m caugym_jax.train --config=from_scratch.py

takes a quarter of an hour on two CPU cores.
"""

from caugym_jax.configs import sft


def get_config(arg: str | None = None):
    config = sft.get_config(arg)
    config.steps = 800
    config.model.init = "random"
    config.optim.update(peak=3e-3, warmup=60)
    config.evaluation.every = 100
    return config
