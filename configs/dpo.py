r"""DPO: of two solutions of a problem, prefer the right one. Beta 0.1, as in the paper.

    python -m caugym_jax.train --config=dpo.py

goes on from the half-trained model inside the package, on pairs that are generated as it goes: a
worked solution, and one in which a step is wrong and the rest follows from it. A file of pairs
instead, in TRL's columns, and a pretrained model:

    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=dpo --out=pairs.jsonl
    python -m caugym_jax.train --config=dpo.py:smollm2-135m --config.data.path=pairs.jsonl

The reference is the model that training starts from. For a file its log-probabilities are computed
once and kept in the workdir.
"""

from caugym_jax.configs.common import base, from_the_start
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("dpo")
    config.log.show = ("loss", "rewards/accuracies", "rewards/margins")
    preferences(config, arg)
    return config


def preferences(config, arg: str | None) -> None:
    """What DPO and KTO have in common."""
    config.evaluation.every = config.checkpoint.every = 20
    if arg is None:
        config.steps = 40
        from_the_start(config, max_length=256, solutions="worked")
        config.optim.update(peak=1e-4, warmup=5, decay="linear", final_ratio=0.1, b2=0.98)
        return
    pretrained(config, arg)
    config.steps = 300
    config[config.method].microbatches = None
    config.optim.update(peak=1e-6, warmup=10)
