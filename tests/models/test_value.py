"""The critic's decoder: its parameters, where they lie, and what a value may know."""

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.devices.mesh import make_mesh, shardings
from caugym_jax.models.transformer import Model
from caugym_jax.models.value import ValueModel
from caugym_jax.objectives.optim import decayed
from tests.models.tiny import FAMILIES, random_params

CONFIG = FAMILIES["qwen3"]
CRITIC = ValueModel(Model(CONFIG))
VALUES = jax.jit(CRITIC.values, static_argnames="start")


def params(seed=0):
    found = CRITIC.init(random_params(CONFIG))
    head = np.random.default_rng(seed).normal(size=CONFIG.d_model).astype(np.float32)
    return found | {"value_head": jnp.asarray(head)}


def row(tokens, left=0, right=0):
    """One row of tokens as (tokens, positions, segment_ids), padded."""
    n = len(tokens)
    real = np.pad(np.ones(n, np.int32), (left, right))
    return (
        np.pad(tokens, (left, right), constant_values=9)[None].astype(np.int32),
        np.pad(np.arange(n), (left, right))[None].astype(np.int32),
        real[None],
    )


def test_a_critic_is_the_decoder_with_a_head_that_starts_at_zero():
    """The shapes said are those made; the language model's own head (untied here) is left out."""
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(CONFIG))
    made = CRITIC.init(half)
    assert "head" in half and "head" not in made
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), made)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), CRITIC.layout.shapes)
    tokens = np.arange(1, 9)
    np.testing.assert_array_equal(VALUES(made, *row(tokens)), np.zeros((1, 7)))


def test_the_head_is_laid_out_and_decayed_by_its_axes():
    mesh = make_mesh(2, 2, 2)
    places = shardings(CRITIC.layout, mesh)
    assert tuple(places["value_head"].spec) == ("fsdp",)
    mask = decayed(CRITIC.layout.axes)
    assert mask["value_head"] and not mask["final_norm"]


def test_a_value_knows_what_stands_before_its_token_and_nothing_else():
    weights, tokens = params(), np.arange(1, 11)
    values = np.asarray(VALUES(weights, *row(tokens)))[0]  # of tokens[1:]
    changed = tokens.copy()
    changed[6] = 55
    other = np.asarray(VALUES(weights, *row(changed)))[0]
    np.testing.assert_array_equal(values[:6], other[:6])
    assert np.all(np.abs(values[6:] - other[6:]) > 1e-4)


def test_padding_changes_no_value():
    weights, tokens = params(), np.arange(1, 11)
    want = np.asarray(VALUES(weights, *row(tokens)))[0, 3:]
    padded = np.asarray(VALUES(weights, *row(tokens, 5, 2), start=5 + 4))[0]
    np.testing.assert_allclose(padded[:-2], want, rtol=1e-4, atol=1e-5)
