"""A critic: the same decoder with one number for each token in place of logits.

Its parameters are the decoder's (without `head`, which has no use here), and `value_head` [D].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from caugym_jax.devices.mesh import Layout
from caugym_jax.models.transformer import Model, Params, layout
from caugym_jax.types import Experience

_HEAD = "value_head"
_HEAD_AXES = ("embed",)


@dataclasses.dataclass(frozen=True)
class ValueModel:
    """A critic's arithmetic as pure functions of its parameters."""

    model: Model  # its decoder

    @property
    def layout(self) -> Layout:
        """Shapes and logical axes of the parameter tree."""
        shapes, axes = layout(self.model.config)
        head = jax.ShapeDtypeStruct((self.model.config.d_model,), jnp.float32)
        return Layout(_with_head(shapes, head), _with_head(axes, _HEAD_AXES))

    def init(self, decoder: Params) -> Params:
        """A critic on the weights of a language model, in float32; the head starts at zero, and so
        do the values."""
        decoder = jax.tree.map(lambda weight: weight.astype(jnp.float32), decoder)
        return _with_head(decoder, jnp.zeros((self.model.config.d_model,), jnp.float32))

    def values(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        start: int = 1,
    ) -> jax.Array:
        """The expected return before each of tokens[:, start:] was chosen: [B, T - start] float32.

        Place t is about tokens[t], as everywhere: its value is read from the hidden state at t - 1.

        Args:
          tokens, positions, segment_ids: [B, T] int32; values of padding carry no meaning.
          start: first place, at least 1 (a prompt's width for rollouts).
        """
        if start < 1:
            raise ValueError("start must be at least 1: nothing stands before the first token")
        hidden, _ = self.model.hidden(params, tokens, positions, segment_ids)
        return self._read(params, hidden[:, start - 1 : -1])

    def values_at_places(self, params: Params, e: Experience) -> jax.Array:
        """The expected return before each target of packed rows was chosen, in their lists [R, N]
        float32; without a meaning where there is no target."""
        how = e.tokens, e.positions, e.segment_ids
        hidden, _ = self.model.hidden(params, *how, trunks=e.trunks)
        hidden = hidden.reshape(len(e.places), -1, hidden.shape[-1])
        return self._read(params, jnp.take_along_axis(hidden, e.places[..., None], axis=1))

    def _read(self, params: Params, before: jax.Array) -> jax.Array:
        return jnp.einsum("btd,d->bt", before.astype(jnp.float32), params[_HEAD])


def _with_head(decoder: dict, head) -> dict:
    return {name: part for name, part in decoder.items() if name != "head"} | {_HEAD: head}
