"""Where arrays live: the mesh, the one table of logical axes, and the two doors to the device.

This is the only file that says PartitionSpec. A weight names its logical axes where it is declared
(`models/transformer.py`); `RULES` says which mesh axis each logical axis is split over.

Mesh axes: `data` (batch, parameters replicated), `fsdp` (batch, parameters split over the model
width), `context` (a row's places, so that long rows fit; keys and values are gathered for
attention) and `tensor` (heads, feed-forward width and vocabulary split). Devices that exchange most
lie next to each other: `tensor` is the innermost axis, `data` the outermost.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from caugym_jax.devices.shapes import on_shapes, placed
from caugym_jax.errors import UserError, require

MESH_AXES = ("data", "fsdp", "context", "tensor")

RULES: dict[str, str | tuple[str, ...] | None] = {
    # weights
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "tensor",
    "expert_mlp": None,
    "routes": None,
    "blocks": None,
    "norm": None,
    "rank": None,
    # activations and batches
    "batch": ("data", "fsdp"),
    "group": "data",  # rows of all devices along fsdp, where these split the vocabulary instead
    "vocab_split": ("tensor", "fsdp"),
    "time": "context",
    "slots": None,  # of a cache
    "draws": ("data", "fsdp", "context", "tensor"),  # rows whose tokens are picked
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


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How training's devices are arranged: over how many of them what is split.

    Attributes:
      data: devices over which the batch is split and the weights are copied; one of the four sizes
        may be -1: as many as are left.
      fsdp: devices over which the batch and the weights are split (over the model's width).
      tensor: devices over which heads, feed-forward width and vocabulary are split.
      context: devices over which a row's places are split, so that long rows fit.
      slices: pod slices, joined by a slower network than their own: data is then a multiple of this
        and only its outermost part crosses between slices (gradients, once a step).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    slices: int = 1

    def __post_init__(self) -> None:
        require(self, "slices", at_least=1)
        for axis, size in self.sizes.items():
            if size < 1 and size != -1:
                raise UserError(f"{axis}={size}: must be at least 1, or -1: as many as are left")
        left = [f"{axis}=-1" for axis, size in self.sizes.items() if size == -1]
        if len(left) > 1:
            raise UserError(f"{' and '.join(left)}: at most one size may be -1")

    @property
    def sizes(self) -> dict[str, int]:
        """By mesh axis."""
        return {axis: getattr(self, axis) for axis in MESH_AXES}


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the same devices are arranged for sampling: rows over all that is not tensor.

    A sampler makes one token at a time, so weights split over fsdp would be gathered for every one,
    and a row's places cannot be split.

    Attributes:
      tensor: devices over which heads and feed-forward width are split; None: on accelerators as
        shapes suggest (`runs/recipe.py`), on a CPU as in training.
    """

    tensor: int | None = None

    def __post_init__(self) -> None:
        require(self, "tensor", at_least=1)


def make_mesh(*sizes: int, devices: Sequence[jax.Device] | None = None, **named: int) -> Mesh:
    """A mesh with axes (data, fsdp, context, tensor).

    Args:
      sizes, named: the fields of `MeshShape`, by place or by name.
      devices: None: all of this machine's.

    Raises:
      UserError: there is no device, the sizes do not multiply to their number, or the devices'
        slices are others than `slices`.
    """
    devices = list(found_devices() if devices is None else devices)
    shape = MeshShape(*sizes, **named)
    axes, slices = shape.sizes, shape.slices
    for axis, size in axes.items():
        if size == -1:
            axes[axis] = max(1, len(devices) // -math.prod(axes.values()))
    if math.prod(axes.values()) != len(devices):
        raise UserError(
            f"mesh {' x '.join(axes)} = {' x '.join(map(str, axes.values()))} needs "
            f"{math.prod(axes.values())} devices, this machine has {len(devices)}: change "
            "config.mesh"
        )
    if axes["data"] % slices:
        raise UserError(
            f"mesh.slices={slices} does not divide mesh.data={axes['data']}: slices are joined by "
            "data parallelism alone"
        )
    return Mesh(
        _arranged(devices, tuple(axes.values()), slices), MESH_AXES, (AxisType.Auto,) * len(axes)
    )


def found_devices() -> list[jax.Device]:
    """All devices.

    Raises:
      UserError: jax finds none, or not those that JAX_PLATFORMS asks for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin is not installed
        why = (str(error).strip().splitlines() or ["a plugin is not installed"])[0]
        raise UserError(
            f"no device to run on ({why}): unset or change JAX_PLATFORMS"
            f"={os.environ.get('JAX_PLATFORMS', '')}"
        ) from error


def _arranged(devices: list[jax.Device], shape: tuple[int, ...], slices: int) -> np.ndarray:
    """The devices in the mesh's shape, neighbours on the machine neighbours in the mesh."""
    tpu = devices[0].platform == "tpu"
    if tpu or slices > 1:
        numbers = {getattr(device, "slice_index", None) for device in devices}
        sliced = None not in numbers  # else a process is taken for a slice
        found = len(numbers if sliced else {device.process_index for device in devices})
        if found != slices and (sliced or slices > 1):
            raise UserError(
                f"mesh.slices={slices}, but the devices are those of {found} "
                f"slice{'s' * (found > 1)}: set config.mesh.slices={found}, and config.mesh.data "
                "to a multiple of it"
            )
    if slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            inner, (slices, *[1] * len(shape[1:])), devices, process_is_granule=not sliced
        )
    if tpu:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(shape)


