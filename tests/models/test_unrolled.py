"""Layers looped over in training: the scanned stack's loss and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.devices.mesh import make_mesh
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model
from caugym_jax.objectives.logprobs import score
from caugym_jax.runs.opening import UNROLLED, model_for

CONFIG = ModelConfig(
    "qwen3",
    vocab_size=37,
    d_model=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    d_ff=24,
    qk_norm="head",
    max_position=64,
)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_same_loss_and_gradients_as_scanned(remat):
    scanned = Model(CONFIG, remat=remat)
    params = scanned.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 37)
    places = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    segments = (places < jnp.asarray([[12], [7], [9]])).astype(jnp.int32)

    def loss(params, model):
        scores = score(model, params, tokens, places, segments)
        return jnp.sum(scores.logprobs * segments[:, 1:])

    both = [
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, model)
        for model in (scanned, dataclasses.replace(scanned, unrolled=True))
    ]
    np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-6)
    for a, b in zip(*(jax.tree.leaves(gradient) for _, gradient in both), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


def test_a_model_of_few_layers_is_unrolled_on_a_cpu():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert model_for(CONFIG, mesh).unrolled
    assert not model_for(dataclasses.replace(CONFIG, num_layers=UNROLLED + 1), mesh).unrolled
