r"""KTO: completions judged good or bad, each on its own. Beta 0.1, weights 1, as in the paper.

    python -m caugym_jax.train --config=kto.py

goes on from the half-trained model inside the package, on completions that are generated as it
goes, half of them right and half with a wrong step. A file instead, in TRL's
columns, and a pretrained model:

    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=kto --out=judged.jsonl
    python -m caugym_jax.train --config=kto.py:smollm2-135m --config.data.path=judged.jsonl
"""

from caugym_jax.configs.common import base
from caugym_jax.configs.dpo import preferences


def get_config(arg: str | None = None):
    config = base("kto")
    config.log.show = ("loss", "rewards/margins", "kl")
    preferences(config, arg)
    if arg is not None:
        config.data.batch_size = 64  # completions
    return config
