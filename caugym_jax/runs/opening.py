"""Opens models: a run's, a Hugging Face folder, a GGUF file, or one by name."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from caugym_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from caugym_jax.devices.mesh import Layout, shardings
from caugym_jax.devices.programs import Program
from caugym_jax.errors import UserError, require
from caugym_jax.models.attention import KERNELS
from caugym_jax.models.config import ModelConfig, Shape
from caugym_jax.models.hub import PACKAGED, load_config, load_pretrained, locate
from caugym_jax.models.lora import QUANTISED, Lora, adapter_layout, freeze, frozen_layout, merge
from caugym_jax.models.presets import ALIASES, PRESETS, preset
from caugym_jax.models.transformer import REMAT, Model, Params, cast, layout
from caugym_jax.models.work import Work
from caugym_jax.objectives.optim import schedule_free_average
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.runs.folder import settings_of, started
from caugym_jax.runs.stored import Stored

UNROLLED = 8  # layers that are looped over in training on a CPU; more are scanned


class Opened(NamedTuple):
    """A model ready to run."""

    model: Model
    params: Params | None  # None where the weights were not asked for
    tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The model that a run starts from.

    Attributes:
      name: "embedded" or "embedded-start" (in the package), a run's workdir, a Hugging Face folder,
        a GGUF file, a preset's name or a hub id. Of a run that trained adapters, its base is opened
        too, and the adapters are merged into it.
      init: pretrained, or random: only the shape and the tokenizer are taken from the name.
      shape: with init=random, another shape; the name then need not hold more than a tokenizer.
      dtype: what is computed in, float32 or bfloat16; None: bfloat16 on accelerators, float32 on a
        CPU.
      remat: what the backward pass computes again to save memory: none, all but the results of
        dots_attention (matrix products and attention), dots or attention, or full; None: as little
        as fits by estimate (`runs/recipe.py`).
      attention: the kernel; None: splash on a TPU, cudnn on a GPU, plain on a CPU.
      step: which checkpoint of a workdir; None: the newest.
    """

    name: str = "embedded-start"
    init: str = "pretrained"
    dtype: str | None = None
    remat: str | None = None
    attention: str | None = None
    step: int | None = None
    shape: Shape = Shape()

    def __post_init__(self):
        if self.shape.layers and self.init != "random":
            raise UserError(f"shape.layers={self.shape.layers}: set model.init=random with it")
        require(self, "init", among=("pretrained", "random"))
        require(self, "dtype", among=("float32", "bfloat16"))
        require(self, "remat", among=tuple(REMAT))
        require(self, "attention", among=tuple(KERNELS))
        require(self, "step", at_least=0)


def open_model(
    settings: ModelSettings,
    mesh: jax.sharding.Mesh,
    *,
    seed: int = 0,
    weights: bool = True,
    kept: str = "float32",
) -> Opened:
    """Opens a model with its tokenizer.

    Args:
      seed: of random weights.
      weights: False leaves the parameters out.
      kept: the parameters' type, "float32" or "bfloat16" (norms are float32).

    Raises:
      UserError: there is no such model, or a run's base is gone.
    """
    name = settings.name
    is_run = (Path(name) / "checkpoints").is_dir()
    path = Path(name) / "model" if is_run else locate(name)
    shape = settings.shape
    own = None if shape.layers else load_config(path)  # first: it says what else a folder holds
    tokenizer = load_tokenizer(path)
    if is_run:
        tokenizer = as_the_run_asks(tokenizer, name)
    config = own or shape.config(tokenizer.vocab_size)
    check_vocabulary(tokenizer, config.vocab_size)
    model = model_for(config, mesh, settings)
    places = shardings(layout(config), mesh)
    if not weights:
        return Opened(model, None, tokenizer)
    if settings.init == "random":
        return Opened(model, _random(model, seed, kept, places), tokenizer)
    if not is_run:
        _, params = load_pretrained(path, mesh=mesh, dtype=kept)
        return Opened(model, params, tokenizer)
    if (lora := lora_of(name)) is None:
        params = _trained(name, frozen_layout(config, kept), mesh, settings.step)
        return Opened(model, params, tokenizer)
    adapters = _trained(name, adapter_layout(config, lora), mesh, settings.step)
    merge = merging(config, _base(name, config, lora, mesh), lora, mesh, kept)
    return Opened(model, merge(adapters), tokenizer)


def as_the_run_asks(tokenizer: Tokenizer, workdir: str | Path) -> Tokenizer:
    """A run's tokenizer, with the system message, the template's arguments and the date with which
    the run asks its model."""
    stored, section = settings_of(workdir), "data.chat_template_kwargs."
    given = {k.removeprefix(section): v for k, v in stored.items() if k.startswith(section)}
    return tokenizer.asking(stored.get("data.system"), given, started(workdir))


def model_for(
    config: ModelConfig, mesh: jax.sharding.Mesh, settings: ModelSettings = ModelSettings()
) -> Model:
    """A decoder's arithmetic as a mesh's devices do it best."""
    dtype, attention = settings.dtype, settings.attention
    platform = mesh.devices.flat[0].platform
    if dtype is None:
        dtype = "float32" if platform == "cpu" else "bfloat16"
    fits_cudnn = dtype == "bfloat16" and config.head_dim % 8 == 0 and config.head_dim <= 128
    own = {"tpu": "splash", "gpu": "cudnn" if fits_cudnn else "plain"}.get(platform, "plain")
    if attention not in (None, "plain", own):
        raise UserError(
            f"model.attention={attention!r} does not fit these {platform} devices, {dtype} and "
            f"heads of {config.head_dim}: use {own}"
        )
    unrolled = platform == "cpu" and config.num_layers <= UNROLLED
    return Model(config, dtype, settings.remat or "none", attention or own, unrolled)


