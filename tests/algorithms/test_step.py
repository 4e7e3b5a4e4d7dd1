"""One optimiser step: the same for every split of the batch and every mesh, and safe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from caugym_jax.algorithms.rollouts import Group, lay_out
from caugym_jax.algorithms.step import check_rows, gradients, init_state, make_step
from caugym_jax.devices.mesh import make_mesh, put, rows, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model, layout
from caugym_jax.objectives import policy
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.optim import Optim, decayed, make_optimizer
from caugym_jax.objectives.sft import nll
from caugym_jax.types import Batch

CONFIG = ModelConfig(
    family="qwen3", vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, d_ff=48, qk_norm="head",
)  # fmt: skip
MODEL = Model(CONFIG)
PARAMS = jax.device_get(MODEL.init(jax.random.key(0)))
MESHES = [("sft", (2, 1, 1)), ("sft", (1, 4, 1)), ("sft", (2, 2, 2)), ("grpo", (8, 1, 1)),
          ("grpo", (2, 2, 2)), ("dapo", (1, 8, 1)), ("dr_grpo", (4, 1, 1)), ("sft", (8, 1, 1)),
          ("sft", (1, 4, 2)), ("grpo", (1, 4, 2)), ("sft", (1, 2, 2, 2)), ("grpo", (1, 2, 2, 2)),
          ("sft", (1, 1, 1, 8)), ("grpo", (2, 1, 1, 4))]  # data, fsdp, tensor, context  # fmt: skip
SPLITS = [("sft", 2), ("sft", 8), ("grpo", 4), ("grpo", 8), ("dapo", 2), ("dr_grpo", 4)]


def sft_batch():
    """Eight rows of uneven lengths, one of them all padding."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 3, 7, 12, 0, 9, 5, 2])
    places = np.arange(12)[None]
    real = (places < lengths[:, None]).astype(np.int32)
    tokens = rng.integers(1, 64, (8, 12)).astype(np.int32) * real
    mask = ((places >= 2) * real).astype(np.float32)
    return Batch(tokens, mask, real, (places * real).astype(np.int32))


def sft_loss(params, b):
    return nll(
        score(MODEL, params, b.tokens, b.positions, b.segment_ids).logprobs, b.loss_mask[:, 1:]
    ), {}


def experience():
    """Two groups of four; uneven lengths; one sample not counted."""
    rng = np.random.default_rng(1)
    groups = []
    for g in range(2):
        lengths = rng.integers(1, 9, 4)
        groups.append(
            Group(
                rng.integers(1, 64, 3 + 4 * g).tolist(),
                [rng.integers(1, 64, n) for n in lengths],
                [-rng.random(n).astype(np.float32) for n in lengths],
                np.array([True, g == 0, True, True]),
                rng.normal(size=4).astype(np.float32),
            )
        )
    advantages = np.concatenate([group.rewards for group in groups])
    e = lay_out(groups, advantages, 8, 32, 32)
    return e._replace(old_logprobs=-3 - rng.random(e.mask.shape).astype(np.float32))


def grpo_loss(params, e, how):
    start = e.tokens.shape[1] - e.mask.shape[1]
    logprobs = score(MODEL, params, e.tokens, e.positions, e.segment_ids, start=start).logprobs
    terms = policy.clipped_surrogate(logprobs, e.old_logprobs, e.advantages[:, None], e.mask)
    return policy.aggregate(terms.loss, e.mask, how), {"entropy": (logprobs.sum(), e.mask.sum())}


LOSSES = {
    "sft": (sft_loss, sft_batch),
    **{h: (functools.partial(grpo_loss, how=h), experience) for h in ("grpo", "dapo", "dr_grpo")},
}


@functools.cache
def whole(name):
    """Loss and gradient on one device in one piece."""
    loss, batch = LOSSES[name]
    step = jax.jit(lambda params, b: gradients(loss, params, b, 1)[:2])
    return jax.device_get(step(PARAMS, batch()))


def assert_same(name, gradient, value):
    want, want_value = whole(name)
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    difference = jax.tree.map(lambda a, b: np.sum((a - b) ** 2), jax.device_get(gradient), want)
    size = sum(np.sum(w**2) for w in jax.tree.leaves(want))
    assert np.sqrt(sum(jax.tree.leaves(difference)) / size) <= 1e-5


@pytest.mark.parametrize("name,microbatches", SPLITS)
def test_t04_any_microbatch_split_gives_the_same_loss_and_gradient(name, microbatches):
    loss, batch = LOSSES[name]
    step = jax.jit(lambda params, b: gradients(loss, params, b, microbatches)[:2])
    assert_same(name, *step(PARAMS, batch()))


@pytest.mark.parametrize("name,sizes", MESHES)
def test_t04_any_mesh_gives_the_same_loss_and_gradient(name, sizes):
    loss, batch = LOSSES[name]
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, shardings(layout(CONFIG), mesh))
        step = jax.jit(lambda params, b: gradients(loss, params, b, 1)[:2])
        assert_same(name, *step(params, put(batch(), rows(mesh))))


def test_microbatches_on_a_mesh():
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, shardings(layout(CONFIG), mesh))
        step = jax.jit(lambda p, b: gradients(LOSSES["dapo"][0], p, b, 4)[:2])
        assert_same("dapo", *step(params, put(experience(), rows(mesh))))


