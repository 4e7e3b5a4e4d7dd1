"""The clipped policy objective of GRPO and its relatives, and the KL penalty.

All arrays are [B, C] float32 over completion tokens; `mask` is 1 where a token counts. Log-ratios
are clamped to +-20 before exp, so that a broken row cannot make an infinity. `policy_loss` puts the
pieces together; the others are the pieces.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from caugym_jax.errors import require
from caugym_jax.objectives.arrays import Array
from caugym_jax.types import Experience

Spread = Float[Array, "B #C"]  # a value for each token, or one for each sequence
# A reported quantity as (sum, weight), see algorithms/step.py.
Sums = dict[str, tuple[jax.Array, jax.Array]]

# TRL's name of a loss: how it averages over tokens.
AGGREGATIONS = {
    "grpo": "grpo",
    "bnpo": "dapo",  # TRL's means per device and microbatch, which with exact addition are one
    "dapo": "dapo",
    "dr_grpo": "dr_grpo",
    "cispo": "dapo",
}


class Terms(NamedTuple):
    """Per-token loss and what is reported about it, all [B, C]."""

    loss: Float[Array, "B C"]
    ratio: Float[Array, "B C"]  # p_new / p_old as used (token or sequence level)
    clipped_low: Float[Array, "B C"]  # 1 where the lower clip cut the gradient (A < 0)
    clipped_high: Float[Array, "B C"]  # 1 where the upper clip cut the gradient (A > 0)


def _sums(x: Float[Array, "B C"], sequences: Int[Array, "B C"] | None) -> Spread:
    """The sum over each sequence: over a row, or, at all its tokens, over those of one number."""
    if sequences is None:
        return jnp.sum(x, axis=-1, keepdims=True)

    def of_row(x: Array, numbers: Array) -> Array:
        return jax.ops.segment_sum(x, numbers, num_segments=len(x) + 1)[numbers]

    return jax.vmap(of_row)(x, sequences)


def log_ratio(
    logprobs: Float[Array, "B C"],
    old_logprobs: Float[Array, "B C"],
    mask: Float[Array, "B C"],
    level: str = "token",
    sequences: Int[Array, "B C"] | None = None,
) -> Spread:
    """log p_new - log p_old per token, or its mean over each sequence (GSPO): [B, C] or [B, 1].

    Args:
      sequences: [B, C], where a row holds several: each token's, from 1 on; below as well.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, not {level!r}")
    difference = (logprobs - old_logprobs) * mask
    if level == "sequence":
        counts = _sums(mask, sequences)
        difference = _sums(difference * mask, sequences) / jnp.maximum(counts, 1.0)
    return jnp.clip(difference, -20.0, 20.0)


def clipped_surrogate(
    logprobs: Float[Array, "B C"],
    old_logprobs: Float[Array, "B C"],
    advantages: Spread,
    mask: Float[Array, "B C"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    delta: float | None = None,
    level: str = "token",
    sequences: Int[Array, "B C"] | None = None,
) -> Terms:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) per token, r = p_new / p_old.

    PPO's surrogate (Schulman et al. 2017) with DAPO's separate upper bound; `delta` caps r from
    above before anything else (two-sided clipping of negative advantages, INTELLECT-2). With
    delta = c > 1 + clip_high that is PPO's dual clip, max(-r A, c A) for A < 0 (Ye et al. 2020).
    `level="sequence"` uses the length-normalised sequence ratio of GSPO.

    By hand: r = 1.5, A = 1, clip 0.2/0.28: -min(1.5, 1.28) = -1.28; A = -1: -min(-1.5, -1.28) =
    1.5; r = 5, A = -1, delta 3: 3.
    """
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs, mask, level, sequences))
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
    logprobs: Float[Array, "B C"],
    old_logprobs: Float[Array, "B C"],
    advantages: Spread,
    mask: Float[Array, "B C"],
    *,
    clip_high: float = 5.0,
    level: str = "token",
    sequences: Int[Array, "B C"] | None = None,
) -> Terms:
    """CISPO (MiniMax-M1): -stop_gradient(min(r, clip_high)) A log p per token.

    `clip_high` is the largest weight itself, not a distance from 1.
    """
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs, mask, level, sequences))
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, clip_high))
    ratio = jnp.broadcast_to(ratio, logprobs.shape)
    high = ((ratio > clip_high) & (advantages > 0)).astype(jnp.float32)
    return Terms(-weight * advantages * logprobs, ratio, jnp.zeros_like(high), high)


def kl_estimate(
    logprobs: Float[Array, "*shape"], ref_logprobs: Float[Array, "*shape"], kind: str = "k3"
) -> Float[Array, "*shape"]:
    """Per-token estimate of KL(policy || reference) at the sampled tokens, in their shape.

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


