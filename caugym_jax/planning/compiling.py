"""Compiles a planned step's programs and says what each takes: memory, traffic, time."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import jax

from caugym_jax.devices import terminal
from caugym_jax.devices.chips import Chip
from caugym_jax.devices.shapes import Call, local_bytes
from caugym_jax.planning import lengths
from caugym_jax.planning.collectives import Collective, collectives, totals
from caugym_jax.planning.roofline import (
    Efficiency,
    Prediction,
    exchange,
    predict,
)

Stated = tuple[lengths.Lengths, int]  # of completions and prompts; samples of each prompt

# libtpu's words for a program that does not fit.
_NEEDED = re.compile(r"(?:HLO temporaries \(|Used )([\d.]+)([KMG])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def mesh_of(call: Call) -> jax.sharding.Mesh:
    """The mesh on which a program's arguments lie."""
    return next(leaf.sharding.mesh for leaf in jax.tree.leaves(call.arguments))


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
    chip: Chip,
    efficiency: Efficiency,
    limit: float | None,
    coordinates: dict[int, tuple[int, ...]],
    stated: Stated | None = None,
) -> dict[str, Any]:
    """One program's report: what is printed and written as JSON; bytes are of one device.

    Args:
      limit: bytes that a device has; None: unknown.
      coordinates: of devices on the torus, by id.
      stated: how long completions are; None: as long as they may be.
    """
    terminal.doing(f"compiling {call.name}")
    compiled, seconds, why = compile_call(call)
    terminal.clear()
    work, mesh, beside = call.work, mesh_of(call), local_bytes(call.beside)
    report = {
        "name": call.name,
        "times_a_step": call.times,
        "compile_seconds": round(seconds, 1),
        "remedy": call.program.remedy,
    }
    if compiled is None:
        found, memory = [], _refused(call, why) | {"beside": beside}
        peak = sum(memory.values()) if "temporaries" in memory else None
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
        peak = sum(signs.get(name, 1) * size for name, size in memory.items())
        # Loops of unknown length: a sampler draws tokens, packed rows come in microbatches.
        # Of a wave whose rows wait one loop is compiled that stands for all.
        trips = work.parts
        if work.drawn:
            trips = work.piece if work.room is None else work.drawn
        found = collectives(compiled.as_text(), unknown_trips=trips)
        found = [one._replace(drawing=one.drawing and work.drawn > 0) for one in found]
    places = [coordinates[d.id] for d in mesh.devices.flat] if coordinates else ()
    fits = compiled is not None and (limit is None or peak is not None and peak <= limit)
    report |= {
        "memory": {**memory, "peak": peak},
        "limit": limit,
        "fits": fits,
        "drawn": work.drawn,
    }
    place = lengths.Place(chip, efficiency, dict(mesh.shape), places)
    return report | timing(call, found, place, stated)


def timing(
    call: Call, found: Sequence[Collective], place: lengths.Place, stated: Stated | None
) -> dict[str, Any]:
    """What a report says of a program's time.

    Args:
      found: what its devices send each other.
    """
    drawing = [one for one in found if one.drawing]
    before, in_loop = (
        exchange(sent, place.chip, place.efficiency, place.coordinates)
        for sent in ([one for one in found if not one.drawing], drawing)
    )
    prediction = predict(
        call.work,
        place.chip,
        place.efficiency,
        mesh_of(call).devices.size,
        tensor=place.mesh["tensor"],
        exchanged=before,
        drawing=in_loop,
    )
    if call.work.room is not None:
        prediction = lengths.all_full(call, prediction, drawing, place)
    report = {"collectives": totals(found), "predicted": fields_of(prediction)}
    if stated is not None:
        report["stated_seconds"] = lengths.seconds(call, prediction, drawing, place, *stated)
    return report


def _refused(call: Call, why: str) -> dict[str, float]:
    """What is known of a program that the compiler refused for its size."""
    found, fixed = _NEEDED.search(why), local_bytes((call.arguments, call.program.last))
    memory: dict[str, float] = {"arguments": fixed}
    return memory | ({"temporaries": float(found[1]) * _UNITS[found[2]]} if found else {})


def fields_of(p: Prediction) -> dict[str, float]:
    """A prediction as a report holds it."""
    terms = p._asdict()
    flops = terms.pop("flops")
    return terms | {"model_flops": flops.model, "done_flops": flops.matmul + flops.attention}


def step_of(programs: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """A whole training step, of which every program is known."""
    seconds = sum(p["times_a_step"] * p["predicted"]["seconds"] for p in programs)
    stated = [p["times_a_step"] * p["stated_seconds"] for p in programs if "stated_seconds" in p]
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
        **({"stated_seconds": sum(stated)} if stated else {}),
    }


def described_memory(memory: dict[str, Any]) -> str:
    parts = [f"{name} {size / 2**30:.2f}" for name, size in memory.items() if size is not None]
    return ", ".join(parts)


def lines(report: dict[str, Any]) -> list[str]:
    """A program's report for reading."""
    p, times = report["predicted"], report["times_a_step"]
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    how = "by estimate, not compiled"
    if (seconds := report["compile_seconds"]) is not None:
        how = f"compiled in {seconds:.0f} s"
    out = [
        f"{report['name']} x {times} a step: {verdict}, {how}",
        f"  GiB a device: {described_memory(report['memory'])}",
    ]
    for kind, row in report["collectives"].items():
        out.append(f"  {kind}: {row['count']:,.0f}, {row['bytes'] / 2**30:,.2f} GiB received")
    if drawn := report["drawn"]:
        prefill, decode = p["seconds"] - p["decode"], 1e3 * p["decode"] / drawn
        before = f"prefill {prefill:.3g} s, then " if prefill else ""
        out.append(f"  {before}{drawn:,} tokens in {decode:.3g} ms each")
    out.append(
        f"  predicted {p['seconds']:.3g} s ({times * p['seconds']:.3g} s a step): arithmetic "
        f"{p['arithmetic']:.3g}, memory {p['memory']:.3g}, exchange {p['exchange']:.3g}, "
        f"optimiser {p['optimiser']:.3g}; {p['tokens_per_second']:,.0f} tokens/s, "
        f"MFU {100 * p['mfu']:.1f}%"
    )
    if (stated := report.get("stated_seconds")) is not None:
        out.append(f"  of the stated lengths {stated:.3g} s ({times * stated:.3g} s a step)")
    return out
