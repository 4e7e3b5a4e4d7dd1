"""Attention kernels of accelerators: JAX's own, made to fit rows with segments.

Each gives what `models/attention.py` gives on tokens that are not padding, without scores in
memory: the kernels keep one tile of them at a time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

NAMED = "attention"  # what checkpoint policies call an attention's results
LANES = 128  # a TPU's tile: rows and head sizes are padded to multiples of it
TILE = 512  # at most so many queries, and twice as many keys, a tile


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    window: int | None,
    first: jax.Array | int = 0,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention (Pallas, TPU): causal over places in the row, within segments.

    Args:
      q: [B, T, N, H], the queries of places `first` .. `first` + T - 1 of the rows, where `first`
        is a multiple of T.
      k, v: [B, S, K, H], of whole rows.
      q_segments, k_segments: [B, T], [B, S] int32.
      window: how many places back a query sees, itself included; None: all.
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

    run = _splash(q.shape[2], padded, padded * parts, window, interpret, parts, first)
    mixed = jax.vmap(run)(
        lay_out(q * H**-0.5),
        lay_out(k),
        lay_out(v),
        kernel.SegmentIds(segments(q_segments), segments(k_segments)),
    )
    return mixed.swapaxes(1, 2)[:, :T, :, :H]


def _splash(heads, T, S, window, interpret, parts, first):
    """The kernel for queries `first` .. `first` + T - 1 of rows of S places: (q [N, T, H],
    k, v [K, S, H], segments) -> [N, T, H]."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mask: masks.Mask
    if window is None:
        mask = masks.CausalMask((S, S), shard_count=parts)
    else:
        mask = masks.LocalMask((S, S), (window - 1, 0), offset=0, shard_count=parts)
    tile_q, tile_kv = _tile(T, TILE), _tile(S, 2 * TILE)
    sizes = kernel.BlockSizes(
        block_q=tile_q,
        block_kv=tile_kv,
        block_kv_compute=_tile(tile_kv, TILE),
        block_q_dkv=tile_q,
        block_kv_dkv=tile_kv,
        block_kv_dkv_compute=_tile(tile_kv, TILE),
        block_q_dq=tile_q,
        block_kv_dq=tile_kv,
    )
    made = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=parts,
        interpret=interpret,
        residual_checkpoint_name=NAMED,
    )
    if parts == 1:
        return made
    # What the kernel knows of the mask is laid out part by part: take the part of these queries.
    part = first // T

    def own(info):
        def piece(x, axis):
            if x is None:
                return None
            width = x.shape[axis] // parts
            return jax.lax.dynamic_slice_in_dim(x, part * width, width, axis)

        along_queries = {
            name: piece(getattr(info, name), 1) for name in ("data_next", "mask_next", "block_mask")
        }
        return info._replace(**along_queries, q_sequence=piece(info.q_sequence, 0))

    infos = made.fwd_mask_info, made.dq_mask_info, made.dkv_mask_info
    return kernel.SplashAttentionKernel(*map(own, infos), **made.kwargs)


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