def importance_weights(
    old_logprobs: Float[Array, "B C"],
    sampler_logprobs: Float[Array, "B C"],
    mask: Float[Array, "B C"],
    level: str = "token",
    cap: float = 3.0,
    sequences: Int[Array, "B C"] | None = None,
) -> Spread:
    """min(p_trainer / p_sampler, cap) before the update, as a constant: [B, C] or [B, 1].

    Truncated importance sampling (Ionides 2008; TRL's vllm_importance_sampling_correction): where
    the sampler computes in another precision than the trainer, its samples come from another
    distribution than the one whose gradient is taken. Per token, or the whole sequence's product.

    By hand: p_trainer / p_sampler = (2, 2) and cap 3: (2, 2) per token, min(4, 3) = 3 a sequence.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be token or sequence, not {level!r}")
    difference = (old_logprobs - sampler_logprobs) * mask
    if level == "sequence":
        difference = _sums(difference, sequences)
    weights = jnp.minimum(jnp.exp(jnp.clip(difference, -20.0, 20.0)), cap)
    return jax.lax.stop_gradient(weights)


def aggregate(
    loss: Float[Array, "B C"],
    mask: Float[Array, "B C"],
    how: str = "grpo",
    horizon: int | None = None,
    share: Float[Array, "B C"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(total, weight) of a per-token loss, exact under any split of the batch.

    grpo:    sum_i (1/|o_i|) sum_t l_it   over the number of rows that have tokens (the paper's)
    dapo:    sum_it l_it                  over the number of tokens
    dr_grpo: sum_it l_it                  over rows times `horizon`, the longest completion allowed
                                          (a constant of the run; None: the width C of this array)

    A row without a counted token adds nothing to total or weight.

    Args:
      share: where a row holds several sequences: 1/|o_i| at each counted token of sequence i. Its
        sum is the number of sequences.

    By hand: losses (1, 3) and (2, masked): grpo (2 + 2, 2) = mean 2; dapo (6, 3) = 2;
    dr_grpo (6, 2 * 2) = 1.5.
    """
    counts = jnp.sum(mask, axis=-1)
    present = (counts > 0).astype(jnp.float32) if share is None else share
    sums = jnp.sum(loss * mask, axis=-1)
    if how == "grpo" and share is not None:
        return jnp.sum(loss * share), jnp.sum(share)
    if how == "grpo":
        return jnp.sum(sums / jnp.maximum(counts, 1.0)), jnp.sum(present)
    if how == "dapo":
        return jnp.sum(sums), jnp.sum(counts)
    if how == "dr_grpo":
        return jnp.sum(sums), jnp.sum(present) * (horizon or loss.shape[-1])
    raise ValueError(f"how must be grpo, dapo or dr_grpo, not {how!r}")


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """Settings of `policy_loss`.

    Attributes:
      loss_type: how token losses are averaged: "grpo" (the paper's), "dapo" = "bnpo" (over all
        tokens) or "dr_grpo", or "cispo" (token mean of the CISPO loss, where epsilon_high is the
        largest weight).
      importance_sampling_level: "token", or "sequence" (GSPO).
      epsilon: how far below 1 the ratio may fall before it is clipped.
      epsilon_high: how far above 1 it may rise.
      delta: two-sided clipping; PPO's dual clip is delta = 3; None: off.
      beta: weight of the KL term; 0: none.
      kl_estimator: of the KL term: "k1", "k2" or "k3", see `kl_estimate`.
      use_bias_correction_kl: multiply the KL estimate by r with its gradient. At r = 1 the k3
        estimate so has the KL's exact gradient in expectation, and without it, only that of
        KL(reference || policy).
      entropy_coef: weight of the entropy, which is taken off the loss; 0: none.
      importance_sampling_correction: "none", "token" or "sequence": weigh by how likely the trainer
        finds what the sampler drew, at most importance_sampling_cap (TRL's vllm_...).
      importance_sampling_cap: the largest such weight.
    """

    loss_type: str = "grpo"
    importance_sampling_level: str = "token"
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    delta: float | None = None
    beta: float = 0.0
    kl_estimator: str = "k3"
    use_bias_correction_kl: bool = False
    entropy_coef: float = 0.0
    importance_sampling_correction: str = "none"
    importance_sampling_cap: float = 3.0

    def __post_init__(self) -> None:
        require(self, "loss_type", among=tuple(AGGREGATIONS))
        require(self, "importance_sampling_level", among=("token", "sequence"))
        require(self, "importance_sampling_correction", among=("none", "token", "sequence"))
        require(self, "kl_estimator", among=("k1", "k2", "k3"))
        require(self, "epsilon", "epsilon_high", "beta", at_least=0)
        require(self, "importance_sampling_cap", above=0)
        require(self, "entropy_coef")
        allowed = 1 + self.epsilon_high
        require(self, "delta", above=allowed, hint="which is 1 + epsilon_high, or None")


