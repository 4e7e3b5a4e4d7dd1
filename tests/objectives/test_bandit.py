"""Expected gradients on a three-armed bandit, every group enumerated: what theory says, exactly.

The policy is softmax(theta) over three arms, J = sum_a p(a) r(a). A group is three pulls, its
expected update the sum over all 27 groups, each by its probability, of the loss's own gradient.
"""

import itertools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.advantages import group_advantages, informative_groups
from caugym_jax.objectives.policy import PolicyLoss, kl_estimate, policy_loss
from caugym_jax.types import Experience

THETA = np.array([0.3, -0.8, 0.5])
REF = np.array([0.5, 0.2, 0.3])
REWARDS = np.array([1.0, 0.3, -0.4])
BINARY = np.array([1.0, 0.0, 0.0])
G = 3
GROUPS = np.array(list(itertools.product(range(3), repeat=G)))
EXACT = dict(rtol=2e-5, atol=2e-7)


def policy():
    return np.exp(THETA) / np.exp(THETA).sum()


def true_gradient(reward):
    """dJ/dtheta = p (r - J)."""
    p = policy()
    return p * (reward - p @ reward)


def update(advantages, probability=None, sampler=None, **loss):
    """The expected direction of ascent: [27, 3] advantages, each group by its probability."""
    p = policy()
    drawn = p if sampler is None else sampler
    weight = np.prod(drawn[GROUPS], axis=1) if probability is None else probability

    def descent(theta, arms, advantages):
        logprobs = jnp.broadcast_to(jax.nn.log_softmax(theta), (G, 3))
        chosen = jnp.take_along_axis(logprobs, arms[:, None], axis=1)
        sampled = jnp.log(drawn)[arms][:, None]
        e = Experience(None, None, None, jnp.ones((G, 1)), advantages, sampled, None, None)
        (total, weight), _ = policy_loss(chosen, jnp.zeros((G, 1)), e, PolicyLoss(**loss), 1)
        return total / weight

    gradients = jax.jit(jax.vmap(jax.grad(descent), (None, 0, 0)))(
        jnp.asarray(THETA), jnp.asarray(GROUPS), jnp.asarray(advantages, jnp.float32)
    )
    return -np.einsum("g,gk->k", weight, np.asarray(gradients, np.float64))


def advantages(reward, scale="none", baseline="group", normalize=False):
    """Of all 27 groups. `normalize` is over a batch, which here is one group."""
    one = [
        group_advantages(reward[arms], G, scale, 1e-9, baseline=baseline, normalize=normalize)
        for arms in GROUPS
    ]
    return np.array(one)


