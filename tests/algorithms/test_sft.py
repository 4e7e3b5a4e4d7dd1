"""Targets are found, and only they count."""

import jax
import numpy as np

from caugym_jax.algorithms.sft import find_targets, sft
from caugym_jax.algorithms.step import gradients
from caugym_jax.models.transformer import layout
from caugym_jax.optim import make_optimizer
from caugym_jax.sharding import make_mesh
from caugym_jax.types import Batch
from tests.algorithms.test_step import CONFIG, MODEL, PARAMS, sft_batch, sft_loss


def test_targets_by_hand():
    mask = np.array([[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]], np.float32)
    zeros = np.zeros((2, 6), np.int32)
    t = find_targets(Batch(zeros, mask, zeros, zeros))
    np.testing.assert_array_equal(t.places, [[2, 3, 5, 1, 1, 1], [1] * 6])
    np.testing.assert_array_equal(t.mask, [[1, 1, 1, 0, 0, 0], [0] * 6])


def test_loss_and_gradient_are_those_over_all_places():
    """Logits for targets alone give what masking all logits gives."""
    seen = {}

    def spy(loss, *args, **kwargs):
        seen["loss"] = loss

    mesh = make_mesh(devices=jax.devices()[:1])
    original, module = sft.__globals__["make_step"], sft.__globals__
    module["make_step"] = spy
    try:
        sft(MODEL, make_optimizer(layout(CONFIG), 1), mesh)
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
        algorithm = sft(MODEL, make_optimizer(layout(CONFIG), 20, peak=1e-2), mesh, microbatches=2)
        state = algorithm.init(jax.device_put(PARAMS))
        losses = []
        for _ in range(20):
            batch, metrics, _ = algorithm.prepare(state, sft_batch)
            state, report = algorithm.update(state, batch)
            losses.append(float(report["loss"]))
    assert metrics["tokens"] == 50
    assert losses[-1] < 0.5 * losses[0]
