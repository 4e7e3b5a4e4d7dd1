"""The training methods, wired: from a configuration to an algorithm and its data."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from caugym_jax.algorithms.dpo import dpo
from caugym_jax.algorithms.grpo import grpo
from caugym_jax.algorithms.judging import Prompt
from caugym_jax.algorithms.kto import kto
from caugym_jax.algorithms.ppo import Critic, ppo
from caugym_jax.algorithms.preference import (
    cached_reference,
    placing,
    reference_scorer,
    triple_scorer,
    weights_digest,
)
from caugym_jax.algorithms.rollouts import Rollouts, RolloutSettings
from caugym_jax.algorithms.sft import sft
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    Learner,
    check_rows,
    state_shapes,
)
from caugym_jax.data.files import naming, weighted
from caugym_jax.data.grouping import Batches
from caugym_jax.data.items import training_items
from caugym_jax.data.loader import Mixed, make_loader
from caugym_jax.data.mixing import Mixture, open_mixture
from caugym_jax.data.preference_sources import (
    PreferenceData,
    file_preferences,
    generated_preferences,
)
from caugym_jax.data.preferences import with_others
from caugym_jax.data.prompts import sft_examples
from caugym_jax.data.showing import described_row
from caugym_jax.data.sources import (
    PromptData,
    SftData,
    TrainingData,
    desirable_items,
    generated_examples,
    item_source,
    packed_rows,
    padded,
    problem_stream,
    prompt_items,
    set_apart,
    stacked,
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
from caugym_jax.evals.held_out import Examination, Own, open_held_out
from caugym_jax.evals.measured import HeldOutLoss, HeldOutRewards, batches
from caugym_jax.models.hub import card
from caugym_jax.models.lora import adapter_layout, attach, init_adapters
from caugym_jax.models.peft import load_adapter
from caugym_jax.models.transformer import Model, Params, layout
from caugym_jax.models.value import ValueModel
from caugym_jax.objectives.optim import Optimizer, evaluated, make_optimizer
from caugym_jax.objectives.shared_rows import start
from caugym_jax.rewards.combination import check_rewards, parse_weights
from caugym_jax.runs import recipe
from caugym_jax.runs.folder import started
from caugym_jax.runs.opening import ModelSettings, merging, open_frozen, open_model
from caugym_jax.runs.recipe import chosen, device_memory
from caugym_jax.runs.settings import PpoSettings, Settings
from caugym_jax.types import Example, Judged, Preference, TrainState


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
    say: Callable[[str], None] = processes.say  # reports what of the data is left out


class Method(NamedTuple):
    """A method ready to run."""

    algorithm: Algorithm
    loader: Any  # grain iterator
    held_out: Examination | None  # None: no evaluation
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
    lora = config.lora
    date = None if workdir is None else processes.first(lambda: started(workdir))
    if not lora.rank:
        weights = not resuming or needs_reference(config)
        model, params, tokenizer = open_model(config.model, mesh, seed=config.seed, weights=weights)
        trained, tokenizer = layout(model.config), asking(tokenizer, config, date)
        if params is not None and config.model.init == "random":
            params = _with_shared_rows(config, params, trained, mesh)
        run = Run(config, model, params, tokenizer, mesh, trained, workdir=workdir)
        return _settled(run), params
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
    run = Run(config, model, frozen, asking(tokenizer, config, date), mesh, trained, adapter)
    return _settled(run._replace(workdir=workdir)), first


def _settled(run: Run) -> Run:
    """The run with what its settings leave to the machine (`runs/recipe.py`), which is printed."""
    settled = settle(run, device_memory(run.mesh))
    if text := chosen(run.config, settled.config):
        run.say(f"chosen by the devices' memory: {text}")
    return settled


def settle(run: Run, memory: float | None) -> Run:
    """The run with a value for all that its settings leave to the machine.

    Args:
      memory: bytes of a device; None: unknown.
    """
    config = recipe.settle(run.config, run.model, run.mesh, memory)
    model = dataclasses.replace(run.model, remat=config.model.remat or "none")
    places = sampling_mesh(run.mesh, config.sampling)
    return run._replace(config=config, model=model, sampler_mesh=places)


def asking(tokenizer: Tokenizer, config: Settings, date: str | None = None) -> Tokenizer:
    """The tokenizer with what the section `data` says of prompts; `date`: the run's."""
    data = vars(config)["data"]
    return tokenizer.asking(data.system, data.chat_template_kwargs, date)


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
    openers = {
        "sft": _sft,
        "dpo": _preferences,
        "kto": _preferences,
        "grpo": _prompted,
        "ppo": _prompted,
    }
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


