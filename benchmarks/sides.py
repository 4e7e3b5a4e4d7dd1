"""The work of benchmarks/speed.py by this package."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.cases import (
    OURS,
    SAMPLINGS,
    SHAPE,
    STEPS,
    TRAINED,
    UPDATES,
    Case,
    Sampling,
    Update,
)
from caugym_jax.algorithms.dpo import Dpo, dpo
from caugym_jax.algorithms.packed import shape_for
from caugym_jax.algorithms.rollouts import Group, Placed, lay_out
from caugym_jax.algorithms.sft import sft
from caugym_jax.algorithms.step import Learner, init_state, make_step
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import layout
from caugym_jax.models.work import forward
from caugym_jax.objectives.logprobs import score, score_places
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.objectives.policy import policy_loss
from caugym_jax.planning.roofline import operations
from caugym_jax.runs.opening import model_for
from caugym_jax.sampling.decoding import generate, row_keys
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Batch, Experience, Preference

WAVE = 16  # rows of a wave that does not halve


def build(name: str) -> Case:
    """The case of a row of benchmarks/speed.py, with this package's side."""
    if name == "sft_step":
        return _sft_step(**TRAINED)
    if name in UPDATES:
        make = _update_preferences if name == "update_preferences" else _update
        return make(UPDATES[name])
    return _sampling(name, SAMPLINGS[name])


def _decoder(positions: int) -> ModelConfig:
    s = SHAPE
    return ModelConfig(
        "qwen2",
        s["vocab"],
        s["width"],
        s["layers"],
        s["heads"],
        s["kv_heads"],
        s["width"] // s["heads"],
        s["ffn"],
        tied=True,
        qkv_bias=True,
        max_position=positions,
    )


