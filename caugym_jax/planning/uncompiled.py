"""What a program should take of devices for which it cannot be compiled here: GPUs.

Memory is the estimate of `search.py`, time the roofline's with traffic by formula. Of compiled
programs of TPU slices some take a fifth more than such an estimate.
"""

from __future__ import annotations

from typing import Any

from caugym_jax.devices.shapes import Call, local_bytes
from caugym_jax.models.work import Work, parameters
from caugym_jax.planning import lengths
from caugym_jax.planning.collectives import Collective
from caugym_jax.planning.compiling import Stated, mesh_of, timing
from caugym_jax.planning.machine import Machine
from caugym_jax.planning.search import estimated_bytes, estimated_traffic


def estimate(
    call: Call, machine: Machine, slices: int, stated: Stated | None = None
) -> dict[str, Any]:
    """One program's report, as `compiling.examine` gives it, without a compiler."""
    mesh = dict(mesh_of(call).shape)
    before, drawing = traffic(call.work, mesh, slices)
    peak, beside = estimated_bytes(call), local_bytes(call.beside)
    arguments = local_bytes((call.arguments, call.program.last))
    memory = {"arguments": arguments, "temporaries": peak - arguments - beside, "beside": beside}
    report = {
        "name": call.name,
        "times_a_step": call.times,
        "compile_seconds": None,
        "remedy": call.program.remedy,
        "memory": {**memory, "peak": peak},
        "limit": machine.limit,
        "fits": machine.limit is None or peak <= machine.limit,
        "drawn": call.work.drawn,
    }
    place = lengths.Place(machine.chip, machine.efficiency, mesh, ())
    return report | timing(call, [*before, *drawing], place, stated)


def traffic(
    work: Work, mesh: dict[str, int], slices: int = 1
) -> tuple[list[Collective], list[Collective]]:
    """What a program should send: (in whole rows, while it draws tokens).

    An update: see `search.estimated_traffic`. Whole rows without one: a layer's weights are
    gathered once over fsdp, the residual stream is all-reduced twice a layer over tensor, keys and
    values are gathered over context. A drawn token: the same two all-reduces of one place a row.
    """
    if work.train:
        return estimated_traffic(work, mesh, slices), []
    c, size = work.model, work.itemsize
    strides = {"fsdp": mesh["context"] * mesh["tensor"], "context": mesh["tensor"], "tensor": 1}
    groups = {axis: tuple(range(0, mesh[axis] * by, by)) for axis, by in strides.items()}
    rows = work.rows / (mesh["data"] * mesh["fsdp"] * work.parts)
    places, layers = rows * work.width / mesh["context"], work.parts * c.num_layers
    kv = 2 * size * rows * work.width * c.num_kv_heads * c.head_dim / mesh["tensor"]
    weights = size * parameters(c) / mesh["tensor"] / c.num_layers
    before = [
        Collective("all-gather", layers, weights, groups["fsdp"]),
        Collective("all-reduce", 2 * layers, size * places * c.d_model, groups["tensor"]),
        Collective("all-gather", layers, kv, groups["context"]),
    ]
    stream = size * rows * work.samples * c.d_model
    drawing = [Collective("all-reduce", 2 * layers * work.drawn, stream, groups["tensor"], True)]
    return [one for one in before if len(one.group) > 1 and work.read], [
        one for one in drawing if len(one.group) > 1 and work.drawn
    ]
