"""Every optimiser in the compiled step: placed on a mesh, resumed bit for bit, its rate told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from caugym_jax.algorithms.step import init_state, make_step, state_shapes
from caugym_jax.devices.mesh import Layout, make_mesh, put, rows, shardings
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.runs.checkpoints import Checkpoints

AXES = {
    "embed": ("vocab", "embed"),
    "layers": {
        "up": ("layers", "embed", "mlp"),
        "o": ("layers", "heads", "head_dim", "embed"),
        "mlp_norm": ("layers", "norm"),
        "up_lora_b": ("layers", "rank", "mlp"),
    },
}
SIZES = {
    "embed": (160, 128),
    "layers": {"up": (2, 128, 256), "o": (2, 2, 128, 128), "mlp_norm": (2, 16),
               "up_lora_b": (2, 4, 256)},
}  # fmt: skip
SHAPES = jax.tree.map(
    lambda size: jax.ShapeDtypeStruct(size, jnp.float32),
    SIZES,
    is_leaf=lambda x: isinstance(x, tuple),
)
LAYOUT = Layout(SHAPES, AXES)
MESH = make_mesh(2, 2, 2)
BATCHES = np.random.default_rng(3).standard_normal((4, 8, 1)).astype(np.float32)
OPTIONS = {
    "adamw": dict(name="adamw", decay="linear"),
    "adamw with an average": dict(name="adamw", ema=0.9),
    "lion": dict(name="lion"),
    "adafactor": dict(name="adafactor"),
    "muon": dict(name="muon"),
    "schedule_free": dict(name="schedule_free"),
}


def loss(params, batch):
    """Something curved that depends on every weight and every row."""
    each = [jnp.mean(jnp.sin(w + 0.1 * batch.sum())) for w in jax.tree.leaves(params)]
    return (sum(each) * batch.shape[0] + batch.sum(), jnp.float32(batch.shape[0])), {}


def batches(start):
    return [put(batch, rows(MESH)) for batch in BATCHES[start:]]


def check_places(name, state):
    """Moments of a weight's shape lie like it; factored ones are split like what is left of it."""
    factored, whole = {}, 0
    for path, leaf in jax.tree.leaves_with_path(state.opt_state):
        keys = [getattr(k, "key", getattr(k, "name", "")) for k in path]
        if keys[-1] not in (*SIZES, *SIZES["layers"]):
            assert leaf.size < 20  # counts, coefficients
            continue
        weight = state.params if keys[-1] == "embed" else state.params["layers"]
        if leaf.shape == weight[keys[-1]].shape:
            assert leaf.sharding == weight[keys[-1]].sharding, keys
            whole += 1
        else:
            field = keys[-2 if keys[-1] == "embed" else -3]
            factored[field, keys[-1]] = leaf.sharding.spec if leaf.size > 1 else None
    if name == "adafactor":
        assert factored["v_row", "up"] == P(None, "fsdp")  # means over the longer side, mlp
        assert factored["v_col", "up"] == P(None, "tensor")
        assert factored["v_row", "up_lora_b"] is None  # too narrow to be factored
    else:
        assert not factored
    assert whole == {"adafactor": 2, "lion": 5, "muon": 7}.get(name, 10 + 5 * ("average" in name))


@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_bit_for_bit_on_a_mesh(name, tmp_path):
    optimizer = make_optimizer(
        LAYOUT, 4, Optim(peak=0.01, warmup=2, weight_decay=0.1, **OPTIONS[name])
    )
    rng = np.random.default_rng(0)
    first = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), SHAPES)
    with jax.set_mesh(MESH):
        places = shardings(LAYOUT, MESH)
        step = make_step(loss, optimizer, MESH)
        state, rates = init_state(jax.device_put(first, places), optimizer, MESH), []
        for i, batch in enumerate(batches(0)):
            state, metrics = step(state, batch)
            state = state._replace(step=state.step + 1)
            rates.append(float(metrics["learning_rate"]))
            if i == 1:
                checkpoints = Checkpoints(tmp_path)
                checkpoints.save(state, {})
                checkpoints.wait()
        np.testing.assert_allclose(rates, [optimizer.schedule(i) for i in range(4)], rtol=1e-6)
        shapes = state_shapes(lambda x: init_state(x, optimizer, MESH), optimizer.layout, MESH)
        restored, _ = checkpoints.restore(shapes)
        checkpoints.close()
        for batch in batches(2):
            restored, _ = step(restored, batch)
        restored = restored._replace(step=restored.step + 2)
    assert step.compilations == 1
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding == other.sharding
    assert not np.array_equal(state.params["embed"], first["embed"])
    check_places(name, state)
