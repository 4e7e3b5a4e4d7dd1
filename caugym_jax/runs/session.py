"""How a run starts: its folder is claimed, its parts are opened, its state is new or restored."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from caugym_jax.devices import processes, speed, terminal
from caugym_jax.devices.mesh import found_devices, make_mesh
from caugym_jax.errors import UserError
from caugym_jax.evals.measured import Measured
from caugym_jax.evals.probe import Probed
from caugym_jax.models.presets import ALIASES, PRESETS, preset
from caugym_jax.models.transformer import abstract_params
from caugym_jax.objectives.optim import Optim
from caugym_jax.runs import folder, identity
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.runs.journal import Journal
from caugym_jax.runs.log import write_text
from caugym_jax.runs.methods import Method, open_method, open_run, row_count_of
from caugym_jax.runs.settings import METHODS, Settings, flat
from caugym_jax.types import TrainState

# What may differ between the runs that share a workdir: it does not change what is learned.
MAY_CHANGE = (
    "steps",
    "log",
    "checkpoint",
    "evaluation",
    "data.epochs",
    "data.show",
    "optim.horizon",
    "critic_optim.horizon",
    "mesh",
    "sampling",
    "model.remat",
    "model.attention",
    *(f"{method}.microbatches" for method in METHODS),
    *(
        f"{method}.{key}"
        for method in ("grpo", "ppo")
        for key in ("sample_batch_size", "reward_timeout", "reward_while_sampling")
    ),
)


class Session(NamedTuple):
    """All that a run's steps use."""

    method: Method
    before: Any  # what the first model's examination gave; None: no evaluation
    journal: Journal
    first: int  # steps made so far


def agree(config: Settings, workdir: Path) -> None:
    """Checks the devices, and that all processes of the run were started alike.

    Raises:
      UserError: on all processes, naming what differs and where.
    """
    _check_devices()
    given = flat(config)
    settings = {f"config.{key}": value for key, value in given.items()}
    files = {f"the content of config.{key}": x for key, x in identity.files(given).items()}
    identity.agree(settings | files | identity.program() | {"--workdir": str(workdir.absolute())})


def with_epochs(config: Settings) -> Settings:
    """The settings with the steps that `data.epochs` takes."""
    data = vars(config)["data"]
    if data.epochs is None:
        return config
    rows = row_count_of(config, make_mesh(**vars(config.mesh)))
    steps = math.ceil(data.epochs * rows / data.batch_size)
    processes.say(f"{data.epochs:g} epochs of {rows} rows, {data.batch_size} a step: {steps} steps")
    return dataclasses.replace(config, steps=steps)


def claim(config: Settings, workdir: Path) -> Settings:
    """Makes or takes over the workdir.

    Returns:
      The settings, with the checkpoint that the run starts from (`folder.pinned_step`).
    """
    jax.config.update("jax_threefry_partitionable", True)
    step = folder.pinned_step(workdir, config.model.name, config.model.step)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, step=step))
    config = _with_horizon(config, workdir)
    given, defaults = flat(config), flat(type(config)())
    processes.first(
        lambda: folder.claim_workdir(workdir, given, MAY_CHANGE, defaults, meaning=_meaning)
    )
    return config


def _with_horizon(config: Settings, workdir: Path) -> Settings:
    """The settings with the horizons of their learning rates: of a run that goes on, as before."""
    stored = folder.settings_of(workdir) if folder.saved_steps(workdir) else {}
    sections = {key: x for key, x in vars(config).items() if isinstance(x, Optim)}
    first = stored.get("steps") or config.steps
    pinned: dict[str, Any] = {
        key: dataclasses.replace(x, horizon=x.horizon or stored.get(f"{key}.horizon") or first)
        for key, x in sections.items()
    }
    return dataclasses.replace(config, **pinned)


def beyond_horizon(config: Settings) -> str | None:
    """What the learning rate does in a run of more steps than its schedule has, if it decays."""
    settings = config.optim
    if settings.decay == "constant" or (settings.horizon or config.steps) >= config.steps:
        return None
    return (
        f"the learning rate's decay ends at step {settings.horizon} (config.optim.horizon): later "
        f"steps keep its last rate, {settings.peak * settings.final_ratio:.3g}; "
        f"config.optim.horizon={config.steps} spreads it over all steps"
    )


