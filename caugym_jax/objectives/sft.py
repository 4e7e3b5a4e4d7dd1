"""Supervised fine-tuning: negative log-likelihood of the tokens to imitate."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from caugym_jax.objectives.arrays import Array


def nll(
    logprobs: Float[Array, "B N"], mask: Float[Array, "B N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(total, weight) of the token-mean loss  -sum_t m_t log p_t / sum_t m_t.

    Totals and weights add exactly over microbatches and devices; dividing once at the end gives
    the mean over all tokens of the global batch. An all-masked batch gives (0, 0).

    Args:
      logprobs, mask: [B, N] float32.

    By hand: log-probs (-1, -3) and (-2, masked) give total 6, weight 3, mean 2.
    """
    return -jnp.sum(logprobs * mask), jnp.sum(mask)
