"""The decoder's weights and one block of it: one Flax NNX definition, families are its fields.

`models/transformer.py` splits the modules once and runs the blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from caugym_jax.devices.mesh import constrain, traced_size
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.experts import mixture
from caugym_jax.models.products import as_stored
from caugym_jax.models.quantised import from_nf4

Turn = Callable[[jax.Array], jax.Array]
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def _weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float) -> nnx.Param:
    """A weight: shape, logical axes and initialiser in one place."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def _scale(shape: tuple[int, ...], axes: tuple[str, ...], offset: bool) -> nnx.Param:
    """A norm's scale: ones, which are zeros where it is stored less one."""
    return nnx.Param(jnp.full(shape, 0.0 if offset else 1.0, jnp.float32), axes=axes)


def _bias(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def dense(x: jax.Array, weight: jax.Array, axes: int = 1) -> jax.Array:
    """Contracts x's last `axes` axes with the weight's first ones, in x's dtype.

    One product of two matrices: the weight's gradient then contracts one axis, not the batch's
    and time's two, for which XLA on a CPU would transpose both operands (half of a step's time).
    """
    if traced_size("time") > 1:  # rows and places are split: one axis of both could not be
        return jnp.tensordot(x, weight.astype(x.dtype), axes)
    rows, width = x.shape[: x.ndim - axes], math.prod(weight.shape[:axes])
    flat, shape = x.reshape(-1, width), weight.shape[axes:]
    weight = weight.astype(x.dtype).reshape(width, -1)
    if len(flat) > width > weight.shape[1]:
        weight = as_stored(weight.T).T
    y = flat @ weight
    return y.reshape(*rows, *shape)


# Of frozen matrices the backward pass keeps the few bits, and makes the numbers again.
_dense_int8 = jax.checkpoint(dense, static_argnums=2)


@functools.partial(jax.checkpoint, static_argnums=3)
def _dense_nf4(x: jax.Array, codes: jax.Array, scales: jax.Array, axes: int) -> jax.Array:
    return dense(x, from_nf4(codes, scales, axes - 1, x.dtype), axes)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float, offset: bool = False) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale in float32, returned in x's dtype.

    Args:
      scale: of x's last axis, or of several last ones, over all of which the mean is taken.
      offset: the scale is stored less one (Gemma).
    """
    y = x.astype(jnp.float32)
    axes = tuple(range(-scale.ndim, 0))
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axes, keepdims=True) + eps)
    return (y * (1.0 + scale if offset else scale)).astype(x.dtype)


def logits_of(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """[..., D] times [D, V] in float32, [..., V]."""
    head = head.astype(hidden.dtype)
    if traced_size("time") > 1:  # as in `dense`
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits = jnp.matmul(flat, head, preferred_element_type=jnp.float32)
    return logits.reshape(*hidden.shape[:-1], -1)


def _of_experts(
    c: ModelConfig, shape: tuple[int, ...], axes: tuple[str, str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(shape, logical axes) of a feed-forward matrix, one of each expert where there are any."""
    if not c.num_experts:
        return shape, ("layers", *axes)
    names = tuple("expert_mlp" if axis == "mlp" else axis for axis in axes)
    return (shape[0], c.num_experts, *shape[1:]), ("layers", "experts", *names)


