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
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from caugym_jax.devices.mesh import Layout, constrain, look_up, traced_size
from caugym_jax.models.attention import attention, attention_over_pieces, visible
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.kernels import LANES, NAMED
from caugym_jax.models.rotary import rotary_frequencies, rotate

Params = dict[str, Any]

# What the backward pass keeps of a layer instead of making it again, by a policy's name.
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(NAMED),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": jax.checkpoint_policies.everything_saveable,
}


def _weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float) -> nnx.Param:
    """A weight: shape, logical axes and initialiser in one place (std 0 means ones)."""
    if std == 0:
        return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


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
    y = x.reshape(-1, width) @ weight.astype(x.dtype).reshape(width, -1)
    return y.reshape(*rows, *weight.shape[axes:])


def _but_embed(axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("width" if axis == "embed" else axis for axis in axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight: jax.Array, dtype: str, axes: tuple[str, ...]) -> jax.Array:
    """Sent over fsdp in the compute dtype; of the gradient each device gets back its part."""
    return constrain(weight.astype(dtype), *_but_embed(axes))


_gather.defvjp(
    lambda weight, dtype, axes: (_gather(weight, dtype, axes), None),
    lambda dtype, axes, _, gradient: (constrain(gradient, *axes).astype(jnp.float32),),
)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32, returned in x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * scale).astype(x.dtype)


