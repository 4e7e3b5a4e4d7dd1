"""What the sides of benchmarks/speed.py have in common. Imports no framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

SHAPE = {"vocab": 8192, "width": 256, "layers": 4, "heads": 8, "kv_heads": 2, "ffn": 1024}
OURS = "caugym_jax"
STEPS = 3  # of training in a call
TRAINED = 8, 512  # rows and their length


class Case(NamedTuple):
    """The same work for every side."""

    tokens: int  # that a call of a side processes
    sides: dict[str, Callable[[int], Any]]  # from a seed


class Sampling(NamedTuple):
    """What is sampled."""

    prompts: int
    samples: int
    prompt: int
    new: int
    top_p: float = 1.0


SAMPLINGS = {
    "sample_equal": Sampling(16, 1, 128, 256),
    "sample_top_p": Sampling(16, 1, 128, 256, 0.95),
    "sample_shared": Sampling(8, 8, 512, 128),
    "sample_mixed": Sampling(64, 1, 128, 256),
}
