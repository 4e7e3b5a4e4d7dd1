"""A feed-forward layer of experts, of which each token takes a few (Qwen3-MoE).

    p = softmax(h R) over E experts,  T = the k largest,  y = sum_{e in T} w_e f_e(h)

with w_e = p_e, or p_e / sum_T p where routing is normalised, and f_e(h) the gated feed-forward of
expert e. No token is dropped and no expert is padded: the tokens' copies are sorted by expert and
multiplied by ragged products.

Experts are split over the mesh axis `tensor`: each device routes all of its rows' tokens, computes
the share of its own experts, and the shares are summed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from caugym_jax.devices.mesh import activation_spec


def mixture(
    h: jax.Array,
    router: jax.Array,
    experts: tuple[jax.Array, jax.Array, jax.Array],
    chosen: int,
    normalized: bool,
    activation: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """The mixture of each token's experts, [B, T, D] in h's dtype.

    Args:
      h: [B, T, D].
      router: R [D, E].
      experts: gate [E, D, F], up [E, D, F] and down [E, F, D], in h's dtype.
      chosen: k.
      normalized: the weights of the chosen experts are divided by their sum.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def local(h, router, *experts, first=0):
        tokens = h.reshape(-1, h.shape[-1])
        weights, which = _route(tokens, router, chosen, normalized)
        return _shares(tokens, weights, which - first, experts, activation).reshape(h.shape)

    if mesh.empty or mesh.size == 1:
        return local(h, router, *experts)
    rows = activation_spec(("batch", "time", None), h.shape, mesh)
    split = activation_spec(("experts", None, None), experts[0].shape, mesh)

    def on_a_device(h, router, *experts):
        own = experts[0].shape[0]
        if own == router.shape[1]:  # whole on every device
            return local(h, router, *experts)
        first = jax.lax.axis_index("tensor") * own
        return jax.lax.psum(local(h, router, *experts, first=first), "tensor")

    return jax.shard_map(
        on_a_device,
        in_specs=(rows, activation_spec((None, None), router.shape, mesh), split, split, split),
        out_specs=rows,
        check_vma=False,
    )(h, router, *experts)


def _route(
    tokens: jax.Array, router: jax.Array, chosen: int, normalized: bool
) -> tuple[jax.Array, jax.Array]:
    """(weights [M, k] float32, experts [M, k]) of tokens [M, D]."""
    logits = (tokens @ router.astype(tokens.dtype)).astype(jnp.float32)
    weights, which = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), chosen)
    if normalized:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, which


def _shares(
    tokens: jax.Array,
    weights: jax.Array,
    which: jax.Array,
    experts: tuple[jax.Array, ...],
    activation: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """What the experts here add to each token [M, D]; `which` counts from the first of them."""
    gate, up, down = experts
    count, (M, k) = gate.shape[0], which.shape
    inside = (which >= 0) & (which < count)
    place = jnp.where(inside, which, count).reshape(-1)  # other devices' experts come last
    order = jnp.argsort(place, stable=True)
    sizes = jnp.bincount(place, length=count + 1)[:count].astype(jnp.int32)
    copies = tokens[order // k]
    y = activation(jax.lax.ragged_dot(copies, gate, sizes)) * jax.lax.ragged_dot(copies, up, sizes)
    y = jax.lax.ragged_dot(y, down, sizes)
    y = y[jnp.argsort(order)].reshape(M, k, -1)
    y = jnp.where(inside[..., None], y * weights[..., None].astype(y.dtype), 0)
    return jnp.sum(y, axis=1)