def logits_of(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """[..., D] times [D, V] in float32, [..., V]."""
    head = head.astype(hidden.dtype)
    if traced_size("time") > 1:  # as in `dense`
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits = jnp.matmul(flat, head, preferred_element_type=jnp.float32)
    return logits.reshape(*hidden.shape[:-1], -1)


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

    def __call__(self, x: jax.Array, angles: jax.Array, attend, beside) -> tuple[jax.Array, Any]:
        """One block on x [B, T, D]; `attend(q, k, v)` returns ([B, T, N, H], what to keep).

        Args:
          beside: what `models/lora.py` keeps beside a matrix W: the scales of one in 8 bits, an
            adapter; by names like "q_scale", "q_lora_a", "q_lora_b".
        """
        c, dtype = self.config, x.dtype

        def linear(name, h, axes=1):
            y = dense(h, getattr(self, name)[...], axes)
            if (scale := beside.get(f"{name}_scale")) is not None:
                y = (y * scale).astype(dtype)
            if (a := beside.get(f"{name}_lora_a")) is not None:
                y = y + dense(dense(h, a, axes), beside[f"{name}_lora_b"])
            return y

        def project(name, h):
            y = linear(name, h)
            return y + getattr(self, f"{name}_bias")[...].astype(dtype) if c.qkv_bias else y

        h = rms_norm(x, self.attention_norm[...], c.norm_eps)
        q, k, v = project("q", h), project("k", h), project("v", h)
        if c.qk_norm:
            q = rms_norm(q, self.q_norm[...], c.norm_eps)
            k = rms_norm(k, self.k_norm[...], c.norm_eps)
        gain = c.rope_scaling.attention_factor if c.rope_scaling else 1.0
        mixed, kept = attend(rotate(q, angles, gain), rotate(k, angles, gain), v)
        mixed = checkpoint_name(mixed, NAMED)
        x = x + linear("o", mixed, axes=2)
        x = constrain(x, "batch", "time", "width")

        h = rms_norm(x, self.mlp_norm[...], c.norm_eps)
        h = jax.nn.silu(linear("gate", h)) * linear("up", h)
        x = x + linear("down", h)
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


class Piece(NamedTuple):
    """Keys and values of a stretch of tokens; slot s of a row is token s of that row's stretch.

    A model's cache is a tuple of pieces. A piece with R rows, fewer than the batch's B, is shared:
    batch row b reads its row b // (B // R) (samples of one prompt). The last piece, with all B
    rows, is the one that `Model.step` writes.
    """

    k: Any  # [L, R, K, H, S], or a tuple of L arrays [R, K, H, S] where layers are unstacked
    v: Any  # [L, R, K, S, H], or a tuple of L arrays [R, K, S, H]
    positions: jax.Array  # [R, S] int32
    segment_ids: jax.Array  # [R, S] int32: -1 = not written yet, 0 = padding, 1 = token


Cache = tuple[Piece, ...]


def _write(kv: tuple, new: tuple, slot: jax.Array, layer: jax.Array | None) -> tuple:
    """A piece's (k, v) with one token's k [B, K, H, 1] and v [B, K, 1, H] written to a slot."""
    starts: list[tuple[Any, ...]] = [(0, 0, 0, slot), (0, 0, slot, 0)]
    if layer is not None:  # one of a stack
        new, starts = tuple(y[None] for y in new), [(layer, *start) for start in starts]
    return tuple(
        jax.lax.dynamic_update_slice(array, y.astype(array.dtype), start)
        for array, y, start in zip(kv, new, starts, strict=True)
    )


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


def layout(config: ModelConfig) -> Layout:
    """Shapes and logical axes of the parameter tree."""
    return Layout(abstract_params(config), param_axes(config))


def unstack(params: Params) -> Params:
    """The same parameters laid out for decoding on a CPU: `layers` a tuple of single layers, and a
    head [D, V] of its own where it is the embedding."""
    L = params["layers"]["q"].shape[0]
    each = tuple(jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(L))
    return {"head": params["embed"].T, **params, "layers": each}


def _split_stack(layers: Params) -> tuple[Params, ...]:
    """The single layers of a stack: by one split of each weight, whose gradient is one
    concatenation (that of L slices would be a sum of L arrays as large as the stack)."""

    def parts(weight):
        return [w[0] for w in jax.lax.split(weight, [1] * weight.shape[0])]

    each = {name: parts(weight) for name, weight in layers.items()}
    return tuple(dict(zip(each, one, strict=True)) for one in zip(*each.values(), strict=True))


def cast(params: Params, dtype: Any) -> Params:
    """The parameters in the compute dtype, norm scales as they are: the same results as `Model`
    gives on float32 ones (it casts weights where it uses them), for half the memory traffic."""

    def one(path, weight):
        return weight if path[-1].key.endswith("norm") else weight.astype(dtype)

    return jax.tree_util.tree_map_with_path(one, params)


@dataclasses.dataclass(frozen=True)
class Model:
    """The decoder's arithmetic as pure functions of `params`. Hashable: a static jit argument.

    Attributes:
      config: the decoder's shape.
      dtype: compute type of activations and matrix products, "float32" or "bfloat16"; norms,
        softmax and logits are float32 in either case.
      remat: what the backward pass recomputes of each layer instead of keeping it: "none", all but
        the results of "dots" (matrix products) or of "attention", or "full".
      attention: the kernel for whole rows, "plain", "splash" or "cudnn" (`models/attention.py`).
      unrolled: loop over the layers of the stack in whole rows instead of scanning it (quicker on
        a CPU; the time to compile grows with the layers).
    """

    config: ModelConfig
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "plain"
    unrolled: bool = False

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
        added: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Final-norm hidden states of whole rows.

        Args:
          tokens, positions, segment_ids: [B, T] int32; segment 0 is padding.
          keep_kv: also return every layer's keys and values (prefill).
          added: [B, T, D] added to the tokens' embeddings (noise in training).

        Returns:
          ([B, T, D] in the compute dtype, None or (k, v) each [L, B, T, K, H] / tuple of L).
        """
        T, parts = tokens.shape[1], traced_size("time")
        if parts > 1:  # every device gets as many places
            short = -T % (parts * (LANES if self.attention == "splash" else 1))
            grow = functools.partial(jnp.pad, pad_width=((0, 0), (0, short)))
            tokens, positions, segment_ids = map(grow, (tokens, positions, segment_ids))
            added = added if added is None else jnp.pad(added, ((0, 0), (0, short), (0, 0)))

        def attend(q, k, v):
            window = self.config.sliding_window
            mixed = attention(q, k, v, positions, segment_ids, window, self.attention)
            return mixed, ((k, v) if keep_kv else None)

        x = self._embed(params, tokens)
        x = x if added is None else x + added.astype(x.dtype)
        x, kept = self._run(params, x, self._angles(positions), attend)
        return x[:, :T], kept

    def empty_piece(self, rows: int, width: int, *, stacked: bool) -> Piece:
        """An unwritten piece of cache, in the compute dtype, sharded over rows and heads."""
        c = self.config

        def zeros(**axes):
            x = jnp.zeros(tuple(axes.values()), self.dtype)
            return constrain(x, *axes)

        def every_layer(**axes):
            if stacked:
                return zeros(layers=c.num_layers, **axes)
            return tuple(zeros(**axes) for _ in range(c.num_layers))

        k = every_layer(batch=rows, kv_heads=c.num_kv_heads, head_dim=c.head_dim, slots=width)
        v = every_layer(batch=rows, kv_heads=c.num_kv_heads, slots=width, head_dim=c.head_dim)
        slots = jnp.zeros((rows, width), jnp.int32)
        return Piece(k, v, slots, slots - 1)

    def prefill(
        self, params: Params, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
    ) -> Piece:
        """The keys and values of whole rows [R, S] as a piece of cache."""
        _, kv = self.hidden(params, tokens, positions, segment_ids, keep_kv=True)
        k = jax.tree.map(lambda y: jnp.moveaxis(y, -3, -1), kv[0])  # [.., S, K, H] -> [.., K, H, S]
        v = jax.tree.map(lambda y: jnp.swapaxes(y, -3, -2), kv[1])  # [.., S, K, H] -> [.., K, S, H]
        return Piece(k, v, positions, segment_ids)

    def step(
        self, params: Params, token: jax.Array, position: jax.Array, slot: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """One decoding step: reads the cache and writes one slot of its last piece.

        Args:
          token, position: [B] int32, the token last chosen and its place in its own text.
          slot: [] int32, the last piece's slot it goes to (the same for all rows).

        Returns:
          ([B, D] final-norm hidden state, the cache with the slot written).
        """
        *past, last = cache
        column = position[:, None]
        last = last._replace(
            positions=jax.lax.dynamic_update_slice(last.positions, column, (0, slot)),
            segment_ids=jax.lax.dynamic_update_slice(
                last.segment_ids, jnp.ones_like(column), (0, slot)
            ),
        )
        masks = []
        for piece in (*past, last):
            queries = position.reshape(piece.positions.shape[0], -1)
            at = queries, jnp.ones_like(queries), piece.positions, piece.segment_ids
            masks.append(visible(*at, self.config.sliding_window))
        layers, angles = params["layers"], self._angles(column)

        def block(x, weights, past_kv, written, layer=None):
            """One layer; `written` is the last piece's (k, v), of all layers where one is given."""

            def attend(q, k, v):
                kv = _write(written, (k[:, 0, :, :, None], v[:, 0, :, None]), slot, layer)
                own = kv if layer is None else [w[layer] for w in kv]
                pieces = [(*kv, mask) for kv, mask in zip((*past_kv, own), masks, strict=True)]
                return attention_over_pieces(q[:, 0], pieces)[:, None], kv

            return self._block(x, weights, angles, attend)

        x = self._embed(params, token[:, None])
        if isinstance(layers, tuple):
            kept = []
            for i, weights in enumerate(layers):
                past_kv = [(piece.k[i], piece.v[i]) for piece in past]
                x, kv = block(x, weights, past_kv, (last.k[i], last.v[i]))
                kept.append(kv)
            k, v = zip(*kept, strict=True)
        else:

            def scanned(carry, inputs):
                x, written = carry
                weights, past_kv, layer = inputs
                return block(x, weights, past_kv, written, layer), None

            past_kv = [(piece.k, piece.v) for piece in past]
            inputs = layers, past_kv, jnp.arange(self.config.num_layers)
            (x, (k, v)), _ = jax.lax.scan(scanned, (x, (last.k, last.v)), inputs)
        x = rms_norm(x, params["final_norm"], self.config.norm_eps)
        return x[:, 0], (*past, last._replace(k=k, v=v))

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] float32."""
        return logits_of(hidden, self.head(params))

    def head(self, params: Params) -> jax.Array:
        """The matrix [D, V] that makes logits of hidden states; over fsdp, its columns split."""
        head = params["head"] if "head" in params else params["embed"].T
        return head if traced_size("embed") == 1 else constrain(head, "width", "vocab_split")

    def _gathered(self, weight: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """A weight as its layer uses it: whole over fsdp, and sent there in the compute dtype."""
        if traced_size("embed") == 1 or "embed" not in axes:
            return weight
        if weight.dtype != jnp.float32:  # frozen: it has no gradient
            return constrain(weight, *_but_embed(axes))
        return _gather(weight, self.dtype, axes)

    def _embed(self, params: Params, tokens: jax.Array) -> jax.Array:
        table = params["embed"]
        if traced_size("embed") > 1:
            x = look_up(table, tokens, self.dtype)
        else:
            x = jnp.asarray(table)[tokens].astype(self.dtype)
        return constrain(x, "batch", "time", "width")

    def _angles(self, positions: jax.Array) -> jax.Array:
        c = self.config
        frequencies = rotary_frequencies(c.rotary_dim, c.rope_theta, c.rope_scaling)
        return positions[:, :, None].astype(jnp.float32) * frequencies

    def _block(self, x, weights, angles, attend):
        """One layer, given its weights and what stands beside them."""
        graph, _, axes = _split(self.config)
        own = {
            name: self._gathered(weights[name], names[1:]) for name, names in axes["layers"].items()
        }
        beside = {name: weight for name, weight in weights.items() if name not in own}
        return nnx.merge(graph, own)(x, angles, attend, beside)

    def _run(self, params, x, angles, attend):
        """All layers, scanned if stacked and looped over if unstacked, then the final norm."""
        layers = params["layers"]

        def block(x, weights):
            return self._block(x, weights, angles, attend)

        if self.remat != "none":
            block = jax.checkpoint(block, policy=REMAT[self.remat])
        if self.unrolled and not isinstance(layers, tuple):
            layers = _split_stack(layers)
        if isinstance(layers, tuple):
            each = []
            for weights in layers:
                x, keep = block(x, weights)
                each.append(keep)
            kept = None if each[0] is None else tuple(zip(*each, strict=True))
        else:
            x, kept = jax.lax.scan(block, x, layers)
        return rms_norm(x, params["final_norm"], self.config.norm_eps), kept
