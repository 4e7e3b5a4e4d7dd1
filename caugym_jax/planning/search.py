"""Which mesh, and how small a slice: by estimate first, since a compilation takes minutes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from caugym_jax.devices.mesh import MeshShape
from caugym_jax.devices.shapes import Call, local_bytes
from caugym_jax.errors import UserError
from caugym_jax.models.work import Work, parameters
from caugym_jax.planning.abstract import Planned, plan
from caugym_jax.planning.collectives import OUTSIDE, Collective
from caugym_jax.planning.compiling import mesh_of
from caugym_jax.planning.machine import Machine, machine_of
from caugym_jax.planning.roofline import (
    exchange,
    predict,
)
from caugym_jax.planning.topology import Slice, open_slice
from caugym_jax.runs.recipe import REMAT, temporaries
from caugym_jax.runs.settings import Settings

MAX_TENSOR, MAX_CONTEXT = 16, 8
HEADROOM = 0.95  # of a device's memory that an estimate may fill


class Candidate(NamedTuple):
    """A mesh and a remat policy with their estimates."""

    mesh: dict[str, int]
    remat: str
    bytes: float  # of a device, in the program that takes most
    seconds: float  # of the updates of a step
    exchange: float  # of it, if nothing overlapped


def factorizations(devices: int) -> Iterator[dict[str, int]]:
    """The meshes (data, fsdp, context, tensor) of so many devices, tensor and context small."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for fsdp, context, tensor in itertools.product(sizes, sizes, sizes):
        inner = fsdp * context * tensor
        if tensor <= MAX_TENSOR and context <= MAX_CONTEXT and devices % inner == 0:
            yield {"data": devices // inner, "fsdp": fsdp, "context": context, "tensor": tensor}


def best_meshes(config: Settings, where: Slice) -> list[Candidate]:
    """Meshes that divide the configuration and fit by estimate, the quickest first; of equally
    quick ones first that which exchanges least.

    Raises:
      UserError: no mesh at all can be planned; what is said of the first one.
    """
    machine, found, refusals, planned = machine_of(where), [], [], None
    results: dict[Any, Any] = {}
    for mesh in factorizations(len(where.devices)):
        one = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **mesh))
        try:
            planned = plan(one, where.devices, results, machine.limit)
        except UserError as error:  # mostly sizes that do not divide
            refusals.append(error)
            continue
        for remat in REMAT:
            candidate = _estimate(planned, remat, one.mesh, machine, where)
            if machine.limit is None or candidate.bytes <= HEADROOM * machine.limit:
                found.append(candidate)
    if planned is None and refusals:
        raise refusals[0]
    return sorted(found, key=lambda c: (round(c.seconds, 3), c.exchange, c.bytes))


def smallest_slice(config: Settings, names: Sequence[str]) -> str | None:
    """The first of these slices on which some mesh fits by estimate."""
    for name in names:
        try:
            if best_meshes(config, open_slice(name, config.mesh.slices)):
                return name
        except UserError:  # sizes that this slice does not divide
            continue
    return None


def _estimate(
    planned: Planned, remat: str, mesh: MeshShape, machine: Machine, where: Slice
) -> Candidate:
    devices, at = planned.mesh.devices, where.coordinates
    places = [at[d.id] for d in devices.flat] if at else ()
    calls = [c._replace(work=c.work._replace(remat=remat)) for c in planned.calls]
    sizes = dict(planned.mesh.shape)
    seconds = exchanged = 0.0
    for call in calls:
        if call.work.train:
            traffic = estimated_traffic(call.work, sizes, mesh.slices)
            sent = exchange(traffic, machine.chip, machine.efficiency, places)
            found = predict(
                call.work,
                machine.chip,
                machine.efficiency,
                devices.size,
                tensor=sizes["tensor"],
                exchanged=sent,
            )
            seconds += call.times * found.seconds
            exchanged += call.times * sent
    return Candidate(sizes, remat, max(map(estimated_bytes, calls)), seconds, exchanged)


def estimated_traffic(work: Work, mesh: dict[str, int], slices: int = 1) -> list[Collective]:
    """What an update should send, before it is compiled.

    fsdp: a layer's weights are gathered for the forward and the backward pass of every microbatch,
    in the compute type, and gradients reduced and scattered. data: gradients all-reduced in
    float32, once; between slices each device sends its part of them. tensor: two all-reduces of the
    residual stream a layer and pass. context: keys and values gathered, their gradients reduced.
    """
    c, size = work.model, work.itemsize
    inner = mesh["context"] * mesh["tensor"]
    strides = {"data": mesh["fsdp"] * inner, "fsdp": inner, "context": mesh["tensor"], "tensor": 1}
    within = mesh | {"data": mesh["data"] // slices}
    groups = {axis: tuple(range(0, n * strides[axis], strides[axis])) for axis, n in within.items()}
    whole = size * parameters(c) / mesh["tensor"]
    places = work.rows * work.width / (mesh["data"] * mesh["fsdp"] * mesh["context"] * work.parts)
    stream = size * places * c.d_model
    kv = 2 * size * places * mesh["context"] * c.num_kv_heads * c.head_dim / mesh["tensor"]
    layers = work.parts * c.num_layers
    passes = 3 if work.remat in ("full", "attention") else 2
    found = [
        Collective("all-gather", 2 * layers, whole / c.num_layers, groups["fsdp"]),
        Collective("reduce-scatter", layers, whole / c.num_layers, groups["fsdp"]),
        Collective("all-reduce", 1, 4 * parameters(c) / (mesh["fsdp"] * inner), groups["data"]),
        Collective(OUTSIDE, 1, 4 * parameters(c) / math.prod(within.values()), (*range(slices),)),
        Collective("all-reduce", 2 * passes * layers, stream, groups["tensor"]),
        Collective("all-gather", passes * layers, kv, groups["context"]),
    ]
    return [one for one in found if len(one.group) > 1]


def estimated_bytes(call: Call) -> float:
    """What a program should take of a device: its arguments and what lies beside them exactly (by
    their shardings), its temporaries by formula (`runs.recipe.temporaries`)."""
    fixed = local_bytes((call.arguments, call.program.last, call.beside))
    return fixed + temporaries(call.work, dict(mesh_of(call).shape))
