"""Log-probabilities of tokens: the one place where logits and tokens are shifted.

Everything at place t is about tokens[t], which the hidden state at t - 1 predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from caugym_jax.devices.mesh import constrain, traced_size
from caugym_jax.models.layers import logits_of
from caugym_jax.models.transformer import Model, Params
from caugym_jax.objectives.arrays import Array
from caugym_jax.types import Experience

# Logits of one chunk are held at a time: at most this many float32 numbers a device (128 MiB).
CHUNK_LOGITS = 2**25
# Of targets that may be absent at most so many a device are a chunk, so that few are padding.
CHUNK_TARGETS = 512


class Scores(NamedTuple):
    """About each scored token, float32, [B, T - start]."""

    logprobs: Float[Array, "B N"]  # log p(tokens[t] | tokens[<t])
    entropy: Float[Array, "B N"]  # of the distribution that tokens[t] was drawn from, in nats
    correct: Float[Array, "B N"]  # 1 where no token was likelier than tokens[t]


def score(
    model: Model,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    *,
    start: int = 1,
    temperature: float | Float[Array, ""] = 1.0,
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
    if traced_size("time") > 1:
        # Places are split over devices, the same for states and targets: score all, keep some.
        targets = jnp.roll(tokens, -1, axis=1)
        scores = score_hidden(model, params, hidden, targets, temperature)
        return Scores(*(x[:, start - 1 : -1] for x in scores))
    return score_hidden(model, params, hidden[:, start - 1 : -1], tokens[:, start:], temperature)


def score_places(
    model: Model,
    params: Params,
    e: Experience,
    temperature: float | Float[Array, ""] = 1.0,
) -> Scores:
    """Teacher-forced scores of the targets of packed rows, in their lists [R, N]; 0 at chunks of
    them without a target, and without a meaning elsewhere where there is none."""
    hidden, _ = model.hidden(params, e.tokens, e.positions, e.segment_ids, trunks=e.trunks)
    hidden = hidden.reshape(len(e.places), -1, hidden.shape[-1])
    hidden = jnp.take_along_axis(hidden, e.places[..., None], axis=1)
    return score_hidden(model, params, hidden, e.targets, temperature, wanted=e.sequences)


def score_hidden(
    model: Model,
    params: Params,
    hidden: Float[Array, "B N D"],
    targets: Int[Array, "B N"],
    temperature: float | Float[Array, ""] = 1.0,
    wanted: Num[Array, "B N"] | None = None,
) -> Scores:
    """Scores of targets [B, N] from the hidden states [B, N, D] that predict them, in chunks.

    The shift is the caller's: hidden[b, n] must be the state one place before targets[b, n].

    Args:
      wanted: above 0 where there is a target. A chunk without any costs nothing and its scores are
        0, so that one program serves any number of targets that come first in their rows.
    """
    B, N, D = hidden.shape
    # Numbers of logits a place and device.
    share = max(
        1, B * model.config.vocab_size // (traced_size("group") * traced_size("vocab_split"))
    )
    parts = traced_size("time")
    width = max(1, min(-(-N // parts), CHUNK_LOGITS // share))
    if wanted is not None:
        width = min(width, -(-CHUNK_TARGETS // max(1, B // traced_size("batch"))))
    chunks = -(-N // (parts * width))
    head = model.head(params)
    split = traced_size("vocab_split") > 1

    def chunk_scores(hidden: Array, targets: Array) -> Scores:
        # Over fsdp: all its rows by a part of the vocabulary, so that the head stays split.
        logits = logits_of(constrain(hidden, "group", "time", "width"), head) / temperature
        logits = constrain(logits, "group", "time", "vocab_split")
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        if split:  # a sum that each device takes over its part
            here = jnp.arange(logits.shape[-1]) == targets[..., None]
            chosen = jnp.sum(jnp.where(here, logprobs, 0.0), axis=-1)
        else:
            chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
        correct = (chosen >= jnp.max(logprobs, axis=-1)).astype(jnp.float32)
        return Scores(*(constrain(x, "batch", "time") for x in (chosen, entropy, correct)))

    if chunks == 1:
        return chunk_scores(hidden, targets)

    def cut(x: Array) -> Array:
        """[B, N, ...] -> [chunks, B, parts x width, ...]: of each device's places its share."""
        pad = [(0, 0), (0, parts * chunks * width - N), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, pad).reshape(B, parts, chunks, width, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0).reshape(chunks, B, parts * width, *x.shape[4:])

    # Where all logits may be held, none is made again.
    step = chunk_scores if share * N <= CHUNK_LOGITS * parts else jax.checkpoint(chunk_scores)

    def if_wanted(hidden: Array, targets: Array, wanted: Array) -> Scores:
        zero = jnp.zeros(targets.shape, jnp.float32)
        scores: Scores = jax.lax.cond(
            jnp.any(wanted > 0), step, lambda *_: Scores(zero, zero, zero), hidden, targets
        )
        return scores

    parted = (cut(hidden), cut(targets)) + (() if wanted is None else (cut(wanted),))
    one = step if wanted is None else if_wanted
    _, scores = jax.lax.scan(lambda _, part: (None, one(*part)), None, parted)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(chunks, B, parts, width), 0, 2)
        return x.reshape(B, -1)[:, :N]

    return Scores(*map(join, scores))
