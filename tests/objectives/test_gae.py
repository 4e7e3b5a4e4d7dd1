"""From scores to advantages: by hand, against a loop written for it, recorded numbers, limits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caugym_jax.objectives.gae import adapted_kl_coef, gae, place_rewards, whiten
from tests.shared import shared_path


def drawn(seed, rows=6, width=9, holes=True):
    """(rewards, values, mask) of uneven lengths, one row empty; padding holds rubbish."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, width + 1, rows)
    lengths[rows // 2] = 0
    mask = np.arange(width)[None] < lengths[:, None]
    if holes:
        mask &= rng.random(mask.shape) > 0.3
    return rng.normal(size=mask.shape), rng.normal(size=mask.shape), mask.astype(np.float32)


def by_a_loop(rewards, values, mask, gamma, lam):
    """The definition, one completion at a time: A_t = sum_k (gamma lam)^k delta_{t + k}."""
    advantages = np.zeros(mask.shape)
    for row in range(len(mask)):
        places = np.flatnonzero(mask[row])
        r, v = rewards[row, places], np.append(values[row, places], 0.0)
        for i, t in enumerate(places):
            for k in range(len(places) - i):
                delta = r[i + k] + gamma * v[i + k + 1] - v[i + k]
                advantages[row, t] += (gamma * lam) ** k * delta
    return advantages


def test_rewards_by_hand():
    penalties = np.array([[0.1, 0.2, 9.0], [0.5, 9.0, 0.5], [9.0, 9.0, 9.0]])
    mask = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]])
    got = place_rewards(np.array([2.0, 1.0, np.nan]), penalties, mask)
    np.testing.assert_allclose(got, [[-0.1, 1.8, 0], [-0.5, 0, 0.5], [0, 0, 0]])


def test_gae_by_hand():
    rewards, values = np.array([[0.0, 9, 1]]), np.array([[0.5, 7, 0.25]])
    advantages, returns = gae(rewards, values, np.array([[1, 0, 1]]), gamma=1.0, lam=0.5)
    np.testing.assert_allclose(advantages, [[0.125, 0, 0.75]])
    np.testing.assert_allclose(returns, [[0.625, 0, 1]])


@pytest.mark.parametrize("gamma,lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_gae_is_the_sum_that_defines_it(gamma, lam):
    rewards, values, mask = drawn(3)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    want = by_a_loop(rewards, values, mask, gamma, lam)
    np.testing.assert_allclose(advantages, want, atol=1e-12)
    np.testing.assert_allclose(returns, (want + values) * mask, atol=1e-12)


def test_gae_limits():
    """lambda 1: the return to go less the value; lambda 0: the one-step error."""
    rewards, values, mask = drawn(4, holes=False)
    to_go = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1]
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    np.testing.assert_allclose(advantages, (to_go - values) * mask, atol=1e-12)
    np.testing.assert_allclose(returns, to_go * mask, atol=1e-12)
    following = np.pad((values * mask)[:, 1:], ((0, 0), (0, 1)))
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    np.testing.assert_allclose(advantages, (rewards + following - values) * mask, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 4), st.permutations(range(6)))
def test_padding_and_the_order_of_rows_change_nothing(seed, more, order):
    """... nor does what stands under the mask."""
    rewards, values, mask = drawn(seed)
    want = gae(rewards, values, mask)

    def moved(x, fill):
        return np.pad(x, ((0, 0), (more, more)), constant_values=fill)[list(order)]

    got = gae(moved(rewards, 7), moved(values, -3), moved(mask, 0))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[:, more:-more], b[list(order)], atol=1e-12)
    white, moved_white = whiten(want[0], mask), whiten(got[0], moved(mask, 0))
    np.testing.assert_allclose(moved_white[:, more:-more], white[list(order)], atol=1e-12)


def test_whitening():
    np.testing.assert_allclose(
        whiten(np.array([[1.0, 3.0, 99.0]]), np.array([[1, 1, 0]])),
        [[-(0.5**0.5), 0.5**0.5, 0]],
        rtol=1e-7,
    )
    _, x, mask = drawn(5)
    x = 3 * x + 1
    white = whiten(x, mask)[mask > 0]
    assert abs(white.mean()) < 1e-12 and abs(white.std(ddof=1) - 1) < 1e-7
    kept = whiten(x, mask, shift_mean=False)[mask > 0]
    np.testing.assert_allclose(kept.mean(), x[mask > 0].mean())
    for few in (np.zeros_like(mask), np.eye(1, mask.size).reshape(mask.shape)):
        assert np.all(np.isfinite(whiten(x, few)))


def test_advantages_equal_recorded_numbers():
    oracle = json.loads(shared_path("oracle/goldens.json").read_text())
    inputs, want = oracle["inputs"], oracle["verl"]
    mask = np.array(inputs["completion_mask"])[:, inputs["P"] :]
    advantages, returns = gae(
        np.array(inputs["token_rewards"]), np.array(inputs["values"]), mask, gamma=1.0, lam=0.95
    )
    real = mask > 0
    np.testing.assert_allclose(returns[real], np.array(want["returns"])[real], rtol=1e-5, atol=1e-6)
    white = whiten(advantages, mask)
    np.testing.assert_allclose(white[real], np.array(want["gae_adv"])[real], rtol=1e-5, atol=1e-6)


def test_the_kl_coefficient_follows_its_target():
    for kl, want in ((9, 0.102), (6.6, 0.101), (6, 0.1), (5.4, 0.099), (0, 0.098)):
        got = adapted_kl_coef(
            jnp.array(0.1), jnp.array(float(kl)), target=6.0, horizon=1280.0, rows=128
        )
        np.testing.assert_allclose(got, want, rtol=1e-6)
