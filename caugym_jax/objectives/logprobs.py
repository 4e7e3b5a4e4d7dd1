"""Log-probabilities of tokens: the one place where logits and tokens are shifted.

Everything at place t is about tokens[t], which the hidden state at t - 1 predicts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from caugym_jax.devices.mesh import constrain, traced_size
from caugym_jax.models.layers import logits_of
from caugym_jax.models.transformer import Model, Params
from caugym_jax.objectives.arrays import Array
from caugym_jax.types import Experience, Packed

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
    e: Packed | Experience,
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
    B, N, _ = hidden.shape
    # Numbers of logits a place and device.
    share = max(
        1, B * model.config.vocab_size // (traced_size("group") * traced_size("vocab_split"))
    )
    parts = traced_size("time")
    width = max(1, min(-(-N // parts), CHUNK_LOGITS // share))
    if wanted is not None:
        width = min(width, -(-CHUNK_TARGETS // max(1, B // traced_size("batch"))))
    chunks = -(-N // (parts * width))

    def cut(x: Array) -> Array:
        """[B, N, ...] -> [chunks, B, parts x width, ...]: of each device's places its share."""
        pad = [(0, 0), (0, parts * chunks * width - N), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, pad).reshape(B, parts, chunks, width, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0).reshape(chunks, B, parts * width, *x.shape[4:])

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(chunks, B, parts, width), 0, 2)
        return x.reshape(B, -1)[:, :N]

    filled = None if wanted is None else jnp.any(cut(wanted) > 0, axis=(1, 2))
    # Where all logits may be held, none is made again.
    kept = share * N <= CHUNK_LOGITS * parts
    temperature = jnp.asarray(temperature, jnp.float32)
    scores = _in_chunks(kept, cut(hidden), model.head(params), temperature, cut(targets), filled)
    return Scores(*map(join, scores))


class _Kept(NamedTuple):
    """Of the chunks, for the backward pass."""

    entropy: Array  # [chunks, B, W]
    normaliser: Array  # [chunks, B, W]: the logarithm of the sum of a place's exponentials
    logits: Array | None  # [chunks, B, W, V]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(
    kept: bool, hidden: Array, head: Array, temperature: Array, targets: Array, filled: Array | None
) -> Scores:
    """Scores [chunks, B, W] of targets [chunks, B, W] from hidden [chunks, B, W, D].

    Args:
      kept: keep the logits for the backward pass; else they are made again.
      filled: [chunks] bool: which chunks hold a target; None: all.
    """
    return _forward(kept, hidden, head, temperature, targets, filled)[0]


def _logits(hidden: Array, head: Array, temperature: Array) -> Array:
    """[B, W, V]. Over fsdp: all its rows by a part of the vocabulary, so that the head stays
    split."""
    logits = logits_of(constrain(hidden, "group", "time", "width"), head) / temperature
    return constrain(logits, "group", "time", "vocab_split")


def _forward(
    kept: bool, hidden: Array, head: Array, temperature: Array, targets: Array, filled: Array | None
) -> tuple[Scores, Any]:
    split = traced_size("vocab_split") > 1

    def one(i: Array, done: tuple[Scores, _Kept]) -> tuple[Scores, _Kept]:
        logits = _logits(hidden[i], head, temperature)
        most = jnp.max(logits, axis=-1, keepdims=True)
        exponentials = jnp.exp(logits - most)
        total = jnp.sum(exponentials, axis=-1)
        # No term is above 0. Without `minimum` XLA on a CPU makes product and sum in one slow loop.
        mean = jnp.sum(jnp.minimum(exponentials * (logits - most), 0.0), axis=-1) / total
        if split:  # a sum that each device takes over its part
            there = _is_target(logits, targets[i])
            chosen = jnp.sum(jnp.where(there, logits, 0.0), axis=-1)
        else:
            chosen = jnp.take_along_axis(logits, targets[i][..., None], axis=-1)[..., 0]
        most = most[..., 0]
        normaliser = most + jnp.log(total)
        correct = (chosen >= most).astype(jnp.float32)
        scores = chosen - normaliser, jnp.log(total) - mean, correct
        scores = Scores(*(constrain(x, "batch", "time") for x in scores))
        new = scores, _Kept(scores.entropy, normaliser, logits if kept else None)
        put: tuple[Scores, _Kept] = jax.tree.map(functools.partial(_put, i), done, new)
        return put

    zeros = jnp.zeros(targets.shape, jnp.float32)
    logits = jax.lax.empty((*targets.shape, head.shape[-1]), jnp.float32) if kept else None
    start = Scores(zeros, zeros, zeros), _Kept(zeros, zeros, logits)
    scores, keep = _each(len(hidden), filled, one, start)
    return scores, (hidden, head, temperature, targets, filled, keep)


