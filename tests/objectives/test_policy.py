"""The policy objective against recorded numbers, by hand, and in its limits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.policy import aggregate, cispo, clipped_surrogate, kl_estimate
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


def completion_logprobs(W, ids, P):
    logprobs = jax.nn.log_softmax(W[ids[:, :-1]], axis=-1)
    return jnp.take_along_axis(logprobs, ids[:, 1:, None], axis=-1)[..., 0][:, P - 1 :]


@pytest.mark.parametrize("loss,level,beta,high,delta", CASES)
def test_losses_and_gradients_equal_recorded_numbers(oracle, loss, level, beta, high, delta):
    inputs = {k: jnp.asarray(v) for k, v in oracle["inputs"].items() if k != "P"}
    P = oracle["inputs"]["P"]
    mask = inputs["completion_mask"][:, P:].astype(jnp.float32)
    advantages = inputs["adv"][:, None]

    def objective(W):
        logprobs = completion_logprobs(W, inputs["ids"], P)
        if loss == "cispo":
            terms = cispo(logprobs, inputs["old"], advantages, mask, clip_high=high, level=level)
        else:
            terms = clipped_surrogate(
                logprobs, inputs["old"], advantages, mask,
                clip_low=0.2, clip_high=high, delta=delta, level=level,
            )  # fmt: skip
        per_token = terms.loss + beta * kl_estimate(logprobs, inputs["ref"])
        how = {"bnpo": "dapo", "cispo": "dapo"}.get(loss, loss)
        total, weight = aggregate(per_token, mask, how)
        return total / weight

    want = oracle["grpo"][f"{loss}/{level}/beta{beta}/eh{high}/delta{delta}"]
    value, gradient = jax.value_and_grad(objective)(inputs["Wp"])
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_equal_recorded_numbers(oracle, kind):
    new, ref = (jnp.asarray(oracle["inputs"][k]) for k in ("new", "ref"))
    np.testing.assert_allclose(kl_estimate(new, ref, kind), oracle["verl"]["kl"][kind], atol=1e-6)


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
def test_all_masked_rows_give_zero_loss_and_gradient(how):
    def objective(logprobs):
        zeros = jnp.zeros((2, 3))
        terms = clipped_surrogate(logprobs, zeros, jnp.ones((2, 3)), zeros)
        total, weight = aggregate(terms.loss, zeros, how)
        return total / jnp.maximum(weight, 1.0)

    value, gradient = jax.value_and_grad(objective)(jnp.full((2, 3), -1.0))
    assert value == 0 and not np.any(gradient)


def test_on_policy_gradient_is_reinforce():
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


def test_kl_is_never_negative_and_zero_at_equality():
    a = jax.random.normal(jax.random.key(0), (100,)) * 5
    b = jax.random.normal(jax.random.key(1), (100,)) * 5
    assert jnp.all(kl_estimate(a, b, "k3") >= 0)
    for kind in ("k1", "k2", "k3"):
        assert not np.any(kl_estimate(a, a, kind))
    assert np.all(np.isfinite(kl_estimate(jnp.array([0.0, -1e6]), jnp.array([-1e6, 0.0]), "k3")))


def test_split_of_the_batch_changes_nothing():
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
