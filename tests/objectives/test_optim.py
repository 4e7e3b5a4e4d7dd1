"""Learning rates worked by hand; steps of every optimiser against float64; what is decayed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from caugym_jax.data.token_features import Features, save_features
from caugym_jax.devices.mesh import Layout
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.lora import Lora, adapter_layout
from caugym_jax.models.transformer import abstract_params, layout, param_axes
from caugym_jax.objectives.optim import (
    Optim,
    Optimizer,
    decayed,
    evaluated,
    learning_rate,
    make_optimizer,
    matrices,
)

CONFIG = ModelConfig(
    family="qwen3", vocab_size=32, d_model=8, num_layers=2, num_heads=2, num_kv_heads=1,
    head_dim=4, d_ff=16, qk_norm="head", tied=True, max_position=32,
)  # fmt: skip
NAMES = ["adamw", "lion", "adafactor", "muon", "schedule_free"]
RATE, DECAY = 0.01, 0.1


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
    schedule = learning_rate(Optim(peak=8.0, **options), 8)
    for step, rate in enumerate(expected):
        if rate is not None:
            assert float(schedule(step)) == pytest.approx(rate, rel=1e-5, abs=1e-6)


def test_decays_end_at_the_final_ratio():
    for decay in ("linear", "cosine"):
        schedule = learning_rate(Optim(peak=8.0, warmup=2, decay=decay, final_ratio=0.25), 8)
        assert float(schedule(6)) > 2.0
        assert float(schedule(7)) == pytest.approx(2.0) and schedule(80) == schedule(7)


def test_weights_are_decayed_and_norms_are_not():
    mask = decayed(param_axes(CONFIG))
    told = {jax.tree_util.keystr(path): bool(v) for path, v in jax.tree.leaves_with_path(mask)}
    assert any(told.values()) and not all(told.values())
    assert all(told[name] != ("norm" in name) for name in told), told


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_descends(name):
    optimizer = make_optimizer(layout(CONFIG), 30, Optim(name=name, peak=0.05, weight_decay=0.01))
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


@pytest.mark.parametrize("name", NAMES)
def test_a_step_decays_by_the_rate_times_the_decay(name):
    """Without a gradient: w - rate * decay * w = 4 - 0.5 * 0.25 * 4 = 3.5, where w is decayed."""
    optimizer = make_optimizer(layout(CONFIG), 30, Optim(name=name, peak=0.5, weight_decay=0.25))
    params = jax.tree.map(lambda x: jnp.full(x.shape, 4.0), abstract_params(CONFIG))

    @jax.jit
    def step(params):
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.transform.update(zero, optimizer.transform.init(params), params)
        return optax.apply_updates(params, updates)

    for weight, is_decayed in zip(
        jax.tree.leaves(step(params)), jax.tree.leaves(decayed(param_axes(CONFIG))), strict=True
    ):
        np.testing.assert_allclose(weight, 3.5 if is_decayed else 4.0, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(CONFIG))
    large = jax.tree.map(lambda x: jnp.full(x.shape, 1e3, x.dtype), params)
    for clip, same in ((1.0, True), (None, False)):
        optimizer = make_optimizer(layout(CONFIG), 3, Optim(peak=1.0, eps=1.0, clip_norm=clip))
        start = optimizer.transform.init(params)
        norms = [
            optax.tree.norm(jax.jit(optimizer.transform.update)(g, start, params)[0])
            for g in (large, jax.tree.map(lambda x: 10 * x, large))
        ]
        assert (abs(norms[0] - norms[1]) < 1e-4 * norms[0]) == same


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"name='sgd': must be one of adamw, lion, adafactor, muon"):
        Optim(name="sgd")
    with pytest.raises(UserError, match=r"decay='cosin': must be one of constant, linear, cosine"):
        Optim(decay="cosin")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("peak", -1e-4, "must be above 0"),
        ("peak", 0.0, "must be above 0"),
        ("peak", float("inf"), "must be above 0"),
        ("warmup", -1, "must be at least 0"),
        ("clip_norm", -1.0, "must be above 0, or none: no clipping"),
        ("clip_norm", 0.0, "must be above 0, or none: no clipping"),
        ("b1", 1.0, "must be at least 0 and below 1"),
        ("b2", 1.0, "must be at least 0 and below 1"),
        ("eps", 0.0, "must be above 0"),
        ("weight_decay", -0.1, "must be at least 0"),
        ("decay_from", 1.5, "must be at least 0 and at most 1"),
        ("ema", 1.0, "must be at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(key, value, told):
    with pytest.raises(UserError) as error:
        Optim(**{key: value})
    assert str(error.value).startswith(f"{key}={value!r}: {told}")


# --- one step of each, against float64 ----------------------------------------------------------


def random_tree(config=CONFIG, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda x: scale * rng.standard_normal(x.shape, np.float32)  # noqa: E731
    return jax.tree.map(draw, abstract_params(config))


def stepped(optimizer, params, gradients):
    """Weights and state after one step for each of the gradients."""
    state = optimizer.transform.init(params)
    step = jax.jit(optimizer.transform.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def adam(w, grads, t, b1=0.9, b2=0.99, eps=1e-8):
    """The direction of Adam's step t (from 1) in float64."""
    m = sum((1 - b1) * b1 ** (t - 1 - i) * g for i, g in enumerate(grads[:t]))
    v = sum((1 - b2) * b2 ** (t - 1 - i) * g**2 for i, g in enumerate(grads[:t]))
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def lion(w, grads, t, b1=0.9, b2=0.99):
    m = sum((1 - b2) * b2 ** (t - 2 - i) * g for i, g in enumerate(grads[: t - 1]))
    return np.sign(b1 * m + (1 - b1) * grads[t - 1])


