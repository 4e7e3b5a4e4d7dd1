"""Rows that share parts: the same tables as training the parts themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caugym_jax.data.token_features import FILE, Features, load_features, save_features
from caugym_jax.errors import UserError
from caugym_jax.objectives.shared_rows import start, with_shared_rows

RNG = np.random.default_rng(0)
MATRIX = (RNG.random((7, 3)) < 0.5).astype(np.float32)
FEATURES = Features(MATRIX, np.ones(3, np.float32), 5)


def test_by_hand():
    features = Features(np.ones((2, 1), np.float32), np.ones(1, np.float32), 2)
    transform = with_shared_rows(optax.identity(), features)
    params = {"embed": jnp.zeros((2, 1))}
    updates, _ = transform.update({"embed": jnp.array([[1.0], [3.0]])}, transform.init(params))
    assert updates["embed"].tolist() == [[5.0], [7.0]]


def loss(tables, inputs, targets):
    return jnp.sum((tables["embed"][inputs] @ tables["head"] - targets) ** 2)


def test_it_is_training_the_parts():
    """Adam on (own, shared) with table = own + F shared, against Adam on the table."""
    matrix = jnp.asarray(MATRIX)
    written = jnp.arange(7) < FEATURES.written
    own = {"embed": jnp.asarray(RNG.normal(size=(7, 4))), "head": jnp.zeros((4, 7))}
    parts = jax.tree.map(jnp.asarray, {"embed": np.zeros((3, 4)), "head": np.zeros((4, 3))})

    def folded(both):
        own, parts = both
        head = (own["head"] + parts["head"] @ matrix.T) * written
        return {"embed": own["embed"] + matrix @ parts["embed"], "head": head}

    both, tables = (own, parts), own
    plain, shared = optax.scale_by_adam(), with_shared_rows(optax.scale_by_adam(), FEATURES)
    states = plain.init(both), shared.init(tables)
    for _ in range(5):
        inputs, targets = RNG.integers(7, size=6), jnp.asarray(RNG.normal(size=(6, 7)))
        gradient = jax.grad(lambda b: loss(folded(b), inputs, targets))(both)  # noqa: B023
        updates, state = plain.update(gradient, states[0])
        both = jax.tree.map(lambda w, u: w - 0.1 * u, both, updates)
        updates, other = shared.update(jax.grad(loss)(tables, inputs, targets), states[1])
        tables = jax.tree.map(lambda w, u: w - 0.1 * u, tables, updates)
        states = state, other
    for name, table in folded(both).items():
        np.testing.assert_allclose(tables[name], table, rtol=1e-4, atol=1e-5)


def test_what_is_never_written_stays():
    params = {"embed": jnp.zeros((7, 4)), "head": jnp.zeros((4, 7)), "norm": jnp.ones(4)}
    new = start(params, FEATURES, jax.random.key(0))
    assert np.all(new["head"][:, 5:] == 0)
    assert np.all(np.any(new["head"][:, :5] != 0, axis=0))
    assert np.array_equal(new["norm"], params["norm"])
    transform = with_shared_rows(optax.scale_by_adam(), FEATURES)
    gradient = jax.tree.map(jnp.ones_like, new)
    updates, _ = transform.update(gradient, transform.init(new))
    assert np.all(updates["head"][:, 5:] == 0)
    assert np.all(updates["norm"] != 0)


def test_file(tmp_path):
    save_features(tmp_path, FEATURES)
    found = load_features(tmp_path)
    assert np.array_equal(found.matrix, FEATURES.matrix)
    assert found.written == FEATURES.written


@pytest.mark.parametrize("text", [None, "{", '{"tokens": [[9]], "strength": [1], "written": 1}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="no token features"):
        load_features(tmp_path)
