"""From scores of whole completions to an advantage for every token: PPO's arithmetic on rewards.

NumPy, float64: computed on the host, over the whole global batch. All arrays are [B, C] over
completion tokens; `mask` is 1 on tokens that the policy chose and 0 on padding and on tokens that
it did not choose (what a tool said).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from caugym_jax.objectives.arrays import Array


def place_rewards(
    scores: Float[np.ndarray, " B"],
    penalties: Float[np.ndarray, "B C"],
    mask: Shaped[np.ndarray, "B C"],
) -> Float64[np.ndarray, "B C"]:
    """r_t = -penalty_t, plus the row's score at its last counted token: [B, C] float64.

    Args:
      scores: [B], one for each completion; of a row without a counted token it is ignored.
      penalties: [B, C], kl_coef times an estimate of the KL at each token.

    By hand: score 2, penalties (0.1, 0.2, 9), mask (1, 1, 0): rewards (-0.1, 1.8, 0).
    """
    mask = np.asarray(mask) > 0
    rewards = np.where(mask, -np.asarray(penalties, np.float64), 0.0)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    found = np.flatnonzero(mask.any(axis=1))
    rewards[found, last[found]] += np.asarray(scores, np.float64)[found]
    return rewards


def gae(
    rewards: Float[np.ndarray, "B C"],
    values: Float[np.ndarray, "B C"],
    mask: Shaped[np.ndarray, "B C"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float64[np.ndarray, "B C"], Float64[np.ndarray, "B C"]]:
    """Generalized advantage estimation (Schulman et al. 2016) and the returns A + V.

        delta_t = r_t + gamma V_{t'} - V_t
        A_t = delta_t + gamma lam A_{t'}

    where t' is the next counted token; beyond the last one V = A = 0. V_t is the value of what
    stands before token t. A completion that was cut off is treated as one that ended. Tokens that
    do not count are stepped over as if they were not there.

    Returns:
      (advantages, returns), both [B, C] float64 and 0 where the mask is.

    By hand: gamma 1, lam 0.5, rewards (0, 9, 1), values (0.5, 7, 0.25), mask (1, 0, 1): A_2 = 1 -
    0.25 = 0.75, A_0 = (0 + 0.25 - 0.5) + 0.5 * 0.75 = 0.125; returns (0.625, 0, 1).
    """
    mask = np.asarray(mask) > 0
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    advantages = np.zeros(mask.shape)
    advantage = value = np.zeros(len(mask))  # of the next counted token
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * value - values[:, t]
        advantage = np.where(mask[:, t], delta + gamma * lam * advantage, advantage)
        value = np.where(mask[:, t], values[:, t], value)
        advantages[:, t] = advantage
    return np.where(mask, advantages, 0.0), np.where(mask, advantages + values, 0.0)


def whiten(
    x: Float[np.ndarray, "B C"],
    mask: Shaped[np.ndarray, "B C"],
    *,
    shift_mean: bool = True,
    epsilon: float = 1e-8,
) -> Float64[np.ndarray, "B C"]:
    """(x - mean) / sqrt(var + epsilon) over the counted tokens of the batch, 0 elsewhere.

    The variance is the unbiased one (n - 1, as in TRL and verl); with fewer than two tokens it is
    1. Without `shift_mean` the mean is added back (for rewards, whose sign carries a meaning).

    By hand: (1, 3, masked): mean 2, variance 2, so +-1 / sqrt(2) = +-0.7071.
    """
    mask, x = np.asarray(mask) > 0, np.asarray(x, np.float64)
    counted = x[mask]
    mean = counted.mean() if counted.size else 0.0
    variance = counted.var(ddof=1) if counted.size > 1 else 1.0
    white = (x - mean) / np.sqrt(variance + epsilon)
    return np.where(mask, white if shift_mean else white + mean, 0.0)


def adapted_kl_coef(
    coef: Float[Array, ""],
    kl: Float[Array, ""],
    *,
    target: float,
    horizon: float,
    rows: int | Int[Array, ""],
) -> Float[Array, ""]:
    """The KL coefficient for the next step: coef (1 + e rows / horizon), with
    e = clip(kl / target - 1, -0.2, 0.2) (Ziegler et al. 2019).

    Args:
      coef, kl: the present coefficient and the mean KL of a completion (summed over its tokens).
      horizon: completions after which a steady error of 0.2 has changed the coefficient by 20%.
      rows: completions in this step.

    By hand: coef 0.1, kl 9, target 6: e = min(0.5, 0.2); 128 rows of 1280: 0.1 (1 + 0.02) = 0.102.
    """
    error = (kl / target - 1.0).clip(-0.2, 0.2)
    return coef * (1.0 + error * (rows / horizon))
