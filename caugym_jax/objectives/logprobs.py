"""Log-probabilities of tokens: the one place where logits and tokens are shifted.

Everything at place t is about tokens[t], which the hidden state at t - 1 predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from caugym_jax.models.transformer import Model, Params
from caugym_jax.sharding import traced_row_count

# Logits of one chunk are held at a time: at most this many float32 numbers a device (128 MiB).
CHUNK_LOGITS = 2**25


class Scores(NamedTuple):
    """About each scored token, float32, [B, T - start]."""

    logprobs: jax.Array  # log p(tokens[t] | tokens[<t])
    entropy: jax.Array  # of the distribution that tokens[t] was drawn from, in nats
    correct: jax.Array  # 1 where tokens[t] was the likeliest token


def score(
    model: Model,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    *,
    start: int = 1,
    temperature: float | jax.Array = 1.0,
) -> Scores:
    """Teacher-forced scores of tokens[:, start:] under softmax(logits / temperature).

    Logits exist for one chunk of places at a time, forward and backward (each chunk is recomputed
    in the backward pass), so no [B, T, V] array is formed.

    Args:
      tokens, positions, segment_ids: [B, T] int32; segment 0 is padding, whose scores carry no
        meaning and must be masked by the caller.
      start: first place to score, at least 1 (a prompt's width for rollouts).

    Returns:
      Scores of shape [B, T - start].
    """
    if start < 1:
        raise ValueError("start must be at least 1: nothing predicts the first token")
    hidden, _ = model.hidden(params, tokens, positions, segment_ids)
    return score_hidden(model, params, hidden[:, start - 1 : -1], tokens[:, start:], temperature)


def score_hidden(
    model: Model,
    params: Params,
    hidden: jax.Array,
    targets: jax.Array,
    temperature: float | jax.Array = 1.0,
) -> Scores:
    """Scores of targets [B, N] from the hidden states [B, N, D] that predict them, in chunks.

    The shift is the caller's: hidden[b, n] must be the state one place before targets[b, n].
    """
    B, N, D = hidden.shape
    rows = max(1, B // traced_row_count())  # of one device
    width = max(1, min(N, CHUNK_LOGITS // (rows * model.config.vocab_size)))
    chunks = -(-N // width)

    def chunk_scores(hidden, targets):
        logits = model.logits(params, hidden) / temperature
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
        correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
        return Scores(chosen, entropy, correct)

    if chunks == 1:
        return chunk_scores(hidden, targets)
    pad = chunks * width - N
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0))).reshape(B, chunks, width, D)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(B, chunks, width)
    step = jax.checkpoint(chunk_scores)
    _, scores = jax.lax.scan(
        lambda _, ht: (None, step(*ht)), None, (hidden.swapaxes(0, 1), targets.swapaxes(0, 1))
    )
    return jax.tree.map(lambda s: s.swapaxes(0, 1).reshape(B, -1)[:, :N], scores)
