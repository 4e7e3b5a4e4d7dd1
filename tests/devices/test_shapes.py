"""Code that runs on shapes computes nothing, and its calls are recorded."""

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.devices.mesh import fetch, make_mesh, move, put, replicated, rows
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import Recorder, computed, on_shapes, recording

MESH = make_mesh(2, devices=jax.devices()[:2])


def described(tree):
    return [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(tree)]


def test_the_doors_return_shapes_and_zeros():
    host = {"a": np.ones((4, 3), np.float32), "b": np.arange(4)}
    real = put(host, rows(MESH))
    with recording():
        shapes = put(host, rows(MESH))
        assert described(shapes) == described(real)
        assert described(move(shapes, replicated(MESH))) == described(move(real, replicated(MESH)))
        back = fetch(shapes)
        assert on_shapes() and isinstance(shapes["a"], jax.ShapeDtypeStruct)
    assert not on_shapes()
    assert back["b"].shape == (4,) and not back["a"].any() and back["b"].dtype == np.int32


def step(state, batch):
    """Two updates of one program, whose results are the state and a number."""
    scored = Program("score", lambda w, x: x @ w, "it", places=rows(MESH))
    update = Program(
        "update", lambda w, x: (w - x.sum(0), x.sum()), "it",
        donate=(0,), places=(replicated(MESH), None),
    )  # fmt: skip
    x = scored(state["weights"], put(batch, rows(MESH)))
    total = 0.0
    for _ in range(2):
        weights, loss = update(state["weights"], x)
        state = state | {"weights": weights}
        total = computed(jnp.add, total, loss)
    return state, x, total


def test_a_step_on_shapes_is_the_step():
    """Shapes and shardings are those of the real arrays; calls are counted; what lies beside a
    call is what stays and is no argument of it, also once an update has made the state anew."""
    host = {"weights": np.eye(3, dtype=np.float32), "moments": np.zeros((3, 3), np.float32)}
    state, batch = put(host, replicated(MESH)), np.ones((4, 3), np.float32)
    want, scores, _ = step(put(host, replicated(MESH)), batch)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    recorder = Recorder(shapes)
    with recording(recorder):
        found, x, total = step(shapes, batch)
    assert described(found) == described(want) and described(x) == described(scores)
    assert total.shape == ()
    assert [(call.name, call.times) for call in recorder.calls] == [("score", 1), ("update", 2)]
    for call in recorder.calls:
        assert described(call.beside) == described(state["moments"])
        call.program.lower(*call.arguments)


def test_what_has_been_traced_is_looked_up_for_other_meshes():
    results, places, traced = {}, [], []

    def double(x):
        traced.append(x)
        return 2 * x

    for size in (1, 2):
        mesh = make_mesh(size, devices=jax.devices()[:size])
        program = Program("double", double, "it", places=rows(mesh))
        with recording(Recorder(results=results)):
            places.append(program(put(np.ones(4), rows(mesh))).sharding)
    assert len(traced) == 1 and places[0] != places[1]
