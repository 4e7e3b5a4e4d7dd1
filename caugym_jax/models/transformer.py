"""The decoder. One Flax NNX definition; the families of `ModelConfig` are fields of it.

`models/` splits the modules once: everything outside works on `params`, a plain nested dict

    embed [V, D]
    layers: attention_norm [L, D]  q [L, D, N, H]  k, v [L, D, K, H]  o [L, N, H, D]
            q_bias [L, N, H]  k_bias, v_bias [L, K, H]   (qkv_bias)
            q_norm, k_norm [L, H]                        (qk_norm)
            mlp_norm [L, D]  gate, up [L, D, F]  down [L, F, D]
    final_norm [D]
    head [D, V]                                          (untied)

Layers are stacked and scanned, so compile time does not grow with depth. `unstack` turns the stack
into a tuple of layers, which is looped over instead (quicker for decoding on a CPU, where a scan
copies each layer's slice).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from caugym_jax.models.attention import attention, rotary_frequencies, rotate, visible
from caugym_jax.models.config import ModelConfig
from caugym_jax.sharding import constrain

Params = dict[str, Any]


def _weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float) -> nnx.Param:
    """A weight: shape, logical axes and initialiser in one place (std 0 means ones)."""
    if std == 0:
        return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def _bias(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32, returned in x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * scale).astype(x.dtype)


class Layers(nnx.Module):
    """The stack of blocks; `__call__` runs one of them (on weights without the layer axis)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c, L = config, config.num_layers
        D, N, K, H, F = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim, c.d_ff
        narrow = D**-0.5
        residual = (2 * L) ** -0.5  # projections that write to the residual stream start smaller
        heads, kv_heads = ("layers", "heads", "head_dim"), ("layers", "kv_heads", "head_dim")

        self.config = config
        self.attention_norm = _weight(rngs, (L, D), ("layers", "norm"), 0)
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
        if c.qk_norm:
            self.q_norm = _weight(rngs, (L, H), ("layers", "norm"), 0)
            self.k_norm = _weight(rngs, (L, H), ("layers", "norm"), 0)
        self.mlp_norm = _weight(rngs, (L, D), ("layers", "norm"), 0)
        self.gate = _weight(rngs, (L, D, F), ("layers", "embed", "mlp"), narrow)
        self.up = _weight(rngs, (L, D, F), ("layers", "embed", "mlp"), narrow)
        self.down = _weight(rngs, (L, F, D), ("layers", "mlp", "embed"), residual * F**-0.5)

    def __call__(self, x: jax.Array, angles: jax.Array, attend) -> tuple[jax.Array, Any]:
        """One block on x [B, T, D]; `attend(q, k, v)` returns ([B, T, N, H], what to keep)."""
        c, dtype = self.config, x.dtype

        def project(h, weight, bias_name):
            y = jnp.einsum("btd,dnh->btnh", h, weight[...].astype(dtype))
            return y + getattr(self, bias_name)[...].astype(dtype) if c.qkv_bias else y

        h = rms_norm(x, self.attention_norm[...], c.norm_eps)
        q, k = project(h, self.q, "q_bias"), project(h, self.k, "k_bias")
        v = project(h, self.v, "v_bias")
        if c.qk_norm:
            q = rms_norm(q, self.q_norm[...], c.norm_eps)
            k = rms_norm(k, self.k_norm[...], c.norm_eps)
        mixed, kept = attend(rotate(q, angles), rotate(k, angles), v)
        x = x + jnp.einsum("btnh,nhd->btd", mixed, self.o[...].astype(dtype))
        x = constrain(x, "batch", "time", "width")

        h = rms_norm(x, self.mlp_norm[...], c.norm_eps)
        h = jax.nn.silu(h @ self.gate[...].astype(dtype)) * (h @ self.up[...].astype(dtype))
        x = x + h @ self.down[...].astype(dtype)
        return constrain(x, "batch", "time", "width"), kept


class Decoder(nnx.Module):
    """All weights of the model. Its arithmetic is `Model`, which works on the split parameters."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        V, D = config.vocab_size, config.d_model
        # Tied: the embedding is also the head, so it starts at the head's scale.
        std = D**-0.5 if config.tied else 0.5
        self.embed = _weight(rngs, (V, D), ("vocab", "embed"), std)
        self.layers = Layers(config, rngs=rngs)
        self.final_norm = _weight(rngs, (D,), ("norm",), 0)
        if not config.tied:
            self.head = _weight(rngs, (D, V), ("embed", "vocab"), 0.5 * D**-0.5)


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far; slot s of a row is token s of that row."""

    k: Any  # [L, B, S, K, H], or a tuple of L arrays [B, S, K, H] where layers are unstacked
    v: Any
    positions: jax.Array  # [B, S] int32
    segment_ids: jax.Array  # [B, S] int32: -1 = not written yet, 0 = padding, 1 = token


