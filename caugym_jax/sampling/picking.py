"""From logits to a token: temperature, top-k, top-p and min-p, all of them traced values.

The draw walks the cumulative distribution in two stages, a block of the vocabulary and then a token
within it, and so needs two uniform numbers per row. (Gumbel-max needs one per row and vocabulary
entry: for 16 x 8192 on a CPU 6.4 ms against 0.24 ms.) Filters are found by bisection on the
weights' bit patterns, which needs no sort and works on a sharded vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from caugym_jax.errors import UserError
from caugym_jax.objectives.arrays import Array


class Settings(NamedTuple):
    """How to pick a token. Changing a value compiles nothing anew."""

    temperature: float | Array = 1.0  # 0: the most probable token
    top_k: int | Array = 0  # keep the k most probable tokens; 0: all
    top_p: float | Array = 1.0  # keep the smallest set with this much of their mass; 1: all
    min_p: float | Array = 0.0  # keep tokens at least this fraction of the best; 0: all

    def check(self) -> Settings:
        """Itself, where all values are in range.

        Raises:
          UserError: a value out of range.
        """
        for name, value, ok, want in (
            ("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (off) and 1"),
        ):
            if not ok:
                raise UserError(f"{name}={value}: must be {want}")
        return self

    def arrays(self) -> Settings:
        """The values with fixed dtypes, so that 1 and 1.0 share one compiled program."""

        def array(value: Any, dtype: Any) -> Any:
            return value.astype(dtype) if isinstance(value, jax.Array) else np.asarray(value, dtype)

        return Settings(
            array(self.temperature, np.float32),
            array(self.top_k, np.int32),
            array(self.top_p, np.float32),
            array(self.min_p, np.float32),
        )


def pick(
    logits: Float[Array, "B V"],
    row_keys: Key[Array, " B"],
    position: int | Int[Array, ""] | Int[Array, " B"],
    settings: Settings,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draws one token per row.

        logprob = log_softmax(logits / temperature)[token], over the whole vocabulary

    A row's draw depends on its own logits and key and on nothing else in the batch. The filters
    are applied in the usual order: temperature, top-k, top-p (of what top-k kept), min-p; tokens
    as probable as the last one kept are kept too. The log-probability does not know the filters.

    Args:
      logits: [B, V] float32.
      row_keys: [B] random keys.
      position: [] or [B] int32, folded into each row's key.
      settings: temperature 0 is greedy (the first of equals) and reports temperature 1.

    Returns:
      (token [B] int32, logprob [B] float32).
    """
    settings = settings.arrays()
    greedy = settings.temperature == 0
    scaled = logits.astype(jnp.float32) / jnp.where(greedy, 1.0, settings.temperature)
    best = jnp.max(scaled, axis=-1, keepdims=True)
    weights = jnp.exp(scaled - best)  # [B, V], the largest is 1

    def draw() -> Array:
        filtered = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
        kept = jax.lax.cond(filtered, _filter, lambda w, _: w, weights, settings)
        fold = jax.vmap(jax.random.fold_in)
        keys = fold(row_keys, jnp.broadcast_to(position, row_keys.shape))
        return _draw(kept, jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys))

    token = jax.lax.cond(greedy, lambda: _first(scaled == best), draw)
    token = jnp.clip(token, 0, logits.shape[-1] - 1)  # all logits NaN: still a token
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)
    logprob = chosen - best - jnp.log(jnp.sum(weights, axis=-1, keepdims=True))
    return token, logprob[:, 0]


def _filter(weights: Float[Array, "B V"], settings: Settings) -> Float[Array, "B V"]:
    """The weights [B, V] with those outside top-k, top-p or min-p set to 0."""
    k = jnp.where(settings.top_k > 0, settings.top_k, weights.shape[-1]).astype(jnp.float32)
    count = _threshold(weights, jnp.ones_like(weights), jnp.full(weights.shape[:1], k))
    weights = jnp.where(weights >= count[:, None], weights, 0.0)
    mass = _threshold(weights, weights, jnp.sum(weights, axis=-1) * settings.top_p)
    mass = jnp.where(settings.top_p < 1, mass, 0.0)
    floor = jnp.maximum(mass, settings.min_p)
    return jnp.where(weights >= floor[:, None], weights, 0.0)


def _threshold(
    weights: Float[Array, "B V"], amounts: Float[Array, "B V"], target: Float[Array, " B"]
) -> Float[Array, " B"]:
    """The largest t [B] with sum(amounts where weights >= t) >= target (0 if there is none).

    `weights` lie in [0, 1]. Non-negative floats are ordered as their bit patterns are, so 30
    halvings find t exactly.
    """

    def halve(i: Array, low: Array) -> Array:
        middle = low | (1 << (29 - i))
        t = jax.lax.bitcast_convert_type(middle, jnp.float32)
        reached = jnp.sum(jnp.where(weights >= t[:, None], amounts, 0.0), axis=-1) >= target
        return jnp.where(reached, middle, low)

    low = jax.lax.fori_loop(0, 30, halve, jnp.zeros(weights.shape[:1], jnp.int32))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _draw(weights: Float[Array, "B V"], uniforms: Float[Array, "B 2"]) -> Int[Array, " B"]:
    """Index [B] drawn in proportion to weights [B, V], from uniforms [B, 2] in [0, 1)."""
    B, V = weights.shape
    width = 1 << (max(V - 1, 1).bit_length() + 1) // 2  # of a block: about the square root of V
    blocks = jnp.pad(weights, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    block = _walk(jnp.sum(blocks, axis=-1), uniforms[:, 0])
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * width + _walk(within, uniforms[:, 1])


def _walk(weights: Float[Array, "B n"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The first index of [B, n] whose cumulative weight passes uniform * total; never a zero."""
    n = weights.shape[-1]
    upto = jnp.triu(jnp.ones((n, n), jnp.float32))
    passed = jnp.matmul(weights, upto, precision="highest")  # quicker to compile than a cumsum
    passed = passed > uniform[:, None] * passed[:, -1:]
    last = jnp.max(jnp.where(weights > 0, jnp.arange(n, dtype=jnp.int32), 0), axis=-1)
    return jnp.minimum(_first(passed & (weights > 0)), last)


def _first(true: Bool[Array, "B n"]) -> Int[Array, " B"]:
    """The index of the first True of each row [B, n], or n (quicker than argmax on a CPU)."""
    n = true.shape[-1]
    return jnp.min(jnp.where(true, jnp.arange(n, dtype=jnp.int32), n), axis=-1)
