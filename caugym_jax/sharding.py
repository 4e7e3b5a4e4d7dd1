"""Where arrays live: the mesh, the one table of logical axes, and the two doors to the device.

This is the only file that says PartitionSpec. A weight names its logical axes where it is declared
(`models/transformer.py`); `RULES` says which mesh axis each logical axis is split over.

Mesh axes: `data` (batch, parameters replicated), `fsdp` (batch, parameters split over the model
width) and `tensor` (heads, feed-forward width and vocabulary split).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from caugym_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | tuple[str, ...] | None] = {
    # weights
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "norm": None,
    "rank": None,
    # activations and batches
    "batch": ("data", "fsdp"),
    "time": None,
    "width": None,
}


class Layout(NamedTuple):
    """A tree of weights, described: two trees of its structure."""

    shapes: Any  # jax.ShapeDtypeStructs
    axes: Any  # tuples of logical axis names


def matrix_axes(axes: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Which of a weight's axes are a matrix's inputs and which its outputs; None: it is no matrix.

    A layer's matrices are stacked over "layers", "head_dim" belongs to the heads before it, and
    what has a vocabulary is a table: ("layers", "heads", "head_dim", "embed") gives (1, 2), (3,).
    """
    sides: list[tuple[int, ...]] = []
    for i, name in enumerate(axes):
        if name == "head_dim":
            sides[-1] += (i,)
        elif name != "layers":
            sides.append((i,))
    return None if len(sides) != 2 or "vocab" in axes else (sides[0], sides[1])


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with axes (data, fsdp, tensor); one size may be -1 and fills in.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise UserError(f"mesh sizes {sizes} (data, fsdp, tensor): positive, and at most one -1")
    if -1 in sizes:
        rest = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = max(1, len(devices) // rest)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh data x fsdp x tensor = {' x '.join(map(str, sizes))} needs "
            f"{math.prod(sizes)} devices, this machine has {len(devices)}: change config.mesh"
        )
    return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES, (AxisType.Auto,) * 3)


def _mesh_axes(axis: str) -> tuple[str, ...]:
    rule = RULES[axis]
    return () if rule is None else (rule,) if isinstance(rule, str) else rule


def _spec(axes: Sequence[str], shape: Sequence[int], sizes: dict[str, int]) -> PartitionSpec:
    """The partition of one array. KV heads fewer than the tensor axis are replicated."""
    entries: list[tuple[str, ...] | None] = []
    used: dict[str, str] = {}
    for axis, length in zip(axes, shape, strict=True):
        over = tuple(m for m in _mesh_axes(axis) if sizes.get(m, 1) > 1)
        split = math.prod(sizes[m] for m in over)
        if axis == "kv_heads" and split > length and split % length == 0:
            over, split = (), 1
        if length % split:
            raise UserError(
                f"axis {axis!r} has length {length}, which mesh axes {over} of size {split} do "
                "not divide: choose other config.mesh sizes"
            )
        for m in over:
            if m in used:
                raise UserError(f"logical axes {used[m]!r} and {axis!r} both want mesh axis {m!r}")
            used[m] = axis
        entries.append(over or None)
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of one array with these logical axes and this shape."""
    return NamedSharding(mesh, _spec(axes, shape, dict(mesh.shape)))


def shardings(layout: Layout, mesh: Mesh) -> Any:
    """The tree of the weights' shardings."""
    return jax.tree.map(lambda x, names: sharding(names, x.shape, mesh), *layout)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def row_count(mesh: Mesh) -> int:
    """Into how many parts the batch axis is split; batch sizes must be multiples of it."""
    return math.prod(mesh.shape[m] for m in _mesh_axes("batch"))


def traced_row_count() -> int:
    """`row_count` of the mesh that is set where a function is traced; 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else row_count(mesh)


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Pins an activation to its logical axes inside a jitted function.

    A no-op where no mesh is set or an axis does not divide (a short last batch while tracing).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    sizes = dict(mesh.shape)
    spec = []
    for axis, length in zip(axes, x.shape, strict=True):
        over = tuple(m for m in _mesh_axes(axis) if sizes.get(m, 1) > 1)
        spec.append(over if over and length % math.prod(sizes[m] for m in over) == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def put(tree: Any, target: Any) -> Any:
    """Host to device: NumPy arrays (this process's part) to arrays with the given sharding(s)."""
    if isinstance(target, NamedSharding):
        target = jax.tree.map(lambda _: target, tree)
    return jax.tree.map(
        lambda x, s: jax.make_array_from_process_local_data(s, np.asarray(x)), tree, target
    )


def fetch(tree: Any) -> Any:
    """Device to host: a tree of NumPy arrays holding the global values."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