def adafactor(w, grads, t):
    """Unfactored (all sizes here are below 128), then clipped to a root mean square of 1."""
    v = 0.0
    for i, g in enumerate(grads[:t]):
        keep = 1 - (i + 1.0) ** -0.8
        v = keep * v + (1 - keep) * (g**2 + 1e-30)
    step = grads[t - 1] / np.sqrt(v)
    return step / max(1.0, np.sqrt(np.mean(step**2)))


def orthogonal(x):
    """Five quintic Newton-Schulz steps on one matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


def muon(w, grads, t, beta=0.95, inputs=1):
    """Of a stack of matrices [L, in..., out...], each by itself."""
    m = sum((1 - beta) * beta ** (t - 1 - i) * g for i, g in enumerate(grads[:t]))
    m = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * grads[t - 1] / (1 - beta**t)
    fan_in = int(np.prod(w.shape[1 : 1 + inputs]))
    flat = m.reshape(w.shape[0], fan_in, -1)
    size = 0.2 * np.sqrt(max(flat.shape[1:]))
    return np.stack([size * orthogonal(x) for x in flat]).reshape(w.shape)


INPUTS = {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}


def at(path, tree):
    for key in path:
        tree = tree[key.key]
    return tree


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_two_steps_against_float64(name):
    optimizer = make_optimizer(
        layout(CONFIG), 9, Optim(name=name, peak=RATE, b2=0.99, weight_decay=DECAY, clip_norm=None)
    )
    params, grads = random_tree(), [random_tree(seed=seed) for seed in (1, 2)]
    found, _ = stepped(optimizer, params, grads)
    mask = decayed(param_axes(CONFIG))
    for path, weight in jax.tree.leaves_with_path(params):
        pick = functools.partial(at, path)
        rule = {"adamw": adam, "lion": lion, "adafactor": adafactor, "muon": adam}[name]
        if name == "muon" and path[-1].key in INPUTS:
            rule = functools.partial(muon, inputs=INPUTS[path[-1].key])
        each, w = [pick(g).astype(np.float64) for g in grads], weight.astype(np.float64)
        for t in (1, 2):
            w = w - RATE * (rule(w, each, t) + DECAY * pick(mask) * w)
        np.testing.assert_allclose(pick(found), w, rtol=1e-5, atol=2e-6, err_msg=str(path))


def test_factored_adafactor_against_float64():
    """A matrix of 128 x 256 in a stack: row and column means of the squares, for each layer."""
    shapes = {"up": jax.ShapeDtypeStruct((2, 128, 256), jnp.float32)}
    where = Layout(shapes, {"up": ("layers", "embed", "mlp")})
    optimizer = make_optimizer(where, 3, Optim(name="adafactor", peak=RATE, clip_norm=None))
    w, g = (np.random.default_rng(s).standard_normal((2, 128, 256)) for s in (0, 1))
    found, state = stepped(optimizer, {"up": jnp.float32(w)}, [{"up": jnp.float32(g)}])
    rows, columns = (g**2).mean(2, keepdims=True), (g**2).mean(1, keepdims=True)
    step = g / np.sqrt(rows * columns / rows.mean(1, keepdims=True))
    step /= max(1.0, np.sqrt(np.mean(step**2)))
    np.testing.assert_allclose(found["up"], w - RATE * step, rtol=1e-5, atol=1e-6)
    sizes = {x.shape for x in jax.tree.leaves(state)}
    assert (2, 128) in sizes and (2, 256) in sizes and (2, 128, 256) not in sizes


def test_stacked_muon_is_muon_of_each_layer():
    """As plain two-dimensional matrices, with optax's own rule for which are matrices."""
    config = dataclasses.replace(CONFIG, num_layers=3)
    optimizer = make_optimizer(layout(config), 9, Optim(name="muon", peak=RATE, clip_norm=None))
    params, grads = random_tree(config), [random_tree(config, seed=s) for s in (1, 2)]
    found, _ = stepped(optimizer, params, grads)

    def single(tree):
        layers = tree["layers"]
        return {
            (name, i): layers[name][i].reshape(np.prod(layers[name].shape[1 : 1 + n]), -1)
            for name, n in INPUTS.items()
            for i in range(3)
        }

    alone = Optimizer(optax.contrib.muon(RATE, consistent_rms=0.2), *[None] * 4)
    expected, _ = stepped(alone, single(params), [single(g) for g in grads])
    for key, weight in single(found).items():
        np.testing.assert_allclose(weight, expected[key], rtol=1e-5, atol=1e-6, err_msg=str(key))


