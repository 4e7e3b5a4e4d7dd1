"""Optimisers and learning-rate schedules: optax, chosen by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from caugym_jax.errors import UserError
from caugym_jax.sharding import Layout


class Optimizer(NamedTuple):
    """An optax transform, the learning rate it uses (for the log), and what it trains."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    clip_norm: float | None
    layout: Layout


def learning_rate(
    peak: float,
    steps: int,
    warmup: int = 0,
    decay: str = "constant",
    decay_from: float = 0.0,
    final_ratio: float = 0.0,
) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then constant until `decay_from` of the run, then decay.

    Args:
      steps: length of the whole run.
      warmup: steps of warm-up; step 0 already moves (rate peak / warmup). A run shorter than its
        warm-up ends before the peak.
      decay: "constant", "linear" or "cosine", down to peak * final_ratio at the last step.
      decay_from: fraction of `steps` at which decay begins (not before the warm-up's end).

    Raises:
      UserError: unknown decay.
    """
    begin = max(warmup, int(decay_from * steps))
    length = max(1, steps - begin - 1)  # the last step is number steps - 1
    if decay == "constant":
        tail = optax.constant_schedule(peak)
    elif decay == "linear":
        tail = optax.linear_schedule(peak, peak * final_ratio, length)
    elif decay == "cosine":
        tail = optax.cosine_decay_schedule(peak, length, alpha=final_ratio)
    else:
        raise UserError(f"optim.decay={decay!r}: use constant, linear or cosine")
    warm = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    return optax.join_schedules([warm, optax.constant_schedule(peak), tail], [warmup, begin])


def decayed(axes: Any) -> Any:
    """Which weights are decayed: those that read or write the residual stream (not norms, biases).

    By logical axes, not by rank: stacking adds an axis to every weight and changes nothing here.
    """
    return jax.tree.map(
        lambda names: "embed" in names, axes, is_leaf=lambda x: isinstance(x, tuple)
    )


def make_optimizer(
    layout: Layout,
    steps: int,
    *,
    name: str = "adamw",
    peak: float = 1e-5,
    warmup: int = 0,
    decay: str = "constant",
    decay_from: float = 0.0,
    final_ratio: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """The optimiser of a run of `steps` optimiser steps.

    Args:
      layout: shapes and logical axes of what is trained (`models.transformer.layout(config)`).
      name: "adamw", "lion" or "adafactor".
      peak, warmup, decay, decay_from, final_ratio: see `learning_rate`.
      b1, b2, eps: adamw's; lion has no eps, and adafactor none of the three.
      weight_decay: every step takes rate * weight_decay * weight off the weights of `decayed`.
      clip_norm: gradients with a larger global L2 norm are scaled down to it; None: never.
    """
    schedule = learning_rate(peak, steps, warmup, decay, decay_from, final_ratio)
    mask = decayed(layout.axes)
    if name == "adamw":
        core = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=mask)
    elif name == "lion":
        core = optax.lion(schedule, b1, b2, weight_decay=weight_decay, mask=mask)
    elif name == "adafactor":
        # Optax's own decay would not be scaled by the learning rate.
        core = optax.chain(
            optax.adafactor(multiply_by_parameter_scale=False),
            optax.add_decayed_weights(-weight_decay, mask),
            optax.scale_by_learning_rate(schedule, flip_sign=False),
        )
    else:
        raise UserError(f"optim.name={name!r}: use adamw, lion or adafactor")
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return Optimizer(optax.chain(clip, core), schedule, clip_norm, layout)
