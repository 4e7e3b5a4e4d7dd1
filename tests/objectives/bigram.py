"""The model of the recorded numbers: a table of logits, logits[b, t] = W[ids[b, t]]."""

import jax
import jax.numpy as jnp


def logps(W, ids, mask):
    """Log-probabilities of the rows' tokens under `mask` [B, T], summed: [B]."""
    ids = jnp.asarray(ids)
    logprobs = jax.nn.log_softmax(W[ids[:, :-1]], axis=-1)
    chosen = jnp.take_along_axis(logprobs, ids[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(chosen * jnp.asarray(mask)[:, 1:], axis=-1)
