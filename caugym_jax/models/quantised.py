"""Frozen matrices in 8 or 4 bits a weight; `models/lora.py` says which and keeps them.

int8: W[i, o] = s[o] n[i, o] with whole n in [-127, 127]; a scale for each output channel.

nf4: W = s c with c among the 16 numbers `NF4` (Dettmers et al. 2023, arXiv 2305.14314): the
quantiles of a normal distribution, of which 0 and +-1 are three. Blocks of 64 weights along the
last input axis share a scale, their largest |W| in bfloat16: 4.25 bits a weight. Two neighbours on
that axis lie in one byte, the first in its lower half.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from caugym_jax.errors import UserError

BLOCK = 64
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)


def to_int8(weight: jax.Array, inputs: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """(n in int8, s in float32 without the axes `inputs`): off by at most s / 2 a weight.

    Worked by hand: a channel (0.5, -1.984375, 0.004) has scale 1/64 and becomes (32, -127, 0).
    """
    weight = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(weight), inputs, keepdims=True) / 127
    whole = jnp.round(weight / jnp.where(scale > 0, scale, 1))
    return jnp.clip(whole, -127, 127).astype(jnp.int8), jnp.squeeze(scale, inputs)


def to_nf4(weight: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """(codes in uint8 with `axis` halved, scales in bfloat16 with one for each block of `axis`).

    Off by at most 0.152 s + 0.004 s a weight: half the widest gap between two of `NF4`, and the
    scale's own rounding. Of normal weights the error's root mean square is 9.2% of
    their deviation.

    Raises:
      UserError: the axis has an odd length.
    """
    size = weight.shape[axis]
    if size % 2:
        raise UserError(f"base_dtype=nf4 packs pairs of weights, and a matrix reads {size}: odd")
    block = math.gcd(BLOCK, size)
    weight = weight.astype(jnp.float32)
    grouped = weight.reshape(*weight.shape[:axis], -1, block, *weight.shape[axis + 1 :])
    scale = jnp.max(jnp.abs(grouped), axis + 1, keepdims=True).astype(jnp.bfloat16)
    part = grouped / jnp.where(scale > 0, scale, 1).astype(jnp.float32)
    middles = [(a + b) / 2 for a, b in zip(NF4, NF4[1:], strict=False)]
    codes = functools.reduce(jnp.add, ((part > middle).astype(jnp.uint8) for middle in middles))
    pairs = codes.reshape(*weight.shape[:axis], size // 2, 2, *weight.shape[axis + 1 :])
    low, high = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return low | (high << 4), jnp.squeeze(scale, axis + 1)


def from_nf4(codes: jax.Array, scales: jax.Array, axis: int, dtype: Any) -> jax.Array:
    """The matrix that `to_nf4` stands for, in `dtype`."""
    pairs = jnp.stack([codes & 15, codes >> 4], axis + 1)
    values: list[jax.Array] = [jnp.float32(value) for value in NF4]
    for bit in range(4):  # 15 choices, no gather: a TPU looks nothing up
        odd = (pairs >> bit) & 1 == 1
        values = [jnp.where(odd, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    outer, inner = codes.shape[:axis], codes.shape[axis + 1 :]
    grouped = values[0].reshape(*outer, scales.shape[axis], -1, *inner)
    whole = grouped * jnp.expand_dims(scales, axis + 1).astype(jnp.float32)
    return whole.reshape(*outer, 2 * codes.shape[axis], *inner).astype(dtype)
