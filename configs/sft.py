"""Supervised fine-tuning on worked solutions.

    python -m caugym_jax.train --config=sft.py

goes on from the model inside the package (from_scratch.py: from random weights). With a pretrained
model, on generated problems with
worked solutions or on a file of traces (the released cold start):

    python -m caugym_jax.train --config=sft.py:smollm2-135m --config.data.path=cold_start.parquet
"""

import ml_collections

from caugym_jax.configs.common import base
from caugym_jax.configs.models import pretrained

# The problems that `data.texts.worked` solves.
WORKED = dict(tasks=("ATE", "CDE", "ETT", "NDE"), adjusters=(0,), max_mediators=0)


def get_config(arg: str | None = None):
    config = base("sft")
    config.steps = 60
    config.sft = dict(
        neftune_noise_alpha=0.0,
        microbatches=ml_collections.config_dict.placeholder(int),  # None: a row a device at a time
    )
    config.sft.microbatches = 1
    config.optim.update(
        peak=1e-3, warmup=10, decay="linear", decay_from=0.6, final_ratio=0.05,
        b2=0.98, weight_decay=0.01,
    )  # fmt: skip
    config.data.update(
        batch_size=48, max_length=192, packing=False, direct_fraction=0.0
    )  # fmt: skip
    config.evaluation.every = 30
    config.log.show = ("loss", "mean_token_accuracy")
    if arg is not None:
        pretrained(config, arg, max_completion_length=128)
        config.steps = 100
        config.data.update(WORKED, batch_size=32, max_length=4096)
        config.sft.microbatches = None
        config.optim.update(peak=1e-5, warmup=10, decay="constant", b2=0.999, weight_decay=0.0)
        config.evaluation.update(WORKED, n=4)
    return config
