"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside frozen weights.

    y = h W + scale (h A) B,    scale = alpha / rank, with rslora alpha / sqrt(rank)

A and B are stacked over layers like the weight W they belong to, and are all that is trained:

    layers: q_lora_a [L, D, r]  q_lora_b [L, r, N, H]  ...  down_lora_a [L, F, r]
            down_lora_b [L, r, D]

`Model` adds the second term where a layer's weights hold an adapter, so that no gradient of W and
no product A B is ever formed in training. The frozen weights are kept in float32, bfloat16, or as
8-bit integers with one scale for each output channel (of the layers' matrices; the rest bfloat16).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from caugym_jax.devices.mesh import Layout, matrix_axes, shardings
from caugym_jax.errors import UserError, require
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Params, cast, layout

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
GROUPS = {"attention": MATRICES[:4], "mlp": MATRICES[4:], "all": MATRICES}
BASE_DTYPES = ("float32", "bfloat16", "int8")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights.

    Attributes:
      rank: r, the width of the adapters; 0: no adapters, all weights are trained.
      alpha: the adapters' strength: their output is scaled by alpha / rank.
      rslora: divide alpha by sqrt(rank), not by rank (Kalajdzievski 2023, arXiv 2312.03732).
      targets: which matrices get one: names among q, k, v, o, gate, up, down, or "attention",
        "mlp", "all"; several by commas.
      base_dtype: what the frozen weights are kept in: "float32", "bfloat16" or "int8".
      init: a folder in PEFT's format to start from; its settings must be these.
    """

    rank: int = 0
    alpha: float = 16.0
    rslora: bool = False
    targets: str = "all"
    base_dtype: str = "float32"
    init: str | None = None

    def __post_init__(self):
        require(self, "rank", at_least=0)
        require(self, "alpha", above=0)
        require(self, "base_dtype", among=BASE_DTYPES)
        if self.init and not self.rank:
            raise UserError(f"init={self.init}: set lora.rank to that adapter's")
        known = (*MATRICES, *GROUPS)
        wrong = [name for name in self._named if name not in known]
        if wrong or not self._named:
            raise UserError(f"targets={self.targets!r}: must be names among {', '.join(known)}")

    @property
    def _named(self) -> list[str]:
        return [name.strip() for name in self.targets.split(",") if name.strip()]

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of the weights that have an adapter, in the layer's order."""
        wanted = {matrix for name in self._named for matrix in GROUPS.get(name, (name,))}
        return tuple(name for name in MATRICES if name in wanted)

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def adapter_layout(config: ModelConfig, lora: Lora) -> Layout:
    """Shapes and logical axes of the adapters: their weight's, with the rank between."""
    if config.num_experts and set(lora.matrices) & set(GROUPS["mlp"]):
        raise UserError("adapters of experts are not supported: set lora.targets=attention")
    shapes, axes = {}, {}
    for name, shape, names in _matrices(config):
        if name not in lora.matrices:
            continue
        inputs, outputs = _sides(names)
        for kind, kept in (("a", (*inputs, None)), ("b", (None, *outputs))):
            at = f"{name}_lora_{kind}"
            size = tuple(lora.rank if i is None else shape[i] for i in (0, *kept))
            shapes[at] = jax.ShapeDtypeStruct(size, jnp.float32)
            axes[at] = tuple("rank" if i is None else names[i] for i in (0, *kept))
    return Layout({"layers": shapes}, {"layers": axes})


def init_adapters(adapters: Layout, key: jax.Array, mesh: jax.sharding.Mesh) -> Params:
    """A uniform within 1 / sqrt(fan-in), as `peft` draws it; B zero: the model is as it was."""

    def draw(key):
        made = {}
        for i, (name, leaf) in enumerate(sorted(adapters.shapes["layers"].items())):
            if name.endswith("_a"):
                limit = math.prod(leaf.shape[1:-1]) ** -0.5
                place = jax.random.fold_in(key, i)
                made[name] = jax.random.uniform(place, leaf.shape, leaf.dtype, -limit, limit)
            else:
                made[name] = jnp.zeros(leaf.shape, leaf.dtype)
        return {"layers": made}

    return jax.jit(draw, out_shardings=shardings(adapters, mesh))(key)


def attach(adapters: Params, frozen: Params, scale: float) -> Params:
    """Frozen weights with adapters beside them, for `Model`; B carries the scale."""
    scaled = {
        name: scale * weight if name.endswith("_b") else weight
        for name, weight in adapters["layers"].items()
    }
    return {**frozen, "layers": {**frozen["layers"], **scaled}}


def merge(adapters: Params, frozen: Params, scale: float, dtype: Any = jnp.float32) -> Params:
    """A plain model's weights W + scale A B, in float32 and then rounded to `dtype`."""
    plain = thaw(frozen)
    layers = dict(plain["layers"])
    for name in MATRICES:
        if f"{name}_lora_a" not in adapters["layers"]:
            continue
        a, b = (adapters["layers"][f"{name}_lora_{kind}"] for kind in "ab")
        product = jax.vmap(functools.partial(jnp.tensordot, axes=1, precision="highest"))(a, b)
        layers[name] = layers[name].astype(jnp.float32) + scale * product
    return cast({**plain, "layers": layers}, dtype)


def frozen_layout(config: ModelConfig, dtype: str) -> Layout:
    """Shapes, types and logical axes of `freeze(params, dtype)`."""
    shapes, axes = layout(config)
    shapes = jax.eval_shape(lambda params: freeze(params, dtype), shapes)
    axes = {**axes, "layers": dict(axes["layers"])}
    if dtype == "int8":
        for name, _, names in _matrices(config):
            _, outputs = _sides(names)
            axes["layers"][f"{name}_scale"] = tuple(names[i] for i in (0, *outputs))
    return Layout(shapes, axes)


def freeze(params: Params, dtype: str) -> Params:
    """Weights as they are kept frozen; norms stay float32.

    int8: W, in bfloat16, is rounded to `scale` times a whole number in [-127, 127], where an output
    channel's scale is its largest |W| / 127; so each weight is off by at most half its scale.
    Worked by hand: a channel (0.5, -1.984375, 0.004) has scale 1/64 and becomes (32, -127, 0).
    """
    if dtype != "int8":
        return cast(params, dtype)
    kept = cast(params, "bfloat16")
    layers = dict(kept["layers"])
    for name in MATRICES[:4] if "router" in layers else MATRICES:  # experts stay in bfloat16
        inputs = _inputs(name)
        weight = layers[name].astype(jnp.float32)
        scale = jnp.max(jnp.abs(weight), inputs, keepdims=True) / 127
        whole = jnp.round(weight / jnp.where(scale > 0, scale, 1))
        layers[name] = jnp.clip(whole, -127, 127).astype(jnp.int8)
        layers[f"{name}_scale"] = jnp.squeeze(scale, inputs)
    return {**kept, "layers": layers}


def thaw(frozen: Params) -> Params:
    """The plain weights that frozen ones stand for; those in 8 bits become float32."""
    layers = {}
    for name, weight in frozen["layers"].items():
        if name.endswith("_scale"):
            continue
        if (scale := frozen["layers"].get(f"{name}_scale")) is not None:
            weight = weight.astype(jnp.float32) * jnp.expand_dims(scale, _inputs(name))
        layers[name] = weight
    return {**frozen, "layers": layers}


def _inputs(name: str) -> tuple[int, ...]:
    """A stacked matrix's input axes: o [L, N, H, D] reads heads and head size."""
    return (1, 2) if name == "o" else (1,)


def _sides(names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sides = matrix_axes(names)
    assert sides is not None, names  # all of MATRICES are matrices
    return sides


def _matrices(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], tuple[str, ...]]]:
    """(name, shape, logical axes) of a layer's matrices."""
    shapes, axes = layout(config)
    for name in MATRICES:
        if config.num_experts and name in GROUPS["mlp"]:
            continue
        yield name, shapes["layers"][name].shape, axes["layers"][name]