class Rows(NamedTuple):
    """The rows of the files of `data.path`, as tokens."""

    sources: list[list[Any]]  # what is trained on, of each file that has a weight
    weights: list[float]
    apart: list[Any]  # what is held out

    @property
    def all(self) -> list[Any]:
        return [row for rows in self.sources for row in rows]

    def row(self, i: int) -> Any:
        """One to train on, counted round."""
        return self.all[i % len(self.all)]

    def of(self, change: Callable[[list[Any]], Sequence[Any]]) -> Sequence[Any] | Mixed:
        """What the loader draws from, each source changed so."""
        changed = [change(rows) for rows in self.sources]
        return changed[0] if len(changed) == 1 else Mixed(changed, self.weights)


def _rows(run: Run) -> Rows:
    """Reads the files of `data.path`."""
    data, seed = _data(run, TrainingData), run.config.seed
    assert data.path is not None  # callers have looked
    sources, weights, apart = [], [], []
    for path, weight in weighted(data.path):
        with naming(path):
            rows, others = set_apart(_read(run, path), _prompt_of, data.held_out, seed)
        sources.append(rows)
        weights.append(weight)
        apart += others
    return Rows(sources, weights, apart)


def _read(run: Run, path: str) -> list[Any]:
    """The rows of a file as the method's loader draws them; what is left out is reported."""
    readers: dict[str, Callable[[Run, str], list[Any]]] = {
        "sft": _read_examples,
        "grpo": _read_prompts,
        "ppo": _read_prompts,
    }
    with naming(path):
        return readers.get(run.config.method, _read_preferences)(run, path)


def _prompt_of(row: Any) -> tuple[int, ...]:
    """What identifies the prompt of a row of any method; of a mere text, the text."""
    return tuple(row.tokens if isinstance(row, Prompt) else row.prompt or row.completion)


def row_count_of(config: Settings, mesh: jax.sharding.Mesh) -> int:
    """How many rows of the files of `data.path` a run trains on."""
    model, _, tokenizer = open_model(config.model, mesh, weights=False)
    tokenizer, trained = asking(tokenizer, config), layout(model.config)
    run = Run(config, model, None, tokenizer, mesh, trained, say=lambda text: None)
    rows, data = _rows(run), _data(run, TrainingData)
    if isinstance(data, SftData) and data.packing:
        return len(rows.of(functools.partial(_packed, run)))
    return len(rows.all)


def _loader(run: Run, items: Any, batch_size: int, transform: Callable) -> Any:
    return make_loader(
        items,
        batch_size,
        run.config.seed,
        shuffle=_data(run, TrainingData).shuffle,
        process_index=processes.index(),
        process_count=processes.count(),
        transform=lambda rows: transform(processes.all_rows(rows)),
    )


def _method(
    run: Run,
    algorithm: Algorithm,
    loader: Any,
    apart: Sequence[Any],
    examine: Callable[[Sequence[Any]], Examination],
    row: Callable[[int], Any],
) -> Method:
    """Args:
    apart: the rows of `data.path` that are held out.
    examine: what is made of rows that are held out.
    row: the training rows, for `data.show`.
    """
    for i in range(_data(run, TrainingData).show):
        processes.say(described_row(i, row(i), run.tokenizer, sys.stderr.isatty()))
    held_out = open_held_out(
        run.config.evaluation,
        run.config.seed,
        run.model,
        run.tokenizer,
        run.sampler_mesh,
        Own(_data(run, TrainingData).path, apart, functools.partial(_read, run), examine),
        card(run.config.model.name),
    )
    # Not the run: it holds the first model's weights.
    mesh, adapter, trained = run.mesh, run.adapter, run.trained
    return Method(
        algorithm,
        loader,
        held_out,
        lambda: state_shapes(algorithm.init, trained, mesh),
        lambda state: adapter.merge(evaluated(state.params, state.opt_state)),
    )