def policy_loss(
    logprobs: Float[Array, "B C"],
    entropy: Float[Array, "B C"],
    e: Experience,
    settings: PolicyLoss = PolicyLoss(),
    horizon: int | None = None,
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Sums]:
    """((total, weight), what is reported) of one batch of experience.

        per token:  w * surrogate(r, A) + beta * KL - entropy_coef * H,   averaged by `loss_type`

    with w the truncated weight of `importance_weights` (1 without that correction).

    Args:
      logprobs, entropy: [B, C] under the weights being trained, entropy in nats.
      e: old_logprobs None means that these are the first: r = 1 with the gradient of log p.
        ref_logprobs None: no KL term.
      horizon: see `aggregate`.
    """
    s, mask, level = settings, e.mask, settings.importance_sampling_level
    old = jax.lax.stop_gradient(logprobs) if e.old_logprobs is None else e.old_logprobs
    advantages = e.advantages[:, None] if e.share is None else e.advantages
    sequences = e.sequences
    if s.loss_type == "cispo":
        terms = cispo(
            logprobs,
            old,
            advantages,
            mask,
            clip_high=s.epsilon_high,
            level=level,
            sequences=sequences,
        )
    else:
        terms = clipped_surrogate(
            logprobs,
            old,
            advantages,
            mask,
            clip_low=s.epsilon,
            clip_high=s.epsilon_high,
            delta=s.delta,
            level=level,
            sequences=sequences,
        )
    per_token, count = terms.loss, jnp.sum(mask)

    def mean(
        x: Spread,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return jnp.sum(x * mask), count

    sums = {
        "entropy": mean(entropy),
        "clip_ratio/low_mean": mean(terms.clipped_low),
        "clip_ratio/high_mean": mean(terms.clipped_high),
        "clip_ratio/region_mean": mean(jnp.maximum(terms.clipped_low, terms.clipped_high)),
        "sampling/sampling_logp_difference/mean": mean(
            jnp.abs(jax.lax.stop_gradient(old) - e.sampler_logprobs)
        ),
    }
    if s.importance_sampling_correction != "none":
        weights = importance_weights(
            old,
            e.sampler_logprobs,
            mask,
            s.importance_sampling_correction,
            s.importance_sampling_cap,
            sequences,
        )
        per_token = weights * per_token
        sums["sampling/importance_sampling_ratio/mean"] = mean(weights)
    if e.ref_logprobs is not None:
        kl = kl_estimate(logprobs, e.ref_logprobs, s.kl_estimator)
        sums["kl"] = mean(kl)
        if s.use_bias_correction_kl:
            kl = jnp.exp(log_ratio(logprobs, old, mask, level, sequences)) * kl
        per_token = per_token + s.beta * kl
    if s.entropy_coef:
        per_token = per_token - s.entropy_coef * entropy
    return aggregate(per_token, mask, AGGREGATIONS[s.loss_type], horizon, e.share), sums
