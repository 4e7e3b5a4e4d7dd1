"""The decoder's arithmetic, as pure functions of its parameters.

The modules (`models/layers.py`) are split once: everything outside works on `params`, a plain
nested dict

    embed [V, D]
    layers: q [L, D, N, H]  k, v [L, D, K, H]  o [L, N, H, D]  gate, up [L, D, F]  down [L, F, D]
            attention_norm, mlp_norm [L, D]              (pre_norm)
            attention_post_norm, mlp_post_norm [L, D]    (post_norm)
            router [L, D, E]  gate, up [L, E, D, F]  down [L, E, F, D]  (num_experts)
            q_bias [L, N, H]  k_bias, v_bias [L, K, H]   (qkv_bias)
            o_bias [L, D]                                (o_bias)
            q_norm, k_norm [L, H]                        (qk_norm "head")
            q_norm [L, N, H]  k_norm [L, K, H]           (qk_norm "whole")
    final_norm [D]
    head [D, V]                                          (untied)

Layers are stacked and scanned, so compile time does not grow with depth. `unstack` turns the stack
into a tuple of layers, which is looped over instead (quicker for decoding on a CPU, where a scan
copies each layer's slice).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from caugym_jax.devices.mesh import Layout, constrain, look_up, traced_size
from caugym_jax.models.attention import attention, attention_over_pieces, visible
from caugym_jax.models.config import LayerKind, ModelConfig
from caugym_jax.models.kernels import LANES, NAMED
from caugym_jax.models.layers import Decoder, Turn, logits_of, rms_norm
from caugym_jax.models.rotary import rotary_frequencies, rotate
from caugym_jax.models.rounded import Rounded, rounded

Params = dict[str, Any]

# What the backward pass keeps of a layer instead of making it again, by a policy's name.
_ATTENTION = jax.checkpoint_policies.save_only_these_names(NAMED)
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _ATTENTION,
    "dots": _DOTS,
    "dots_attention": jax.checkpoint_policies.save_from_both_policies(_DOTS, _ATTENTION),
    "none": jax.checkpoint_policies.everything_saveable,
}


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


class Piece(NamedTuple):
    """Keys and values of a stretch of tokens; slot s of a row is token s of that row's stretch.

    A model's cache is a tuple of pieces. A piece with R rows, fewer than the batch's B, is shared:
    batch row b reads its row b // (B // R) (samples of one prompt). The last piece, with all B
    rows, is the one that `Model.step` writes.
    """

    # Arrays, or `Rounded` ones where the cache is in 8 bits.
    k: Any  # [L, R, K, H, S], or a tuple of L arrays [R, K, H, S] where layers are unstacked
    v: Any  # [L, R, K, S, H], or a tuple of L arrays [R, K, S, H]
    positions: jax.Array  # [R, S] int32
    segment_ids: jax.Array  # [R, S] int32: -1 = not written yet, 0 = padding, 1 = token


Cache = tuple[Piece, ...]


def cached(model: Model, dtype: str | None) -> Model:
    """The model with a cache of this type."""
    return dataclasses.replace(model, cache=dtype)


def rounded_layers(kv: Any, axis: int) -> Any:
    """Keys or values of all layers in 8 bits."""
    return jax.tree.map(functools.partial(rounded, axis=axis), kv)


def _write(kv: tuple, new: tuple, slot: jax.Array, layer: jax.Array | None) -> tuple:
    """A piece's (k, v) with one token's k [B, K, H, 1] and v [B, K, 1, H] written to a slot."""
    starts: list[tuple[Any, ...]] = [(0, 0, 0, slot), (0, 0, slot, 0)]
    if layer is not None:  # one of a stack
        new, starts = tuple(y[None] for y in new), [(layer, *start) for start in starts]
    if isinstance(kv[0], Rounded):
        new = rounded(new[0], axis=-2), rounded(new[1], axis=-1)
    return tuple(
        jax.tree.map(
            lambda old, y, start=start: jax.lax.dynamic_update_slice(
                old, y.astype(old.dtype), start
            ),
            array,
            y,
        )
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


@dataclasses.dataclass(frozen=True)
class _Kinds:
    """A model's kinds of layers, each once, and which layer is of which."""

    kinds: tuple[LayerKind, ...]
    order: tuple[int, ...]  # each layer's index in `kinds`

    @property
    def scanned(self) -> np.ndarray | None:
        """[L] int32 for a scan over layers, which then knows its kind as a traced index only;
        None: all layers are alike."""
        return None if len(self.kinds) == 1 else np.asarray(self.order, np.int32)

    @property
    def windows(self) -> tuple[int | None, ...]:
        return tuple(dict.fromkeys(kind.window for kind in self.kinds))

    def of(self, layer: int) -> int:
        return self.order[layer]

    def by_window(self, kind: Any, make: Callable[[int | None], Any]) -> Any:
        """What `make` gives for the window of a kind, whose index may be traced."""
        if len(self.windows) == 1:
            return make(self.windows[0])
        if isinstance(kind, int):
            return make(self.kinds[kind].window)
        which = np.asarray([self.windows.index(k.window) for k in self.kinds], np.int32)
        branches = [functools.partial(make, window) for window in self.windows]
        return jax.lax.switch(jnp.asarray(which)[kind], branches)


