"""Direct preference optimisation: a loss for each pair of completions of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from caugym_jax.objectives.arrays import Array

LOSS_TYPES = ("sigmoid", "robust", "ipo", "hinge", "sigmoid_norm", "sft")
SMOOTHED = ("sigmoid", "robust")  # what label_smoothing applies to


def pair_losses(
    chosen: Float[Array, " B"],
    rejected: Float[Array, " B"],
    chosen_length: Num[Array, " B"],
    rejected_length: Num[Array, " B"],
    loss_type: str = "sigmoid",
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """The loss of each pair, [B] float32.

    With r = log p(y) - log p_ref(y) summed over the completion's tokens, d = r_chosen - r_rejected
    and s = log sigmoid:

        sigmoid       -(1 - e) s(beta d) - e s(-beta d)     DPO (Rafailov et al. 2023); with
                                                            e = label_smoothing > 0 conservative DPO
        robust        (-(1 - e) s(beta d) + e s(-beta d)) / (1 - 2e)   (Chowdhury et al. 2024):
                      unbiased where a share e of the labels is flipped
        ipo           (r_chosen / |chosen| - r_rejected / |rejected| - 1 / (2 beta))^2, IPO (Azar et
                      al. 2023) with mean log-ratios, as in TRL; lengths of 1 give the paper's sums
        hinge         max(0, 1 - beta d), SLiC (Zhao et al. 2023)
        sigmoid_norm  -s(beta (r_chosen / |chosen| - r_rejected / |rejected|))

    Args:
      chosen, rejected: [B] log-ratios r.
      chosen_length, rejected_length: [B] numbers of completion tokens, at least 1.
      loss_type: of LOSS_TYPES but "sft", which is no function of pairs (see `dpo`).

    By hand: r_chosen = 3, r_rejected = 1, lengths 2 and 1, beta 0.5: beta d = 1, so sigmoid
    log(1 + 1/e) = 0.3133, hinge 0; the means are 1.5 and 1, so ipo (0.5 - 1)^2 = 0.25 and
    sigmoid_norm -s(0.25) = 0.5759.
    """
    if loss_type not in LOSS_TYPES or loss_type == "sft":
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES[:-1])}, not {loss_type}")
    margin = beta * (chosen - rejected)
    mean_margin = chosen / chosen_length - rejected / rejected_length
    e = label_smoothing
    if loss_type == "sigmoid":
        return -(1 - e) * jax.nn.log_sigmoid(margin) - e * jax.nn.log_sigmoid(-margin)
    if loss_type == "robust":
        right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
        return (-(1 - e) * right + e * wrong) / (1 - 2 * e)
    if loss_type == "ipo":
        return (mean_margin - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return jax.nn.relu(1 - margin)
    return -jax.nn.log_sigmoid(beta * mean_margin)


def dpo(
    logps: Float[Array, "B 2"],
    ref_logps: Float[Array, "B 2"],
    lengths: Num[Array, "B 2"],
    loss_type: Sequence[str] = ("sigmoid",),
    *,
    loss_weights: Sequence[float] | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    pairs_per_token: Float[Array, ""] | Float[Array, " B"] | float | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(total, weight) of the mean over pairs of a weighted sum of losses, exact under any split.

    The loss "sft" is the negative log-likelihood of the chosen completions, averaged over the
    tokens of the global batch. Its denominator is not the number of pairs, so every pair carries
    `pairs_per_token`, and the division by pairs at the end leaves one by tokens.

    Args:
      logps, ref_logps, lengths: [B, 2] of the (chosen, rejected) completions: log-probabilities
        summed over tokens, and numbers of tokens. A pair without a chosen or a rejected token adds
        nothing to total or weight.
      loss_type, loss_weights: names from LOSS_TYPES and their factors (None: 1 each).
      pairs_per_token: pairs that count over their chosen tokens, in the *global* batch, as a scalar
        or [B]; None: of this batch.

    By hand: two pairs with log-ratios of 0, chosen log-probs -2 over 1 token and -1 over 3 tokens:
    sigmoid gives (2 ln 2, 2), a mean of ln 2; sft gives (3 x 2/4, 2), a mean of 3 nats / 4 tokens.
    """
    present = jnp.all(lengths > 0, axis=-1)
    counted = present.astype(logps.dtype)
    lengths = jnp.maximum(lengths, 1)
    ratios = jnp.where(present[:, None], logps - ref_logps, 0.0)
    per_pair = jnp.zeros_like(counted)
    for name, factor in zip(loss_type, loss_weights or [1.0] * len(loss_type), strict=True):
        if name == "sft":
            if pairs_per_token is None:
                tokens = jnp.sum(lengths[:, 0] * counted)
                pairs_per_token = jnp.sum(counted) / jnp.maximum(tokens, 1)
            losses = -logps[:, 0] * pairs_per_token
        else:
            losses = pair_losses(
                ratios[:, 0],
                ratios[:, 1],
                lengths[:, 0],
                lengths[:, 1],
                name,
                beta=beta,
                label_smoothing=label_smoothing,
            )
        per_pair += factor * losses
    return jnp.sum(per_pair * counted), jnp.sum(counted)