def test_muon_takes_matrices_by_their_axes():
    """Adapters too; tables, norms and biases are AdamW's, whatever their rank."""
    biased = dataclasses.replace(CONFIG, qkv_bias=True, tied=False)
    numbers = matrices(param_axes(biased))
    masked = optax.MaskedNode()
    assert {name for name, n in numbers["layers"].items() if n != masked} == set(INPUTS)
    assert numbers["embed"] == numbers["head"] == numbers["final_norm"] == masked
    assert numbers["layers"]["o"] == ((1, 2), (3,)) and numbers["layers"]["q"] == ((1,), (2, 3))
    adapters = matrices(adapter_layout(biased, Lora(rank=2)).axes)["layers"]
    assert adapters["o_lora_a"] == ((1, 2), (3,)) and adapters["q_lora_b"] == ((1,), (2, 3))
    assert adapters["down_lora_a"] == ((1,), (2,))


def test_schedule_free_against_float64():
    """z <- z - rate (g / rms + decay y), x <- (1 - c) x + c z, y = b1 x + (1 - b1) z; c weighs
    steps by the square of the largest rate so far: warm-up 0.005, 0.01 gives c = 1, 4/5."""
    b1, b2, rates = 0.9, 0.99, (RATE / 2, RATE)
    optimizer = make_optimizer(
        layout(CONFIG),
        9,
        Optim(
            name="schedule_free",
            peak=RATE,
            warmup=2,
            b1=b1,
            b2=b2,
            weight_decay=DECAY,
            clip_norm=None,
        ),
    )
    params, grads = random_tree(), [random_tree(seed=s) for s in (1, 2)]
    trained, state = stepped(optimizer, params, grads)
    averages = evaluated(trained, state)
    mask = decayed(param_axes(CONFIG))["layers"]
    for name in ("q", "mlp_norm"):
        y = x = z = params["layers"][name].astype(np.float64)
        v = 0.0
        for t, (rate, c, g) in enumerate(zip(rates, (1, 4 / 5), grads, strict=True), 1):
            g = g["layers"][name].astype(np.float64)
            v = b2 * v + (1 - b2) * g**2
            z = z - rate * (g / (np.sqrt(v / (1 - b2**t)) + 1e-8) + DECAY * mask[name] * y)
            x = (1 - c) * x + c * z
            y = b1 * x + (1 - b1) * z
        np.testing.assert_allclose(trained["layers"][name], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(averages["layers"][name], x, rtol=1e-5, atol=2e-6)
        assert np.abs(x - y).max() > 1e-5


def test_moving_average_against_float64():
    plain = make_optimizer(layout(CONFIG), 9, Optim(peak=RATE))
    optimizer = make_optimizer(layout(CONFIG), 9, Optim(peak=RATE, ema=0.75))
    params, grads = random_tree(), [random_tree(seed=s) for s in (1, 2)]
    first, _ = stepped(plain, params, grads[:1])
    second, state = stepped(plain, params, grads)
    assert evaluated(second, state) is second
    trained, state = stepped(optimizer, params, grads)
    jax.tree.map(np.testing.assert_array_equal, trained, second)
    average = evaluated(trained, state)
    for key in ("q", "down"):
        each = (tree["layers"][key] for tree in (params, first, second))
        w0, w1, w2 = (np.asarray(w, np.float64) for w in each)
        expected = 0.75 * (0.75 * w0 + 0.25 * w1) + 0.25 * w2
        np.testing.assert_allclose(average["layers"][key], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(name="schedule_free", decay="cosine"), "set optim.decay=constant"),
        (dict(name="schedule_free", ema=0.9), "optim.ema=0"),
        (dict(name="schedule_free", b1=0.0), "b1 above 0"),
    ],
)
def test_settings_that_exclude_each_other(options, told):
    with pytest.raises(UserError, match=told):
        Optim(**options)


