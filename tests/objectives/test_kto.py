"""KTO's loss and reference point against recorded numbers, float64 NumPy and by hand."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.kto import kto, reference_point
from tests.objectives import bigram
from tests.shared import shared_path


@pytest.fixture(scope="module")
def oracle():
    return json.loads(shared_path("oracle/goldens.json").read_text())


def recorded_ratios(inputs, W):
    """(log-ratios of the completions, of the mismatched ones), [6] each."""
    Wr = jnp.asarray(inputs["Wr"])
    rows = (inputs["ids"], inputs["completion_mask"]), (inputs["kl_ids"], inputs["kl_mask"])
    return [bigram.logps(W, *row) - bigram.logps(Wr, *row) for row in rows]


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_losses_and_gradients_equal_recorded_numbers(oracle, name):
    inputs, want = oracle["inputs"], oracle["kto"][name]
    labels, lengths = np.array(inputs["label"]), np.sum(inputs["completion_mask"], axis=1)

    def loss(W):
        ratios, mismatched = recorded_ratios(inputs, W)
        z0 = reference_point(mismatched, np.sum(inputs["kl_mask"], axis=1))
        z0 = z0 if name == "kto" else 0.0
        total, weight = kto(ratios, labels, lengths, z0, beta=0.1, undesirable_weight=1.5)
        return total / weight, (ratios, z0)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (ratios, z0)), gradient = differentiate(jnp.asarray(inputs["Wp"]))
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(z0, want["metrics"]["kl"], rtol=1e-5)
    for key, of_class in (("chosen", labels), ("rejected", ~labels)):
        reward = 0.1 * ratios[of_class].mean()
        np.testing.assert_allclose(reward, want["metrics"][f"rewards/{key}"], rtol=1e-4)


def float64_loss(r, labels, z0, beta, good, bad):
    desirable = good * (1 - 1 / (1 + np.exp(-beta * (r - z0))))
    return np.where(labels, desirable, bad * (1 - 1 / (1 + np.exp(-beta * (z0 - r))))).mean()


def test_values_and_gradients_equal_float64_differences():
    """Sign included; the gradient of z0 is not taken although it depends on the same weights."""
    rng = np.random.default_rng(0)
    r, labels = rng.normal(size=12) * 6, rng.random(12) < 0.4
    options = dict(beta=0.3, desirable_weight=1.3, undesirable_weight=0.8)

    def ours(r):
        ones = jnp.ones(12)
        total, weight = kto(r, labels, ones, reference_point(r + 2, ones), **options)
        return total / weight

    z0 = max(0.0, r.mean() + 2)
    assert z0 > 0
    want = float64_loss(r, labels, z0, 0.3, 1.3, 0.8)
    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(r))
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for i in range(12):
        step = np.eye(12)[i] * 1e-5
        up, down = (float64_loss(r + s, labels, z0, 0.3, 1.3, 0.8) for s in (step, -step))
        np.testing.assert_allclose(gradient[i], (up - down) / 2e-5, rtol=1e-4, atol=1e-9)
    assert np.all(gradient[labels] < 0) and np.all(gradient[~labels] > 0)


def test_by_hand():
    ln3 = jnp.log(jnp.array([3.0, 3.0]))
    got = kto(ln3, jnp.array([True, False]), jnp.ones(2), beta=1.0)
    np.testing.assert_allclose(got, (1.0, 2.0), rtol=1e-6)
    # z0 = ln 3: both at the reference point, losses 1/2 each, weighted 1 and 3.
    got = kto(ln3, jnp.array([True, False]), jnp.ones(2), ln3[0], beta=1.0, undesirable_weight=3.0)
    np.testing.assert_allclose(got, (2.0, 2.0), rtol=1e-6)


def test_t11_the_reference_point_is_clamped_after_the_mean_and_has_no_gradient():
    ones = jnp.ones(3)
    np.testing.assert_allclose(reference_point(jnp.array([0.5, -0.2, 0.3]), ones), 0.2, rtol=1e-6)
    assert reference_point(jnp.array([0.5, -0.9]), jnp.ones(2)) == 0
    np.testing.assert_allclose(  # the row without tokens is not in the mean
        reference_point(jnp.array([0.5, 0.7, jnp.nan]), jnp.array([2, 9, 0])), 0.6, rtol=1e-6
    )
    assert not np.any(jax.grad(reference_point)(jnp.array([0.5, 0.2]), jnp.ones(2)))
    assert reference_point(jnp.zeros(2), jnp.zeros(2)) == 0


@pytest.mark.parametrize("label", [True, False])
def test_t11_a_batch_of_one_class_is_finite(label):
    def loss(r):
        total, weight = kto(r, jnp.full(4, label), jnp.ones(4), 0.1)
        return total / weight

    value, gradient = jax.value_and_grad(loss)(jnp.array([-1e4, -1.0, 1.0, 1e4]))
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and np.any(gradient)


def test_t05_rows_without_tokens_count_nothing():
    r, labels = jnp.array([1.0, jnp.inf, -2.0]), jnp.array([True, True, False])
    lengths = jnp.array([3, 0, 2])
    got = kto(r, labels, lengths)
    np.testing.assert_allclose(got, kto(r[::2], labels[::2], lengths[::2]))
    gradient = jax.grad(lambda r: kto(r, labels, lengths)[0])(r.at[1].set(5.0))
    assert np.all(np.isfinite(gradient)) and gradient[1] == 0
    assert kto(r, labels, jnp.zeros(3)) == (0, 0)


def test_t04_split_and_order_of_rows_change_nothing():
    rng = np.random.default_rng(1)
    r, labels = rng.normal(size=8).astype(np.float32) * 9, rng.random(8) < 0.5
    lengths = rng.integers(0, 3, 8)

    loss = jax.jit(functools.partial(kto, baseline=0.2, undesirable_weight=1.5))

    def of(rows):
        return np.array(loss(r[rows], labels[rows], lengths[rows]))

    whole = of(np.arange(8))
    np.testing.assert_allclose(of(rng.permutation(8)), whole, rtol=1e-6)
    for parts in (2, 4, 8):
        np.testing.assert_allclose(
            sum(of(rows) for rows in np.split(np.arange(8), parts)), whole, rtol=1e-6
        )
