"""Attention kernels of accelerators: JAX's own, made to fit rows with segments.

Each gives what `models/attention.py` gives on tokens that are not padding, without scores in
memory: the kernels keep one tile of them at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

NAMED = "attention"  # what checkpoint policies call an attention's results
LANES = 128  # a TPU's tile: rows and head sizes are padded to multiples of it
TILE = 512  # at most so many queries, and twice as many keys, a tile
FUSED = 16  # a row's tiles of keys at most for a backward pass in one kernel


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    window: int | None,
    first: jax.Array | int = 0,
    *,
    fused: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention (Pallas, TPU): causal over places in the row, within segments.

    Of a single row (B 1, as training calls it) tiles are skipped whose queries and keys have no
    segment in common; of several only those that the diagonal or the window leaves out.

    Args:
      q: [B, T, N, H], the queries of places `first` .. `first` + T - 1 of the rows, where `first`
        is a multiple of T.
      k, v: [B, S, K, H], of whole rows.
      q_segments, k_segments: [B, T], [B, S] int32.
      window: how many places back a query sees, itself included; None: all.
      fused: go back in one kernel where that pays (`is_fused`), which takes more memory.
      interpret: run it in Pallas's interpreter (a test on a CPU).

    Returns:
      [B, T, N, H] in q's dtype.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    T, H = q.shape[1], q.shape[3]
    parts = k.shape[1] // T
    padded = -(-T // LANES) * LANES
    if parts > 1 and padded != T:
        raise ValueError(
            f"{T} places a device: with a context axis it must be a multiple of {LANES}"
        )

    def lay_out(x):  # [B, T, N, H] -> [B, N, T, H], padded
        x = jnp.pad(x, ((0, 0), (0, padded - T), (0, 0), (0, -H % LANES)))
        return x.swapaxes(1, 2)

    def segments(x):
        return jnp.pad(x, ((0, 0), (0, padded - T)))

    fused = fused and is_fused(padded * parts, window)
    run = _splash(q.shape[2], padded, padded * parts, window, fused, interpret)
    arguments = (
        lay_out(q * H**-0.5),
        lay_out(k),
        lay_out(v),
        kernel.SegmentIds(segments(q_segments), segments(k_segments)),
    )
    if parts > 1:
        run = _part(run, first // T, parts)
    if q.shape[0] == 1:
        one = jax.tree.map(lambda x: x[0], arguments)
        mixed = _skipping(run, one[3])(*one)[None]
    else:
        mixed = jax.vmap(run)(*arguments)
    return mixed.swapaxes(1, 2)[:, :T, :, :H]


def tiles(T: int, S: int) -> tuple[int, int]:
    """(queries, keys) of a tile, for T queries over S keys."""
    return _tile(T, TILE), _tile(S, 2 * TILE)


def is_fused(S: int, window: int | None) -> bool:
    """Whether splash's backward pass over S keys is one kernel, with 5 products a tile; else it is
    two with 7. Each tile of keys then leaves a gradient as large as all queries, and they are added
    up: too much for many tiles, and mostly zeros with a window."""
    return window is None and S // _tile(S, 2 * TILE) <= FUSED


def _splash(heads, T, S, window, fused, interpret):
    """The kernel of T queries (of every part, if there are several) over rows of S places:
    (q [N, T, H], k, v [K, S, H], segments) -> [N, T, H]."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mask: masks.Mask
    parts = S // T
    if window is None:
        mask = masks.CausalMask((S, S), shard_count=parts)
    else:
        mask = masks.LocalMask((S, S), (window - 1, 0), offset=0, shard_count=parts)
    tile_q, tile_kv = tiles(T, S)
    sizes = kernel.BlockSizes(
        block_q=tile_q,
        block_kv=tile_kv,
        block_kv_compute=_tile(tile_kv, TILE),
        block_q_dkv=tile_q,
        block_kv_dkv=tile_kv,
        block_kv_dkv_compute=_tile(tile_kv, TILE),
        block_q_dq=None if fused else tile_q,
        block_kv_dq=None if fused else tile_kv,
        use_fused_bwd_kernel=fused,
    )
    return kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=parts,
        interpret=interpret,
        residual_checkpoint_name=NAMED,
    )


