"""Rows of the embedding and the head that learn together, where their tokens have much in common.

Every token has features (a digit, a place, an operand); the row of a table is thought of as

    row = own + sum of the vectors of the token's features

and Adam moves own parts and feature vectors each by their own gradients. As the sum is linear, the
table itself is all that is kept: its update is

    adam(g) + F adam'(F^T g)        F [V, F]: 1 where a token has a feature

which is what training the parts would give, so that checkpoints, sampling and export know plain
tables alone. Rows of the head for tokens that are never written get no gradient and stay as they
are (0 in a new model: `start`).

By hand: two tokens with one common feature, gradients 1 and 3, `adam` the identity: the feature's
gradient is 4, the updates are 1 + 4 and 3 + 4.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from caugym_jax.data.token_features import Features


def with_shared_rows(
    inner: optax.GradientTransformation, features: Features
) -> optax.GradientTransformation:
    """`inner`, which scales each number by its own history (Adam), applied to the parts too.

    The tree has "embed" [V, D] and may have "head" [D, V]; what else it has is `inner`'s alone.
    """
    matrix = jnp.asarray(features.matrix)
    written = jnp.arange(len(features.matrix)) < features.written

    def parted(tree: Any) -> dict[str, Any]:
        parts = {"embed": matrix.T @ tree["embed"]}
        if "head" in tree:
            tree = {**tree, "head": tree["head"] * written}
            parts["head"] = tree["head"] @ matrix
        return {"own": tree, "parts": parts}

    def whole(tree: dict[str, Any]) -> Any:
        own, parts = tree["own"], tree["parts"]
        tables = {"embed": own["embed"] + matrix @ parts["embed"]}
        if "head" in parts:
            tables["head"] = (own["head"] + parts["head"] @ matrix.T) * written
        return {**own, **tables}

    def init(params: Any) -> Any:
        return inner.init(jax.tree.map(jnp.zeros_like, parted(params)))

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(parted(gradient), state)
        return whole(updates), state

    return optax.GradientTransformation(init, update)


def start(params: Any, features: Features, key: jax.Array) -> Any:
    """A new model's tables: own parts and feature vectors drawn, rows never written 0 in the head.

    Standard deviations 0.2 and 0.3 x strength in the embedding; in the head 0.1 and 0.3, over
    sqrt(D).
    """
    matrix, strength = jnp.asarray(features.matrix), jnp.asarray(features.strength)[:, None]
    keys = jax.random.split(key, 4)
    width = params["embed"].shape[1]

    def table(own_key: jax.Array, part_key: jax.Array, own: float, part: Any) -> Any:
        parts = part * jax.random.normal(part_key, (matrix.shape[1], width))
        return own * jax.random.normal(own_key, (len(matrix), width)) + matrix @ parts

    new = {**params, "embed": table(keys[0], keys[1], 0.2, 0.3 * strength)}
    if "head" in params:
        written = jnp.arange(len(matrix)) < features.written
        head = table(keys[2], keys[3], 0.1 * width**-0.5, 0.3 * width**-0.5)
        new["head"] = jnp.where(written[:, None], head, 0.0).T
    return new
