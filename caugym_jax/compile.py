"""Compiles a configuration for a machine that need not be there: --config=NAME.py[:ARG]
--topology=v5p:2x2x4 [--config.key=value ...]

Needs no weights, no data and no device. For every program of a training step (the update, the
sampler, reference and critic where there are any) it prints what it takes of a device's memory and
whether it fits, what devices send each other, and how long a step should take by a roofline model
(caugym_jax/planning/roofline.py says how; completions count as of full length, every group as
informative; rewards, evaluation and saving are not counted). With --lengths it also says how long a
step takes whose completions end earlier. Exit status 1 if a program does not fit.

  python -m caugym_jax.compile --config=grpo.py:r1-distill-qwen-14b --topology=v5p:2x2x4
  python -m caugym_jax.compile --config=grpo.py:r1-distill-qwen-14b --topology=v5p:2x2x4 \
      --lengths=2500,400
  python -m caugym_jax.compile --config=grpo.py --topology=here --programs=update
  python -m caugym_jax.compile --config=sft.py:qwen2.5-7b --topology=v5e:4x4 --search
  python -m caugym_jax.compile --config=grpo.py:r1-distill-qwen-7b --topology=h100:8

For GPUs nothing is compiled: memory and time are both by formula.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caugym_jax.cli import commands
from caugym_jax.cli.config import parse
from caugym_jax.errors import UserError
from caugym_jax.planning import topology

TRIED = 3  # meshes that --search compiles at most


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.compile", __doc__)
    parser.add_argument("--config", required=True, metavar="NAME.py[:ARG]")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="KIND:SHAPE",
        help="v4, v5e, v5p, v6e or tpu7x and a slice's shape; a100, h100, h200 or b200 and the "
        "GPUs of a machine; or here: this machine",
    )
    parser.add_argument("--programs", help="only these, by name, separated by commas")
    parser.add_argument(
        "--lengths",
        metavar="COMPLETION,PROMPT",
        help="medians in tokens: completions are lognormal (sigma 0.8, half of the variance within "
        "a group) and cut at their limit",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report, also as JSON")
    parser.add_argument(
        "--search",
        action="store_true",
        help="rank mesh shapes by estimate, compile the best, and name the smallest slice",
    )
    options, overrides = parse(parser, argv)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json={options.json}: there is no folder {options.json.parent}")
    topology.check_name(options.topology)
    topology.prepare(options.topology)

    from caugym_jax.planning import lengths
    from caugym_jax.runs.settings import load

    config = load(options.config, overrides)
    stated = None
    if options.lengths is not None:
        if config.method not in ("grpo", "ppo"):
            raise UserError(f"--lengths is of methods that sample: {config.method} does not")
        stated = lengths.parse(options.lengths), config.own.group_size
    chosen = options.programs.split(",") if options.programs else None
    if options.search:
        report = _search(config, options.topology, chosen, stated)
    else:
        report = report_on(config, options.topology, chosen, stated)
    command = {"config": options.config, "overrides": overrides, "lengths": options.lengths}
    if options.json is not None:
        from caugym_jax.runs.log import write_text

        write_text(options.json, json.dumps(command | report, indent=1) + "\n")
    failed = [p for p in report["programs"] if not p["fits"]]
    if failed:
        raise UserError(_refusal(failed[0], report))


def report_on(
    config: Any, name: str, chosen: Sequence[str] | None = None, stated: Any = None
) -> dict[str, Any]:
    """Compiles the programs of a step (or those chosen) for a topology; prints as it goes.

    Args:
      stated: lengths and samples of each prompt, see `planning.compiling.examine`.
    """
    import jax

    from caugym_jax.models.work import parameters
    from caugym_jax.planning.abstract import plan
    from caugym_jax.planning.compiling import examine, lines, step_of
    from caugym_jax.planning.machine import machine_of
    from caugym_jax.planning.uncompiled import estimate

    jax.config.update("jax_threefry_partitionable", True)
    slices = config.mesh.slices
    where = topology.open_slice(name, slices)
    machine = machine_of(where)
    planned = plan(config, where.devices, memory=machine.limit)
    known = [call.name for call in planned.calls]
    if chosen is not None and (wrong := [c for c in chosen if c not in known]):
        raise UserError(f"--programs={','.join(chosen)}: no {wrong[0]!r} among {', '.join(known)}")
    count, kind = parameters(planned.model.config), where.devices[0].device_kind
    mesh = dict(planned.mesh.shape)
    print(
        f"{config.method} of {config.model.name} ({count / 1e9:.2f}e9 parameters, "
        f"{planned.model.dtype}, {planned.model.attention} attention, remat "
        f"{planned.model.remat}) on {_several(name, slices)}: {len(where.devices)} x {kind}, "
        f"mesh {_shown(mesh)}, sampling {_shown(dict(planned.sampler_mesh.shape))}",
        flush=True,
    )
    programs = []
    for call in planned.calls:
        if chosen is not None and call.name not in chosen:
            continue
        if where.compiles:
            programs.append(
                examine(
                    call, machine.chip, machine.efficiency, machine.limit, where.coordinates, stated
                )
            )
        else:
            programs.append(estimate(call, machine, slices, stated))
        print("\n".join(lines(programs[-1])), flush=True)
    report = {
        "topology": name,
        "slices": slices,
        "devices": len(where.devices),
        "kind": kind,
        "parameters": count,
        "mesh": mesh,
        "sampling_mesh": dict(planned.sampler_mesh.shape),
        "dtype": planned.model.dtype,
        "attention": planned.model.attention,
        "remat": planned.model.remat,
        "programs": programs,
        **machine.as_json(),
    }
    if chosen is None:
        report["step"] = step = step_of(programs, config.steps)
        print(
            f"step {step['seconds']:.3g} s, {step['tokens_per_second']:,.0f} tokens/s; "
            f"{config.steps} steps {step['hours']:.3g} hours"
        )
        if stated is not None:
            print(f"step of the stated lengths {step['stated_seconds']:.3g} s")
    return report


def _several(name: str, slices: int) -> str:
    return name if slices == 1 else f"{slices} slices of {name}"


def _shown(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "1"


def _refusal(program: dict[str, Any], report: dict[str, Any]) -> str:
    peak, limit = program["memory"].get("peak"), program["limit"]
    needs = "more memory than there is" if peak is None else f"{peak / 2**30:.2f} GiB"
    has = "" if limit is None else f", a device has {limit / 2**30:.2f} GiB"
    where = _several(report["topology"], report["slices"])
    return (
        f"the {program['name']} program needs {needs}{has} on {where}: lower "
        f"{program['remedy']}, split the model over more devices, or see --search"
    )


def _search(config: Any, name: str, chosen: Sequence[str] | None, stated: Any) -> dict[str, Any]:
    from caugym_jax.planning.search import best_meshes, smallest_slice

    where = topology.open_slice(name, config.mesh.slices)
    ranked = best_meshes(config, where)
    if not ranked:
        smallest = smallest_slice(config, topology.slices_of(name))
        hint = f"the smallest slice with room by estimate is {smallest}" if smallest else "none has"
        raise UserError(f"no mesh of {name} has room for {config.model.name} by estimate: {hint}")
    print("by estimate, the quickest first (GiB a device; seconds of a step's updates):")
    for one in ranked[:8]:
        size, seconds = one.bytes / 2**30, one.seconds
        print(f"  mesh {_shown(one.mesh)}, remat {one.remat}: {size:.1f} GiB, {seconds:.3g} s")
    if smallest := smallest_slice(config, topology.slices_of(name)):
        print(f"smallest slice by estimate, which may be a fifth too low: {smallest}")
    for one in ranked[:TRIED]:
        settings = dataclasses.replace(
            config,
            mesh=dataclasses.replace(config.mesh, **one.mesh),
            model=dataclasses.replace(config.model, remat=one.remat),
        )
        report = report_on(settings, name, chosen, stated)
        if all(p["fits"] for p in report["programs"]):
            flags = " ".join(f"--config.mesh.{axis}={size}" for axis, size in one.mesh.items())
            print(f"use {flags} --config.model.remat={one.remat}")
            break
    report["estimates"] = [one._asdict() for one in ranked]
    return report


if __name__ == "__main__":
    commands.run(main)
