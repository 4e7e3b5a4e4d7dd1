"""Advantages from rewards. NumPy: computed on the host, over the whole global batch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32


def group_advantages(
    rewards: Float[np.ndarray, " B"],
    group_size: int,
    scale: str = "group",
    epsilon: float = 1e-4,
    *,
    baseline: str = "group",
    normalize: bool = False,
) -> Float32[np.ndarray, " B"]:
    """Advantages of samples in groups of G, one group a prompt: A = (r - baseline) / scale.

    baseline: "group": the group's mean, the sample's own reward included. Its expected policy
        gradient is (1 - 1/G) times the true one, a matter of the learning rate alone.
        "leave_one_out": the mean of the group's others, G / (G - 1) times as far off: no bias.
        "none": 0.
    scale: the unbiased (n - 1) standard deviation of rewards of the group ("group", as in TRL) or
        of the whole batch ("batch"), plus epsilon; "none": 1.
    normalize: in the end, (A - mean) / (std + epsilon) over the whole batch, with n - 1 in the std.

    GRPO (Shao et al. 2024) is group/group; Dr. GRPO (Liu et al. 2025) is group/none; RLOO (Ahmadian
    et al. 2024) leave_one_out/none; REINFORCE++ (Hu et al. 2025) none/none normalized, and its
    variant "with baseline" group/none normalized. (Their code takes the mean and the deviation over
    tokens, so that long samples count more often; here each sample counts once.)

    A reward of NaN means "not judged": its advantage is 0 and it is left out of means.

    Args:
      rewards: [B] float, rows of a group adjacent.
      group_size: G, which divides B.

    Returns:
      [B] float32; sums to 0 in each group unless the baseline is "none".

    By hand: rewards (1, 0, 0, 1), G = 4: mean 0.5, std sqrt(4 * 0.25 / 3) = 0.57735, so A is
    +-0.5 / 0.57745 = +-0.86588. Leave-one-out, not scaled: 1 - 1/3 = 0.6667 and 0 - 2/3 = -0.6667.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be group, batch or none, not {scale!r}")
    if baseline not in ("group", "leave_one_out", "none"):
        raise ValueError(f"baseline must be group, leave_one_out or none, not {baseline!r}")
    groups = np.asarray(rewards, np.float64).reshape(-1, group_size)
    known = np.isfinite(groups)
    values = np.where(known, groups, 0.0)
    counts = known.sum(axis=1, keepdims=True)
    mean = values.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    centred = np.where(known, groups - mean, 0.0)
    if baseline == "leave_one_out":
        advantages = centred * counts / np.maximum(counts - 1, 1)
    else:
        advantages = centred if baseline == "group" else values
    if scale == "group":
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(counts - 1, 1)
        advantages = advantages / (np.sqrt(variance) + epsilon)
    elif scale == "batch":
        advantages = advantages / (_deviation(groups[known]) + epsilon)
    if normalize and known.any():
        judged = advantages[known]
        advantages = (advantages - judged.mean()) / (_deviation(judged) + epsilon) * known
    return np.asarray(advantages.reshape(-1), np.float32)


def _deviation(x: np.ndarray) -> float:
    return float(x.std(ddof=1)) if x.size > 1 else 0.0


def informative_groups(
    rewards: Float[np.ndarray, " B"], group_size: int
) -> Bool[np.ndarray, " groups"]:
    """Which groups carry a signal: [B / G] bool, False where all judged rewards agree."""
    groups = np.asarray(rewards, np.float64).reshape(-1, group_size)
    known = np.isfinite(groups)
    high = np.where(known, groups, -np.inf).max(axis=1)
    low = np.where(known, groups, np.inf).min(axis=1)
    return np.asarray(high - low > 1e-9)
