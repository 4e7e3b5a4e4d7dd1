"""Keys and values of a cache in 8 bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

LARGEST = 127


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounded:
    """An array of keys or values: scale * numbers, to a half of the scale.

    Attributes:
      numbers: int8, of the array's shape.
      scale: float32, of one head's numbers of one token; size 1 on the axis of the head.
    """

    numbers: Any
    scale: Any

    def __getitem__(self, layer: Any) -> Rounded:
        """One layer of a stack."""
        return Rounded(self.numbers[layer], self.scale[layer])


def rounded(x: jax.Array, axis: int) -> Rounded:
    """By hand: (0.5, -1.27) has scale 0.01 and numbers (50, -127).

    Args:
      axis: of a head's numbers.
    """
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
    return Rounded(jnp.round(x / scale).astype(jnp.int8), scale)