def _backward(kept: bool, residuals: Any, gradient: Scores) -> tuple[Array | None, ...]:
    """With p = softmax(logits), y the target's indicator and H the entropy, for gradients a of the
    log-probability and b of the entropy: a (y - p) - b p (log p + H) of the logits."""
    hidden, head, temperature, targets, filled, keep = residuals
    # Devices with other rows add up their head's gradient by themselves, and exchange it once.
    apart = traced_size("group")
    apart = apart if hidden.shape[1] % apart == 0 else 1
    heads = constrain(jnp.broadcast_to(head, (apart, *head.shape)), "group", "width", "vocab_split")

    def product(hidden: Array, heads: Array) -> Array:
        rows = constrain(hidden, "group", "time", "width").reshape(apart, -1, *hidden.shape[1:])
        logits = jax.vmap(logits_of)(rows, heads).reshape(*hidden.shape[:-1], -1)
        return constrain(logits / temperature, "group", "time", "vocab_split")

    def one(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        logits, back = jax.vjp(product, hidden[i], heads)
        if kept:
            logits = keep.logits[i]
        of_logprob, of_entropy, entropy, normaliser = (
            x[i][..., None]
            for x in (gradient.logprobs, gradient.entropy, keep.entropy, keep.normaliser)
        )
        logprobs = logits - normaliser
        pulled = jnp.exp(logprobs) * (of_logprob + of_entropy * (logprobs + entropy))
        of_hidden, of_heads = back(
            jnp.where(_is_target(logits, targets[i]), of_logprob, 0.0) - pulled
        )
        return _put(i, sums[0], of_hidden), sums[1] + of_heads

    start = jnp.zeros_like(hidden), jnp.zeros_like(heads)
    of_hidden, of_heads = _each(len(hidden), filled, one, start)
    return of_hidden, of_heads.sum(axis=0), None, None, None


_in_chunks.defvjp(_forward, _backward)


def _put(i: Array, chunks: Array, one: Array) -> Array:
    put: Array = jax.lax.dynamic_update_index_in_dim(chunks, one, i, 0)
    return put


def _is_target(logits: Array, targets: Array) -> Array:
    return jnp.arange(logits.shape[-1]) == targets[..., None]


def _each(chunks: int, filled: Array | None, one: Callable[[Array, Any], Any], start: Any) -> Any:
    """`start` after `one` of every chunk that is filled, at least of all before the last such."""
    if filled is None or chunks == 1:
        return jax.lax.fori_loop(0, chunks, one, start)

    def until_last(filled: Array, start: Any) -> Any:
        # A loop, since XLA on a CPU runs a conditional's branches on one thread.
        last = jnp.max(jnp.where(filled, jnp.arange(1, chunks + 1), 0))
        return jax.lax.fori_loop(0, last, one, start)

    def if_filled(filled: Array, start: Any) -> Any:
        def step(i: Array, done: Any) -> Any:
            return jax.lax.cond(filled[i], one, lambda _, done: done, i, done)

        return jax.lax.fori_loop(0, chunks, step, start)

    return jax.lax.platform_dependent(filled, start, cpu=until_last, default=if_filled)