def _meaning(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what they leave to the machine said, and files by one path."""
    implied = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    out = settings | {"model.dtype": settings.get("model.dtype") or implied}
    return out | {
        key: ",".join(_place(part) for part in settings[key].split(","))
        for key in identity.PATHS
        if isinstance(settings.get(key), str)
    }


def _place(name: str) -> str:
    """A path, whatever it is called from here; of a preset its hub id."""
    if name.lower() in PRESETS or name.lower() in ALIASES:
        return preset(name).hub_id
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def open_session(
    config: Settings, workdir: Path, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
) -> tuple[Session, TrainState]:
    """Opens the model, the method and the held-out problems; the state is new, or is restored from
    the newest checkpoint. The first model's answers are read back, or asked for.
    """
    started = time.perf_counter()
    terminal.doing(f"opening {config.model.name}")
    resuming, path = checkpoints.latest is not None, workdir / "before.json"
    before = processes.first(lambda: folder.read_back(path, _examined))
    answered = before is not None or not config.evaluation.every
    run, first_weights = open_run(config, mesh, resuming and answered, workdir)
    model, tokenizer = run.model, run.tokenizer
    processes.first(lambda: folder.save_shape(workdir / "model", model.config, tokenizer))
    method = open_method(run)
    held_out = method.held_out
    if held_out is None:
        before, answered = None, True
        config.checkpoint.check(())

    def ask_first(state: TrainState) -> Any:
        assert held_out is not None
        answers = held_out.ask(method.weights(state), state)
        processes.first(lambda: write_text(path, json.dumps(answers.as_json())))
        return answers

    totals = {}
    if not resuming:
        state = method.algorithm.init(first_weights)
    else:
        if not answered:  # the file is gone: the first model answers again
            before = ask_first(method.algorithm.init(first_weights))
        state, host = checkpoints.restore(method.template())
        # Older checkpoints have both in one dictionary, without these two names.
        method.loader.set_state(host.get("loader", host))
        totals = host.get("totals", host)
        processes.say(f"resumed from step {int(state.step)} of {workdir}")
    del run, first_weights  # they would take memory as long as this function runs

    size = sum(x.size for x in jax.tree.leaves(abstract_params(model.config)))
    used = size - model.config.idle_parameters
    utilisation = functools.partial(
        speed.mfu,
        used,
        min(used, sum(x.size for x in jax.tree.leaves(state.params))),
        devices=mesh.devices.size,
        kind=mesh.devices.flat[0].device_kind,
    )
    first = int(state.step)
    journal = Journal(workdir, first, config.steps, config.log, totals, utilisation)
    journal.note(_about(config, model, size, mesh, time.perf_counter() - started))
    if text := beyond_horizon(config):
        journal.note(text)
    if held_out is None:
        return Session(method, None, journal, first), state
    before = before or ask_first(state)
    figures = held_out.figures(before)
    config.checkpoint.check(figures)
    if not first:
        journal.evaluation(0, figures, None)
    return Session(method, before, journal, first), state


def _examined(stored: dict[str, Any]) -> Any:
    """What an examination gave, from its file."""
    return (Measured if "figures" in stored else Probed).from_json(stored)


def _check_devices() -> None:
    found_devices()
    if jax.process_count() != processes.count():
        raise UserError(
            f"this is one of {jax.process_count()} processes, which have not met: set "
            f"{processes.COUNT}=auto (docs/processes.md)"
        )


def _about(config: Settings, model: Any, size: int, mesh: jax.sharding.Mesh, seconds: float) -> str:
    devices = mesh.devices.size
    return (
        f"{config.method} of {config.model.name} ({size / 1e6:.2f}M parameters, {model.dtype}) "
        f"on {devices} {jax.default_backend()} device{'s' * (devices > 1)}"
        f"{f' of {processes.count()} processes' * (processes.count() > 1)}, "
        f"ready in {seconds:.1f} s{_kept_programs()}"
    )


def _kept_programs() -> str:
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not (folder and jax.config.values["jax_enable_compilation_cache"]):
        return ""
    return f"; compiled programs are kept in {folder} (JAX_ENABLE_COMPILATION_CACHE=0: not)"
