"""SFT's loss and packing against recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.data.packing import pack
from caugym_jax.objectives.sft import nll
from caugym_jax.types import Example
from tests.objectives.bigram_rows import goldens, scores


def test_loss_and_gradient_equal_recorded_numbers():
    oracle = goldens()
    inputs, want = oracle["inputs"], oracle["sft"]["nll_mean"]
    mask = jnp.asarray(inputs["completion_mask"], jnp.float32)[:, inputs["P"] :]

    def loss(W):
        total, weight = nll(scores(W, jnp.asarray(inputs["ids"]))[0], mask)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(inputs["Wp"]))
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)


def test_packing_equals_the_recorded_rows():
    want = goldens()["sft"]["bfd_pack"]
    texts = [[1, 2, 3, 4], [6, 7], [8, 9, 10], [11]]
    batch, dropped = pack([Example([], text) for text in texts], 4)
    rows = [
        tokens[segments > 0].tolist()
        for tokens, segments in zip(batch.tokens, batch.segment_ids, strict=True)
    ]
    lengths = [np.bincount(row[row > 0])[1:].tolist() for row in batch.segment_ids]
    assert rows == want["input_ids"] and lengths == want["seq_lengths"] and dropped == 0
