"""Advantages from rewards. NumPy: computed on the host, over the whole global batch."""

from __future__ import annotations

import numpy as np


def group_advantages(
    rewards: np.ndarray, group_size: int, scale: str = "group", epsilon: float = 1e-4
) -> np.ndarray:
    """GRPO's advantages: reward minus its group's mean, divided by a standard deviation.

    A_i = (r_i - mean_g) / (std + epsilon), with the unbiased (n - 1) standard deviation of the
    group ("group", as in TRL) or of the whole batch ("batch"); "none" does not divide (Dr. GRPO).
    A reward of NaN means "not judged": its advantage is 0 and it is left out of means.

    Args:
      rewards: [B] float, rows of a group adjacent.
      group_size: G, which divides B.

    Returns:
      [B] float32; sums to 0 in each group.

    By hand: rewards (1, 0, 0, 1), G = 4: mean 0.5, std sqrt(4 * 0.25 / 3) = 0.57735, so A is
    +-0.5 / 0.57745 = +-0.86588.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be group, batch or none, not {scale!r}")
    groups = np.asarray(rewards, np.float64).reshape(-1, group_size)
    known = np.isfinite(groups)
    values = np.where(known, groups, 0.0)
    counts = known.sum(axis=1, keepdims=True)
    mean = values.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    centred = np.where(known, groups - mean, 0.0)
    if scale == "group":
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(counts - 1, 1)
        centred = centred / (np.sqrt(variance) + epsilon)
    elif scale == "batch":
        judged = values[known]
        centred = centred / ((judged.std(ddof=1) if judged.size > 1 else 0.0) + epsilon)
    return centred.reshape(-1).astype(np.float32)


def informative_groups(rewards: np.ndarray, group_size: int) -> np.ndarray:
    """Which groups carry a signal: [B / G] bool, False where all judged rewards agree."""
    groups = np.asarray(rewards, np.float64).reshape(-1, group_size)
    known = np.isfinite(groups)
    high = np.where(known, groups, -np.inf).max(axis=1)
    low = np.where(known, groups, np.inf).min(axis=1)
    return high - low > 1e-9
