"""Methods as their configurations wire them."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.runs.methods import needs_reference, open_method, open_run
from caugym_jax.runs.settings import load
from tests.tiny_model import tiny_model  # noqa: F401


def test_ppo_py_says_where_policy_and_critic_lie(tiny_model):  # noqa: F811
    """The configuration as it is, on two devices, and what a checkpoint is restored onto."""
    config = load("ppo.py", [f"model.name={tiny_model}", f"ppo.critic={tiny_model}", "mesh.data=2"])
    mesh = make_mesh(2, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        run, first = open_run(config, mesh, resuming=False)
        method = open_method(run)
        state = method.algorithm.init(first)
    said = method.template()
    assert jax.tree.structure(said) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(said), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
    np.testing.assert_array_equal(state.params["embed"], state.critic.params["embed"])
    assert float(state.kl_coef) == np.float32(0.001)
    assert needs_reference(config)
    other = dataclasses.replace(run.tokenizer, raw=copy.deepcopy(run.tokenizer.raw))
    other.raw.add_tokens(["one more"])
    with pytest.raises(UserError, match="reads other tokens than the policy writes"):
        open_method(run._replace(tokenizer=other))