LOSSES = {
    "grpo": {},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "gspo": {"importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_group_s_mean_shrinks_the_gradient_and_leave_one_out_does_not(loss):
    """Dr. GRPO: (1 - 1/G) dJ. RLOO, and REINFORCE without a baseline: dJ. On policy all losses
    have the gradient of REINFORCE."""
    want = true_gradient(REWARDS)
    options = LOSSES[loss]
    np.testing.assert_allclose(update(advantages(REWARDS), **options), (1 - 1 / G) * want, **EXACT)
    rloo = advantages(REWARDS, baseline="leave_one_out")
    np.testing.assert_allclose(update(rloo, **options), want, **EXACT)
    plain = advantages(REWARDS, baseline="none")
    np.testing.assert_allclose(update(plain, **options), want, **EXACT)


def test_leave_one_out_has_less_variance_than_no_baseline():
    p = policy()
    weight = np.prod(p[GROUPS], axis=1)
    reward = REWARDS + 3  # far from 0: what a baseline is for

    def spread(a):
        score = np.eye(3)[GROUPS] - p  # d log p(a) / d theta
        g = (a[:, :, None] * score).mean(axis=1)
        return np.sum(weight[:, None] * (g - weight @ g) ** 2)

    few = spread(advantages(reward, baseline="leave_one_out"))
    assert few < 0.1 * spread(advantages(reward, baseline="none"))


def shrinkage(q, n):
    """E[A | right] - E[A | wrong] of n samples that are right with probability q, scaled by their
    standard deviation: the factor of dq that GRPO (n = G) and REINFORCE++ (n = B) ascend."""

    def advantage(r, right):
        mean, std = right / n, np.sqrt(right * (n - right) / n / (n - 1))
        return 0.0 if std == 0 else (r - mean) / std

    others = [comb(n - 1, k) * q**k * (1 - q) ** (n - 1 - k) for k in range(n)]
    return sum(w * (advantage(1, k + 1) - advantage(0, k)) for k, w in enumerate(others))


def test_dividing_by_the_deviation_scales_a_binary_reward_s_gradient():
    """GRPO ascends q = P(right) at a rate of its own; in a large batch at 1/sqrt(q (1 - q))."""
    q = float(policy()[0])
    want = shrinkage(q, G) * true_gradient(BINARY)
    np.testing.assert_allclose(update(advantages(BINARY, "group")), want, rtol=1e-4)
    plus_plus = advantages(BINARY, baseline="none", normalize=True)  # of a batch of three
    np.testing.assert_allclose(update(plus_plus), want, rtol=1e-3)
    rates = [shrinkage(q, n) * np.sqrt(q * (1 - q)) for n in (3, 10, 100, 1000)]
    assert rates == sorted(rates) and 0.99 < rates[-1] < 1


def test_dividing_by_the_deviation_turns_another_reward_s_gradient():
    """Three different rewards: GRPO's expected update is not along the gradient, though near it."""
    got, want = update(advantages(REWARDS, "group")), true_gradient(REWARDS)
    cosine = got @ want / np.linalg.norm(got) / np.linalg.norm(want)
    assert 0.9 < cosine < 0.9999


def test_dynamic_sampling_divides_by_the_share_of_groups_kept():
    weight = np.prod(policy()[GROUPS], axis=1)
    kept = informative_groups(BINARY[GROUPS].reshape(-1), G)
    share = weight @ kept
    got = update(advantages(BINARY), probability=weight * kept / share)
    np.testing.assert_allclose(got, (1 - 1 / G) * true_gradient(BINARY) / share, **EXACT)
    assert 0.4 < share < 0.9


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_truncated_weights_correct_for_another_sampler(level):
    """Samples of q, weighted by p/q: the gradient under p, exactly while the cap does not bind."""
    q = np.array([0.25, 0.35, 0.4])
    rloo = advantages(REWARDS, baseline="leave_one_out")
    want = true_gradient(REWARDS)
    correction = {"importance_sampling_correction": level}
    got = update(rloo, sampler=q, **correction)
    np.testing.assert_allclose(got, want, **EXACT)
    off = np.linalg.norm(update(rloo, sampler=q) - want)
    capped = update(rloo, sampler=q, **correction, importance_sampling_cap=1.1)
    assert 0.01 < np.linalg.norm(capped - want) < off


def kl_gradient(policy_is):
    """d KL(first || second) by differences, `policy_is` "first" or "second"."""

    def kl(theta):
        p = np.exp(theta) / np.exp(theta).sum()
        a, b = (p, REF) if policy_is == "first" else (REF, p)
        return np.sum(a * np.log(a / b))

    steps = 1e-6 * np.eye(3)
    return np.array([(kl(THETA + s) - kl(THETA - s)) / 2e-6 for s in steps])


def loss_kl_gradient(kind, corrected=False):
    """E_p[d estimate / d theta], the samples enumerated."""

    def estimate(theta):
        logprobs = jax.nn.log_softmax(theta)
        kl = kl_estimate(logprobs, jnp.log(REF), kind)
        if corrected:
            kl = jnp.exp(logprobs - jax.lax.stop_gradient(logprobs)) * kl
        return jnp.sum(policy() * kl)

    return np.asarray(jax.jit(jax.grad(estimate))(jnp.asarray(THETA)))


def test_t10_what_each_kl_estimate_in_the_loss_descends():
    """At ratio 1: k1 nothing, k2 KL(p || ref), k3 KL(ref || p), k3 with its ratio KL(p || ref)."""
    reverse, forward = (kl_gradient(side) for side in ("first", "second"))
    assert np.linalg.norm(reverse - forward) > 0.05 * np.linalg.norm(reverse)
    near = dict(rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(loss_kl_gradient("k1"), 0, atol=1e-7)
    np.testing.assert_allclose(loss_kl_gradient("k2"), reverse, **near)
    np.testing.assert_allclose(loss_kl_gradient("k3"), forward, **near)
    np.testing.assert_allclose(loss_kl_gradient("k3", corrected=True), reverse, **near)


def test_t10_k1_in_the_reward_descends_the_kl_divergence():
    """Rewards less beta log(p / ref), leave-one-out: the gradient of J - beta KL(p || ref)."""
    beta = 0.4
    penalised = REWARDS - beta * np.log(policy() / REF)
    got = update(advantages(penalised, baseline="leave_one_out"))
    want = true_gradient(REWARDS) - beta * kl_gradient("first")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