@functools.lru_cache(maxsize=64)
def _split(config: ModelConfig):
    """The abstract decoder: (graph of the layers, parameter shapes, parameter axes)."""
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    layers_graph, _ = nnx.split(decoder.layers)
    state = nnx.state(decoder, nnx.Param)

    def axes(tree):
        if isinstance(tree, nnx.Variable):
            return tuple(tree.get_metadata()["axes"])
        return {name: axes(child) for name, child in tree.items()}

    return layers_graph, nnx.to_pure_dict(state), axes(state)


def abstract_params(config: ModelConfig) -> Params:
    """The parameter tree as jax.ShapeDtypeStructs (float32)."""
    return _split(config)[1]


def param_axes(config: ModelConfig) -> Params:
    """The parameter tree with each weight's tuple of logical axis names."""
    return _split(config)[2]


def unstack(params: Params) -> Params:
    """The same parameters with `layers` as a tuple of single layers."""
    L = params["layers"]["q"].shape[0]
    each = tuple(jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(L))
    return {**params, "layers": each}


@dataclasses.dataclass(frozen=True)
class Model:
    """The decoder's arithmetic as pure functions of `params`. Hashable: a static jit argument.

    Attributes:
      config: the decoder's shape.
      dtype: compute type of activations and matrix products, "float32" or "bfloat16"; norms,
        softmax and logits are float32 in either case.
      remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    config: ModelConfig
    dtype: str = "float32"
    remat: bool = False

    def init(self, key: jax.Array) -> Params:
        """Random float32 parameters: N(0, 1/fan_in), residual writers times 1/sqrt(2L)."""
        decoder = Decoder(self.config, rngs=nnx.Rngs(params=key))
        return nnx.to_pure_dict(nnx.state(decoder, nnx.Param))

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        keep_kv: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Final-norm hidden states of whole rows.

        Args:
          tokens, positions, segment_ids: [B, T] int32; segment 0 is padding.
          keep_kv: also return every layer's keys and values (prefill).

        Returns:
          ([B, T, D] in the compute dtype, None or (k, v) each [L, B, T, K, H] / tuple of L).
        """
        mask = visible(positions, segment_ids, positions, segment_ids, self.config.sliding_window)

        def attend(q, k, v):
            return attention(q, k, v, mask), ((k, v) if keep_kv else None)

        x = self._embed(params, tokens)
        return self._run(params, x, self._angles(positions), lambda _: attend)

    def step(
        self, params: Params, token: jax.Array, position: jax.Array, slot: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """One decoding step: reads and extends the cache.

        Args:
          token, position: [B] int32, the token last chosen and its place in its own text.
          slot: [] int32, the cache slot it goes to (the same for all rows).

        Returns:
          ([B, D] final-norm hidden state, the cache with the slot written).
        """
        position, ones = position[:, None], jnp.ones_like(position)[:, None]
        positions = jax.lax.dynamic_update_slice(cache.positions, position, (0, slot))
        segments = jax.lax.dynamic_update_slice(cache.segment_ids, ones, (0, slot))
        mask = visible(position, ones, positions, segments, self.config.sliding_window)

        def attend_layer(layer):
            def attend(q, k, v):
                past_k, past_v = layer
                k = jax.lax.dynamic_update_slice(past_k, k.astype(past_k.dtype), (0, slot, 0, 0))
                v = jax.lax.dynamic_update_slice(past_v, v.astype(past_v.dtype), (0, slot, 0, 0))
                return attention(q, k, v, mask), (k, v)

            return attend

        x = self._embed(params, token[:, None])
        angles = self._angles(position)
        x, (k, v) = self._run(params, x, angles, attend_layer, (cache.k, cache.v))
        return x[:, 0], Cache(k, v, positions, segments)

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] float32."""
        head = params["embed"].T if self.config.tied else params["head"]
        return jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def _embed(self, params: Params, tokens: jax.Array) -> jax.Array:
        x = params["embed"][tokens].astype(self.dtype)
        return constrain(x, "batch", "time", "width")

    def _angles(self, positions: jax.Array) -> jax.Array:
        c = self.config
        frequencies = rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        return positions[:, :, None].astype(jnp.float32) * frequencies

    def _run(self, params, x, angles, attend_for, caches=(None, None)):
        """All layers, scanned if stacked and looped over if unstacked, then the final norm."""
        graph, layers = _split(self.config)[0], params["layers"]

        def block(x, weights, kv):
            return nnx.merge(graph, weights)(x, angles, attend_for(kv))

        if self.remat:
            block = jax.checkpoint(block)
        if isinstance(layers, tuple):
            kept = []
            for i, weights in enumerate(layers):
                kv = None if caches[0] is None else (caches[0][i], caches[1][i])
                x, keep = block(x, weights, kv)
                kept.append(keep)
            kept = None if kept[0] is None else tuple(zip(*kept, strict=True))
        else:
            kv = None if caches[0] is None else caches
            x, kept = jax.lax.scan(lambda x, wkv: block(x, *wkv), x, (layers, kv))
        return rms_norm(x, params["final_norm"], self.config.norm_eps), kept