class Layers(nnx.Module):
    """The stack of blocks; `__call__` runs one of them (on weights without the layer axis)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c, L = config, config.num_layers
        D, N, K, H, F = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim, c.d_ff
        narrow = D**-0.5
        residual = (2 * L) ** -0.5  # projections that write to the residual stream start smaller
        heads, kv_heads = ("layers", "heads", "head_dim"), ("layers", "kv_heads", "head_dim")

        def norm(*shape, axes=("layers", "norm")):
            return _scale((L, *shape), axes, c.norm_offset)

        self.config = config
        if c.pre_norm:
            self.attention_norm = norm(D)
        self.q = _weight(rngs, (L, D, N, H), ("layers", "embed", "heads", "head_dim"), narrow)
        self.k = _weight(rngs, (L, D, K, H), ("layers", "embed", "kv_heads", "head_dim"), narrow)
        self.v = _weight(rngs, (L, D, K, H), ("layers", "embed", "kv_heads", "head_dim"), narrow)
        self.o = _weight(
            rngs, (L, N, H, D), ("layers", "heads", "head_dim", "embed"), residual * (N * H) ** -0.5
        )
        if c.qkv_bias:
            self.q_bias = _bias((L, N, H), heads)
            self.k_bias = _bias((L, K, H), kv_heads)
            self.v_bias = _bias((L, K, H), kv_heads)
        if c.o_bias:
            self.o_bias = _bias((L, D), ("layers", "norm"))
        if c.qk_norm == "head":
            self.q_norm, self.k_norm = norm(H), norm(H)
        if c.qk_norm == "whole":
            self.q_norm, self.k_norm = norm(N, H, axes=heads), norm(K, H, axes=kv_heads)
        if c.post_norm:
            self.attention_post_norm = norm(D)
        if c.pre_norm:
            self.mlp_norm = norm(D)
        if c.num_experts:
            self.router = _weight(
                rngs, (L, D, c.num_experts), ("layers", "embed", "routes"), narrow
            )
        self.gate = _weight(rngs, *_of_experts(c, (L, D, F), ("embed", "mlp")), narrow)
        self.up = _weight(rngs, *_of_experts(c, (L, D, F), ("embed", "mlp")), narrow)
        writer = residual * F**-0.5
        self.down = _weight(rngs, *_of_experts(c, (L, F, D), ("mlp", "embed")), writer)
        if c.post_norm:
            self.mlp_post_norm = norm(D)

    def __call__(self, x: jax.Array, turn: Turn, attend: Attend, beside) -> tuple[jax.Array, Any]:
        """One block on x [B, T, D].

        Args:
          turn: rotates queries or keys [B, T, heads, H] by their positions.
          attend: (q, k, v) -> ([B, T, N, H], what to keep).
          beside: what `models/lora.py` keeps beside a matrix W: the scales of one in 8 or 4 bits,
            an adapter; by names like "q_scale", "q_blocks", "q_lora_a", "q_lora_b".
        """
        c, dtype = self.config, x.dtype

        def linear(name, h, axes=1):
            weight = getattr(self, name)[...]
            if (blocks := beside.get(f"{name}_blocks")) is not None:
                y = _dense_nf4(h, weight, blocks, axes)
            elif (scale := beside.get(f"{name}_scale")) is not None:
                y = (_dense_int8(h, weight, axes) * scale).astype(dtype)
            else:
                y = dense(h, weight, axes)
            if (a := beside.get(f"{name}_lora_a")) is not None:
                y = y + dense(dense(h, a, axes), beside[f"{name}_lora_b"])
            return y

        def project(name, h):
            y = linear(name, h)
            return y + getattr(self, f"{name}_bias")[...].astype(dtype) if c.qkv_bias else y

        def norm(name, h, wanted):
            if not wanted:
                return h
            return rms_norm(h, getattr(self, name)[...], c.norm_eps, c.norm_offset)

        h = norm("attention_norm", x, c.pre_norm)
        q, k, v = project("q", h), project("k", h), project("v", h)
        q, k = norm("q_norm", q, c.qk_norm), norm("k_norm", k, c.qk_norm)
        q, k = turn(q), turn(k)
        if c.query_scale is not None:  # attention divides by sqrt(H) itself
            q = (q * (c.query_scale * c.head_dim**0.5)).astype(dtype)
        mixed, kept = attend(q, k, v)
        y = linear("o", mixed, axes=2)
        if c.o_bias:
            y = y + self.o_bias[...].astype(dtype)
        x = x + norm("attention_post_norm", y, c.post_norm)
        x = constrain(x, "batch", "time", "width")

        h = norm("mlp_norm", x, c.pre_norm)
        if c.num_experts:
            y = self._mixture(h, beside)
        else:
            gate = ACTIVATIONS[c.activation](linear("gate", h))
            y = linear("down", gate * linear("up", h))
        x = x + norm("mlp_post_norm", y, c.post_norm)
        return constrain(x, "batch", "time", "width"), kept

    def _mixture(self, h: jax.Array, beside) -> jax.Array:
        c, dtype = self.config, h.dtype

        def matrix(name):
            weight, blocks = getattr(self, name)[...], beside.get(f"{name}_blocks")
            if blocks is not None:
                return from_nf4(weight, blocks, 1, dtype)
            scale = beside.get(f"{name}_scale")
            return (
                weight.astype(dtype) if scale is None else (weight * scale[:, None]).astype(dtype)
            )

        def mixed(h):
            experts = matrix("gate"), matrix("up"), matrix("down")
            k, normalized = c.experts_per_token, c.normalized_routing
            activation = ACTIVATIONS[c.activation]
            return mixture(h, self.router[...], experts, k, normalized, activation)

        frozen = "gate_blocks" in beside or "gate_scale" in beside
        return jax.checkpoint(mixed)(h) if frozen else mixed(h)


class Decoder(nnx.Module):
    """All weights of the model. Its arithmetic is `Model`, which works on the split parameters."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        V, D = config.vocab_size, config.d_model
        # Tied: the embedding is also the head, so it starts at the head's scale.
        std = D**-0.5 if config.tied else 0.5
        self.embed = _weight(rngs, (V, D), ("vocab", "embed"), std)
        self.layers = Layers(config, rngs=rngs)
        self.final_norm = _scale((D,), ("norm",), config.norm_offset)
        if not config.tied:
            self.head = _weight(rngs, (D, V), ("embed", "vocab"), 0.5 * D**-0.5)