def _sft_step(rows: int, length: int) -> Case:
    config = _decoder(length)
    mesh = make_mesh(devices=jax.devices()[:1])
    shape = (rows, length)
    tokens = np.random.default_rng(0).integers(1, SHAPE["vocab"], shape).astype(np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    batch = Batch(tokens, np.ones(shape, np.float32), np.ones(shape, np.int32), places)
    with jax.set_mesh(mesh):
        model = model_for(config, mesh)
        optimizer = make_optimizer(layout(config), 1000, Optim(peak=1e-4))
        algorithm = sft(Learner(model, optimizer, mesh))
        state = algorithm.init(model.init(jax.random.key(0)))

    def run(seed: int) -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(STEPS):
                experience, _, _ = algorithm.prepare(state, lambda: batch)
                state, metrics = algorithm.update(state, experience)
            float(metrics["loss"])

    work = forward(model, shape, length)._replace(train=True)
    return Case(STEPS * rows * length, {OURS: run}, STEPS * operations(work).model)


def completions_of(u: Update) -> list[Group]:
    """Random prompts and completions; every sample counts."""
    r = np.random.default_rng(0)
    groups = []
    for _ in range(u.groups):
        drawn = 0.3 * u.new * np.exp(u.sigma * r.standard_normal(u.samples))
        lengths = np.clip(np.ceil(drawn), 1, u.new).astype(int)
        prompt = r.integers(1, SHAPE["vocab"], r.integers(u.prompt[0], u.prompt[1] + 1))
        said = [r.integers(1, SHAPE["vocab"], n) for n in lengths]
        logprobs = [np.full(n, -9, np.float32) for n in lengths]
        counted = np.ones(u.samples, bool)
        groups.append(Group(prompt.tolist(), said, logprobs, counted, np.zeros(u.samples)))
    return groups


def _update(u: Update) -> Case:
    """A GRPO update in packed rows, as it is, and in padded ones."""
    mesh = make_mesh(devices=jax.devices()[:1])
    model = model_for(_decoder(u.prompt[1] + u.new), mesh)
    optimizer = make_optimizer(layout(model.config), 1000, Optim(peak=1e-5))
    groups, size = completions_of(u), u.groups * u.samples
    advantages = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    laid = lay_out(groups, advantages, size, u.prompt[1], u.new)
    how = {"shards": 1, "microbatches": 1, "kernel": model.attention, "platform": "cpu"}
    tree = u.prompt[1] + u.samples * u.new // 2
    packed = shape_for(size, u.prompt[1] + u.new, tree, **how)

    def loss(params: Any, e: Experience) -> Any:
        if e.share is None:
            rows = e.tokens, e.positions, e.segment_ids
            scores = score(model, params, *rows, start=e.prompt_width)
        else:
            scores = score_places(model, params, e)
        return policy_loss(scores.logprobs, scores.entropy, e)

    def side(shape: Any) -> Any:
        with jax.set_mesh(mesh):
            placed = Placed(laid, mesh, shape, 1)
            placed.set("advantages", advantages)
            (e,) = placed.parts
            state = init_state(model.init(jax.random.key(0)), optimizer, mesh)
            microbatches = u.microbatches if shape is None else 1
            step = make_step(loss, optimizer, mesh, microbatches=microbatches)
            return _stepping(mesh, step, state, e)

    tokens = int(laid.segment_ids.sum())
    sides = {OURS: side(packed), f"padded, {tokens / laid.tokens.size:.0%} tokens": side(None)}
    return Case(STEPS * tokens, sides)


def _update_preferences(u: Update) -> Case:
    """A DPO update in packed rows, as it is, and in padded ones."""
    mesh = make_mesh(devices=jax.devices()[:1])
    longest = u.prompt[1] + u.new
    model = model_for(_decoder(longest), mesh)
    optimizer = make_optimizer(layout(model.config), 1000, Optim(peak=1e-5))
    pairs = [
        (Preference(g.prompt, *(said.tolist() for said in g.completions)), np.zeros(2, np.float32))
        for g in completions_of(u)
    ]

    def side(packed: bool) -> tuple[Any, Any, Any]:
        with jax.set_mesh(mesh):
            how = Dpo(packed=packed)
            algorithm = dpo(Learner(model, optimizer, mesh), how, max_length=longest)
            state = algorithm.init(model.init(jax.random.key(0)))
            e, metrics, _ = algorithm.prepare(state, lambda: pairs)
        return _stepping(mesh, algorithm.update, state, e), e, metrics["tokens"]

    (ours, _, tokens), (padded, e, _) = side(True), side(False)
    share = tokens / e.targets.batch.tokens.size
    return Case(STEPS * tokens, {OURS: ours, f"padded, {share:.0%} tokens": padded})


def _stepping(mesh: Any, step: Any, state: Any, e: Any) -> Any:
    """A side that takes STEPS training steps."""

    def run(seed: int) -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(STEPS):
                state, metrics = step(state, e)
            float(metrics["loss"])

    return run


def prompts_of(s: Sampling) -> np.ndarray:
    shape = (s.prompts, s.prompt)
    return np.random.default_rng(0).integers(1, SHAPE["vocab"], shape).astype(np.int32)


def lengths_of(s: Sampling) -> np.ndarray:
    """Lognormal numbers of new tokens, median a third of the limit, sigma 0.8."""
    drawn = np.random.default_rng(1).standard_normal(s.prompts)
    return np.minimum(np.ceil(s.new / 3 * np.exp(0.8 * drawn)), s.new).astype(np.int32)


def _sampling(name: str, s: Sampling) -> Case:
    model = model_for(_decoder(s.prompt + s.new + 1), make_mesh(devices=jax.devices()[:1]))
    params = jax.jit(model.init)(jax.random.key(0))
    if name == "sample_mixed":
        return _mixed(model, params, s)
    sampler = Sampler(model, end_ids=(SHAPE["vocab"],), pad_id=0, max_new_tokens=s.new)
    prompts = prompts_of(s).tolist()

    def run(seed: int) -> None:
        rollout = sampler(
            params,
            prompts,
            ids=range(s.prompts),
            seed=seed,
            samples_per_prompt=s.samples,
            top_p=s.top_p,
        )
        assert (rollout.completion_length == s.new).all()

    return Case(s.prompts * s.samples * s.new, {OURS: run})


def _mixed(model: Any, params: Any, s: Sampling) -> Case:
    """The sampler as it is, beside a wave that does not halve, and beside waves of WAVE rows."""
    prompts, limits = prompts_of(s), lengths_of(s)
    given = np.full(s.prompts, s.prompt, np.int32)
    settings, ends, pad = Settings().arrays(), np.asarray([SHAPE["vocab"]], np.int32), np.int32(0)
    sampler = Sampler(model, end_ids=ends.tolist(), pad_id=0, max_new_tokens=s.new)
    whole = jax.jit(functools.partial(generate, model, max_new_tokens=s.new))

    def ours(seed: int) -> None:
        ids = range(s.prompts)
        rollout = sampler(params, prompts.tolist(), ids=ids, seed=seed, limits=limits)
        assert (rollout.completion_length == limits).all()

    def run(rows: int, seed: int) -> None:
        keys = row_keys(np.uint32(seed), np.uint32(0), np.arange(s.prompts, dtype=np.uint32))
        for start in range(0, s.prompts, rows):
            wave = slice(start, start + rows)
            arguments = prompts[wave], given[wave], keys[wave], settings, ends, pad, limits[wave]
            rollout = jax.device_get(whole(params, *map(jax.device_put, arguments)))
            assert (rollout.completion_length == limits[wave]).all()

    sides = {
        OURS: ours,
        "one wave, whole": functools.partial(run, s.prompts),
        f"waves of {WAVE}, whole": functools.partial(run, WAVE),
    }
    return Case(int(limits.sum()), sides)
