"""The critic's loss: by hand, recorded numbers, differences in float64, and any split."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.policy import aggregate
from caugym_jax.objectives.value import clipped_value_loss, explained_variance
from tests.shared import shared_path


def drawn(seed=0, shape=(6, 7)):
    rng = np.random.default_rng(seed)
    old, returns = rng.normal(size=shape), rng.normal(size=shape)
    mask = np.arange(shape[1])[None] < rng.integers(0, shape[1] + 1, shape[0])[:, None]
    return old + rng.normal(size=shape) / 2, old, returns, mask.astype(np.float64)


def by_a_loop(values, old, returns, mask, c):
    total = 0.0
    for v, o, r, m in zip(values.flat, old.flat, returns.flat, mask.flat, strict=True):
        near = min(max(v, o - c), o + c) if c is not None else v
        total += 0.5 * max((v - r) ** 2, (near - r) ** 2) * m
    return total / mask.sum()


def test_by_hand():
    terms = clipped_value_loss(jnp.array([0.5, -0.5, 0.1]), jnp.zeros(3), jnp.ones(3), 0.2)
    np.testing.assert_allclose(terms.loss, [0.32, 1.125, 0.405], rtol=1e-6)
    np.testing.assert_array_equal(terms.clipped, [1, 0, 0])
    free = clipped_value_loss(jnp.array([0.5]), jnp.zeros(1), jnp.ones(1), None)
    np.testing.assert_allclose(free.loss, [0.125])


def test_loss_equals_recorded_numbers():
    oracle = json.loads(shared_path("oracle/goldens.json").read_text())
    inputs, want = oracle["inputs"], oracle["verl"]
    mask = jnp.asarray(inputs["completion_mask"], jnp.float32)[:, inputs["P"] :]
    new, old, returns = (
        jnp.asarray(x) for x in (inputs["values_new"], inputs["values"], want["returns"])
    )
    terms = clipped_value_loss(new, old, returns, 0.5)
    total, weight = aggregate(terms.loss, mask, "dapo")
    np.testing.assert_allclose(total / weight, want["value_loss"][0], rtol=1e-5)
    share = (terms.clipped * mask).sum() / mask.sum()
    np.testing.assert_allclose(share, want["value_loss"][1], rtol=1e-5)


@pytest.mark.parametrize("c", [0.2, None])
def test_value_and_gradient_are_those_of_a_loop_in_float64(c):
    values, old, returns, mask = drawn()

    def loss(values):
        total, weight = aggregate(clipped_value_loss(values, old, returns, c).loss, mask, "dapo")
        return total / weight

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(values))
    np.testing.assert_allclose(value, by_a_loop(values, old, returns, mask, c), rtol=1e-5)
    step, want = 1e-6, np.zeros_like(values)
    for place in np.ndindex(values.shape):
        for sign in (1, -1):
            moved = values.copy()
            moved[place] += sign * step
            want[place] += sign * by_a_loop(moved, old, returns, mask, c) / (2 * step)
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(gradient)[mask == 0] == 0)


def test_what_moved_past_the_clip_towards_its_return_gets_no_gradient():
    def slope(value):
        old, returned = jnp.array(0.0), jnp.array(1.0)
        return jax.grad(lambda v: clipped_value_loss(v, old, returned, 0.2).loss)(value)

    assert slope(0.5) == 0
    np.testing.assert_allclose([slope(0.1), slope(-0.5)], [-0.9, -1.5], rtol=1e-6)


def test_explained_variance():
    full = np.ones((1, 2))
    assert explained_variance(np.array([[0.0, 1]]), np.array([[0.0, 2]]), full) == 0.75
    values, old, returns, mask = drawn(1)
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(np.full_like(returns, 0.3), returns, mask) == pytest.approx(0)
    assert explained_variance(np.where(mask > 0, returns, 9), returns, mask) == 1
    assert np.isnan(explained_variance(values, np.ones_like(values), mask))
    assert np.isnan(explained_variance(values, returns, np.zeros_like(mask)))
