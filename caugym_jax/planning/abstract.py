"""A configuration's programs with shapes in place of arrays, for devices that need not be there.

What is compiled is what trains: the method is built by the same functions (`methods.build`), from a
run whose weights are jax.ShapeDtypeStructs with their real shardings. No parameter is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from caugym_jax.algorithms.groups import Prompt
from caugym_jax.algorithms.step import WHOLE, Adapter
from caugym_jax.cli import config as configs
from caugym_jax.data.packing import pad
from caugym_jax.devices.mesh import Layout, MeshShape, Sampling, make_mesh, sampling_mesh, shardings
from caugym_jax.devices.programs import Call
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hub import load_config
from caugym_jax.models.lora import Lora, adapter_layout, attach, frozen_layout
from caugym_jax.models.presets import ALIASES, PRESETS, preset
from caugym_jax.models.transformer import Model, layout
from caugym_jax.runs import methods
from caugym_jax.runs.opening import EMBEDDED, ModelSettings, merging, model_for
from caugym_jax.types import Example, Judged, Preference, Problem


class Ends(NamedTuple):
    """What programs know of a tokenizer."""

    end_ids: tuple[int, ...] = (0,)
    pad_id: int = 0


class Planned(NamedTuple):
    """A configuration on a mesh."""

    model: Model
    mesh: jax.sharding.Mesh
    sampler_mesh: jax.sharding.Mesh
    calls: tuple[Call, ...]
    adapters: int | None  # parameters of adapters; None: all weights are trained
    critic: ModelConfig | None  # the decoder of PPO's critic


def shape_of(name: str) -> ModelConfig:
    """The shape of a model by its name in a configuration; reads no weights, fetches nothing."""
    if name.lower() in PRESETS or name.lower() in ALIASES:
        return preset(name).config
    path = Path(name).expanduser()
    if name == "embedded":
        path = EMBEDDED
    elif (path / "checkpoints").is_dir():
        path = path / "model"
    if path.exists():
        return load_config(path)
    return preset(name).config  # says which names are near


def plan(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> Planned:
    """The programs of a training step, for the longest rows that the configuration allows.

    Args:
      devices: of this machine, or of a topology (`jax.experimental.topologies`).

    Raises:
      UserError: sizes that do not divide, and whatever else training would refuse.
    """
    mesh = make_mesh(devices=devices, **vars(configs.build(MeshShape, config.mesh, "mesh")))
    with jax.set_mesh(mesh):
        run = _run(config, mesh)
        longest = config.data.get("max_prompt_length")
        built = methods.build(run, longest)
        calls = built.algorithm.calls(_items(config))
    adapters = None
    if run.adapter is not WHOLE:
        adapters = sum(leaf.size for leaf in jax.tree.leaves(run.trained.shapes))
    critic = None if built.critic is None else built.critic.model.model.config
    return Planned(run.model, mesh, run.sampler_mesh, calls, adapters, critic)


def _run(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> methods.Run:
    """`methods.open_run` with shapes for weights."""
    settings = configs.build(ModelSettings, config.model, "model")
    shape = shape_of(settings.name)
    model = model_for(shape, mesh, settings)
    lora = configs.build(Lora, config.lora)
    sampling = configs.build(Sampling, config.sampling)
    common = {
        "tokenizer": Ends(), "mesh": mesh, "sampler_mesh": sampling_mesh(mesh, sampling),
        "open_critic": _critic,
    }  # fmt: skip
    if not lora.rank:
        whole = layout(shape)
        reference = _described(whole, mesh) if methods.needs_reference(config) else None
        return methods.Run(config, model, reference, trained=whole, **common)
    frozen = _described(frozen_layout(shape, lora.base_dtype), mesh)
    adapter = Adapter(
        frozen,
        lambda trained, frozen: attach(trained, frozen, lora.scale),
        merging(shape, frozen, lora, mesh, model.dtype),
    )
    trained = adapter_layout(shape, lora)
    return methods.Run(config, model, frozen, trained=trained, adapter=adapter, **common)


def _critic(name: str, run: methods.Run) -> tuple[Model, Any]:
    """`methods.open_critic` without weights; that it reads the policy's tokens is not looked at."""
    own = run.model
    settings = ModelSettings(name, dtype=own.dtype, remat=own.remat, attention=own.attention)
    return model_for(shape_of(name), run.mesh, settings), None


def _described(where: Layout, mesh: jax.sharding.Mesh) -> Any:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        where.shapes,
        shardings(where, mesh),
    )


def _items(config: ml_collections.ConfigDict) -> Any:
    """A batch as the loader gives it, of the longest rows; its tokens are all 0."""
    data, method = config.data, config.method
    if method in ("grpo", "ppo"):
        return [Prompt(Problem("", "", "ATE"), [0])] * data.batch_size
    longest = [0] * (data.max_length - 1)
    if method == "sft":
        return pad([Example([0], longest)] * data.batch_size, data.max_length)
    if method == "dpo":
        return [(Preference([0], longest, longest), None)] * data.batch_size
    return [(Judged([0], longest, True, longest), None)] * data.batch_size