def _sft(run: Run) -> Method:
    data, algorithm, apart = _data(run, SftData), build(run), []
    row: Callable[[int], Any]
    make = functools.partial(padded, max_length=data.max_length, pad_id=run.tokenizer.pad_id)
    if data.mixture is not None:
        mixture = _mixture(run, data, data.mixture)
        row, loader = mixture.example, Batches(mixture.group, data.workers)
    elif data.path is None:
        if data.packing:
            raise UserError("data.packing packs a file's examples: set data.path, or packing=False")
        source = item_source(data, seed=run.config.seed + 1, solutions=True)
        assert callable(source)  # it is generated
        row = generated_examples(source, run.tokenizer, data.max_length)
        loader = _loader(run, row, data.batch_size, functools.partial(make, rows=None))
    else:
        rows = _rows(run)
        items = rows.of(functools.partial(_packed, run) if data.packing else list)
        batch = stacked if data.packing else functools.partial(make, rows=None)
        apart, row = rows.apart, rows.row
        loader = _loader(run, items, data.batch_size, batch)

    def examine(examples: Sequence[Example]) -> Examination:
        # A mixture's batch_size counts tokens.
        size = data.batch_size if data.mixture is None else row_count(run.mesh)
        return HeldOutLoss(algorithm, batches(examples, size, lambda x: make(x, rows=size)))

    return _method(run, algorithm, loader, apart, examine, row)


def _packed(run: Run, examples: list[Example]) -> list[Any]:
    return packed_rows(examples, _data(run, SftData).max_length, run.tokenizer.pad_id)


def _read_examples(run: Run, path: str) -> list[Example]:
    data = _data(run, SftData)
    items, undesirable = desirable_items(training_items(path))
    if undesirable:
        run.say(f"left out {undesirable} rows of {path} labelled undesirable")
    examples, dropped = sft_examples(items, run.tokenizer, data.max_length)
    if dropped:
        run.say(
            f"dropped {len(dropped)} of {len(items)} examples of {path} longer than "
            f"data.max_length={data.max_length} ({'; '.join(items[i].where for i in dropped[:5])}"
            f"{'; ...' * (len(dropped) > 5)})"
        )
    return examples


def _mixture(run: Run, data: SftData, text: str) -> Mixture:
    """A mixture's batches; each process makes the whole ones."""
    return open_mixture(
        text, run.tokenizer,
        seed=run.config.seed + 1, places=data.batch_size, max_length=data.max_length,
        multiple=row_count(run.mesh) * (run.config.own.microbatches or 1),
    )  # fmt: skip


def _build_sft(run: Run) -> Algorithm:
    data, model = _data(run, SftData), run.model
    if data.packing and model.attention == "cudnn":  # which knows one document a row
        model = dataclasses.replace(model, attention="plain")
    _check_length(run, data.max_length)
    settings = run.config.own
    if data.mixture is None:  # whose batches always divide
        check_rows(data.batch_size, settings.microbatches, row_count(run.mesh), "data.batch_size")
    return sft(_learner(run._replace(model=model)), settings, seed=run.config.seed)


def _preferences(run: Run) -> Method:
    """DPO or KTO. For a file the reference is computed here, and its weights are freed."""
    data, paired, seed = _data(run, PreferenceData), run.config.method == "dpo", run.config.seed + 1
    algorithm, apart = build(run), []  # checks sizes before the file is scored
    row: Callable[[int], Any]
    drawn: Any
    if data.path is None:
        problems = problem_stream(data, seed=seed)
        items = generated_preferences(problems, run.tokenizer, paired, data, seed=seed)
        row, drawn = items, functools.partial(_without_reference, items)
    else:
        rows = _rows(run)
        row = rows.row
        with naming(data.path):
            ready = _ready(run, rows.all) + _ready(run, rows.apart)
        known = iter(_with_references(run, ready))
        drawn = rows.of(lambda own: list(itertools.islice(known, len(own))))
        apart, algorithm = list(known), build(run._replace(params=None))

    def examine(rows: Sequence[Any]) -> Examination:
        if not isinstance(rows[0], tuple):  # of a file of their own
            rows = _with_references(run, _ready(run, list(rows)), "held_out_reference.npz")
        empty = dataclasses.replace(rows[0][0], **dict.fromkeys(_replies(rows[0][0]), []))
        filler = empty, np.zeros(2, np.float32)
        size = data.batch_size
        return HeldOutLoss(
            algorithm, batches(rows, size, lambda x: [*x, *[filler] * (size - len(x))])
        )

    loader = _loader(run, drawn, data.batch_size, list)
    return _method(run, algorithm, loader, apart, examine, row)


