"""PPO's policy objective with an advantage for every token: recorded numbers, float64, a bandit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.gae import gae, place_rewards, whiten
from caugym_jax.objectives.policy import aggregate, clipped_surrogate, kl_estimate
from tests.shared import shared_path

NAMES = {"token-mean": "dapo", "seq-mean-token-mean": "grpo"}


@pytest.mark.parametrize("name", NAMES)
def test_dual_clip_equals_recorded_numbers(name):
    oracle = json.loads(shared_path("oracle/goldens.json").read_text())
    inputs, want = oracle["inputs"], oracle["verl"]["loss"][name]
    ids, old, advantages = (jnp.asarray(inputs[k]) for k in ("ids", "old_far", "adv"))
    mask = jnp.asarray(inputs["completion_mask"], jnp.float32)[:, inputs["P"] :]

    def loss(W):
        logprobs = jax.nn.log_softmax(W[ids[:, :-1]], axis=-1)
        logprobs = jnp.take_along_axis(logprobs, ids[:, 1:, None], axis=-1)[..., 0]
        every = jnp.broadcast_to(advantages[:, None], mask.shape)
        terms = clipped_surrogate(
            logprobs[:, inputs["P"] - 1 :], old, every, mask,
            clip_low=0.2, clip_high=0.28, delta=3.0,
        )  # fmt: skip
        total, weight = aggregate(terms.loss, mask, NAMES[name])
        return total / weight

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(inputs["Wp"]))
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)


def by_a_loop(logprobs, old, advantages, mask, c, delta):
    """The token mean in float64, one token at a time."""
    total = 0.0
    for new, before, a, m in zip(logprobs.flat, old.flat, advantages.flat, mask.flat, strict=True):
        r = np.exp(new - before)
        worst = max(-r * a, -min(max(r, 1 - c), 1 + c) * a)
        total += m * (min(worst, -delta * a) if a < 0 else worst)
    return total / mask.sum()


def test_gradient_is_that_of_a_loop_in_float64():
    """Within the clip, beyond it on both sides and with both signs, and beyond the dual clip."""
    rng = np.random.default_rng(0)
    shape = (12, 6)
    old, advantages = rng.normal(size=shape) - 2, rng.normal(size=shape)
    logprobs = old + rng.normal(size=shape)
    mask = (np.arange(6)[None] < rng.integers(0, 7, 12)[:, None]).astype(np.float64)
    ratio = np.exp(logprobs - old)[mask > 0]
    assert np.any((ratio > 3) & (advantages[mask > 0] < 0)) and np.any(np.abs(ratio - 1) < 0.2)

    def loss(logprobs):
        terms = clipped_surrogate(
            logprobs, old, advantages, mask, clip_low=0.2, clip_high=0.2, delta=3.0
        )
        total, weight = aggregate(terms.loss, mask, "dapo")
        return total / weight

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logprobs))
    rest = old, advantages, mask, 0.2, 3.0
    np.testing.assert_allclose(value, by_a_loop(logprobs, *rest), rtol=1e-5)
    want, step = np.zeros(shape), 1e-6
    for place in np.ndindex(shape):
        for sign in (1, -1):
            moved = logprobs.copy()
            moved[place] += sign * step
            want[place] += sign * by_a_loop(moved, *rest) / (2 * step)
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-6)


def test_at_ratio_one_the_gradient_is_that_of_reinforce_with_a_baseline():
    """... whatever the clips are: -A / N at every token that counts."""
    rng = np.random.default_rng(1)
    logprobs, advantages = rng.normal(size=(4, 5)) - 2, rng.normal(size=(4, 5))
    mask = (np.arange(5)[None] < np.array([5, 1, 0, 3])[:, None]).astype(np.float64)

    def loss(new):
        terms = clipped_surrogate(new, logprobs, advantages, mask, clip_low=1e-3, clip_high=1e-3)
        total, weight = aggregate(terms.loss, mask, "dapo")
        return total / weight

    gradient = jax.grad(loss)(jnp.asarray(logprobs))
    np.testing.assert_allclose(gradient, -advantages * mask / 9, rtol=1e-5)


# --- a three-armed bandit: completions of one token, every arm as often as it is likely ----------

SHARES = np.array([4, 2, 2])
ROWS = np.repeat(np.arange(3), SHARES)
THETA = np.log(SHARES / SHARES.sum())
PAYS, REFERENCE = np.array([1.0, 0.25, -0.5]), np.log([0.2, 0.5, 0.3])


def logprobs_of(theta):
    return jax.nn.log_softmax(jnp.asarray(theta))[ROWS][:, None]


def first_gradient(value: float, kl_coef: float = 0.0, whitened: bool = False):
    """PPO's gradient on all arms before anything has moved; also the advantages' scale."""
    mask, old = np.ones((len(ROWS), 1)), np.asarray(logprobs_of(THETA))
    kl = np.asarray(kl_estimate(old, REFERENCE[ROWS][:, None], "k1"))
    rewards = place_rewards(PAYS[ROWS], kl_coef * kl, mask)
    advantages, returns = gae(rewards, np.full_like(mask, value), mask, gamma=1.0, lam=0.95)
    np.testing.assert_allclose(returns, rewards)
    scale = np.sqrt(advantages.var(ddof=1) + 1e-8) if whitened else 1.0
    if whitened:
        advantages = whiten(advantages, mask)

    def loss(theta):
        total, weight = aggregate(
            clipped_surrogate(logprobs_of(theta), old, advantages, mask).loss, mask, "dapo"
        )
        return total / weight

    return np.asarray(jax.grad(loss)(jnp.asarray(THETA))), scale


def true_gradient(kl_coef: float = 0.0):
    """Of -(expected pay - kl_coef KL(policy || reference)), from the probabilities themselves."""

    def objective(theta):
        logprobs = jax.nn.log_softmax(theta)
        return -jnp.sum(jnp.exp(logprobs) * (PAYS - kl_coef * (logprobs - REFERENCE)))

    return np.asarray(jax.grad(objective)(jnp.asarray(THETA)))


@pytest.mark.parametrize("value", [0.0, 0.4375, -3.0])
def test_bandit_any_value_gives_the_true_gradient(value):
    """A critic that is wrong adds noise, and no bias: the baseline's term vanishes in the sum."""
    gradient, _ = first_gradient(value)
    np.testing.assert_allclose(gradient, true_gradient(), atol=1e-6)
    assert gradient[0] < 0 < gradient[2]  # downhill is towards the arm that pays most


def test_bandit_whitening_only_scales_the_gradient():
    gradient, scale = first_gradient(0.4, whitened=True)
    np.testing.assert_allclose(gradient * scale, true_gradient(), atol=1e-6)


def test_bandit_k1_in_the_reward_gives_the_gradient_of_the_kl():
    gradient, _ = first_gradient(0.4, kl_coef=0.3)
    np.testing.assert_allclose(gradient, true_gradient(0.3), atol=1e-6)
    assert np.abs(true_gradient(0.3) - true_gradient()).max() > 0.02
