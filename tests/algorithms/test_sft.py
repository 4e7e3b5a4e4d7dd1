"""Targets are found, and only they count."""

import jax
import numpy as np
import pytest

from caugym_jax.algorithms.sft import Sft, find_targets, noise_for, score_targets, sft
from caugym_jax.algorithms.step import Learner, gradients
from caugym_jax.data.packing import pack, pad
from caugym_jax.devices.mesh import make_mesh, put, rows
from caugym_jax.models.transformer import layout
from caugym_jax.objectives import logprobs
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.objectives.sft import nll
from caugym_jax.types import Batch, Example
from tests.algorithms.test_step import CONFIG, MODEL, PARAMS, sft_batch, sft_loss


def test_targets_by_hand():
    mask = np.array([[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]], np.float32)
    zeros = np.zeros((2, 6), np.int32)
    t = find_targets(Batch(zeros, mask, zeros, zeros))
    np.testing.assert_array_equal(t.places, [[2, 3, 5, 1, 1, 1], [1] * 6])
    np.testing.assert_array_equal(t.mask, [[1, 1, 1, 0, 0, 0], [0] * 6])


def test_a_list_for_each_device_and_microbatch():
    """Rows that one device takes in one microbatch share a list, as wide as all their places."""
    mask = np.zeros((8, 4), np.float32)
    mask[:, 2] = np.arange(1, 9)
    zeros = np.zeros((8, 4), np.int32)
    t = find_targets(Batch(zeros, mask, zeros, zeros), shards=2, microbatches=2)
    assert t.mask.shape == (4, 8)
    np.testing.assert_array_equal(t.places[:, :2], [[2, 4 + 2]] * 4)
    np.testing.assert_array_equal(t.mask[:, :2], [[1, 3], [2, 4], [5, 7], [6, 8]])
    whole = find_targets(Batch(zeros, mask, zeros, zeros), shards=1)
    np.testing.assert_array_equal(whole.places[0, :8], 4 * np.arange(8) + 2)
    assert whole.mask.shape == (1, 32) and not whole.mask[0, 8:].any()


@pytest.mark.parametrize("microbatches", [1, 2, None])
def test_lists_of_several_rows_change_neither_loss_nor_gradient(microbatches, monkeypatch):
    """Nor does the size of the chunks in which their logits are made."""
    batch = sft_batch()
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    monkeypatch.setattr(logprobs, "CHUNK_TARGETS", 4)

    def loss(params, t):
        scores = score_targets(MODEL, params, t)
        return nll(scores.logprobs, t.mask), {}

    cut = microbatches or len(batch.tokens) // 2
    with jax.set_mesh(mesh):
        t = put(find_targets(batch, 2, cut), rows(mesh))
        got, value, _ = jax.jit(lambda p, t: gradients(loss, p, t, microbatches))(PARAMS, t)
    want, want_value, _ = jax.jit(lambda p, b: gradients(sft_loss, p, b, 1))(PARAMS, batch)
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_loss_and_gradient_are_those_over_all_places():
    """Logits for targets alone give what masking all logits gives."""
    seen = {}

    def spy(loss, *args, **kwargs):
        seen["loss"] = loss

    mesh = make_mesh(devices=jax.devices()[:1])
    original, module = sft.__globals__["make_step"], sft.__globals__
    module["make_step"] = spy
    try:
        sft(Learner(MODEL, make_optimizer(layout(CONFIG), 1), mesh))
    finally:
        module["make_step"] = original
    batch = sft_batch()
    got, value, sums = jax.jit(lambda p, t: gradients(seen["loss"], p, t, 1))(
        PARAMS, find_targets(batch)
    )
    want, want_value, _ = jax.jit(lambda p, b: gradients(sft_loss, p, b, 1))(PARAMS, batch)
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert float(sums["entropy"][1]) == batch.loss_mask.sum()


def test_training_lowers_the_loss():
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(layout(CONFIG), 20, Optim(peak=1e-2))
        algorithm = sft(Learner(MODEL, optimizer, mesh), Sft(microbatches=2))
        state = algorithm.init(jax.device_put(PARAMS))
        losses = []
        for _ in range(20):
            batch, metrics, _ = algorithm.prepare(state, sft_batch)
            state, report = algorithm.update(state, batch)
            losses.append(float(report["loss"]))
    assert metrics["tokens"] == 50
    assert losses[-1] < 0.5 * losses[0]


def examples():
    rng = np.random.default_rng(4)
    lengths = ((3, 4), (2, 5), (1, 2), (6, 6), (2, 2))
    return [
        Example(rng.integers(1, 64, p).tolist(), rng.integers(1, 64, c).tolist())
        for p, c in lengths
    ]


def mean_loss(batch):
    def value(params, t):
        total, weight = nll(score_targets(MODEL, params, t).logprobs, t.mask)
        return total / weight

    return jax.jit(jax.value_and_grad(value))(PARAMS, find_targets(batch))


def test_t19_packing_changes_neither_loss_nor_gradient():
    """Five documents in two rows give what they give one a row: none sees another, and no loss is
    on a document's first token."""
    packed, dropped = pack(examples(), 18)
    assert dropped == 0 and len(packed.tokens) == 2 and packed.segment_ids.max() == 3
    value, gradient = mean_loss(packed)
    want, want_gradient = mean_loss(pad(examples(), 12))
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_noise_on_embeddings():
    """Its size follows the document's length, padding gets none, its key is (seed, step, row)."""
    batch, _ = pack(examples(), 18)
    keys, size = noise_for(batch, 5.0, 16, seed=1, step=2)
    np.testing.assert_allclose(size[0, :12], 5 / np.sqrt(12 * 16), rtol=1e-6)
    np.testing.assert_allclose(size[0, 12:15], 5 / np.sqrt(3 * 16), rtol=1e-6)
    assert not np.any(size[batch.segment_ids == 0])
    again, _ = noise_for(batch, 5.0, 16, seed=1, step=2)
    other, _ = noise_for(batch, 5.0, 16, seed=1, step=3)
    data = jax.random.key_data
    np.testing.assert_array_equal(data(keys), data(again))
    assert not np.any(np.all(data(keys) == data(other), axis=-1)) and len(keys) == 2


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 5.0])
def test_noise_is_the_same_for_every_split(alpha):
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    losses = []
    for microbatches in (1, 4):
        with jax.set_mesh(mesh):
            learner = Learner(MODEL, make_optimizer(layout(CONFIG), 2), mesh)
            settings = Sft(neftune_noise_alpha=alpha, microbatches=microbatches)
            algorithm = sft(learner, settings)
            state = algorithm.init(jax.device_put(PARAMS))
            targets, _, _ = algorithm.prepare(state, sft_batch)
            _, report = algorithm.update(state, targets)
            losses.append(float(report["loss"]))
    plain = float(mean_loss(sft_batch())[0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert (abs(losses[0] - plain) < 1e-5) == (alpha == 0)
