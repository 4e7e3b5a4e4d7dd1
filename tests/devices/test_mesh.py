"""The table of axes on real (virtual) devices."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from caugym_jax.devices.mesh import (
    Sampling,
    constrain,
    fetch,
    make_mesh,
    put,
    row_count,
    rows,
    sampling_mesh,
    sharding,
)
from caugym_jax.errors import UserError


def test_one_size_fills_in():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "context": 1, "tensor": 1}
    sizes = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert dict(make_mesh(2, -1, 2).shape) == sizes
    assert dict(make_mesh(context=4).shape) == {"data": 2, "fsdp": 1, "context": 4, "tensor": 1}
    assert row_count(make_mesh(2, 2, 2)) == 4


@pytest.mark.parametrize("sizes,words", [
    ((3, 1, 1), r"3 x 1 x 1 x 1 needs 3 devices, this machine has 8"),
    ((-1, -1, 1), "at most one size may be -1"),
    ((0, 1, 1), "data=0: must be at least 1, or -1"),
    ((-1, 3, 1), r"needs 6 devices"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        make_mesh(*sizes)


def test_weights_follow_the_table():
    mesh = make_mesh(2, 2, 2)
    assert sharding(("layers", "embed", "mlp"), (3, 8, 6), mesh).spec == P(None, "fsdp", "tensor")
    assert sharding(("vocab", "embed"), (10, 8), mesh).spec == P("tensor", "fsdp")
    assert sharding(("norm",), (7,), mesh).spec == P(None)


def test_few_kv_heads_are_replicated_but_query_heads_must_divide():
    mesh = make_mesh(1, 1, 8)
    axes = ("layers", "embed", "kv_heads", "head_dim")
    assert sharding(axes, (3, 8, 2, 4), mesh).spec == P(None, None, None, None)
    with pytest.raises(UserError, match="'heads' has length 9, which mesh axes"):
        sharding(("heads",), (9,), mesh)


def test_two_axes_may_not_want_the_same_mesh_axis():
    with pytest.raises(UserError, match="'vocab' and 'mlp' both want mesh axis 'tensor'"):
        sharding(("vocab", "mlp"), (8, 8), make_mesh(1, 1, 8))


def test_put_and_fetch_round_trip():
    mesh = make_mesh(4, 2, 1)
    x = {"a": np.arange(48.0).reshape(16, 3)}
    there = put(x, rows(mesh))
    assert {s.data.shape for s in there["a"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(fetch(there)["a"], x["a"])


def test_activations_are_pinned_where_a_mesh_is_set():
    x = np.zeros((8, 4, 6), np.float32)
    pin = jax.jit(lambda x: constrain(x * 1, "batch", "time", "width"))
    with jax.set_mesh(make_mesh(2, 2, 2)):
        assert len({str(s.index) for s in pin(x).addressable_shards}) == 4


def test_slices_are_joined_by_data_alone():
    """Without slices of their own, the devices of one process are one: refused, not guessed."""
    with pytest.raises(UserError, match="mesh.slices=3 does not divide mesh.data=8"):
        make_mesh(slices=3)
    with pytest.raises(UserError, match="those of 1 slice: set config.mesh.slices=1"):
        make_mesh(slices=2)


def test_a_pod_of_two_slices_is_not_taken_for_one():
    class Device(NamedTuple):
        slice_index: int
        platform: str = "tpu"
        process_index: int = 0

    devices = [Device(i // 4) for i in range(8)]
    with pytest.raises(UserError, match=r"mesh.slices=1, .* 2 slices: set config.mesh.slices=2"):
        make_mesh(data=1, fsdp=8, devices=devices)


def test_devices_are_arranged_anew_for_sampling():
    mesh = make_mesh(1, 2, 2, context=2)
    assert dict(sampling_mesh(mesh).shape) == {"data": 4, "fsdp": 1, "context": 1, "tensor": 2}
    wide = sampling_mesh(mesh, Sampling(8))
    assert dict(wide.shape) == {"data": 1, "fsdp": 1, "context": 1, "tensor": 8}
    assert list(wide.devices.flat) == list(mesh.devices.flat)
    assert sampling_mesh(make_mesh(4, tensor=2)) == make_mesh(4, tensor=2)
    with pytest.raises(UserError, match="tensor=3 does not divide the 8 devices"):
        sampling_mesh(mesh, Sampling(3))
