"""What all configurations start from."""

import ml_collections

SECTIONS = (
    "model",
    "lora",
    "mesh",
    "sampling",
    "data",
    "optim",
    "evaluation",
    "checkpoint",
    "log",
)


def base(method: str, *more: str) -> ml_collections.ConfigDict:
    """A configuration that sets nothing but the method: empty sections, to which a file adds what
    differs from the defaults of caugym_jax/runs/settings.py (docs/settings.md).

    Args:
      more: sections that only this method has, besides its own.
    """
    sections = {name: {} for name in (*SECTIONS, method, *more)}
    return ml_collections.ConfigDict({"method": method, **sections})


def from_the_start(config, **data) -> None:
    """Sets `config` up for the model "embedded-start", which is in the package, to take minutes on
    two cores: problems of all tasks that need no adjustment, whose solutions have at most 113
    tokens, in training and evaluation."""
    config.data.update(adjusters=(0,), **data)
    config.evaluation.update(adjusters=(0,), n=300, max_new_tokens=128)
