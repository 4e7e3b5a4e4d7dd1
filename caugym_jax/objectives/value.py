"""The critic's loss, and how much of the returns it explains."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from caugym_jax.objectives.arrays import Array


class ValueTerms(NamedTuple):
    """Per-token loss and what is reported about it, both [B, C] float32."""

    loss: Float[Array, "B C"]
    clipped: Float[Array, "B C"]  # 1 where the clip cut the gradient


def clipped_value_loss(
    values: Float[Array, "*any"],
    old_values: Float[Array, "*any"],
    returns: Float[Array, "*any"],
    cliprange: float | None = 0.2,
) -> ValueTerms:
    """1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) per token; None: 1/2 (V - R)^2.

    The maximum is pessimistic: a value that has moved further than c towards its return gets no
    gradient, one that has moved away does. Source: OpenAI's baselines, for Schulman et al. 2017.

    Args:
      values, old_values, returns: [B, C] float32, the last two constants of the update.
      cliprange: c, in units of the reward.

    By hand: V_old 0, R 1, c 0.2. V = 0.5: max(0.25, 0.64) / 2 = 0.32, clipped. V = -0.5:
    max(2.25, 1.44) / 2 = 1.125, not clipped.
    """
    error = jnp.square(values - returns)
    if cliprange is None:
        return ValueTerms(error / 2, jnp.zeros_like(error))
    near = jnp.clip(values, old_values - cliprange, old_values + cliprange)
    near_error = jnp.square(near - returns)
    clipped = (near_error > error).astype(jnp.float32)
    return ValueTerms(jnp.maximum(error, near_error) / 2, clipped)


def explained_variance(
    values: Float[np.ndarray, "B C"],
    returns: Float[np.ndarray, "B C"],
    mask: Shaped[np.ndarray, "B C"],
) -> float:
    """1 - Var(R - V) / Var(R) over counted tokens; NaN where the returns do not vary.

    1: the critic knows the returns; 0: no better than a constant; below: worse. NumPy, float64.

    By hand: returns (0, 2), values (0, 1): 1 - 0.25 / 1 = 0.75.
    """
    counted = np.asarray(mask) > 0
    values = np.asarray(values, np.float64)[counted]
    returns = np.asarray(returns, np.float64)[counted]
    variance = returns.var() if returns.size else 0.0
    return float(1 - (returns - values).var() / variance) if variance > 0 else float("nan")
