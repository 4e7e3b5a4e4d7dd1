"""A configuration's programs with shapes in place of arrays, for devices that need not be there.

What is compiled is what trains: the method is built by the same functions (`methods.build`), from a
run whose weights are jax.ShapeDtypeStructs with their real shardings, and its `prepare` and
`update` run on them once (`devices.shapes.recording`). No parameter is ever made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from caugym_jax.algorithms.judging import Prompt
from caugym_jax.algorithms.step import Adapter, state_shapes
from caugym_jax.data.packing import pad
from caugym_jax.devices.mesh import described, make_mesh
from caugym_jax.devices.shapes import Call, Recorder, recording
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.lora import adapter_layout, attach, frozen_layout
from caugym_jax.models.traits import traits
from caugym_jax.models.transformer import Model, layout
from caugym_jax.planning.topology import Slice
from caugym_jax.runs import methods
from caugym_jax.runs.opening import ModelSettings, merging, model_for
from caugym_jax.runs.settings import Settings
from caugym_jax.types import Example, Item, Judged, Preference


class Ends(NamedTuple):
    """What programs know of a tokenizer."""

    end_ids: tuple[int, ...] = (0,)
    pad_id: int = 0

    def encode(self, text: str) -> list[int]:
        """A stop string is one token; which one changes no program."""
        return [1]


class Planned(NamedTuple):
    """A configuration on a mesh."""

    model: Model
    mesh: jax.sharding.Mesh
    sampler_mesh: jax.sharding.Mesh
    calls: tuple[Call, ...]


def shape_of(name: str) -> ModelConfig:
    """The shape of a model by its name in a configuration; reads no weights."""
    found = traits(name).config
    if found is None:
        raise UserError(
            f"the shape of {name} is not known here: there is no such folder, and its config.json "
            "cannot be fetched; give a preset's name or a folder that holds config.json"
        )
    return found


def plan(
    config: Settings,
    devices: Sequence[Any],
    results: dict[Any, Any] | None = None,
    memory: float | None = None,
) -> Planned:
    """The programs of a training step, for the longest rows that the configuration allows.

    Args:
      devices: of this machine, or of a topology (`planning/topology.py`).
      results: see `Recorder`; for several plans that differ in their devices and mesh alone.
      memory: bytes of a device, by which what the configuration leaves open is chosen
        (`runs/recipe.py`); None: unknown.

    Raises:
      UserError: sizes that do not divide, and whatever else training would refuse.
    """
    mesh = make_mesh(devices=devices, **vars(config.mesh))
    with jax.set_mesh(mesh):
        run = methods.settle(_run(config, mesh), memory)
        model = run.model
        if not Slice("", list(devices), None).compiles:  # their kernel is not here to be traced
            run = run._replace(model=dataclasses.replace(model, attention="plain"))
        with recording():
            algorithm = methods.build(run)
        state = state_shapes(algorithm.init, run.trained, mesh)
        step = Recorder((state, run.params, run.adapter.frozen), results, memory)
        with recording(step):
            experience, _, _ = algorithm.prepare(state, lambda: _items(run.config, run.model))
            algorithm.update(state, experience)
    assert run.sampler_mesh is not None  # `settle` arranges one
    calls = step.calls
    if run.model != model:
        calls = tuple(c._replace(work=c.work._replace(kernel=model.attention)) for c in calls)
    return Planned(model, mesh, run.sampler_mesh, calls)


def _run(config: Settings, mesh: jax.sharding.Mesh) -> methods.Run:
    """`methods.open_run` with shapes for weights."""
    shape, lora = shape_of(config.model.name), config.lora
    model = model_for(shape, mesh, config.model)
    ends: Any = Ends()  # programs ask no more of a tokenizer
    whole = layout(shape)
    run = methods.Run(config, model, None, ends, mesh, whole, open_critic=_critic)
    if not lora.rank:
        needed = methods.needs_reference(config)
        return run._replace(params=described(whole, mesh) if needed else None)
    frozen = described(frozen_layout(shape, lora.base_dtype), mesh)
    adapter = Adapter(
        frozen,
        lambda trained, frozen: attach(trained, frozen, lora.scale),
        merging(shape, frozen, lora, mesh, model.dtype),
    )
    return run._replace(params=frozen, trained=adapter_layout(shape, lora), adapter=adapter)


def _critic(name: str, run: methods.Run) -> tuple[Model, Any]:
    """`methods.open_critic` without weights; that it reads the policy's tokens is not checked."""
    own = run.model
    settings = ModelSettings(name, dtype=own.dtype, remat=own.remat, attention=own.attention)
    model = model_for(shape_of(name), run.mesh, settings)
    return model, lambda: described(layout(model.config), run.mesh)


def _items(config: Settings, model: Model) -> Any:
    """A batch as the loader gives it, of the longest rows; its tokens are all 0."""
    data, method = vars(config)["data"], config.method
    if method in ("grpo", "ppo"):
        longest = min(data.max_prompt_length, model.config.longest - 1)
        return [Prompt(Item(""), [0] * longest)] * data.batch_size
    longest = [0] * (data.max_length - 1)
    if method == "sft":
        return pad([Example([0], longest)] * data.batch_size, data.max_length)
    if method == "dpo":
        return [(Preference([0], longest, longest), None)] * data.batch_size
    return [(Judged([0], longest, True, longest), None)] * data.batch_size