def test_shared_rows_need_muon_and_the_models_own_tokens(tmp_path):
    with pytest.raises(UserError, match="optim.name=muon"):
        Optim(name="adamw", shared_rows="tokens")
    features = Features(np.ones((7, 2), np.float32), np.ones(2, np.float32), 7)
    save_features(tmp_path, features)
    settings = Optim(name="muon", shared_rows=str(tmp_path))
    with pytest.raises(UserError, match="7 tokens, the trained embedding 32 rows"):
        make_optimizer(layout(CONFIG), 10, settings)


def test_shared_rows_move_tables_together_and_leave_the_rest(tmp_path):
    save_features(tmp_path, Features(np.eye(32, 2, dtype=np.float32), np.ones(2, np.float32), 32))
    plain, shared = (
        make_optimizer(layout(CONFIG), 10, Optim(name="muon", shared_rows=folder)).transform
        for folder in (None, str(tmp_path))
    )
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_params(CONFIG))
    gradient = jax.tree.map(lambda x: 0.01 * x, params)
    one, two = (t.update(gradient, t.init(params), params)[0] for t in (plain, shared))
    np.testing.assert_allclose(two["embed"][:2], 2 * one["embed"][:2], rtol=1e-5)
    np.testing.assert_allclose(two["embed"][2:], one["embed"][2:], rtol=1e-5)
    np.testing.assert_array_equal(two["layers"]["q"], one["layers"]["q"])
