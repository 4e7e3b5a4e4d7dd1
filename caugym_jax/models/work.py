"""What one call of a program computes, from the shapes that it gets; see planning/roofline.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from caugym_jax.models.config import ModelConfig
from caugym_jax.models.kernels import LANES, is_fused, tiles
from caugym_jax.models.transformer import Model


class Work(NamedTuple):
    """What one call of a program computes, over all devices.

    Attributes:
      rows, width: [rows, width] tokens go through the layers.
      scored: places of each row whose logits are made (0: a critic, or prefill).
      train: a backward pass and an optimiser step follow.
      parts: microbatches (each reads all weights again).
      remat, kernel: see `Model`.
      again: which part of the layers' products and of attention a backward pass makes again; None:
        what `remat` says.
      adapters: parameters trained in place of all; None: all are.
      drawn: tokens that a sampler draws for each of rows x samples; `pieces` of cache hold them.
      room: slots of cache for which a shard of rows has room, where some rows wait for others
        (`sampling/parking.py`); the prompts' cache is there already. None: no row waits.
      itemsize: bytes of a number in the compute type.
      kept_itemsize: bytes of a number in the cache, its scale included; None: itemsize.
    """

    model: ModelConfig
    rows: int
    width: int
    scored: int
    train: bool = False
    parts: int = 1
    remat: str = "none"
    kernel: str = "plain"
    adapters: int | None = None
    drawn: int = 0
    samples: int = 1
    piece: int = 1
    room: float | None = None
    itemsize: int = 2
    kept_itemsize: float | None = None
    again: tuple[float, float] | None = None

    @property
    def slot_bytes(self) -> float:
        """Of the keys and values of one KV head and token, in all layers."""
        c, size = self.model, self.kept_itemsize or self.itemsize
        return 2 * c.num_layers * c.head_dim * size

    @property
    def read(self) -> int:
        """Rows whose tokens go through the layers before any is drawn."""
        return self.rows if self.room is None else 0

    @property
    def tokens(self) -> int:
        """Tokens that the call reads or draws."""
        return self.read * self.width + self.rows * self.samples * self.drawn


def forward(model: Model, shape: Sequence[int], scored: int = 0, **more: Any) -> Work:
    """A pass of tokens of this shape [..., T] through a model; see `Work` for the rest."""
    *rows, width = shape
    size = 2 if model.dtype == "bfloat16" else 4
    return Work(
        model.config,
        math.prod(rows),
        width,
        scored,
        remat=model.remat,
        kernel=model.attention,
        itemsize=size,
        kept_itemsize=kept_itemsize(model),
        **more,
    )


def kept_itemsize(model: Model) -> float | None:
    """See `Work`: a float32 scale for each head and token beside 8 bits a number."""
    return None if model.cache is None else 1 + 4 / model.config.head_dim


def gradient_parts(work: Work, window: int | None) -> int:
    """Parts of its queries' gradient that splash's backward pass in one kernel leaves to be added
    up, each as large as the queries; 0: it is two kernels, or not splash's."""
    places = -(-work.width // LANES) * LANES
    if work.kernel != "splash" or work.remat == "full" or not is_fused(places, window):
        return 0
    return places // tiles(places, places)[1]


def layer_parameters(c: ModelConfig) -> int:
    """Of one layer's matrices: q, k, v, o, gate, up, down (of every expert)."""
    return _matrices(c, max(1, c.num_experts))


def used_parameters(c: ModelConfig) -> int:
    """Those that one token is multiplied with."""
    return _matrices(c, max(1, c.experts_per_token))


def _matrices(c: ModelConfig, experts: int) -> int:
    heads = 2 * (c.num_heads + c.num_kv_heads)
    feed_forward = 3 * c.d_model * c.d_ff * experts + c.d_model * c.num_experts
    return c.d_model * c.head_dim * heads + feed_forward


def parameters(c: ModelConfig) -> int:
    """Of all matrices and tables."""
    tables = 1 if c.tied else 2
    return c.num_layers * layer_parameters(c) + tables * c.vocab_size * c.d_model
