r"""KTO: completions judged good or bad, each on its own. Beta 0.1, weights 1, as in the paper.

    python -m caugym_jax.train --config=kto.py

goes on from the cold-started model inside the package, on completions that are generated as it
goes, half of them right and half wrong (of the kinds in `data.rejected`). A file instead, in TRL's
columns, and a pretrained model:

    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=kto --out=judged.jsonl
    python -m caugym_jax.train --config=kto.py:smollm2-135m --config.data.path=judged.jsonl
"""

import ml_collections

from caugym_jax.configs.common import base
from caugym_jax.configs.dpo import preferences
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("kto")
    config.steps = 40
    config.kto = dict(
        beta=0.1,
        loss_type="kto",  # or apo_zero_unpaired
        desirable_weight=1.0,
        undesirable_weight=1.0,
        microbatches=ml_collections.config_dict.placeholder(int),  # None: a row a device at a time
    )
    config.kto.microbatches = 1
    config.optim.update(peak=1e-4, warmup=5, decay="linear", final_ratio=0.1, b2=0.98)
    preferences(config, solutions="worked" if arg is None else "steps")
    config.data.batch_size = 64  # completions
    config.evaluation.every = 20
    config.log.show = ("loss", "rewards/margins", "kl")
    if arg is not None:
        pretrained(config, arg)
        config.steps = 300
        config.data.max_length = 2048
        config.kto.microbatches = None
        config.optim.update(peak=1e-6, warmup=10, decay="constant", b2=0.999)
    return config
