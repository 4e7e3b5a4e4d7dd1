"""Kahneman-Tversky optimisation: completions judged good or bad, each on its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from caugym_jax.objectives.arrays import Array

LOSS_TYPES = ("kto", "apo_zero_unpaired")


def reference_point(logratios: Float[Array, " B"], lengths: Num[Array, " B"]) -> Float[Array, ""]:
    """z0 = max(0, mean of log p(y') - log p_ref(y')) over completions y' of *other* prompts.

    An estimate of KL(policy || reference), a scalar without gradient. The mean is clamped, not its
    terms, and must be that of the global batch: it is no sum over microbatches, and belongs in
    `prepare`.

    Args:
      logratios: [B] summed over the tokens of y'.
      lengths: [B] numbers of those tokens; a row without any is left out.

    By hand: (0.5, -0.2, 0.3) gives 0.2; (0.5, -0.9) has mean -0.2 and gives 0.
    """
    present = lengths > 0
    total = jnp.sum(jnp.where(present, logratios, 0.0))
    mean = total / jnp.maximum(jnp.sum(present), 1)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def kto(
    logratios: Float[Array, " B"],
    labels: Bool[Array, " B"],
    lengths: Num[Array, " B"],
    baseline: Float[Array, ""] | Float[Array, " B"] | float = 0.0,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(total, weight) of the mean over completions (Ethayarajh et al. 2024), exact when split.

        desirable:    desirable_weight   (1 - sigmoid(beta (r - z0)))
        undesirable:  undesirable_weight (1 - sigmoid(beta (z0 - r)))

    A batch with one class alone is finite: the mean is over all completions, not over each class.

    Args:
      logratios: [B] r = log p(y) - log p_ref(y), summed over the completion's tokens.
      labels: [B] bool, True where the completion is desirable.
      lengths: [B] numbers of tokens; a row without any adds nothing to total or weight.
      baseline: z0, a scalar or [B] (`reference_point`); 0 is APO-zero (`apo_zero_unpaired`).

    By hand: beta 1, z0 = 0, r = (ln 3, ln 3), labels (True, False), weights 1: losses 1 - 3/4 and
    1 - 1/4, so (1, 2), a mean of 0.5.
    """
    present = lengths > 0
    gain = jnp.where(present, beta * (logratios - baseline), 0.0)
    losses = jnp.where(
        labels,
        desirable_weight * jax.nn.sigmoid(-gain),  # = 1 - sigmoid(gain)
        undesirable_weight * jax.nn.sigmoid(gain),
    )
    counted = present.astype(losses.dtype)
    return jnp.sum(losses * counted), jnp.sum(counted)
