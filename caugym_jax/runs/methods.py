"""The training methods, wired: from a configuration to an algorithm and its data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from caugym_jax.algorithms.dpo import dpo
from caugym_jax.algorithms.grpo import grpo
from caugym_jax.algorithms.kto import kto
from caugym_jax.algorithms.ppo import Critic, ppo
from caugym_jax.algorithms.preference import cached_reference, reference_scorer, weights_digest
from caugym_jax.algorithms.rollouts import Prompt, Rollouts, RolloutSettings
from caugym_jax.algorithms.sft import sft
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    Learner,
    check_rows,
    state_shapes,
)
from caugym_jax.data.grouping import Batches
from caugym_jax.data.loader import make_loader
from caugym_jax.data.mixing import open_mixture
from caugym_jax.data.preference_sources import PreferenceData, preference_items
from caugym_jax.data.sources import (
    PromptData,
    SftData,
    desirable_items,
    item_source,
    problem_stream,
    prompt_items,
    sft_batches,
)
from caugym_jax.data.token_features import load_features
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.devices.mesh import (
    Layout,
    described,
    put,
    row_count,
    sampling_mesh,
    shardings,
)
from caugym_jax.devices.shapes import on_shapes
from caugym_jax.errors import UserError
from caugym_jax.models.lora import adapter_layout, attach, init_adapters
from caugym_jax.models.peft import load_adapter
from caugym_jax.models.transformer import Model, Params, layout
from caugym_jax.models.value import ValueModel
from caugym_jax.objectives.optim import Optimizer, evaluated, make_optimizer
from caugym_jax.objectives.shared_rows import start
from caugym_jax.rewards.combination import check_rewards, parse_weights
from caugym_jax.runs.opening import ModelSettings, merging, open_frozen, open_model
from caugym_jax.runs.settings import PpoSettings, Settings
from caugym_jax.types import TrainState


def open_critic(name: str, run: Run) -> tuple[Model, Callable[[], Params]]:
    """Another model for PPO's critic: (its decoder, what reads its weights).

    Raises:
      UserError: there is no such model, or it reads other tokens than the policy writes.
    """
    settings = ModelSettings(
        name, dtype=run.model.dtype, remat=run.model.remat, attention=run.model.attention
    )
    mesh = run.mesh  # not the run: it holds the first model's weights
    model, _, tokenizer = open_model(settings, mesh, weights=False)
    if tokenizer.raw.get_vocab() != run.tokenizer.raw.get_vocab():
        raise UserError(f"ppo.critic={name!r} reads other tokens than the policy writes")

    def start() -> Params:
        if on_shapes():
            return described(layout(model.config), mesh)
        params = open_model(settings, mesh).params
        assert params is not None  # they are asked for
        return params

    return model, start


class Run(NamedTuple):
    """What every method starts from."""

    config: Settings
    model: Model
    # The first model's weights, for `Model`; below adapters: the frozen ones (perhaps in 8 bits).
    # None where neither the first state nor the method needs them.
    params: Params | None
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    trained: Layout  # what is trained: all weights, or the adapters
    adapter: Adapter = WHOLE
    sampler_mesh: jax.sharding.Mesh | None = None  # the same devices, arranged for sampling
    workdir: Path | None = None  # where a method keeps what it need not compute twice
    open_critic: Callable[[str, Run], tuple[Model, Callable[[], Params]]] = open_critic


class Method(NamedTuple):
    """A method ready to run."""

    algorithm: Algorithm
    loader: Any  # grain iterator
    template: Callable[[], TrainState]  # the state's shapes, types and shardings
    weights: Callable[[TrainState], Params]  # the model as trained so far


def needs_reference(config: Settings) -> bool:
    """Whether a method compares with the first model, whose weights are then read on resuming."""
    return bool(getattr(config.own, "beta", 0))


def open_run(
    config: Settings,
    mesh: jax.sharding.Mesh,
    resuming: bool,
    workdir: Path | None = None,
) -> tuple[Run, Any]:
    """(what a method starts from, the first state's trained weights or, on resuming, None)."""
    lora, sampler_mesh = config.lora, sampling_mesh(mesh, config.sampling)
    if not lora.rank:
        weights = not resuming or needs_reference(config)
        model, params, tokenizer = open_model(config.model, mesh, seed=config.seed, weights=weights)
        trained = layout(model.config)
        if params is not None and config.model.init == "random":
            params = _with_shared_rows(config, params, trained, mesh)
        run = Run(config, model, params, tokenizer, mesh, trained)
        return run._replace(workdir=workdir, sampler_mesh=sampler_mesh), params
    model, frozen, tokenizer = open_frozen(config.model, mesh, lora.base_dtype, config.seed)
    assert frozen is not None  # they are asked for
    adapter = Adapter(
        frozen,
        lambda trained, frozen: attach(trained, frozen, lora.scale),
        merging(model.config, frozen, lora, mesh, model.dtype),
    )
    trained = adapter_layout(model.config, lora)
    first = None
    if not resuming and lora.init:
        first = put(load_adapter(lora.init, model.config, lora), shardings(trained, mesh))
    elif not resuming:
        first = init_adapters(trained, jax.random.key(config.seed), mesh)
    run = Run(config, model, frozen, tokenizer, mesh, trained, adapter)
    return run._replace(workdir=workdir, sampler_mesh=sampler_mesh), first


def _with_shared_rows(
    config: Settings, params: Params, trained: Layout, mesh: jax.sharding.Mesh
) -> Params:
    """A new model's weights; tables whose rows learn together start together."""
    folder = config.optim.shared_rows
    if folder is None:
        return params
    features, key = load_features(folder), jax.random.key(config.seed + 1)
    places = shardings(trained, mesh)
    return jax.jit(lambda params: start(params, features, key), out_shardings=places)(params)


def open_method(run: Run) -> Method:
    """The algorithm, its loader and its state's shape, as the configuration says."""
    openers = {"sft": _sft, "dpo": _dpo, "kto": _kto, "grpo": _grpo, "ppo": _ppo}
    return openers[run.config.method](run)


def build(run: Run, longest_prompt: int | None = None) -> Algorithm:
    """The algorithm as the configuration says. The run's weights may be jax.ShapeDtypeStructs.

    Args:
      longest_prompt: in tokens, for methods that sample; None: data.max_prompt_length.
    """
    builders = {
        "sft": _build_sft,
        "dpo": lambda run: _build_preferences(run, dpo),
        "kto": lambda run: _build_preferences(run, kto),
        "grpo": lambda run: _build_grpo(run, longest_prompt),
        "ppo": lambda run: _build_ppo(run, longest_prompt),
    }
    return builders[run.config.method](run)


def _learner(run: Run, updates_a_step: int = 1) -> Learner:
    optimizer = _optimizer(run, updates_a_step)
    reference = run.params if needs_reference(run.config) else None
    return Learner(run.model, optimizer, run.mesh, run.adapter, reference)


def _optimizer(run: Run, updates_a_step: int = 1) -> Optimizer:
    settings = run.config.optim
    steps = settings.horizon or run.config.steps
    return make_optimizer(run.trained, steps * updates_a_step, settings)


T = TypeVar("T")


def _data(run: Run, cls: type[T]) -> T:
    """The section `data`, whose class follows from the method."""
    data = vars(run.config)["data"]
    assert isinstance(data, cls)
    return data


def _loader(run: Run, items: Any, batch_size: int, transform: Callable) -> Any:
    return make_loader(
        items,
        batch_size,
        run.config.seed,
        process_index=processes.index(),
        process_count=processes.count(),
        transform=lambda rows: transform(processes.all_rows(rows)),
    )


def _method(run: Run, algorithm: Algorithm, loader: Any) -> Method:
    # Not the run: it holds the first model's weights.
    mesh, adapter, trained = run.mesh, run.adapter, run.trained
    return Method(
        algorithm,
        loader,
        lambda: state_shapes(algorithm.init, trained, mesh),
        lambda state: adapter.merge(evaluated(state.params, state.opt_state)),
    )


def _sft(run: Run) -> Method:
    data = _data(run, SftData)
    if data.mixture is not None:
        return _method(run, build(run), _mixed(run, data, data.mixture))
    source = item_source(data, seed=run.config.seed + 1, solutions=True)
    if not callable(source):
        source, undesirable = desirable_items(source)
        if undesirable:
            processes.say(f"left out {undesirable} rows of {data.path} labelled undesirable")
    items, make, dropped = sft_batches(source, run.tokenizer, data.max_length, data.packing)
    if dropped:
        processes.say(f"dropped {dropped} examples longer than data.max_length={data.max_length}")
    return _method(run, build(run), _loader(run, items, data.batch_size, make))


def _mixed(run: Run, data: SftData, path: str) -> Batches:
    """Batches of a mixture; each process makes the whole ones."""
    mixture = open_mixture(
        path, run.tokenizer,
        seed=run.config.seed + 1, places=data.batch_size, max_length=data.max_length,
        multiple=row_count(run.mesh) * (run.config.own.microbatches or 1),
    )  # fmt: skip
    return Batches(mixture.group, data.workers)


def _build_sft(run: Run) -> Algorithm:
    data, model = _data(run, SftData), run.model
    if data.packing and model.attention == "cudnn":  # which knows one document a row
        model = dataclasses.replace(model, attention="plain")
    _check_length(run, data.max_length)
    settings = run.config.own
    if data.mixture is None:  # whose batches always divide
        check_rows(data.batch_size, settings.microbatches, row_count(run.mesh), "data.batch_size")
    return sft(_learner(run._replace(model=model)), settings, seed=run.config.seed)


def _dpo(run: Run) -> Method:
    return _preferences(run, lambda pair: (pair.prompt, pair.chosen, pair.rejected))


def _kto(run: Run) -> Method:
    return _preferences(run, lambda item: (item.prompt, item.completion, item.other))


def _preferences(run: Run, triple: Callable) -> Method:
    """DPO or KTO. For a file the reference is computed here, and its weights are freed."""
    data, name = _data(run, PreferenceData), run.config.method
    seed, tokenizer = run.config.seed + 1, run.tokenizer
    source = problem_stream(data, seed=seed) if data.path is None else data.path
    assert callable(source) or isinstance(source, str)  # generated, or a file's name
    items, lines = preference_items(source, tokenizer, name == "dpo", data, seed=seed)
    for line in lines:
        processes.say(line)
    algorithm = build(run)  # which checks sizes before the file is scored
    rows: Any
    if callable(items):
        rows = functools.partial(_without_reference, items)
    else:
        assert run.workdir is not None and run.params is not None  # needs_reference
        known = cached_reference(
            run.workdir / "reference.npz",
            list(map(triple, items)),
            reference_scorer(_learner(run), run.config.own.microbatches, "data.batch_size"),
            f"{weights_digest(run.params)} {run.model.dtype}",
            run.mesh,
            batch_size=data.batch_size,
            max_length=data.max_length,
            pad_id=tokenizer.pad_id,
        )
        rows, algorithm = list(zip(items, known, strict=True)), build(run._replace(params=None))
    return _method(run, algorithm, _loader(run, rows, data.batch_size, list))


def _without_reference(items: Callable[[int], Any], index: int) -> tuple[Any, None]:
    return items(index), None


def _check_length(run: Run, length: int) -> None:
    longest = run.model.config.longest
    if length > longest:
        raise UserError(f"data.max_length={length}: the model takes {longest} tokens: lower it")


def _build_preferences(run: Run, make: Callable) -> Algorithm:
    data = _data(run, PreferenceData)
    _check_length(run, data.max_length)
    settings = run.config.own
    check_rows(data.batch_size, settings.microbatches, row_count(run.mesh), "data.batch_size")
    learner, pad_id = _learner(run), run.tokenizer.pad_id
    return make(learner, settings, max_length=data.max_length, pad_id=pad_id)


def _grpo(run: Run) -> Method:
    return _prompted(run, run.config.own.max_completion_length)


def _prompted(run: Run, room: int) -> Method:
    data = _data(run, PromptData)
    items, width = _prompts(run, data, room)
    loader = _loader(run, items, data.batch_size, lambda rows: [Prompt(*row) for row in rows])
    return _method(run, build(run, width), loader)


def _build_grpo(run: Run, width: int | None) -> Algorithm:
    settings = run.config.own
    learner, rollouts = _rollouts(run, settings, width)
    return grpo(learner, settings, rollouts)


def _rollouts(run: Run, settings: RolloutSettings, width: int | None) -> tuple[Learner, Rollouts]:
    """What GRPO and PPO are built from.

    Raises:
      UserError: the mesh, minibatches and microbatches do not divide a step's rows.
    """
    data = _data(run, PromptData)
    size = data.batch_size * settings.group_size
    parts = settings.num_minibatches * (settings.microbatches or 1)
    what = f"data.batch_size x {settings.method}.group_size"
    check_rows(size, parts, row_count(run.mesh), what)
    learner = _learner(run, settings.updates)
    rollouts = Rollouts(
        learner,
        settings,
        run.tokenizer,
        max_prompt_length=width or data.max_prompt_length,
        seed=run.config.seed,
        sampler_mesh=run.sampler_mesh,
    )
    return learner, rollouts


def _ppo(run: Run) -> Method:
    return _prompted(run, run.config.own.max_completion_length)


def _build_ppo(run: Run, width: int | None) -> Algorithm:
    settings = run.config.own
    learner, rollouts = _rollouts(run, settings, width)
    return ppo(learner, settings, rollouts, _critic(run, settings.critic, settings.updates))


def _critic(run: Run, name: str | None, updates_a_step: int) -> Critic:
    """PPO's critic, on the policy's decoder or on that of another model."""
    model, start = (run.model, None) if name is None else run.open_critic(name, run)
    value = ValueModel(model)
    assert isinstance(run.config, PpoSettings)
    settings = run.config.critic_optim
    steps = (settings.horizon or run.config.steps) * updates_a_step
    return Critic(value, make_optimizer(value.layout, steps, settings), start)


def _prompts(run: Run, data: PromptData, room: int) -> tuple[Any, int]:
    """(items with their prompt tokens, the longest prompt), saying what was dropped.

    Raises:
      UserError: a row of a file without a reward that applies to it, or without a usable prompt.
    """
    source = item_source(data, seed=run.config.seed + 1)
    if not callable(source):
        check_rewards(source, parse_weights(run.config.own.reward_weights), data.path)
    items, width, dropped = prompt_items(
        source,
        run.tokenizer,
        data.max_prompt_length,
        run.model.config.longest,
        room,
        data.too_long,
    )
    if dropped and not callable(items):
        processes.say(
            f"dropped {dropped} of {dropped + len(items)} prompts longer than "
            f"data.max_prompt_length={data.max_prompt_length}"
        )
    return items, width