@functools.lru_cache(maxsize=64)
def _kinds_of(config: ModelConfig) -> _Kinds:
    kinds = tuple(dict.fromkeys(config.kinds))
    return _Kinds(kinds, tuple(kinds.index(kind) for kind in config.kinds))


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
        the results of "dots" (matrix products), of "attention" or of both ("dots_attention"), or
        "full", which takes the least memory: splash then goes back in two kernels.
      attention: the kernel for whole rows, "plain", "splash" or "cudnn" (`models/attention.py`).
      unrolled: loop over the layers of the stack in whole rows instead of scanning it (quicker on
        a CPU; the time to compile grows with the layers).
      cache: type of the keys and values that decoding keeps: "int8", or None: the compute type.
    """

    config: ModelConfig
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "plain"
    unrolled: bool = False
    cache: str | None = None

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
        trunks: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Final-norm hidden states of whole rows.

        Args:
          tokens, positions, segment_ids: [B, T] int32; segment 0 is padding.
          keep_kv: also return every layer's keys and values (prefill).
          added: [B, T, D] added to the tokens' embeddings (noise in training).
          trunks: [B, T] int32, see `attention`.

        Returns:
          ([B, T, D] in the compute dtype, None or (k, v) each [L, B, T, K, H] / tuple of L).
        """
        T, parts = tokens.shape[1], traced_size("time")
        if parts > 1:  # every device gets as many places
            short = -T % (parts * (LANES if self.attention == "splash" else 1))
            grow = functools.partial(jnp.pad, pad_width=((0, 0), (0, short)))
            tokens, positions, segment_ids = map(grow, (tokens, positions, segment_ids))
            added = added if added is None else jnp.pad(added, ((0, 0), (0, short), (0, 0)))
            trunks = trunks if trunks is None else grow(trunks)

        def attend(kind, q, k, v):
            at, least = (q, k, v, positions, segment_ids), self.remat == "full"
            mixed = self._kinds.by_window(
                kind, lambda window: attention(*at, window, self.attention, trunks, not least)
            )
            if self.attention != "splash":  # which names what its backward pass needs
                mixed = checkpoint_name(mixed, NAMED)
            return mixed, ((k, v) if keep_kv else None)

        x = self._embed(params, tokens)
        x = x if added is None else x + added.astype(x.dtype)
        x, kept = self._run(params, x, self._turning(positions), attend)
        return x[:, :T], kept

    def empty_piece(self, rows: int, width: int, *, stacked: bool) -> Piece:
        """An unwritten piece of cache, sharded over rows and heads."""
        c = self.config

        def zeros(**axes):
            if self.cache is None:
                return constrain(jnp.zeros(tuple(axes.values()), self.dtype), *axes)
            numbers = jnp.zeros(tuple(axes.values()), self.cache)
            scale = jnp.zeros(tuple((axes | {"head_dim": 1}).values()))
            return Rounded(constrain(numbers, *axes), constrain(scale, *axes))

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
        if self.cache is not None:
            k, v = rounded_layers(k, axis=-2), rounded_layers(v, axis=-1)
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
        kinds = self._kinds

        def mask(piece, window):
            queries = position.reshape(piece.positions.shape[0], -1)
            return visible(
                queries, jnp.ones_like(queries), piece.positions, piece.segment_ids, window
            )

        masks = {w: [mask(piece, w) for piece in (*past, last)] for w in kinds.windows}
        layers, turning = params["layers"], self._turning(column)

        def block(x, weights, kind, past_kv, written, layer=None):
            """One layer; `written` is the last piece's (k, v), of all layers where one is given."""
            seen = kinds.by_window(kind, masks.__getitem__)

            def attend(q, k, v):
                kv = _write(written, (k[:, 0, :, :, None], v[:, 0, :, None]), slot, layer)
                own = kv if layer is None else [w[layer] for w in kv]
                pieces = [(*kv, mask) for kv, mask in zip((*past_kv, own), seen, strict=True)]
                return attention_over_pieces(q[:, 0], pieces)[:, None], kv

            return self._block(x, weights, turning(kind), attend)

        x = self._embed(params, token[:, None])
        if isinstance(layers, tuple):
            kept = []
            for i, weights in enumerate(layers):
                past_kv = [(piece.k[i], piece.v[i]) for piece in past]
                x, kv = block(x, weights, kinds.of(i), past_kv, (last.k[i], last.v[i]))
                kept.append(kv)
            k, v = zip(*kept, strict=True)
        else:

            def scanned(carry, inputs):
                x, written = carry
                weights, kind, past_kv, layer = inputs
                return block(x, weights, kind, past_kv, written, layer), None

            past_kv = [(piece.k, piece.v) for piece in past]
            inputs = layers, kinds.scanned, past_kv, jnp.arange(self.config.num_layers)
            (x, (k, v)), _ = jax.lax.scan(scanned, (x, (last.k, last.v)), inputs)
        x = self._final_norm(params, x)
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
        if self.config.scaled_embedding:
            x = x * jnp.asarray(self.config.d_model**0.5, x.dtype)
        return constrain(x, "batch", "time", "width")

    @property
    def _kinds(self) -> _Kinds:
        return _kinds_of(self.config)

    def _turning(self, positions: jax.Array) -> Callable[[Any], Turn]:
        """How a layer of a kind (an index of `_Kinds.kinds`) rotates queries and keys."""
        size, angles, gains = self.config.rotary_dim, [], []
        for kind in self._kinds.kinds:
            place = positions[:, :, None].astype(jnp.float32)
            if kind.theta:
                frequencies = rotary_frequencies(size, kind.theta, kind.scaling)
            else:
                frequencies = jnp.zeros(size // 2, jnp.float32)
            angles.append(place * frequencies)
            gains.append(kind.scaling.attention_factor if kind.scaling else 1.0)

        def turning(kind):
            kind = 0 if kind is None else kind
            if not isinstance(kind, jax.Array):
                return functools.partial(rotate, angles=angles[kind], gain=gains[kind])
            gain = 1.0 if set(gains) == {1.0} else jnp.asarray(gains, jnp.float32)[kind]
            return functools.partial(rotate, angles=jnp.stack(angles)[kind], gain=gain)

        return turning

    def _final_norm(self, params: Params, x: jax.Array) -> jax.Array:
        c = self.config
        return rms_norm(x, params["final_norm"], c.norm_eps, c.norm_offset)

    def _block(self, x, weights, turn: Turn, attend):
        """One layer, given its weights and what stands beside them."""
        graph, _, axes = _split(self.config)
        own = {
            name: self._gathered(weights[name], names[1:]) for name, names in axes["layers"].items()
        }
        beside = {name: weight for name, weight in weights.items() if name not in own}
        return nnx.merge(graph, own)(x, turn, attend, beside)

    def _run(self, params, x, turning, attend):
        """All layers, scanned if stacked and looped over if unstacked, then the final norm.

        Args:
          turning, attend: what a layer's kind decides: kind -> `Turn`, (kind, q, k, v) -> mixed.
        """
        layers, kinds = params["layers"], self._kinds

        def block(x, weights, kind):
            return self._block(x, weights, turning(kind), functools.partial(attend, kind))

        def few_kept(run):  # what the backward pass keeps of a layer
            return run if self.remat == "none" else jax.checkpoint(run, policy=REMAT[self.remat])

        if self.unrolled and not isinstance(layers, tuple):
            layers = _split_stack(layers)
        if isinstance(layers, tuple):
            each = []
            for i, weights in enumerate(layers):
                x, keep = few_kept(functools.partial(block, kind=kinds.of(i)))(x, weights)
                each.append(keep)
            kept = None if each[0] is None else tuple(zip(*each, strict=True))
        elif kinds.scanned is None:
            x, kept = jax.lax.scan(few_kept(functools.partial(block, kind=0)), x, layers)
        else:
            scanned = few_kept(lambda x, inputs: block(x, *inputs))
            x, kept = jax.lax.scan(scanned, x, (layers, kinds.scanned))
        return self._final_norm(params, x), kept
