"""Supervised fine-tuning on worked solutions (docs/solutions.md).

    python -m caugym_jax.train --config=sft.py

goes on from the half-trained model inside the package (reasoner.py: from random weights). With a
pretrained model, on generated problems with worked solutions or on a file of traces (the released
cold start):

    python -m caugym_jax.train --config=sft.py:smollm2-135m --config.data.path=cold_start.parquet
"""

from caugym_jax.configs.common import base, from_the_start
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("sft")
    config.log.show = ("loss", "mean_token_accuracy")
    config.evaluation.every = config.checkpoint.every = 30
    if arg is None:
        from_the_start(config, batch_size=48, max_length=256)
        config.steps = 60
        config.optim.update(peak=5e-4, warmup=5, decay="linear", final_ratio=0.05, b2=0.98)
        return config
    pretrained(config, arg, max_completion_length=1024)
    config.data.max_length = 4096
    config.evaluation.n = 4
    config.sft.microbatches = None
    config.optim.warmup = 10
    return config
