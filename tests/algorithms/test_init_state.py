"""The first training state: checked against the memory, and the parameters given away or kept."""

import jax
import numpy as np
import pytest

from caugym_jax.algorithms.step import init_state
from caugym_jax.devices import programs
from caugym_jax.devices.mesh import make_mesh, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, layout
from caugym_jax.objectives.optim import make_optimizer
from tests.models.tiny import FAMILIES

CONFIG = FAMILIES["qwen3"]
MESH = make_mesh(2, 2, 2)
OPTIMIZER = make_optimizer(layout(CONFIG), 10)


def params():
    """Fresh parameters on the mesh."""
    found = Model(CONFIG).init(jax.random.key(0))
    return jax.device_put(found, shardings(layout(CONFIG), MESH))


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(programs, "memory_limit", lambda device: 10_000)
    with jax.set_mesh(MESH), pytest.raises(UserError) as error:
        init_state(params(), OPTIMIZER, MESH)
    told = str(error.value)
    assert "the init program needs" in told
    assert told.endswith("a smaller preset, or more devices with mesh.fsdp")


@pytest.mark.parametrize("donate", [False, True])
def test_parameters_are_kept_unless_they_are_given_away(donate):
    expected, given = jax.device_get(params()), params()
    with jax.set_mesh(MESH):
        state = init_state(given, OPTIMIZER, MESH, donate=donate)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), expected)
    assert int(state.step) == int(state.skipped) == 0
    assert all(not np.any(x) for x in jax.tree.leaves(jax.device_get(state.opt_state)))
    assert all(x.is_deleted() == donate for x in jax.tree.leaves(given))
    if not donate:  # the update donates the state: what was kept must not lie in the same buffers
        jax.tree.map(lambda x: x.delete(), state)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(given), expected)
