"""What each family computes is the same token by token, on a stack or a tuple, on many devices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.devices.mesh import make_mesh, put, shardings
from caugym_jax.models.transformer import Model, layout, unstack
from tests.models.tiny import FAMILIES, random_params

NEW = ("qwen3-partial", "gemma3", "olmo2", "olmo3", "phi3-partial", "smollm3", "qwen3-moe")
ROWS, LENGTH, PROMPT = 4, 56, 48  # longer than a window of 37


def rows_of(config):
    tokens = np.random.default_rng(3).integers(1, config.vocab_size, (ROWS, LENGTH))
    tokens = jnp.asarray(tokens, jnp.int32)
    places = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), tokens.shape)
    return tokens, places, jnp.ones_like(tokens)


def whole(model, params, rows):
    @jax.jit
    def run(params):
        hidden, _ = model.hidden(params, *rows)
        return model.logits(params, hidden)

    return run(params)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("family", NEW)
def test_decoding_equals_whole_rows(family, stacked):
    config = FAMILIES[family]
    model, params, (tokens, places, segments) = (
        Model(config),
        random_params(config),
        rows_of(config),
    )
    expected = whole(model, params, (tokens, places, segments))[:, PROMPT:]
    params = params if stacked else unstack(params)

    @jax.jit
    def decode(params):
        past = model.prefill(params, tokens[:, :PROMPT], places[:, :PROMPT], segments[:, :PROMPT])
        cache = past, model.empty_piece(ROWS, LENGTH - PROMPT, stacked=stacked)

        def one(cache, at):
            hidden, cache = model.step(params, tokens[:, at], places[:, at], at - PROMPT, cache)
            return cache, model.logits(params, hidden)

        _, logits = jax.lax.scan(one, cache, jnp.arange(PROMPT, LENGTH))
        return logits.swapaxes(0, 1)

    np.testing.assert_allclose(decode(params), expected, rtol=0, atol=1e-4)


MESHES = ((1, 4, 2), (2, 2, 1, 2))
QUICK = (("qwen3-moe", MESHES[0]), ("gemma3", MESHES[1]))  # the others take two minutes in all
PLACED = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(NEW, MESHES)
]


@pytest.mark.parametrize(("family", "sizes"), PLACED)
def test_eight_devices_equal_one(family, sizes):
    """Experts are split over tensor, as heads are; rows over data and fsdp, places over context."""
    config = FAMILIES[family]
    model, params, rows = Model(config), random_params(config), rows_of(config)

    def loss(params):
        hidden, _ = model.hidden(params, *rows)
        logits = model.logits(params, hidden)
        return jnp.mean(jax.nn.log_softmax(logits)[..., 7]), logits

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradient, logits = run(params)
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        many, logits_of_many = run(put(params, shardings(layout(config), mesh)))
    np.testing.assert_allclose(logits_of_many, logits, rtol=0, atol=1e-4)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(many), jax.tree.leaves(gradient), strict=True
    ):
        scale = np.abs(b).max()
        assert scale > 0, path
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * scale, err_msg=str(path))


def test_a_gradient_reaches_every_expert():
    """224 tokens choose 3 of 8 experts in each of 3 layers: none is left out."""
    config = FAMILIES["qwen3-moe"]
    model, params, rows = Model(config), random_params(config), rows_of(config)

    def loss(params):
        hidden, _ = model.hidden(params, *rows)
        return jnp.mean(model.logits(params, hidden)[..., 7])

    layers = jax.device_get(jax.jit(jax.grad(loss))(params))["layers"]
    for name in ("gate", "up", "down"):
        assert np.abs(layers[name]).max(axis=(2, 3)).min() > 0, name
    assert np.abs(layers["router"]).max(axis=1).min() > 0
