"""Compiles a planned step's programs and says what each takes: memory, traffic, time."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import jax
import ml_collections

from caugym_jax.algorithms.sft import Targets
from caugym_jax.devices.chips import Chip
from caugym_jax.devices.mesh import row_count
from caugym_jax.devices.programs import Call
from caugym_jax.planning.abstract import Planned
from caugym_jax.planning.collectives import collectives, totals
from caugym_jax.planning.roofline import (
    Efficiency,
    Prediction,
    Work,
    exchange,
    predict,
)
from caugym_jax.sampling.sampler import piece_width
from caugym_jax.types import Experience

# libtpu's words for a program that does not fit.
_NEEDED = re.compile(r"(?:HLO temporaries \(|Used )([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def mesh_of(call: Call) -> jax.sharding.Mesh:
    """The mesh on which a program's arguments lie."""
    return next(leaf.sharding.mesh for leaf in jax.tree.leaves(call.arguments))


def local_bytes(tree: Any) -> int:
    """Of a tree of jax.ShapeDtypeStructs, what lies on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def work_of(call: Call, planned: Planned, config: ml_collections.ConfigDict) -> Work:
    """What one call of a program computes."""
    model, section = planned.model, config[config.method]
    size = 2 if model.dtype == "bfloat16" else 4
    common = {"kernel": model.attention, "itemsize": size}
    if call.name == "sample":
        _, prompts, _, keys, *_ = call.arguments
        (rows, width), drawn = prompts.shape, section.max_completion_length
        return Work(
            model.config, rows, width, 0, drawn=drawn, samples=keys.shape[0] // rows,
            piece=piece_width(drawn), **common,
        )  # fmt: skip
    batch = next(
        x
        for x in jax.tree.leaves(call.arguments, is_leaf=lambda x: isinstance(x, _BATCHES))
        if isinstance(x, _BATCHES)
    )
    tokens = batch.tokens if isinstance(batch, Experience) else batch.batch.tokens
    rows, (width, scored) = (
        tokens.size // tokens.shape[-1],
        (tokens.shape[-1], batch.mask.shape[-1]),
    )
    if call.name == "reference point":
        rows //= 2  # of each pair the other completion alone
    train = call.name.endswith("update")
    critic = call.name in ("value", "critic update")
    return Work(
        planned.critic if critic else model.config, rows, width, 0 if critic else scored,
        train=train,
        parts=section.microbatches or max(1, tokens.shape[0] // row_count(planned.mesh)),
        remat=model.remat if train else "none",
        adapters=None if critic else planned.adapters,
        **common,
    )  # fmt: skip


_BATCHES = (Experience, Targets)


def compile_call(call: Call) -> tuple[Any, float, str]:
    """(the compiled program or None, seconds, why there is none: it does not fit)."""
    clock = time.perf_counter()
    with jax.set_mesh(mesh_of(call)):
        lowered = call.program.lower(*call.arguments)
        try:
            compiled, why = lowered.compile(), ""
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            compiled, why = None, str(error)
    return compiled, time.perf_counter() - clock, why


def examine(
    call: Call,
    planned: Planned,
    config: ml_collections.ConfigDict,
    chip: Chip,
    efficiency: Efficiency,
    limit: float | None,
    coordinates: dict[int, tuple[int, ...]],
) -> dict[str, Any]:
    """One program's report: what is printed and written as JSON; bytes are of one device.

    Args:
      limit: bytes that a device has; None: unknown.
      coordinates: of devices on the torus, by id.
    """
    compiled, seconds, why = compile_call(call)
    work, mesh = work_of(call, planned, config), mesh_of(call)
    beside = local_bytes(call.beside)
    report = {
        "name": call.name, "times_a_step": call.times, "compile_seconds": round(seconds, 1),
        "remedy": call.program.remedy,
    }  # fmt: skip
    if compiled is None:
        found, memory = [], _refused(call, why) | {"beside": beside}
        memory["peak"] = sum(memory.values()) if "temporaries" in memory else None
    else:
        sizes = compiled.memory_analysis()
        memory = {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
            "aliased": sizes.alias_size_in_bytes,
            "code": sizes.generated_code_size_in_bytes,
            "beside": beside,
        }
        signs = {"aliased": -1}
        memory["peak"] = sum(signs.get(name, 1) * size for name, size in memory.items())
        found = collectives(compiled.as_text(), unknown_trips=work.piece)
    places = [coordinates[d.id] for d in mesh.devices.flat] if coordinates else ()
    before, drawing = (
        exchange([one for one in found if one.drawing == state], chip, efficiency, places)
        for state in (False, True)
    )
    prediction = predict(
        work, chip, efficiency, mesh.devices.size,
        tensor=mesh.shape["tensor"], exchanged=before, drawing=drawing,
    )  # fmt: skip
    fits = compiled is not None and (limit is None or memory["peak"] <= limit)
    report |= {"memory": memory, "limit": limit, "fits": fits, "drawn": work.drawn}
    return report | {"collectives": totals(found), "predicted": _told(prediction)}


def _refused(call: Call, why: str) -> dict[str, float]:
    """What is known of a program that the compiler refused for its size."""
    found, fixed = _NEEDED.search(why), local_bytes((call.arguments, call.program._last))
    memory: dict[str, float] = {"arguments": fixed}
    return memory | ({"temporaries": float(found[1]) * _UNITS[found[2]]} if found else {})


def _told(p: Prediction) -> dict[str, float]:
    terms = p._asdict()
    flops = terms.pop("flops")
    return terms | {"model_flops": flops.model, "done_flops": flops.matmul + flops.attention}


def step_of(programs: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """A whole training step, of which every program is known."""
    seconds = sum(p["times_a_step"] * p["predicted"]["seconds"] for p in programs)
    updated = [p for p in programs if p["name"] == "update"]
    tokens = sum(
        p["times_a_step"] * p["predicted"]["seconds"] * p["predicted"]["tokens_per_second"]
        for p in updated
    )
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "steps": steps,
        "hours": seconds * steps / 3600,
    }


def described_memory(memory: dict[str, Any]) -> str:
    parts = [f"{name} {size / 2**30:.2f}" for name, size in memory.items() if size is not None]
    return ", ".join(parts)


def lines(report: dict[str, Any]) -> list[str]:
    """A program's report for reading."""
    p, times = report["predicted"], report["times_a_step"]
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    out = [
        f"{report['name']} x {times} a step: {verdict}, "
        f"compiled in {report['compile_seconds']:.0f} s",
        f"  GiB a device: {described_memory(report['memory'])}",
    ]
    for kind, row in report["collectives"].items():
        out.append(f"  {kind}: {row['count']:,.0f}, {row['bytes'] / 2**30:,.2f} GiB received")
    if drawn := report["drawn"]:
        prefill, decode = p["seconds"] - p["decode"], 1e3 * p["decode"] / drawn
        out.append(f"  prefill {prefill:.3g} s, then {drawn:,} tokens in {decode:.3g} ms each")
    out.append(
        f"  predicted {p['seconds']:.3g} s ({times * p['seconds']:.3g} s a step): arithmetic "
        f"{p['arithmetic']:.3g}, memory {p['memory']:.3g}, exchange {p['exchange']:.3g}, "
        f"optimiser {p['optimiser']:.3g}; {p['tokens_per_second']:,.0f} tokens/s, "
        f"MFU {100 * p['mfu']:.1f}%"
    )
    return out
