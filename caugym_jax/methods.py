"""The training methods, wired: from a configuration to an algorithm and its data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections

from caugym_jax import config as configs
from caugym_jax.algorithms.groups import Prompt
from caugym_jax.algorithms.grpo import grpo
from caugym_jax.algorithms.sft import sft
from caugym_jax.algorithms.step import WHOLE, Adapter, Algorithm, check_rows, state_template
from caugym_jax.data.loader import make_loader
from caugym_jax.data.sources import problem_source, prompt_items, sft_batches
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.models.lora import Lora, adapter_layout, attach, init_adapters
from caugym_jax.models.peft import load_adapter
from caugym_jax.models.transformer import Model, Params, layout
from caugym_jax.optim import Optimizer, make_optimizer
from caugym_jax.runs import merging, open_frozen, open_model
from caugym_jax.sharding import Layout, put, row_count, shardings
from caugym_jax.types import TrainState


class Run(NamedTuple):
    """What every method starts from."""

    config: ml_collections.ConfigDict
    model: Model
    # The first model's weights, for `Model`; below adapters: the frozen ones (perhaps in 8 bits).
    # None where neither the first state nor the method needs them.
    params: Params | None
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    trained: Layout  # what is trained: all weights, or the adapters
    adapter: Adapter = WHOLE


class Method(NamedTuple):
    """A method ready to run."""

    algorithm: Algorithm
    loader: Any  # grain iterator
    template: Callable[[], TrainState]  # the state's shapes, types and shardings
    weights: Callable[[TrainState], Params]  # the model as trained so far


def needs_reference(config: ml_collections.ConfigDict) -> bool:
    """Whether a method compares with the first model, whose weights are then read on resuming."""
    return bool(config.get(config.method, {}).get("beta"))


def open_run(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, resuming: bool
) -> tuple[Run, Any]:
    """(what a method starts from, the first state's trained weights or, on resuming, None)."""
    options = configs.check_section("model", config.model, open_model) | {"seed": config.seed}
    lora = Lora(**configs.check_section("lora", config.lora, Lora))
    if not lora.rank:
        weights = not resuming or needs_reference(config)
        model, params, tokenizer = open_model(mesh=mesh, weights=weights, **options)
        return Run(config, model, params, tokenizer, mesh, layout(model.config)), params
    model, frozen, tokenizer = open_frozen(mesh=mesh, kept=lora.base_dtype, **options)
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
    return Run(config, model, frozen, tokenizer, mesh, trained, adapter), first


def open_method(run: Run) -> Method:
    """The algorithm, its loader and its state's shape, as the configuration says."""
    openers = {"sft": _sft, "grpo": _grpo}
    method = run.config.method
    if method not in openers:
        raise UserError(f"config.method={method!r}: use {', '.join(openers)}")
    return openers[method](run)


def _section(run: Run, name: str, function: Callable) -> dict[str, Any]:
    return configs.check_section(name, run.config[name], function)


def _optimizer(run: Run, updates_a_step: int = 1) -> Optimizer:
    return make_optimizer(
        run.trained,
        run.config.steps * updates_a_step,
        **_section(run, "optim", make_optimizer),
    )


def _data(run: Run, solutions: bool) -> tuple[Any, int, dict[str, Any]]:
    """(source of problems, batch size, how rows are shaped)."""
    data = run.config.data.to_dict()
    batch_size, shape = data.pop("batch_size"), {}
    for key in ("max_prompt_length", "too_long", "max_length", "packing"):
        if key in data:
            shape[key] = data.pop(key)
    options = configs.check_section("data", data, problem_source)
    source = problem_source(seed=run.config.seed + 1, solutions=solutions, **options)
    return source, batch_size, shape


def _loader(run: Run, items: Any, batch_size: int, transform: Callable) -> Any:
    return make_loader(
        items,
        batch_size,
        run.config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        transform=transform,
    )


def _method(run: Run, algorithm: Algorithm, loader: Any, optimizer: Optimizer) -> Method:
    mesh, adapter = run.mesh, run.adapter  # not the run: it holds the first model's weights
    return Method(
        algorithm,
        loader,
        lambda: state_template(optimizer, mesh),
        lambda state: adapter.merge(state.params),
    )


def _sft(run: Run) -> Method:
    source, batch_size, shape = _data(run, solutions=True)
    items, make, dropped = sft_batches(source, run.tokenizer, shape["max_length"], shape["packing"])
    if dropped:
        print(
            f"dropped {dropped} examples longer than data.max_length={shape['max_length']}",
            file=sys.stderr,
        )
    section = _section(run, "sft", sft)
    check_rows(batch_size, section["microbatches"], row_count(run.mesh), "data.batch_size")
    optimizer = _optimizer(run)
    algorithm = sft(run.model, optimizer, run.mesh, run.adapter, seed=run.config.seed, **section)
    return _method(run, algorithm, _loader(run, items, batch_size, make), optimizer)


def _grpo(run: Run) -> Method:
    source, batch_size, shape = _data(run, solutions=False)
    section = _section(run, "grpo", grpo)
    parts = section.get("num_minibatches", 1) * (section.get("microbatches") or 1)
    size = batch_size * section.get("group_size", 8)
    check_rows(size, parts, row_count(run.mesh), "data.batch_size x grpo.group_size")
    items, width = _prompts(run, source, shape, section["max_completion_length"])
    optimizer = _optimizer(
        run, section.get("num_iterations", 1) * section.get("num_minibatches", 1)
    )
    algorithm = grpo(
        run.model, optimizer, run.mesh, run.tokenizer,
        run.params if section.get("beta") else None, run.adapter,
        seed=run.config.seed, max_prompt_length=width, **section,
    )  # fmt: skip
    loader = _loader(run, items, batch_size, lambda rows: [Prompt(*row) for row in rows])
    return _method(run, algorithm, loader, optimizer)


def _prompts(run: Run, source: Any, shape: dict[str, Any], room: int) -> tuple[Any, int]:
    """(problems with their prompt tokens, the longest prompt), telling what was dropped."""
    items, width, dropped = prompt_items(
        source,
        run.tokenizer,
        shape["max_prompt_length"],
        run.model.config.max_position,
        room,
        shape["too_long"],
    )
    if dropped:
        print(
            f"dropped {dropped} of {dropped + len(items)} prompts longer than "
            f"data.max_prompt_length={shape['max_prompt_length']}",
            file=sys.stderr,
        )
    return items, width
