"""Attention that knows where every token stands: segments, positions and an optional window."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from caugym_jax.devices.mesh import activation_spec
from caugym_jax.models.kernels import cudnn, splash
from caugym_jax.models.products import as_stored
from caugym_jax.models.rounded import Rounded


def visible(
    query_positions: jax.Array,
    query_segments: jax.Array,
    key_positions: jax.Array,
    key_segments: jax.Array,
    window: int | None = None,
    query_trunks: jax.Array | None = None,
) -> jax.Array:
    """Which keys each query may see: [B, T, S] bool.

    A key is seen if it stands in the same segment (or in the query's trunk, a segment that several
    go on from), not later, and (with a window) fewer than `window` places before. Segment 0 is
    padding: it sees only padding, so that no row of the mask is empty; cache slots not yet written
    carry segment -1 and are seen by nobody.
    """
    gap = query_positions[:, :, None] - key_positions[:, None, :]
    mask = query_segments[:, :, None] == key_segments[:, None, :]
    if query_trunks is not None:
        mask |= query_trunks[:, :, None] == key_segments[:, None, :]
    mask &= gap >= 0
    return mask if window is None else mask & (gap < window)


KERNELS = ("plain", "splash", "cudnn")

# Rows are attended to in blocks of this many queries, each over the keys up to its end.
BLOCK, MAX_BLOCKS = 128, 8
# Longer rows recompute their softmax in the backward pass, BLOCK queries at a time.
LONG = 1024


class Places(NamedTuple):
    """Where the tokens of rows stand."""

    positions: jax.Array  # [B, T] int32: place within the document
    segment_ids: jax.Array  # [B, T] int32: 0 is padding
    trunks: jax.Array | None = None  # [B, T] int32: the segment that a token's segment goes on from


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    window: int | None = None,
    kernel: str = "plain",
    trunks: jax.Array | None = None,
    fused: bool = True,
) -> jax.Array:
    """Causal grouped-query attention of whole rows: softmax(q k^T / sqrt(H)) v, softmax in float32.

    A query sees the keys of its own segment up to its own place (`visible`); within a row,
    documents follow each other and positions rise. With `trunks` ([B, T] int32, plain kernel only)
    a segment may go on from another one that stands before it in the row: completions of a prompt.
    Queries may be split over the mesh axes of "batch", "time" and "heads"; over "time" each device
    gathers the row's keys and values.

    No array [B, N, T, T] exists for rows longer than `LONG`, forward or backward.

    Args:
      q: [B, T, N, H]; query head n reads key/value head n // (N // K).
      k, v: [B, T, K, H].
      positions, segment_ids: [B, T] int32; segment 0 is padding, whose results carry no meaning.
      kernel: "plain" (any machine), "splash" (TPU) or "cudnn" (NVIDIA; one document a row), see
        `models/kernels.py`.
      fused: splash goes back in one kernel, which takes more memory.

    Returns:
      [B, T, N, H] in q's dtype.
    """
    if trunks is not None and kernel != "plain":
        raise ValueError(f"the {kernel} kernel knows no trunks")
    places = Places(positions, segment_ids, trunks)
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else mesh.shape
    if not mesh.empty and (sizes["context"] > 1 or (kernel != "plain" and mesh.size > 1)):
        return _on_each_device(q, k, v, places, window, (kernel, fused), mesh)
    return _rows(q, k, v, places, places, window, (kernel, fused))


def _on_each_device(q, k, v, places, window, kernel, mesh):
    """`attention`, each device taking its rows, its query heads and its stretch of queries."""
    specs = {
        name: activation_spec(axes, x.shape, mesh)
        for name, axes, x in (
            ("q", ("batch", "time", "heads", None), q),
            ("kv", ("batch", None, "kv_heads", None), k),
            ("q_places", ("batch", "time"), places.positions),
            ("k_places", ("batch", None), places.positions),
        )
    }
    heads, kv_heads = q.shape[2], k.shape[2]
    split = mesh.shape["tensor"] if specs["q"][2] else 1
    shared = split if not specs["kv"][2] else 1  # devices that hold the same key/value heads
    group = heads // kv_heads

    def local(q, k, v, q_places, k_places):
        if shared > 1:  # fewer key/value heads than devices: take those of this device's queries
            mine = heads // split
            first = jax.lax.axis_index("tensor") * mine // group
            width = max(1, mine // group)
            k, v = (jax.lax.dynamic_slice_in_dim(x, first, width, axis=2) for x in (k, v))
        first = 0
        if q.shape[1] < k.shape[1]:
            first = jax.lax.axis_index("context") * q.shape[1]
        return _rows(q, k, v, q_places, k_places, window, kernel, first)

    return jax.shard_map(
        local,
        in_specs=(specs["q"], specs["kv"], specs["kv"], specs["q_places"], specs["k_places"]),
        out_specs=specs["q"],
        check_vma=False,
    )(q, k, v, places, places)


def _rows(q, k, v, q_places, k_places, window, kernel, first: jax.Array | int = 0):
    """Queries [B, T, N, H], the row's from `first` on, over all the row's keys.

    Args:
      kernel: its name, and whether splash goes back in one.
    """
    name, fused = kernel
    if name == "splash":
        segments = q_places.segment_ids, k_places.segment_ids
        return splash(q, k, v, *segments, window, first, fused=fused)
    if name == "cudnn" and q.shape[1] == k.shape[1]:
        return cudnn(q, k, v, k_places.segment_ids, window)
    return _plain(q, k, v, q_places, k_places, window)


def _plain(q, k, v, q_places, k_places, window):
    """In blocks of queries; of a whole row, scores of keys behind a block are never made, which
    saves nearly half of the work of long rows."""
    T, S = q.shape[1], k.shape[1]
    width = max(BLOCK, -(-T // MAX_BLOCKS))
    if S > LONG:
        width = -(-width // BLOCK) * BLOCK
    # Split, not sliced: the gradient is one concatenation.
    ends = [*range(width, T, width), T]
    leaves, tree = jax.tree.flatten((q, q_places))
    parts = zip(*(jnp.split(x, ends[:-1], axis=1) for x in leaves), strict=True)
    of_block = _recomputed if S > LONG else _masked
    blocks = []
    for end, part in zip(ends, parts, strict=True):
        seen = end if T == S else S
        keys = k[:, :seen], v[:, :seen], jax.tree.map(lambda x, n=seen: x[:, :n], k_places)
        some, places = jax.tree.unflatten(tree, part)
        blocks.append(of_block(some, places, *keys, window))
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


def _masked(q, q_places, k, v, k_places, window):
    seen = visible(
        q_places.positions,
        q_places.segment_ids,
        k_places.positions,
        k_places.segment_ids,
        window,
        q_places.trunks,
    )
    return _attention_of_block(q, k, v, seen)


def _recomputed(q, q_places, k, v, k_places, window):
    """`_masked`, BLOCK queries at a time, scores made again in the backward pass."""
    T = q.shape[1]
    parts = -(-T // BLOCK)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, parts * BLOCK - T), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], parts, BLOCK, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part):
        some, places = part
        return _masked(some, places, k, v, k_places, window)

    mixed = jax.lax.map(one, jax.tree.map(cut, (q, q_places)))
    return jnp.moveaxis(mixed, 0, 1).reshape(q.shape[0], parts * BLOCK, *q.shape[2:])[:, :T]


def _attention_of_block(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B, T, N, H] over k, v [B, S, K, H] where mask [B, T, S] allows."""
    B, T, N, H = q.shape
    K = k.shape[2]
    # Plain batched matrix products with the contracted axis where a CPU wants it: twice as fast
    # there as the einsum over [B, T, K, H].
    grouped = q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    k, v = as_stored(k.transpose(0, 2, 3, 1)), as_stored(v.transpose(0, 2, 3, 1))
    scores = jnp.matmul(grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, K, N // K, T, -1)
    scores = jnp.where(mask[:, None, None], scores * H**-0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = weights.reshape(B, K, N // K * T, -1)
    mixed = jnp.einsum("bkts,bkhs->bkth", weights, v)
    return mixed.reshape(B, K, N // K, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention_over_pieces(q: jax.Array, pieces) -> jax.Array:
    """One query per row over a cache in pieces: the same softmax as over their concatenation.

    A piece with R rows, R a divisor of B, is shared: row b reads its row b // (B // R). Each piece
    gives its largest score m_i, normaliser z_i = sum_s exp(s - m_i) and mixture
    o_i = sum_s exp(s - m_i) v_s; then, with m = max_i m_i,

        out = sum_i exp(m_i - m) o_i / sum_i exp(m_i - m) z_i.

    Args:
      q: [B, N, H]; query head n reads key/value head n // (N // K).
      pieces: (k [R, K, H, S], v [R, K, S, H], mask [R, B // R, S]) each, k and v perhaps
        `Rounded`: their scales go on scores and weights, so no whole array is made of them; a piece
        in which a row sees nothing adds nothing, and every row sees something in at least one.

    Returns:
      [B, N, H] in q's dtype.
    """
    B, N, H = q.shape
    parts = []
    for k, v, mask in pieces:
        k, k_scale = _numbers(k, q.dtype)
        v, v_scale = _numbers(v, q.dtype)
        R, K, _, S = k.shape
        shape = (R, K, B // R, N // K)
        grouped = q.reshape(R, B // R, K, N // K, H).swapaxes(1, 2).reshape(R, K, -1, H)
        scores = jnp.matmul(grouped, k, preferred_element_type=jnp.float32)
        scores = (scores if k_scale is None else scores * k_scale).reshape(*shape, S)
        scores = jnp.where(mask[:, None, :, None], scores * H**-0.5, -1e30)
        most = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - most)
        shares = weights.reshape(R, K, -1, S)
        shares = shares if v_scale is None else shares * v_scale.swapaxes(2, 3)
        mixed = jnp.matmul(shares.astype(v.dtype), v, preferred_element_type=jnp.float32)
        mixed = mixed.reshape(*shape, H)
        part = most, jnp.sum(weights, axis=-1, keepdims=True), mixed
        parts.append([x.swapaxes(1, 2).reshape(B, N, -1) for x in part])
    most = functools.reduce(jnp.maximum, (m for m, _, _ in parts))
    scales = [jnp.exp(m - most) for m, _, _ in parts]
    zero = jnp.float32(0)
    total = sum((scale * z for scale, (_, z, _) in zip(scales, parts, strict=True)), zero)
    summed = sum((scale * o for scale, (_, _, o) in zip(scales, parts, strict=True)), zero)
    return (summed / total).astype(q.dtype)


def _numbers(x: jax.Array | Rounded, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    """(an array of keys or values, what it is to be multiplied with; None: nothing)."""
    if isinstance(x, Rounded):
        return x.numbers.astype(dtype), x.scale
    return x, None