def sampling_mesh(mesh: Mesh, settings: Sampling = Sampling()) -> Mesh:
    """The same devices arranged for sampling."""
    devices = mesh.devices.reshape(-1)
    tensor = settings.tensor or mesh.shape["tensor"]
    if devices.size % tensor:
        raise UserError(
            f"sampling over tensor={tensor} does not divide the {devices.size} devices: change "
            "config.sampling.tensor"
        )
    shape = (devices.size // tensor, 1, 1, tensor)
    if shape == mesh.devices.shape:
        return mesh
    return Mesh(devices.reshape(shape), MESH_AXES, (AxisType.Auto,) * len(shape))


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


def described(layout: Layout, mesh: Mesh) -> Any:
    """The tree of the weights' shapes, types and shardings."""
    return placed(layout.shapes, shardings(layout, mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def row_count(mesh: Mesh) -> int:
    """Into how many parts the batch axis is split; batch sizes must be multiples of it."""
    return math.prod(mesh.shape[m] for m in _mesh_axes("batch"))


def traced_size(axis: str) -> int:
    """Into how many parts a logical axis is split by the mesh that is set where a function is
    traced; 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[m] for m in _mesh_axes(axis))


def traced_row_count() -> int:
    """`row_count` of the mesh that is set where a function is traced; 1 where none is."""
    return traced_size("batch")


def activation_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """The partition of an activation, over as many of its mesh axes as divide it (a short last
    batch may be whole)."""
    spec = []
    for axis, length in zip(axes, shape, strict=True):
        over = tuple(m for m in _mesh_axes(axis) if mesh.shape[m] > 1) if axis else ()
        while over and length % math.prod(mesh.shape[m] for m in over):
            over = over[:-1]
        spec.append(over or None)
    return PartitionSpec(*spec)


def activation_sharding(axes: Sequence[str], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding that `constrain` gives an activation of this shape."""
    return NamedSharding(mesh, activation_spec(axes, shape, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Pins an activation to its logical axes inside a jitted function.

    A no-op where no mesh is set or it has one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    pinned: jax.Array = jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape, mesh))
    return pinned


def look_up(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """table[tokens], [B, T, D], of a table [V, D] that is split over tensor and fsdp.

    The table stays where it is, and so does its gradient: each device looks up its columns for
    the rows of all devices along fsdp, and they exchange columns for rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    spec = activation_spec(("batch", "time"), tokens.shape, mesh)
    if "fsdp" not in (spec[0] or ()):  # rows that do not divide
        whole: jax.Array = jax.lax.with_sharding_constraint(table, PartitionSpec())
        return whole[tokens].astype(dtype)
    vocab, columns = (m if mesh.shape[m] > 1 else None for m in ("tensor", "fsdp"))
    together = "data" if mesh.shape["data"] > 1 else None

    def local(table: jax.Array, tokens: jax.Array) -> Any:
        if vocab is None:
            x = table[tokens].astype(dtype)
        else:
            own = tokens - jax.lax.axis_index(vocab) * len(table)
            inside = (own >= 0) & (own < len(table))
            x = table[jnp.clip(own, 0, len(table) - 1)].astype(dtype)
            x = jax.lax.psum(jnp.where(inside[..., None], x, 0), vocab)
        return jax.lax.all_to_all(x, columns, split_axis=0, concat_axis=2, tiled=True)

    found: jax.Array = jax.shard_map(
        local,
        in_specs=(PartitionSpec(vocab, columns), PartitionSpec(together, spec[1])),
        out_specs=PartitionSpec(*spec, None),
    )(table, tokens)
    return found


def take_rows(x: jax.Array, index: jax.Array, axes: Sequence[str]) -> jax.Array:
    """Rows of each shard of rows, in an array of their own.

    Row by row: of a gather TPU's compiler makes copies that are larger than what it takes.

    Args:
      x: with these logical axes, one of them "batch".
      index: [shards, n] int32: which rows of each shard, counted from its first.
    """
    mesh, at = jax.sharding.get_abstract_mesh(), axes.index("batch")

    def local(x: jax.Array, index: jax.Array) -> Any:
        def write(i: jax.Array, taken: jax.Array) -> Any:
            row = jax.lax.dynamic_index_in_dim(x, index[0, i], at, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(taken, row, i, at)

        count = index.shape[1]
        taken = jnp.zeros((*x.shape[:at], count, *x.shape[at + 1 :]), x.dtype)
        return jax.lax.fori_loop(0, count, write, taken)

    if mesh.empty or mesh.size == 1:
        own: jax.Array = local(x, index)
        return own
    split = PartitionSpec(tuple(m for m in _mesh_axes("batch") if mesh.shape[m] > 1) or None)
    spec = activation_spec(axes, x.shape, mesh)
    taking = jax.shard_map(local, in_specs=(spec, split), out_specs=spec, check_vma=False)
    taken: jax.Array = taking(x, index)
    return taken


def send_rows(
    target: jax.Array, source: jax.Array, sent: jax.Array, into: jax.Array, axes: Sequence[str]
) -> jax.Array:
    """`target` with rows of `source`, of any shard of rows, in some of its places.

    Each shard sends one row to every other, so little is there twice (see `take_rows`, too).

    By hand: of two shards with rows ab|cd, sent (0, 1), (0, 1) and into (9, 9), (1, 9): the first
    sends b, which the second writes to its second place: ab|cb.

    Args:
      target, source: with these logical axes, one of them "batch"; shards may have other numbers of
        rows.
      sent: [shards, shards] int32: which row a shard sends to each, counted from its first.
      into: [shards, shards] int32: where a shard writes what it gets of each; beyond its last row:
        nowhere.
    """
    mesh = jax.sharding.get_abstract_mesh()
    over = tuple(m for m in _mesh_axes("batch") if mesh.shape[m] > 1)
    split = PartitionSpec(over)
    at = axes.index("batch")

    def local(target: jax.Array, source: jax.Array, sent: jax.Array, into: jax.Array) -> Any:
        def row(x: jax.Array, place: jax.Array) -> Any:
            return jax.lax.dynamic_index_in_dim(x, place, at, keepdims=False)

        leaving = jax.lax.map(functools.partial(row, source), sent[0])
        arrived = jax.lax.all_to_all(leaving, over, split_axis=0, concat_axis=0, tiled=True)

        def write(shard: jax.Array, target: jax.Array) -> Any:
            place = into[0, shard]
            kept = jnp.where(place < target.shape[at], arrived[shard], row(target, place))
            return jax.lax.dynamic_update_index_in_dim(target, kept, place, at)

        return jax.lax.fori_loop(0, len(arrived), write, target)

    specs = [activation_spec(axes, x.shape, mesh) for x in (target, source)]
    sending = jax.shard_map(
        local, in_specs=(*specs, split, split), out_specs=specs[0], check_vma=False
    )
    written: jax.Array = sending(target, source, sent, into)
    return written


def put(tree: Any, target: Any) -> Any:
    """Host to device: NumPy arrays to arrays with the given sharding(s).

    Of several processes every one has the whole arrays and feeds its devices' part of them, so
    this is right for any mesh. On shapes (`shapes.recording`) it returns shapes.
    """
    if on_shapes():
        return placed(tree, target)
    if isinstance(target, NamedSharding):
        target = jax.tree.map(lambda _: target, tree)

    def one(x: Any, s: NamedSharding) -> Any:
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(s, x, x.shape)

    return jax.tree.map(one, tree, target)


def fetch(tree: Any) -> Any:
    """Device to host: a tree of NumPy arrays holding the global values, on every process; zeros
    for shapes."""
    if on_shapes():
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)

    def whole(x: Any) -> Any:
        there = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return jax.jit(_same, out_shardings=replicated(x.sharding.mesh))(x) if there else x

    return jax.device_get(jax.tree.map(whole, tree))


def move(tree: Any, target: Any) -> Any:
    """Device to device: the same arrays with the given sharding(s)."""
    return placed(tree, target) if on_shapes() else jax.device_put(tree, target)


def _same(x: jax.Array) -> jax.Array:
    return x
