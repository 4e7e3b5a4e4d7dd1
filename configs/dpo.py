r"""DPO: of two solutions of a problem, prefer the right one. Beta 0.1, as in the paper.

    python -m caugym_jax.train --config=dpo.py

goes on from the cold-started model inside the package, on pairs that are generated as it goes: a
worked solution, and a wrong one of a kind drawn by `data.rejected`. A file of pairs instead, in
TRL's columns, and a pretrained model:

    python -m caugym_jax.generate --tasks=ATE,ETT --n=5000 --for=dpo --out=pairs.jsonl
    python -m caugym_jax.train --config=dpo.py:smollm2-135m --config.data.path=pairs.jsonl

The reference is the model that training starts from. For a file its log-probabilities are computed
once and kept in the workdir.
"""

import ml_collections

from caugym_jax.configs.common import base
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("dpo")
    config.steps = 40
    config.dpo = dict(
        beta=0.1,
        loss_type=("sigmoid",),  # also robust, ipo, hinge, sigmoid_norm, sft; several: sigmoid,sft
        loss_weights=ml_collections.config_dict.placeholder(tuple),  # None: 1 each
        label_smoothing=0.0,
        microbatches=ml_collections.config_dict.placeholder(int),  # None: a pair a device at a time
    )
    config.dpo.microbatches = 1
    config.optim.update(peak=1e-4, warmup=5, decay="linear", final_ratio=0.1, b2=0.98)
    preferences(config, solutions="worked" if arg is None else "steps")
    config.data.batch_size = 32  # pairs
    config.evaluation.every = 20
    config.log.show = ("loss", "rewards/accuracies", "rewards/margins")
    if arg is not None:
        pretrained(config, arg)
        config.steps = 300
        config.data.max_length = 2048
        config.dpo.microbatches = None
        config.optim.update(peak=1e-6, warmup=10, decay="constant", b2=0.999)
    return config


def preferences(config, solutions: str) -> None:
    """The data section's part about preferences (preference_sources.preference_items)."""
    config.data.update(
        max_length=176,  # of a prompt with a completion, in tokens
        too_long="drop",  # a file's longer rows; "refuse" ends the run
        unusable="drop",  # a file's identical pairs and empty completions
        solutions=solutions,  # of generated problems: worked, or steps (all tasks)
        rejected=None,
    )
    if (
        solutions == "worked"
    ):  # the share of each kind of wrong solution (data/texts/mistakes/worked.py)
        config.data.rejected = dict(
            no_work=1.0,
            sign_flip=1.0,
            arithmetic_slip=1.0,
            misread_number=1.0,
            wrong_verdict=1.0,
            false_zero=1.0,
            invented_number=1.0,
        )
