"""An embedding that is also the head."""

import dataclasses

import jax
import numpy as np

from caugym_jax.models.transformer import Model
from caugym_jax.objectives.logprobs import score
from tests.algorithms.test_step import CONFIG, PARAMS, sft_batch


def test_t17_the_gradient_of_a_tied_matrix_is_the_sum_of_both():
    """Untied with the same numbers, embedding and head have the two parts of it."""
    batch = sft_batch()

    def gradient(model, params):
        def loss(params):
            found = score(model, params, batch.tokens, batch.positions, batch.segment_ids)
            return (found.logprobs * batch.loss_mask[:, 1:]).sum()

        return jax.jit(jax.grad(loss))(params)

    tied = {k: v for k, v in PARAMS.items() if k != "head"}
    whole = gradient(Model(dataclasses.replace(CONFIG, tied=True)), tied)["embed"]
    parts = gradient(Model(CONFIG), PARAMS | {"head": PARAMS["embed"].T})
    assert np.abs(parts["embed"]).max() > 0 and np.abs(parts["head"]).max() > 0
    np.testing.assert_allclose(whole, parts["embed"] + parts["head"].T, rtol=1e-4, atol=1e-5)
