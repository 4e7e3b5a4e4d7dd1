"""Attention that knows where every token stands: segments, positions and an optional window."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def visible(
    query_positions: jax.Array,
    query_segments: jax.Array,
    key_positions: jax.Array,
    key_segments: jax.Array,
    window: int | None = None,
) -> jax.Array:
    """Which keys each query may see: [B, T, S] bool.

    A key is seen if it stands in the same segment, not later, and (with a window) fewer than
    `window` places before. Segment 0 is padding: it sees only padding, so that no row of the mask
    is empty; cache slots not yet written carry segment -1 and are seen by nobody.
    """
    gap = query_positions[:, :, None] - key_positions[:, None, :]
    mask = (query_segments[:, :, None] == key_segments[:, None, :]) & (gap >= 0)
    return mask if window is None else mask & (gap < window)


# Rows are attended to in blocks of this many queries, each over the keys up to its end.
BLOCK, MAX_BLOCKS = 128, 8


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Causal grouped-query attention: softmax(q k^T / sqrt(H)) v, softmax in float32.

    Scores of keys behind a block of queries are never made, which saves nearly half of the work
    of long rows.

    Args:
      q: [B, T, N, H]; query head n reads key/value head n // (N // K).
      k, v: [B, T, K, H].
      mask: [B, T, T], True where a query sees a key; never for a key behind its query in the row.

    Returns:
      [B, T, N, H] in q's dtype.
    """
    T = q.shape[1]
    width = max(BLOCK, -(-T // MAX_BLOCKS))
    blocks = []
    for start in range(0, T, width):
        end = min(start + width, T)
        block = q[:, start:end], k[:, :end], v[:, :end], mask[:, start:end, :end]
        blocks.append(_attention_of_block(*block))
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


def _attention_of_block(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B, T, N, H] over k, v [B, S, K, H] where mask [B, T, S] allows."""
    B, T, N, H = q.shape
    K = k.shape[2]
    # Plain batched matrix products with the contracted axis where a CPU wants it: twice as fast
    # there as the einsum over [B, T, K, H].
    grouped = q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    scores = jnp.matmul(grouped, k.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
    scores = scores.reshape(B, K, N // K, T, -1)
    scores = jnp.where(mask[:, None, None], scores * H**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.matmul(weights.reshape(B, K, N // K * T, -1), v.swapaxes(1, 2))
    return mixed.reshape(B, K, N // K, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention_over_pieces(q: jax.Array, pieces) -> jax.Array:
    """One query per row over a cache in pieces: the same softmax as over their concatenation.

    A piece with R rows, R a divisor of B, is shared: row b reads its row b // (B // R). Each piece
    gives its largest score m_i, normaliser z_i = sum_s exp(s - m_i) and mixture
    o_i = sum_s exp(s - m_i) v_s; then, with m = max_i m_i,

        out = sum_i exp(m_i - m) o_i / sum_i exp(m_i - m) z_i.

    Args:
      q: [B, N, H]; query head n reads key/value head n // (N // K).
      pieces: (k [R, K, H, S], v [R, K, S, H], mask [R, B // R, S]) each; a piece in which a row
        sees nothing adds nothing, and every row sees something in at least one piece.

    Returns:
      [B, N, H] in q's dtype.
    """
    B, N, H = q.shape
    parts = []
    for k, v, mask in pieces:
        R, K, _, S = k.shape
        shape = (R, K, B // R, N // K)
        grouped = q.reshape(R, B // R, K, N // K, H).swapaxes(1, 2).reshape(R, K, -1, H)
        scores = jnp.matmul(grouped, k, preferred_element_type=jnp.float32).reshape(*shape, S)
        scores = jnp.where(mask[:, None, :, None], scores * H**-0.5, -1e30)
        most = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - most)
        mixed = jnp.matmul(
            weights.astype(v.dtype).reshape(R, K, -1, S), v, preferred_element_type=jnp.float32
        ).reshape(*shape, H)
        part = most, jnp.sum(weights, axis=-1, keepdims=True), mixed
        parts.append([x.swapaxes(1, 2).reshape(B, N, -1) for x in part])
    most = functools.reduce(jnp.maximum, (m for m, _, _ in parts))
    scales = [jnp.exp(m - most) for m, _, _ in parts]
    total = sum(scale * z for scale, (_, z, _) in zip(scales, parts, strict=True))
    mixed = sum(scale * o for scale, (_, _, o) in zip(scales, parts, strict=True))
    return (mixed / total).astype(q.dtype)


def rotary_frequencies(head_dim: int, theta: float, scaling=None) -> jax.Array:
    """Inverse frequencies theta^(-2i/H), [H/2] float32, with Llama 3.1's scaling if given.

    Llama 3.1: wavelengths longer than original/low_freq_factor are slowed by `factor`, those
    shorter than original/high_freq_factor stay, and those between are interpolated.
    """
    inverse = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return inverse
    turns = scaling.original_max_position * inverse / (2 * jnp.pi)  # within the original context
    smooth = (turns - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return inverse * (smooth + (1 - smooth) / scaling.factor)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotary embedding by halves (Hugging Face's layout).

    Args:
      x: [B, T, heads, H]; the pair (i, i + H/2) is turned by one angle.
      angles: [B, T, H/2] float32, position times inverse frequency.
    """
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
