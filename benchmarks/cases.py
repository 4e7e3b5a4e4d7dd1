"""What the sides of benchmarks/speed.py have in common. Imports no framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

SHAPE = {"vocab": 8192, "width": 256, "layers": 4, "heads": 8, "kv_heads": 2, "ffn": 1024}
OURS = "caugym_jax"
STEPS = 2  # of training in a call
TRAINED = {"rows": 8, "length": 512}


class Case(NamedTuple):
    """The same work for every side."""

    tokens: int  # that a call of a side processes
    sides: dict[str, Callable[[int], Any]]  # from a seed
    flops: float | None = None  # what the mathematics of a call needs


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


class Update(NamedTuple):
    """A policy update on completions of lognormal lengths, median 0.3 of the longest."""

    groups: int
    samples: int  # of each prompt
    prompt: tuple[int, int]  # tokens, from and to
    new: int  # the longest completion
    sigma: float
    microbatches: int = 1  # of the padded rows


UPDATES = {
    "update_packed": Update(96, 1, (16, 48), 384, 0.8, 12),
    "update_prompts_once": Update(16, 8, (64, 112), 40, 0.4),
    "update_preferences": Update(16, 2, (64, 112), 128, 0.6),
}


def shrink() -> None:
    """The same cases in a size that takes seconds: whether they run at all."""
    SHAPE.update(vocab=256, width=32, layers=2, heads=4, kv_heads=2, ffn=64)
    TRAINED.update(rows=2, length=32)
    for name, s in SAMPLINGS.items():
        prompts = 24 if name == "sample_mixed" else 4
        SAMPLINGS[name] = s._replace(prompts=prompts, samples=min(s.samples, 2), prompt=16, new=16)
    for name, u in UPDATES.items():
        small = {"groups": 4, "samples": min(u.samples, 2), "prompt": (4, 8), "new": 16}
        UPDATES[name] = u._replace(**small, microbatches=1)
