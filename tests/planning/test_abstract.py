"""What is planned from shapes is what a real step calls."""

import json

import jax
import numpy as np
import pytest

from caugym_jax.algorithms.judging import Prompt
from caugym_jax.data.items import problem_item
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import local_bytes
from caugym_jax.errors import UserError
from caugym_jax.planning import abstract
from caugym_jax.planning.roofline import operations
from caugym_jax.runs.methods import open_method, open_run
from caugym_jax.runs.settings import load
from caugym_jax.types import Example, Judged, Preference, Problem
from tests.tiny_model import tiny_model  # noqa: F401

TINY = "tests/end_to_end/tiny_config.py"
MESH = ["mesh.data=2", "mesh.fsdp=2", "data.batch_size=8"]
OPTIONS = {
    "sft": ["sft.microbatches=2", "sft.neftune_noise_alpha=5.0"],
    "grpo": [
        "grpo.beta=0.1",
        "grpo.dynamic_sampling=false",
        "grpo.num_minibatches=2",
        "data.max_prompt_length=64",
    ],
    "ppo": ["data.max_prompt_length=64"],
}


def planned(method, name, *more):
    options = [*MESH, *OPTIONS.get(method, ()), *more, f"model.name={name}"]
    config = load(f"{TINY}:{method}", options)
    return config, abstract.plan(config, jax.devices()[:4])


def longest(config):
    """A real batch of the longest rows that the configuration allows."""
    method, count = config.method, config.data.batch_size
    if method in ("grpo", "ppo"):
        item = problem_item(Problem("?", '{"PROB": 0.5}', "PN"))
        return [Prompt(item, [5] * config.data.max_prompt_length)] * count
    rest = [5] * (config.data.max_length - 1)
    if method == "sft":
        from caugym_jax.data.packing import pad

        return pad([Example([5], rest)] * count, config.data.max_length)
    if method == "dpo":
        return [(Preference([5], rest, rest), None)] * count
    return [(Judged([5], rest, i % 2 == 0, rest), None) for i in range(count)]


def same(described, arrays):
    described, arrays = jax.tree.flatten(described), jax.tree.flatten(arrays)
    assert described[1] == arrays[1]
    for x, y in zip(described[0], arrays[0], strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert y.sharding.is_equivalent_to(x.sharding, x.ndim), (x, y.sharding)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo", "ppo"])
def test_a_step_calls_what_was_planned(method, tiny_model, monkeypatch, tmp_path):  # noqa: F811
    """Every program that a real step on the longest rows calls is among the planned ones, as often,
    with arguments of the same shapes, types and shardings; and it compiles to the same memory."""
    config, plan = planned(method, tiny_model)
    made: list = []
    monkeypatch.setattr(
        Program, "__call__", lambda self, *args, call=Program.__call__: (
            made.append((self.name, jax.tree.map(_description, args), self)), call(self, *args)
        )[1],
    )  # fmt: skip
    with jax.set_mesh(plan.mesh):
        run, first = open_run(config, plan.mesh, resuming=False, workdir=tmp_path)
        algorithm = open_method(run).algorithm
        state = algorithm.init(first)
        made.clear()
        experience, _, _ = algorithm.prepare(state, lambda: longest(config))
        algorithm.update(state, experience)
    assert sum(call.times for call in plan.calls) == len(made)
    wanted = [(c.name, c.arguments, c.program) for c in plan.calls for _ in range(c.times)]
    wanted, made = (sorted(calls, key=lambda call: call[0]) for calls in (wanted, made))
    for (name, described, _), (called, arrays, _) in zip(wanted, made, strict=True):
        assert name == called
        same(described, arrays)
    found = []
    with jax.set_mesh(plan.mesh):
        for calls in (wanted, made):
            _, arguments, program = next(call for call in calls if call[0] == "update")
            found.append(program.lower(*arguments).compile().memory_analysis())
    for part in ("argument", "output", "temp", "alias"):
        sizes = {getattr(memory, f"{part}_size_in_bytes") for memory in found}
        assert len(sizes) == 1 and sizes != {0}


def _description(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def test_adapters_are_planned_on_a_frozen_base(tiny_model):  # noqa: F811
    _, plan = planned("sft", tiny_model, "lora.rank=2", "lora.base_dtype=int8")
    (update,) = plan.calls
    state, _ = update.arguments
    assert update.work.adapters == sum(x.size for x in jax.tree.leaves(state.params))
    assert {x.dtype for x in jax.tree.leaves(update.program.last)} > {np.dtype(np.int8)}
    with jax.set_mesh(plan.mesh):
        update.program.lower(*update.arguments)


def test_the_paper_s_model_is_described_and_not_made():
    """14.8e9 parameters: 177 GB of float32 with their moments, on a machine with far less."""
    config = load("grpo.py:r1-distill-qwen-14b")
    plan = abstract.plan(config, jax.devices())
    (update,) = [call for call in plan.calls if call.name == "update"]
    state, e = update.arguments
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert size == pytest.approx(12 * 14.77e9, rel=0.001)
    shards = {x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(state.params)}
    assert (152064, 5120 // 8) in shards
    assert e.tokens.shape == e.mask.shape == (1024, 2048 + 8192)  # packed: a row's list
    assert update.work.parts == 1024 // 8 and update.work.scored == 8192


def test_another_model_as_critic_is_described(tiny_model, tmp_path):  # noqa: F811
    """Half as wide: its programs take and compute less; the policy's stay as they are."""
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    shape = json.loads((tiny_model / "config.json").read_text())
    shape |= {"hidden_size": shape["hidden_size"] // 2, "head_dim": shape["hidden_size"] // 4}
    (smaller / "config.json").write_text(json.dumps(shape))
    _, plan = planned("ppo", tiny_model)
    _, other = planned("ppo", tiny_model, f"ppo.critic={smaller}")
    for one, two in zip(plan.calls, other.calls, strict=True):
        less = one.name in ("value", "critic update")
        first, second = local_bytes(one.arguments), local_bytes(two.arguments)
        assert (second < first) == less and (second == first) == (not less)
        assert two.work.model.d_model == one.work.model.d_model // (2 if less else 1)
        assert (operations(two.work).matmul < operations(one.work).matmul) == less
    with jax.set_mesh(other.mesh):
        for call in other.calls[1:]:  # all but the sampler's
            call.program.lower(*call.arguments)


def test_what_training_would_refuse_is_refused(tiny_model):  # noqa: F811
    with pytest.raises(UserError, match="data.batch_size=6 rows are not a multiple"):
        planned("sft", tiny_model, "data.batch_size=6")
    with pytest.raises(UserError, match="config.method='orpo': must be one of sft, dpo"):
        planned("sft", tiny_model, "method=orpo")
    with pytest.raises(UserError, match="did you mean r1-distill-qwen-14b"):
        abstract.shape_of("r1-distil-qwen-14b")
