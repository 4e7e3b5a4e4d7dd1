"""The clipped policy objective of GRPO and its relatives, and the KL penalty.

All arrays are [B, C] float32 over completion tokens; `mask` is 1 where a token counts. Log-ratios
are clamped to +-20 before exp, so that a broken row cannot make an infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Terms(NamedTuple):
    """Per-token loss and what is reported about it, all [B, C]."""

    loss: jax.Array
    ratio: jax.Array  # p_new / p_old as used (token or sequence level)
    clipped_low: jax.Array  # 1 where the lower clip cut the gradient (A < 0)
    clipped_high: jax.Array  # 1 where the upper clip cut the gradient (A > 0)


def _masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(x * mask, axis=-1, keepdims=True) / jnp.maximum(
        jnp.sum(mask, axis=-1, keepdims=True), 1.0
    )


def log_ratio(
    logprobs: jax.Array, old_logprobs: jax.Array, mask: jax.Array, level: str = "token"
) -> jax.Array:
    """log p_new - log p_old per token, or its mean over each sequence (GSPO): [B, C] or [B, 1]."""
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, not {level!r}")
    difference = (logprobs - old_logprobs) * mask
    if level == "sequence":
        difference = _masked_mean(difference, mask)
    return jnp.clip(difference, -20.0, 20.0)


def clipped_surrogate(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    delta: float | None = None,
    level: str = "token",
) -> Terms:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) per token, r = p_new / p_old.

    PPO's surrogate (Schulman et al. 2017) with DAPO's separate upper bound; `delta` caps r from
    above before anything else (two-sided clipping of negative advantages, INTELLECT-2);
    `level="sequence"` uses the length-normalised sequence ratio of GSPO.

    By hand: r = 1.5, A = 1, clip 0.2/0.28: -min(1.5, 1.28) = -1.28; A = -1: -min(-1.5, -1.28) =
    1.5.
    """
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs, mask, level))
    bounded = ratio if delta is None else jnp.minimum(ratio, delta)
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    loss = -jnp.minimum(bounded * advantages, clipped * advantages)
    low = (ratio < 1.0 - clip_low) & (advantages < 0)
    high = (ratio > 1.0 + clip_high) & (advantages > 0)
    shape = logprobs.shape
    return Terms(
        jnp.broadcast_to(loss, shape),
        jnp.broadcast_to(ratio, shape),
        jnp.broadcast_to(low, shape).astype(jnp.float32),
        jnp.broadcast_to(high, shape).astype(jnp.float32),
    )


def cispo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip_high: float = 5.0,
    level: str = "token",
) -> Terms:
    """CISPO (MiniMax-M1): -stop_gradient(min(r, clip_high)) A log p per token.

    `clip_high` is the largest weight itself, not a distance from 1.
    """
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs, mask, level))
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, clip_high))
    ratio = jnp.broadcast_to(ratio, logprobs.shape)
    high = ((ratio > clip_high) & (advantages > 0)).astype(jnp.float32)
    return Terms(-weight * advantages * logprobs, ratio, jnp.zeros_like(high), high)


def kl_estimate(logprobs: jax.Array, ref_logprobs: jax.Array, kind: str = "k3") -> jax.Array:
    """Per-token estimate of KL(policy || reference) at the sampled tokens, [B, C].

    With d = log p_ref - log p: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 (never negative).
    Source: J. Schulman, "Approximating KL divergence".

    By hand: d = ln 2: k1 = -0.6931, k2 = 0.2402, k3 = 2 - 0.6931 - 1 = 0.3069.
    """
    d = jnp.clip(ref_logprobs - logprobs, -20.0, 20.0)
    if kind == "k1":
        return -d
    if kind == "k2":
        return d * d / 2
    if kind == "k3":
        return jnp.exp(d) - d - 1.0
    raise ValueError(f"kind must be k1, k2 or k3, not {kind!r}")


def aggregate(
    loss: jax.Array, mask: jax.Array, how: str = "grpo", horizon: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """(total, weight) of a per-token loss, exact under any split of the batch.

    grpo:    sum_i (1/|o_i|) sum_t l_it   over the number of rows that have tokens (the paper's)
    dapo:    sum_it l_it                  over the number of tokens
    dr_grpo: sum_it l_it                  over rows times `horizon`, the longest completion allowed
                                          (a constant of the run; None: the width C of this array)

    A row without a counted token adds nothing to total or weight.

    By hand: losses (1, 3) and (2, masked): grpo (2 + 2, 2) = mean 2; dapo (6, 3) = 2;
    dr_grpo (6, 2 * 2) = 1.5.
    """
    counts = jnp.sum(mask, axis=-1)
    present = (counts > 0).astype(jnp.float32)
    sums = jnp.sum(loss * mask, axis=-1)
    if how == "grpo":
        return jnp.sum(sums / jnp.maximum(counts, 1.0)), jnp.sum(present)
    if how == "dapo":
        return jnp.sum(sums), jnp.sum(counts)
    if how == "dr_grpo":
        return jnp.sum(sums), jnp.sum(present) * (horizon or loss.shape[-1])
    raise ValueError(f"how must be grpo, dapo or dr_grpo, not {how!r}")
