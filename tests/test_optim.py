"""Learning rates worked by hand, what is decayed, and unknown names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import abstract_params, layout, param_axes
from caugym_jax.optim import decayed, learning_rate, make_optimizer

CONFIG = ModelConfig(
    family="qwen3", vocab_size=32, d_model=8, num_layers=2, num_heads=2, num_kv_heads=1,
    head_dim=4, d_ff=16, qk_norm=True, tied=True, max_position=32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # warm-up over 4 steps moves at once: 1/4, 2/4, 3/4, 4/4 of the peak
        (dict(warmup=4), [2, 4, 6, 8, 8, 8, 8, 8]),
        (dict(warmup=0), [8] * 8),
        (dict(warmup=1), [8] * 8),
        # decays reach peak * final_ratio at the last step, the eighth
        (dict(decay="linear", final_ratio=1 / 8), [8, 7, 6, 5, 4, 3, 2, 1]),
        (dict(decay="linear", decay_from=0.5, final_ratio=1 / 4), [8, 8, 8, 8, 8, 6, 4, 2]),
        (dict(warmup=4, decay="linear", final_ratio=1 / 4), [2, 4, 6, 8, 8, 6, 4, 2]),
        (dict(warmup=4, decay="linear", decay_from=5 / 8), [2, 4, 6, 8, 8, 8, 4, 0]),
        (dict(warmup=7, decay="linear"), [*(8 * t / 7 for t in range(1, 8)), 8]),  # no room
        # cosine from step 4 on: 8 (1 + cos(pi t / 3)) / 2 at t = 0, 1, 2, 3 is 8, 6, 2, 0
        (dict(decay="cosine", decay_from=0.5), [8, 8, 8, 8, 8, 6, 2, 0]),
        # and to a quarter: 2 + 6 (1 + cos(pi t / 3)) / 2
        (dict(decay="cosine", decay_from=0.5, final_ratio=1 / 4), [8, 8, 8, 8, 8, 6.5, 3.5, 2]),
        (dict(warmup=16), [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),  # ends before the peak
    ],
)
def test_rates_by_hand(options, expected):
    schedule = learning_rate(8.0, 8, **options)
    for step, rate in enumerate(expected):
        if rate is not None:
            assert float(schedule(step)) == pytest.approx(rate, rel=1e-5, abs=1e-6)


def test_decays_end_at_the_final_ratio():
    for decay in ("linear", "cosine"):
        schedule = learning_rate(8.0, 8, 2, decay, final_ratio=0.25)
        assert float(schedule(6)) > 2.0
        assert float(schedule(7)) == pytest.approx(2.0) and schedule(80) == schedule(7)


def test_weights_are_decayed_and_norms_are_not():
    mask = decayed(param_axes(CONFIG))
    told = {jax.tree_util.keystr(path): bool(v) for path, v in jax.tree.leaves_with_path(mask)}
    assert any(told.values()) and not all(told.values())
    assert all(told[name] != ("norm" in name) for name in told), told


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_every_optimizer_descends(name):
    optimizer = make_optimizer(layout(CONFIG), 30, name=name, peak=0.05, weight_decay=0.01)
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_params(CONFIG))

    def loss(params):
        return sum((x**2).sum() for x in jax.tree.leaves(params))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    start, state = loss(params), optimizer.transform.init(params)
    for _ in range(10):
        params, state = step(params, state)
    assert np.isfinite(loss(params)) and loss(params) < 0.9 * start


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_a_step_decays_by_the_rate_times_the_decay(name):
    """Without a gradient: w - rate * decay * w = 4 - 0.5 * 0.25 * 4 = 3.5, where w is decayed."""
    optimizer = make_optimizer(layout(CONFIG), 30, name=name, peak=0.5, weight_decay=0.25)
    params = jax.tree.map(lambda x: jnp.full(x.shape, 4.0), abstract_params(CONFIG))

    @jax.jit
    def step(params):
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.transform.update(zero, optimizer.transform.init(params), params)
        return optax.apply_updates(params, updates)

    for weight, is_decayed in zip(
        jax.tree.leaves(step(params)), jax.tree.leaves(decayed(param_axes(CONFIG))), strict=True
    ):
        np.testing.assert_array_equal(weight, 3.5 if is_decayed else 4.0)


def test_gradients_are_clipped_by_their_global_norm():
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(CONFIG))
    large = jax.tree.map(lambda x: jnp.full(x.shape, 1e3, x.dtype), params)
    for clip, same in ((1.0, True), (None, False)):
        optimizer = make_optimizer(layout(CONFIG), 3, peak=1.0, eps=1.0, clip_norm=clip)
        start = optimizer.transform.init(params)
        norms = [
            optax.tree.norm(optimizer.transform.update(g, start, params)[0])
            for g in (large, jax.tree.map(lambda x: 10 * x, large))
        ]
        assert (abs(norms[0] - norms[1]) < 1e-4 * norms[0]) == same


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"optim.name='sgd': use adamw, lion or adafactor"):
        make_optimizer(layout(CONFIG), 3, name="sgd")
    with pytest.raises(UserError, match=r"optim.decay='cosin': use constant, linear or cosine"):
        learning_rate(1.0, 3, decay="cosin")
