"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside frozen weights.

    y = h W + scale (h A) B,    scale = alpha / rank, with rslora alpha / sqrt(rank)

A and B are stacked over layers like the weight W they belong to, and are all that is trained:

    layers: q_lora_a [L, D, r]  q_lora_b [L, r, N, H]  ...  down_lora_a [L, F, r]
            down_lora_b [L, r, D]

`Model` adds the second term where a layer's weights hold an adapter, so that no gradient of W and
no product A B is ever formed in training. The frozen weights are kept in float32, bfloat16, or
the layers' matrices in 8 or 4 bits (`models/quantised.py`) and the rest in bfloat16.
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
from caugym_jax.models.quantised import from_nf4, to_int8, to_nf4
from caugym_jax.models.transformer import Params, cast, layout

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
GROUPS = {"attention": MATRICES[:4], "mlp": MATRICES[4:], "all": MATRICES}
BASE_DTYPES = ("float32", "bfloat16", "int8", "nf4")
QUANTISED = ("int8", "nf4")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights.

    Attributes:
      rank: r, the width of the adapters; 0: no adapters, all weights are trained.
      alpha: the adapters' strength: their output is scaled by alpha / rank.
      rslora: divide alpha by sqrt(rank), not by rank (Kalajdzievski 2023, arXiv 2312.03732).
      targets: which matrices get one: names among q, k, v, o, gate, up, down, or "attention",
        "mlp", "all"; several by commas.
      base_dtype: what the frozen weights are kept in: "float32", "bfloat16", "int8" or "nf4" (4
        bits).
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
    for name in MATRICES:
        names, inputs = axes["layers"][name], _inputs(name, config.num_experts > 0)
        if dtype == "int8":
            kept = tuple(axis for i, axis in enumerate(names) if i not in inputs)
            axes["layers"][f"{name}_scale"] = kept
        if dtype == "nf4":
            last = inputs[-1]
            axes["layers"][f"{name}_blocks"] = (*names[:last], "blocks", *names[last + 1 :])
    return Layout(shapes, axes)


def freeze(params: Params, dtype: str) -> Params:
    """Weights as they are kept frozen; norms stay float32."""
    if dtype not in QUANTISED:
        return cast(params, dtype)
    kept = cast(params, "bfloat16")
    layers = dict(kept["layers"])
    for name in MATRICES:
        inputs = _inputs(name, "router" in layers)
        if dtype == "int8":
            layers[name], layers[f"{name}_scale"] = to_int8(layers[name], inputs)
        else:
            layers[name], layers[f"{name}_blocks"] = to_nf4(layers[name], inputs[-1])
    return {**kept, "layers": layers}


def thaw(frozen: Params) -> Params:
    """The plain weights that frozen ones stand for; those in 8 and 4 bits become float32."""
    beside, layers = frozen["layers"], {}
    for name, weight in beside.items():
        if name.endswith(("_scale", "_blocks")):
            continue
        inputs = _inputs(name, "router" in beside)
        if (scale := beside.get(f"{name}_scale")) is not None:
            weight = weight.astype(jnp.float32) * jnp.expand_dims(scale, inputs)
        if (blocks := beside.get(f"{name}_blocks")) is not None:
            weight = from_nf4(weight, blocks, inputs[-1], jnp.float32)
        layers[name] = weight
    return {**frozen, "layers": layers}


def _inputs(name: str, experts: bool) -> tuple[int, ...]:
    """A stacked matrix's input axes: o [L, N, H, D] reads heads and head size, an expert's gate
    [L, E, D, F] the width."""
    if name == "o":
        return (1, 2)
    return (2,) if experts and name in GROUPS["mlp"] else (1,)


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
