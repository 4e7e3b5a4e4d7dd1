"""Compiled programs: one per shape, and none that does not fit the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.devices import programs
from caugym_jax.devices.mesh import make_mesh, rows
from caugym_jax.devices.programs import Program, memory_limit
from caugym_jax.errors import UserError


def test_compiles_once_per_shape_and_type():
    program = Program("double", lambda tree: jax.tree.map(lambda x: 2 * x, tree), "x")
    for x, count in (
        (jnp.ones(3), 1),
        (jnp.arange(3.0), 1),
        (jnp.ones(4), 2),
        (jnp.ones(3, jnp.int32), 3),
        (jnp.zeros(3), 3),
    ):
        np.testing.assert_array_equal(program({"a": x})["a"], 2 * np.asarray(x))
        assert program.compilations == count
    program([jnp.ones(3)])
    assert program.compilations == 4


def test_refuses_what_does_not_fit_before_running_it(monkeypatch):
    """[256, 256] float32 output: 0.25 MiB; it fits 0.25 MiB and not a byte less."""
    x = jnp.ones((256, 256))
    ran = []

    def make():
        def function(x):
            jax.debug.callback(lambda: ran.append(1))
            return x + 1

        return Program("update", function, "data.batch_size")

    plain = Program("update", lambda x: x + 1, "data.batch_size")
    monkeypatch.setattr(programs, "memory_limit", lambda device: x.nbytes)
    plain(x)
    monkeypatch.setattr(programs, "memory_limit", lambda device: x.nbytes - 1)
    with pytest.raises(UserError) as error:
        make()(x)
    assert not ran
    assert "the update program needs 0.00 GiB" in str(error.value)
    assert str(error.value).endswith("lower data.batch_size")
    monkeypatch.setattr(programs, "memory_limit", lambda device: None)
    make()(x)  # nothing known: nothing refused


def test_a_donated_argument_is_not_counted_twice(monkeypatch):
    x = jnp.ones((256, 256))
    program = Program("update", lambda x: x + 1, "x", donate=(0,))
    monkeypatch.setattr(programs, "memory_limit", lambda device: 1024)
    np.testing.assert_array_equal(program(x)[0, :2], [2, 2])


class Accelerator:
    """A device as the memory check sees it."""

    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_an_accelerator_has_what_its_arrays_leave(tmp_path):
    stats = {"bytes_limit": 1000, "bytes_in_use": 400}
    assert memory_limit(Accelerator(stats)) == 600
    assert memory_limit(Accelerator({"bytes_in_use": 400})) is None
    assert memory_limit(Accelerator(None)) is None


def test_arguments_on_an_accelerator_are_not_counted_twice(monkeypatch):
    """They are among the bytes in use already: the output alone must fit what is left."""
    x = jnp.ones((256, 256))
    for left, fits in ((x.nbytes, True), (x.nbytes - 1, False)):
        device = Accelerator({"bytes_limit": 10 * x.nbytes, "bytes_in_use": 10 * x.nbytes - left})
        with monkeypatch.context() as patch:
            patch.setattr(jax, "local_devices", lambda device=device: [device])
            program = Program("update", lambda x: x + 1, "x")
            if fits:
                program(x)
            else:
                with pytest.raises(UserError, match="the update program needs"):
                    program(x)


def test_virtual_devices_share_one_memory(monkeypatch):
    """[256, 256] float32 on each of 8 devices: 2 MiB are needed, not 0.25."""
    mesh = make_mesh(data=8)
    x = jax.device_put(np.ones((8 * 256, 256), np.float32), rows(mesh))
    for limit, fits in ((x.nbytes, True), (x.nbytes - 1, False)):
        monkeypatch.setattr(programs, "memory_limit", lambda device, limit=limit: limit)
        program = Program("update", lambda x: x + 1, "x")
        if fits:
            program(x)
        else:
            with pytest.raises(UserError, match="the update program needs"):
                program(x)


def test_this_machine_s_limit_is_plausible():
    limit = memory_limit(jax.local_devices()[0])
    assert limit is None or 2**20 < limit < 2**45
