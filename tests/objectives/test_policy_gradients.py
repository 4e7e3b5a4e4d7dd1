"""The whole policy loss in float64: its value against plain NumPy, its gradient against finite
differences of that, sign included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.policy import PolicyLoss, policy_loss
from caugym_jax.objectives.sft import nll
from tests.objectives.bigram_rows import C, P, V, experience, scores, table

CASES = {
    "grpo": {},
    "on policy": {"old": False},
    "dapo": {"loss_type": "dapo", "delta": 1.5},
    "bnpo, no clip below": {"loss_type": "bnpo", "epsilon": 0.9},
    "dr_grpo": {"loss_type": "dr_grpo", "horizon": 9},
    "gspo": {"importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.05},
    "gspo, two-sided": {
        "importance_sampling_level": "sequence",
        "epsilon_high": 0.05,
        "delta": 1.1,
    },
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "cispo by sequence": {"loss_type": "cispo", "importance_sampling_level": "sequence"},
    "k1": {"beta": 0.3, "kl_estimator": "k1"},
    "k2": {"beta": 0.3, "kl_estimator": "k2"},
    "k3": {"beta": 0.3},
    "k3 corrected": {"beta": 0.3, "use_bias_correction_kl": True},
    "entropy": {"entropy_coef": 0.2, "loss_type": "dapo"},
    "weights by token": {"importance_sampling_correction": "token", "beta": 0.1},
    "weights by sequence": {
        "importance_sampling_correction": "sequence",
        "importance_sampling_cap": 1.1,
    },
}


def logprobs(W, tokens):
    """[B, C] in NumPy."""
    z = W - np.log(np.exp(W).sum(axis=1, keepdims=True))
    return z[tokens[:, P - 1 : -1], tokens[:, P:]]


def plain(W, e, fixed, *, loss_type="grpo", importance_sampling_level="token", epsilon=0.2,
          epsilon_high=0.28, delta=None, beta=0.0, kl_estimator="k3", use_bias_correction_kl=False,
          entropy_coef=0.0, importance_sampling_correction="none", importance_sampling_cap=3.0,
          horizon=C):  # fmt: skip
    """The same loss, row by row in NumPy. `fixed`: log-probs where gradients are stopped."""
    total, rows, tokens = 0.0, 0, 0
    for b in range(len(e.tokens)):
        n = int(e.mask[b].sum())
        if n == 0:
            continue
        rows, tokens = rows + 1, tokens + n
        before, after = e.tokens[b, P - 1 : P - 1 + n], e.tokens[b, P : P + n]
        z = W[before] - np.log(np.exp(W[before]).sum(axis=1, keepdims=True))
        lp, entropy = z[np.arange(n), after], -(np.exp(z) * z).sum(axis=1)
        lp0 = fixed[b, :n]
        old = lp0 if e.old_logprobs is None else e.old_logprobs[b, :n]

        def ratio(x, old=old):
            d = x - old
            return np.exp(d.mean() if importance_sampling_level == "sequence" else d)

        r, r0, A = ratio(lp), ratio(lp0), float(e.advantages[b])
        if loss_type == "cispo":
            per = -np.minimum(r0, epsilon_high) * A * lp
        else:
            capped = r if delta is None else np.minimum(r, delta)
            per = -np.minimum(capped * A, np.clip(r, 1 - epsilon, 1 + epsilon_high) * A)
        per = np.broadcast_to(per, n)
        if importance_sampling_correction != "none":
            d = old - e.sampler_logprobs[b, :n]
            d = d.sum() if importance_sampling_correction == "sequence" else d
            per = per * np.minimum(np.exp(d), importance_sampling_cap)
        if beta:
            d = e.ref_logprobs[b, :n] - lp
            kl = {"k1": -d, "k2": d**2 / 2, "k3": np.exp(d) - d - 1}[kl_estimator]
            per = per + beta * kl * (r if use_bias_correction_kl else 1.0)
        per = per - entropy_coef * entropy
        total += per.sum() / n if loss_type == "grpo" else per.sum()
    return total / {"grpo": rows, "dr_grpo": rows * horizon}.get(loss_type, tokens)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_in_float64(name):
    options = dict(CASES[name])
    e = experience(old=options.pop("old", True), ref=bool(options.get("beta")))
    e = jax.tree.map(lambda x: x if x.dtype == np.int32 else x.astype(np.float64), e)
    W = table().astype(np.float64)
    with jax.enable_x64(True):
        horizon = options.get("horizon")
        settings = {k: v for k, v in options.items() if k != "horizon"}

        def loss(W):
            both = scores(W, jnp.asarray(e.tokens))
            (total, weight), _ = policy_loss(*both, e, PolicyLoss(**settings), horizon)
            return total / weight

        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(W))
        fixed = logprobs(W, e.tokens)
        value, gradient = float(value), np.asarray(gradient)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(value, plain(W, e, fixed, **options), rtol=1e-10)
    rng = np.random.default_rng(3)
    for _ in range(4):
        v = rng.normal(size=W.shape)
        up, down = (plain(W + h * v, e, fixed, **options) for h in (1e-6, -1e-6))
        slope = np.sum(gradient * v)
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-9)
    assert abs(slope) > 1e-4


def test_sft_value_and_gradient_in_float64():
    e, W = experience(), table().astype(np.float64)

    def plain_nll(W):
        losses = []
        for tokens, mask in zip(e.tokens, e.mask, strict=True):
            for t in np.flatnonzero(mask) + P:
                z = W[tokens[t - 1]]
                losses.append(np.log(np.exp(z).sum()) - z[tokens[t]])
        return np.mean(losses)

    with jax.enable_x64(True):

        def loss(W):
            total, weight = nll(scores(W, jnp.asarray(e.tokens))[0], jnp.asarray(e.mask))
            return total / weight

        value, gradient = jax.device_get(jax.jit(jax.value_and_grad(loss))(jnp.asarray(W)))
    np.testing.assert_allclose(value, plain_nll(W), rtol=1e-10)
    v = np.random.default_rng(3).normal(size=(V, V))
    slope = (plain_nll(W + 1e-6 * v) - plain_nll(W - 1e-6 * v)) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * v), slope, rtol=1e-6)