def _read_preferences(run: Run, path: str) -> list[Preference | Judged]:
    data = _data(run, PreferenceData)
    kept: list[Preference | Judged] = []
    for name in map(str.strip, path.split(",")):
        sifted = file_preferences(name, run.tokenizer, run.config.method == "dpo", data)
        if report := sifted.report(name):
            run.say(report)
        kept += sifted.kept
    return kept


def _ready(run: Run, rows: list[Any]) -> list[Any]:
    """KTO's rows with the completions that they are compared with; DPO's as they are."""
    if run.config.method == "dpo" or not rows:
        return rows
    return with_others(rows, _data(run, PreferenceData).max_length)


def _replies(row: Preference | Judged) -> tuple[str, str]:
    return ("chosen", "rejected") if isinstance(row, Preference) else ("completion", "other")


def _with_references(
    run: Run, rows: list[Any], name: str = "reference.npz"
) -> list[tuple[Any, np.ndarray]]:
    """Rows of a file with the first model's log-probabilities of their two completions."""
    assert run.workdir is not None and run.params is not None  # needs_reference
    data, own, learner = _data(run, PreferenceData), run.config.own, _learner(run)
    place = placing(learner, own, data.max_length, run.tokenizer.pad_id)
    score = reference_scorer(learner, own.microbatches, data.max_length)
    known = cached_reference(
        run.workdir / name,
        [(row.prompt, *(getattr(row, key) for key in _replies(row))) for row in rows],
        triple_scorer(place, score, run.config.method == "dpo"),
        f"{weights_digest(run.params)} {run.model.dtype} {data.batch_size} {data.max_length}",
        data.batch_size,
    )
    return list(zip(rows, known, strict=True))


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


def _prompted(run: Run) -> Method:
    """GRPO or PPO."""
    data, own, width, apart = _data(run, PromptData), run.config.own, None, []
    items: Any
    row: Any
    if data.path is None:
        source = item_source(data, seed=run.config.seed + 1)
        assert callable(source)  # it is generated
        longest, room = run.model.config.longest, own.max_completion_length
        items, width, _ = prompt_items(
            *(source, run.tokenizer, data.max_prompt_length, longest, room, data.too_long),
            room_key=f"{run.config.method}.max_completion_length",
        )
        row = items
    else:
        rows = _rows(run)
        items, apart, row = rows.of(list), rows.apart, rows.row
        width = max(len(row.tokens) for row in rows.all)

    def examine(prompts: Sequence[Prompt]) -> Examination:
        room = run.config.evaluation.max_new_tokens
        return HeldOutRewards(prompts, run.model, run.tokenizer, own, room, run.sampler_mesh)

    loader = _loader(run, items, data.batch_size, lambda rows: [Prompt(*row) for row in rows])
    return _method(run, build(run, width), loader, apart, examine, lambda i: Prompt(*row(i)))


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


def _read_prompts(run: Run, path: str) -> list[Prompt]:
    """Raises:
    UserError: a row without a reward that applies to it, or without a usable prompt.
    """
    data, own = _data(run, PromptData), run.config.own
    items = training_items(path)
    check_rewards(items, parse_weights(own.reward_weights), path)
    longest, room = run.model.config.longest, own.max_completion_length
    kept, _, dropped = prompt_items(
        *(items, run.tokenizer, data.max_prompt_length, longest, room, data.too_long),
        room_key=f"{run.config.method}.max_completion_length",
    )
    assert not callable(kept)  # a file's
    if dropped:
        run.say(
            f"dropped {dropped} of {len(items)} prompts of {path} longer than "
            f"data.max_prompt_length={data.max_prompt_length}"
        )
    return [Prompt(*item) for item in kept]