def open_frozen(
    settings: ModelSettings, mesh: jax.sharding.Mesh, kept: str, seed: int = 0
) -> Opened:
    """`open_model` with the weights as `models.lora.freeze(params, kept)` leaves them."""
    if kept not in QUANTISED:
        return open_model(settings, mesh, kept=kept, seed=seed)
    opened = open_model(settings, mesh, kept="bfloat16", seed=seed)
    places = shardings(frozen_layout(opened.model.config, kept), mesh)
    whole = jax.jit(lambda params: freeze(params, kept), out_shardings=places)
    return opened._replace(params=whole(opened.params))


def merging(
    config: ModelConfig, frozen: Params, lora: Lora, mesh: jax.sharding.Mesh, dtype: str
) -> Program:
    """The program adapters -> a plain model's weights of this type."""
    return Program(
        "merge",
        lambda adapters, frozen: merge(adapters, frozen, lora.scale, dtype),
        "the model's size: a smaller preset, or more devices with mesh.fsdp",
        last=(frozen,),
        places=shardings(layout(config), mesh),
        work=lambda adapters: Work(config, 0, 0, 0),  # reads the weights once
    )


def lora_of(workdir: str | Path) -> Lora | None:
    """The adapters that a run trained; None where it trained the whole model."""
    section = {k.removeprefix("lora."): v for k, v in settings_of(workdir).items() if "lora." in k}
    return Lora(**section) if section.get("rank") else None


def base_of(workdir: str | Path) -> str:
    """What others call the model that a run started from: its hub id or path."""
    name = settings_of(workdir)["model.name"]
    if name in PACKAGED:
        return str(PACKAGED[name])
    known = name.lower() in PRESETS or name.lower() in ALIASES
    return preset(name).hub_id if known else name


def open_adapters(workdir: str | Path, mesh: jax.sharding.Mesh, step: int | None = None) -> Params:
    """The adapters that a run trained, without its base."""
    lora = lora_of(workdir)
    assert lora is not None, workdir  # callers have looked
    where = adapter_layout(load_config(Path(workdir) / "model"), lora)
    return _trained(workdir, where, mesh, step)


def stored_params(workdir: str | Path, config: ModelConfig, step: int | None = None) -> Any:
    """`open_model`'s parameters of a run that trained the whole model, left on the disk: a tree of
    what `np.asarray` reads and whose layers `[i]` reads.
    """
    shapes = layout(config).shapes
    stored = settings_of(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if stored.get("optim.ema"):
            return checkpoints.stored({"opt_state": {"ema": shapes}}, step)["opt_state"]["ema"]
        if stored.get("optim.name") == "schedule_free":
            both = checkpoints.stored({"params": shapes, "opt_state": {"z": shapes}}, step)
            average = functools.partial(_Average, b1=stored["optim.b1"])
            return jax.tree.map(average, both["params"], both["opt_state"]["z"])
        return checkpoints.stored({"params": shapes}, step)["params"]


@dataclasses.dataclass(frozen=True)
class _Average:
    """`schedule_free_average` of two arrays that stay on the disk."""

    y: Stored
    z: Stored
    b1: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.y.shape

    def __getitem__(self, layer: int) -> np.ndarray:
        return np.asarray(schedule_free_average(self.y[layer], self.z[layer], self.b1))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        average = schedule_free_average(np.asarray(self.y), np.asarray(self.z), self.b1)
        return np.asarray(average, dtype)


def _trained(name: str | Path, where: Layout, mesh: jax.sharding.Mesh, step: int | None) -> Params:
    """What a run trained, from one of its checkpoints: averaged, where its optimiser averages."""
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        where.shapes,
        shardings(where, mesh),
    )
    stored = settings_of(name)
    with Checkpoints(name, read_only=True) as checkpoints:
        if stored.get("optim.ema"):
            found = checkpoints.restore_parts({"opt_state": {"ema": abstract}}, step)
            return found["opt_state"]["ema"]
        if stored.get("optim.name") == "schedule_free":
            both = {"params": abstract, "opt_state": {"z": abstract}}
            found = checkpoints.restore_parts(both, step)
            return schedule_free_average(
                found["params"], found["opt_state"]["z"], stored["optim.b1"]
            )
        return checkpoints.restore_params(abstract, step)


def _base(name: str, config: ModelConfig, lora: Lora, mesh: jax.sharding.Mesh) -> Params:
    """The frozen weights below a run's adapters."""
    stored = settings_of(name)
    base = stored["model.name"]
    settings = ModelSettings(base, stored["model.init"], step=stored["model.step"])
    try:
        opened = open_frozen(settings, mesh, lora.base_dtype, stored["seed"])
    except UserError as error:
        raise UserError(
            f"{name} holds adapters of the model {base}, which cannot be opened: {error}"
        ) from error
    if opened.model.config != config:
        raise UserError(f"{name} holds adapters of {base}, whose shape has changed since")
    assert opened.params is not None  # they are asked for
    return opened.params


def _random(model: Model, seed: int, kept: str, places: Any) -> Params:
    draw = jax.jit(lambda key: cast(model.init(key), kept), out_shardings=places)
    return draw(jax.random.key(seed))
