"""Supervised fine-tuning on worked solutions.

    python -m caugym_jax.train --config=sft.py

goes on from the model inside the package (from_scratch.py: from random weights). With a pretrained
model, on generated problems with
worked solutions or on a file of traces (the released cold start):

    python -m caugym_jax.train --config=sft.py:smollm2-135m --config.data.path=cold_start.parquet
"""

from caugym_jax.configs.common import base
from caugym_jax.configs.models import ZERO_FRACTION, pretrained


def get_config(arg: str | None = None):
    config = base("sft")
    config.log.show = ("loss", "mean_token_accuracy")
    config.evaluation.every = config.checkpoint.every = 30
    if arg is None:
        config.steps = 60
        config.data.update(batch_size=48, max_length=192)
        config.optim.update(
            peak=1e-3,
            warmup=10,
            decay="linear",
            decay_from=0.6,
            final_ratio=0.05,
            b2=0.98,
            weight_decay=0.01,
        )
        return config
    pretrained(config, arg, max_completion_length=128)
    worked = dict(zero_fraction=ZERO_FRACTION)  # and the default tasks, which can be worked out
    config.data = dict(worked, max_length=4096)
    config.evaluation = dict(worked, every=30, n=4, max_new_tokens=128)
    config.sft.microbatches = None
    config.optim.warmup = 10
    return config