def update(loss, batch, mesh=None, peak=1e-3, params=PARAMS, **optim):
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(layout(CONFIG), 10, Optim(peak=peak, **optim))
    with jax.set_mesh(mesh):
        state = init_state(jax.device_put(params), optimizer, mesh)
        step = make_step(loss, optimizer, mesh)
        return step(state, put(batch, rows(mesh))), step


def test_t05_all_masked_batch_changes_nothing_and_is_finite():
    batch = sft_batch()
    batch = batch._replace(loss_mask=np.zeros_like(batch.loss_mask))
    (state, metrics), _ = update(sft_loss, batch)
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and state.skipped == 0
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(PARAMS), strict=True):
        np.testing.assert_array_equal(new, old)


def test_t20_a_step_that_is_not_finite_is_skipped_and_counted():
    batch = sft_batch()
    batch = batch._replace(loss_mask=batch.loss_mask * np.float32(np.nan))
    (state, metrics), _ = update(sft_loss, batch)
    assert not np.isfinite(metrics["loss"]) and state.skipped == 1
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(PARAMS), strict=True):
        np.testing.assert_array_equal(new, old)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize(("moment", "value"), [("mu", np.nan), ("nu", -1.0), ("nu", np.inf)])
def test_new_weights_and_new_moments_are_looked_at(moment, value):
    """The gradient is finite here; what an optimiser makes of a damaged moment is not."""
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(layout(CONFIG), 10, Optim(peak=1e-3))

    def damaged(path, leaf):
        hit = jax.tree_util.keystr(path).endswith(f".{moment}['layers']['down']")
        return leaf.at[0, 0, 0].set(value) if hit else leaf

    with jax.set_mesh(mesh):
        state = init_state(jax.device_put(PARAMS), optimizer, mesh)
        before = jax.tree.map_with_path(damaged, state.opt_state)
        state = state._replace(opt_state=jax.tree.map(jnp.copy, before))
        state, metrics = make_step(sft_loss, optimizer, mesh)(state, put(sft_batch(), rows(mesh)))
    assert np.isfinite(metrics["grad_norm"]) and state.skipped == 1
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(PARAMS), strict=True):
        np.testing.assert_array_equal(new, old)
    for new, old in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_step_goes_downhill_and_moments_lie_with_their_weights():
    mesh = make_mesh(2, 2, 2)
    (state, metrics), _ = update(sft_loss, sft_batch(), mesh)
    with jax.set_mesh(mesh):
        (total, weight), _ = jax.jit(sft_loss)(state.params, put(sft_batch(), rows(mesh)))
    assert total / weight < metrics["loss"]
    adam = next(s for s in jax.tree.leaves(
        state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu"))  # fmt: skip
    for moment, weight in zip(jax.tree.leaves(adam.mu), jax.tree.leaves(state.params), strict=True):
        assert moment.sharding == weight.sharding
    assert state.params["layers"]["gate"].sharding.spec == P(None, "fsdp", "tensor")


def test_one_program_serves_all_steps():
    mesh = make_mesh(2, 2, 2)
    optimizer = make_optimizer(layout(CONFIG), 10)
    with jax.set_mesh(mesh):
        state = init_state(jax.device_put(PARAMS), optimizer, mesh)
        step = make_step(sft_loss, optimizer, mesh)
        for _ in range(3):
            state, _ = step(state, put(sft_batch(), rows(mesh)))
    assert step.compilations == 1


def test_t16_small_steps_are_not_rounded_away():
    """100 steps at 1e-6 move float32 masters although each is below bfloat16's resolution (T16)."""
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(layout(CONFIG), 100, Optim(peak=1e-6))
    model = Model(CONFIG, dtype="bfloat16")

    def loss(params, b):
        scores = score(model, params, b.tokens, b.positions, b.segment_ids)
        return nll(scores.logprobs, b.loss_mask[:, 1:]), {}

    with jax.set_mesh(mesh):
        state = init_state(jax.device_put(PARAMS), optimizer, mesh)
        step = make_step(loss, optimizer, mesh)
        batch = put(sft_batch(), rows(mesh))
        for _ in range(100):
            state, _ = step(state, batch)
    moved = np.abs(np.asarray(state.params["layers"]["up"]) - PARAMS["layers"]["up"])
    assert state.params["layers"]["up"].dtype == jnp.float32
    assert 2e-5 < np.median(moved) < 2e-4


def test_weight_decay_follows_the_axes_not_the_rank():
    biased = ModelConfig(**{**CONFIG.__dict__, "qkv_bias": True})
    mask = decayed(layout(biased).axes)
    layers = mask["layers"]
    assert mask["embed"] and mask["head"] and all(
        layers[k] for k in ("q", "k", "v", "o", "gate", "up", "down")
    )  # fmt: skip
    assert not mask["final_norm"] and not any(
        layers[k] for k in ("attention_norm", "mlp_norm", "q_norm", "q_bias", "k_bias", "v_bias")
    )


def test_rows_that_do_not_divide_are_refused():
    check_rows(8, 2, 4, "data.batch_size")
    with pytest.raises(UserError, match=r"data.batch_size=6 rows are not a multiple.*2 x 2"):
        check_rows(6, 2, 2, "data.batch_size")