def _with_infos(run, change):
    """A kernel with what it knows of the mask changed: (info, of keys' gradients?) -> info."""
    infos = run.fwd_mask_info, run.dq_mask_info, run.dkv_mask_info
    changed = [
        info if info is None else change(info, by_keys)
        for info, by_keys in zip(infos, (False, False, True), strict=True)
    ]
    return type(run)(*changed, **run.kwargs)


def _part(run, part, parts):
    """Of a kernel for all queries that for one part: what it knows of the mask lies part by
    part."""

    def own(info, by_keys):
        def piece(x, axis):
            if x is None:
                return None
            width = x.shape[axis] // parts
            return jax.lax.dynamic_slice_in_dim(x, part * width, width, axis)

        along_queries = {
            name: piece(getattr(info, name), 1) for name in ("data_next", "mask_next", "block_mask")
        }
        return info._replace(**along_queries, q_sequence=piece(info.q_sequence, 0))

    return _with_infos(run, own)


def _skipping(run, segments):
    """A kernel for one row that leaves out the tiles in which no query has a key's segment."""
    sizes = run.kwargs["block_sizes"]
    near = near_tiles(segments.q, segments.kv, sizes.block_q, sizes.block_kv)

    def changed(info, by_keys):
        # `data_next` names the tile that a step of the grid reads, [1, tiles of queries, of keys]:
        # of keys, or of queries where keys' gradients are made. Steps with nothing to do name that
        # of the next one that has, so that nothing is read for them.
        tile, does = info.data_next[0].astype(jnp.int32), info.block_mask[0]
        rows, columns = jnp.indices(tile.shape)
        does = jnp.where(near[tile, columns] if by_keys else near[rows, tile], does, 0)
        in_order = (lambda x: x.T) if by_keys else (lambda x: x)
        runs = in_order(does > 0).reshape(-1)
        steps = jnp.where(runs, jnp.arange(runs.size), runs.size)
        following = jax.lax.cummin(steps, reverse=True)
        following = jnp.where(following < runs.size, following, jnp.min(steps))
        tile = in_order(tile).reshape(-1)[following].reshape(in_order(does).shape)
        tile = in_order(tile).astype(info.data_next.dtype)
        return info._replace(data_next=tile[None], block_mask=does[None])

    return _with_infos(run, changed)


def near_tiles(q_segments: Any, k_segments: Any, tile_q: int, tile_kv: int) -> Any:
    """[..., T / tile_q, S / tile_kv] bool: tiles whose queries and keys may have a segment in
    common, by the ranges of their segments [..., T], [..., S] (of NumPy or jax). Padding counts as
    the last segment."""

    def ends(x, tile):
        x = x + (x == 0) * jnp.iinfo(jnp.int32).max
        x = x.reshape(*x.shape[:-1], -1, tile)
        return x.min(axis=-1), x.max(axis=-1)

    (q_least, q_most), (k_least, k_most) = ends(q_segments, tile_q), ends(k_segments, tile_kv)
    before = q_most[..., :, None] < k_least[..., None, :]
    after = q_least[..., :, None] > k_most[..., None, :]
    return ~(before | after)


def _tile(length: int, most: int) -> int:
    """The largest multiple of LANES that divides `length` and is at most `most`."""
    return max(t for t in range(LANES, min(length, most) + 1, LANES) if length % t == 0)


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, window: int | None
) -> jax.Array:
    """cuDNN's flash attention (NVIDIA): causal, of rows that hold one document each.

    The padding before a document is moved behind it for the kernel, which knows rows by their
    lengths.

    Args:
      q: [B, T, N, H] in bfloat16 or float16.
      k, v: [B, T, K, H].
      segment_ids: [B, T] int32: 0 is padding; every other place belongs to the row's document.

    Returns:
      [B, T, N, H] in q's dtype.
    """
    T = q.shape[1]
    first = jnp.argmax(segment_ids > 0, axis=1)
    length = jnp.maximum(jnp.sum(segment_ids > 0, axis=1), 1).astype(jnp.int32)

    def turn(x, by):
        places = (jnp.arange(T) + by[:, None]) % T
        return jnp.take_along_axis(x, places[:, :, None, None], axis=1)

    mixed = jax.nn.dot_product_attention(
        turn(q, first),
        turn(k, first),
        turn(v, first),
        is_causal=True,
        query_seq_lengths=length,
        key_value_seq_lengths=length,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    return turn(mixed, -first)
