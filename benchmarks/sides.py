"""The work of benchmarks/speed.py by this package."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.cases import OURS, SAMPLINGS, SHAPE, STEPS, TRAINED, Case, Sampling
from caugym_jax.algorithms.sft import sft
from caugym_jax.algorithms.step import Learner
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import layout
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.runs.opening import model_for
from caugym_jax.sampling.decoding import generate, row_keys
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.sampling.waves import Waves
from caugym_jax.types import Batch

WAVE = 16  # rows of a wave that does not halve


def build(name: str) -> Case:
    """The case of a row of benchmarks/speed.py, with this package's side."""
    return _sft_step(*TRAINED) if name == "sft_step" else _sampling(name, SAMPLINGS[name])


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

    return Case(STEPS * rows * length, {OURS: run})


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
    """A wave of all rows that halves, beside one that does not, and beside waves of WAVE rows."""
    prompts, limits = prompts_of(s), lengths_of(s)
    given = np.full(s.prompts, s.prompt, np.int32)
    settings, ends, pad = Settings().arrays(), np.asarray([SHAPE["vocab"]], np.int32), np.int32(0)
    halving = Waves(model, s.new, None, "", None)
    whole = jax.jit(functools.partial(generate, model, max_new_tokens=s.new))

    def run(decode: Any, rows: int, seed: int) -> None:
        keys = row_keys(np.uint32(seed), np.uint32(0), np.arange(s.prompts, dtype=np.uint32))
        for start in range(0, s.prompts, rows):
            wave = slice(start, start + rows)
            arguments = prompts[wave], given[wave], keys[wave], settings, ends, pad, limits[wave]
            rollout = jax.device_get(decode(params, *map(jax.device_put, arguments)))
            assert (rollout.completion_length == limits[wave]).all()

    sides = {
        OURS: functools.partial(run, halving, s.prompts),
        "one wave, whole": functools.partial(run, whole, s.prompts),
        f"waves of {WAVE}, whole": functools.partial(run, whole, WAVE),
    }
    return Case(int(limits.sum()), sides)
