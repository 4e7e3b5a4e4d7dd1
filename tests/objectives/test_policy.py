"""The policy objective against recorded numbers, by hand, and in its limits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.policy import (
    PolicyLoss,
    aggregate,
    clipped_surrogate,
    importance_weights,
    kl_estimate,
    policy_loss,
)
from caugym_jax.types import Experience
from tests.objectives.bigram_rows import experience, scores, table
from tests.shared import shared_path

CASES = [
    (loss, level, beta, high, delta)
    for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
    for level in ("token", "sequence")
    for beta, high, delta in ((0.0, 0.2, None), (0.04, 0.28, None), (0.0, 0.28, 1.5))
]


@pytest.fixture(scope="module")
def oracle():
    return json.loads(shared_path("oracle/goldens.json").read_text())


@pytest.mark.parametrize("loss,level,beta,high,delta", CASES)
def test_losses_and_gradients_equal_recorded_numbers(oracle, loss, level, beta, high, delta):
    inputs, P = oracle["inputs"], oracle["inputs"]["P"]
    mask, old, ref, advantages = (
        jnp.asarray(x, jnp.float32)
        for x in (
            np.asarray(inputs["completion_mask"])[:, P:], inputs["old"], inputs["ref"],
            inputs["adv"],
        )
    )  # fmt: skip
    ids = jnp.asarray(inputs["ids"])
    e = Experience(ids, None, None, mask, advantages, old, old, ref if beta else None)

    def objective(W):
        settings = PolicyLoss(
            loss_type=loss, importance_sampling_level=level, epsilon=0.2, epsilon_high=high,
            delta=delta, beta=beta,
        )  # fmt: skip
        (total, weight), sums = policy_loss(*scores(W, ids), e, settings)
        return total / weight, sums

    want = oracle["grpo"][f"{loss}/{level}/beta{beta}/eh{high}/delta{delta}"]
    found = jax.jit(jax.value_and_grad(objective, has_aux=True))(jnp.asarray(inputs["Wp"]))
    (value, sums), gradient = found
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)
    reported = {k: s / w for k, (s, w) in sums.items()}
    names = {"cispo_clip_ratio": "clip_ratio/high_mean"}
    other = {"entropy", "clip_ratio/low_min", "clip_ratio/high_max"}  # a stub; extremes
    if level == "sequence":
        other |= set(names)  # there over sequences, here over tokens
    for key, number in want["metrics"].items():
        if key not in other:
            np.testing.assert_allclose(reported[names.get(key, key)], number, rtol=1e-5)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_equal_recorded_numbers(oracle, kind):
    new, ref = (jnp.asarray(oracle["inputs"][k]) for k in ("new", "ref"))
    got = kl_estimate(new, ref, kind)
    np.testing.assert_allclose(got, oracle["verl"]["kl"][kind], atol=1e-6)
    if kind == "k1":
        np.testing.assert_allclose(jnp.abs(got), oracle["verl"]["kl"]["abs"], atol=1e-6)
    if kind == "k3":
        np.testing.assert_allclose(got, oracle["openrlhf"]["k3"], atol=1e-6)


VERL = {
    "token-mean": ("dapo", None),
    "seq-mean-token-mean": ("grpo", None),
    "seq-mean-token-sum": ("dr_grpo", 1),
    "seq-mean-token-sum-norm": ("dr_grpo", 5),
}


@pytest.mark.parametrize("name", [*VERL, "openrlhf by token", "openrlhf by sequence"])
def test_dual_clip_equals_recorded_numbers(oracle, name):
    """verl's and OpenRLHF's losses, whose dual clip of 3 is delta = 3; old = old_far."""
    inputs = {k: jnp.asarray(v) for k, v in oracle["inputs"].items() if k != "P"}
    P = oracle["inputs"]["P"]
    mask = inputs["completion_mask"][:, P:].astype(jnp.float32)
    if name in VERL:
        (how, horizon), want = VERL[name], oracle["verl"]["loss"][name]
    else:
        how, horizon = "dapo" if "token" in name else "grpo", None
        want = oracle["openrlhf"][f"policy/token_level={'token' in name}"]
    logprobs = scores(inputs["Wp"], inputs["ids"])[0]

    def surrogate(logprobs):
        return clipped_surrogate(
            logprobs, inputs["old_far"], inputs["adv"][:, None], mask,
            clip_low=0.2, clip_high=0.28, delta=3.0,
        )  # fmt: skip

    def objective(W):
        terms = surrogate(scores(W, inputs["ids"])[0])
        total, weight = aggregate(terms.loss, mask, how, horizon)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(objective))(inputs["Wp"])
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)
    moved = np.sum((inputs["old_far"] - logprobs) * mask) / mask.sum()
    np.testing.assert_allclose(moved, want.get("actor/ppo_kl", want.get("ppo_kl")), rtol=1e-5)
    if name in VERL:
        beyond = (surrogate(logprobs).ratio > 3) & (inputs["adv"][:, None] < 0)
        np.testing.assert_allclose(
            np.sum(beyond * mask) / mask.sum(), want["actor/pg_clipfrac_lower"], rtol=1e-6
        )


def test_clipping_by_hand():
    logprobs = jnp.log(jnp.array([[1.5, 1.5, 0.5, 0.5]]))
    advantages = jnp.array([[1.0, -1.0, 1.0, -1.0]])
    ones = jnp.ones((1, 4))
    terms = clipped_surrogate(logprobs, jnp.zeros((1, 4)), advantages, ones)
    np.testing.assert_allclose(terms.loss, [[-1.28, 1.5, -0.5, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(terms.clipped_high, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(terms.clipped_low, [[0, 0, 0, 1]])


def test_aggregation_by_hand():
    loss = jnp.array([[1.0, 3.0], [2.0, 99.0], [7.0, 7.0]])
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert aggregate(loss, mask, "grpo") == (4.0, 2.0)
    assert aggregate(loss, mask, "dapo") == (6.0, 3.0)
    assert aggregate(loss, mask, "dr_grpo") == (6.0, 4.0)
    assert aggregate(loss, mask, "dr_grpo", horizon=5) == (6.0, 10.0)


@pytest.mark.parametrize("how", ["grpo", "dapo", "dr_grpo"])
def test_t05_all_masked_rows_give_zero_loss_and_gradient(how):
    def objective(logprobs):
        zeros = jnp.zeros((2, 3))
        terms = clipped_surrogate(logprobs, zeros, jnp.ones((2, 3)), zeros)
        total, weight = aggregate(terms.loss, zeros, how)
        return total / jnp.maximum(weight, 1.0)

    value, gradient = jax.value_and_grad(objective)(jnp.full((2, 3), -1.0))
    assert value == 0 and not np.any(gradient)


def test_t03_on_policy_gradient_is_reinforce():
    """At ratio 1 the gradient is that of -A log p, although the printed loss is -mean A."""
    logprobs = jax.random.normal(jax.random.key(0), (4, 5)) - 2
    advantages = jax.random.normal(jax.random.key(1), (4, 1))
    mask = jnp.ones((4, 5))

    def surrogate(x):
        terms = clipped_surrogate(x, logprobs, advantages, mask)
        return aggregate(terms.loss, mask)[0]

    def reinforce(x):
        return aggregate(-advantages * x, mask)[0]

    np.testing.assert_allclose(jax.grad(surrogate)(logprobs), jax.grad(reinforce)(logprobs))


def test_t09_kl_is_never_negative_and_zero_at_equality():
    a = jax.random.normal(jax.random.key(0), (100,)) * 5
    b = jax.random.normal(jax.random.key(1), (100,)) * 5
    assert jnp.all(kl_estimate(a, b, "k3") >= 0)
    for kind in ("k1", "k2", "k3"):
        assert not np.any(kl_estimate(a, a, kind))
    assert np.all(np.isfinite(kl_estimate(jnp.array([0.0, -1e6]), jnp.array([-1e6, 0.0]), "k3")))


def test_t04_split_of_the_batch_changes_nothing():
    key = jax.random.split(jax.random.key(0), 3)
    loss = jax.random.normal(key[0], (8, 6))
    mask = (jnp.arange(6)[None] < jax.random.randint(key[1], (8, 1), 0, 7)).astype(jnp.float32)
    for how in ("grpo", "dapo", "dr_grpo"):
        whole = aggregate(loss, mask, how)
        for parts in (2, 4, 8):
            pieces = [
                aggregate(x, m, how)
                for x, m in zip(jnp.split(loss, parts), jnp.split(mask, parts), strict=True)
            ]
            np.testing.assert_allclose(sum(p[0] for p in pieces), whole[0], rtol=1e-5)
            assert sum(p[1] for p in pieces) == whole[1]


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl_estimate(jnp.zeros(1), jnp.zeros(1), "k4")
    with pytest.raises(ValueError, match="grpo, dapo or dr_grpo"):
        aggregate(jnp.zeros((1, 1)), jnp.ones((1, 1)), "mean")


def test_weights_by_hand():
    old, sampler = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.25]]))
    ones = jnp.ones((1, 2))
    np.testing.assert_allclose(importance_weights(old, sampler, ones), [[2, 2]], rtol=1e-6)
    weights = importance_weights(old, sampler, ones, "sequence")
    np.testing.assert_allclose(weights, [[3]], rtol=1e-6)
    half = importance_weights(old, sampler, jnp.array([[1.0, 0.0]]), "sequence")
    np.testing.assert_allclose(half, [[2]], rtol=1e-6)
    assert not np.any(jax.grad(lambda x: importance_weights(x, sampler, ones).sum())(old))


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "cispo"])
def test_t05_masked_rows_leave_the_denominators(loss_type):
    """A batch with masked rows (truncated samples, a short step) is the batch without them."""
    e = experience()
    few = jax.tree.map(lambda x: x[np.asarray(e.mask).sum(axis=1) > 0], e)
    settings = PolicyLoss(loss_type=loss_type, beta=0.1)

    @jax.jit
    def totals(e):
        return policy_loss(*scores(jnp.asarray(table()), e.tokens), e, settings, horizon=9)[0]

    with_rows, without = totals(e), totals(few)
    assert len(few.tokens) < len(e.tokens)
    np.testing.assert_allclose(with_rows, without, rtol=1e-6)


def test_t09_padding_counts_in_no_reported_mean():
    """Whatever stands beyond a completion's end changes neither loss nor what is reported."""
    e = experience()
    logprobs, entropy = scores(jnp.asarray(table()), e.tokens)
    settings = PolicyLoss(beta=0.1, entropy_coef=0.1, importance_sampling_correction="token")
    loss = jax.jit(functools.partial(policy_loss, settings=settings))
    found = loss(logprobs, entropy, e)
    beyond = jnp.where(e.mask > 0, 0.0, 7.0)
    shifted = e._replace(
        old_logprobs=e.old_logprobs - beyond,
        ref_logprobs=e.ref_logprobs + beyond,
        sampler_logprobs=e.sampler_logprobs + beyond,
    )
    again = loss(logprobs - beyond, entropy - beyond, shifted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, again)
    reported = {k: s / w for k, (s, w) in found[1].items()}
    assert reported["entropy"] > 0 and reported["kl"] > 0


def test_t03_the_printed_loss_is_0_on_policy_and_its_gradient_is_not():
    """With advantages that sum to 0 in a group and a mean for each sequence."""
    e = experience(old=False, ref=False)
    e = e._replace(advantages=e.advantages * (e.mask.sum(axis=1) > 0))
    centred = e.advantages - e.advantages.sum() / (e.mask.sum(axis=1) > 0).sum()
    e = e._replace(advantages=centred)

    def loss(W):
        (total, weight), _ = policy_loss(*scores(W, e.tokens), e)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(table()))
    assert abs(value) < 1e-6 and jnp.linalg.norm(gradient) > 0.01
