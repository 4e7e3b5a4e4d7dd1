"""What is chosen from shapes, memory and the mesh."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from caugym_jax.devices.mesh import make_mesh
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model
from caugym_jax.runs import recipe
from caugym_jax.runs.settings import load

GIB = 2**30
# DeepSeek-R1-Distill-Qwen-14B: 48 layers, 40 heads, 8 KV heads.
LARGE = ModelConfig(
    vocab_size=152_064, d_model=5120, num_layers=48, num_heads=40, num_kv_heads=8, head_dim=128,
    d_ff=13_824, tied=False, family="qwen2", max_position=131_072,
)  # fmt: skip
MODEL = Model(LARGE, "bfloat16", attention="splash")


class V5p(SimpleNamespace):
    """What `recipe` reads of a mesh of 16 v5p chips."""

    def __init__(self):
        device = SimpleNamespace(platform="tpu", device_kind="TPU v5")
        devices = np.array([device] * 16, object).reshape(1, 16, 1, 1)
        super().__init__(shape={"data": 1, "fsdp": 16, "context": 1, "tensor": 1}, devices=devices)


@pytest.fixture
def places(monkeypatch):
    """`sampling_mesh` of devices that are not there."""

    def arranged(mesh, settings):
        tensor = settings.tensor or 1
        shape = {"data": 16 // tensor, "fsdp": 1, "context": 1, "tensor": tensor}
        return SimpleNamespace(shape=shape, devices=mesh.devices)

    monkeypatch.setattr(recipe, "sampling_mesh", arranged)


def large(method, *more):
    options = ["model.name=x", "data.batch_size=128", "data.max_prompt_length=2048", *more]
    config = load(f"{method}.py", [*options, f"{method}.group_size=8"])
    own = dataclasses.replace(
        getattr(config, method), max_completion_length=8192, microbatches=None
    )
    return dataclasses.replace(config, **{method: own})


def test_the_14b_recipe_follows_from_its_shape(places):
    """What docs/pods.md says of it: products and attention are kept, heads split over 8 chips, all
    prompts sampled at a time; on chips of less memory less is kept and sampled."""
    config = large("grpo")
    found = recipe.settle(config, MODEL, V5p(), 92.6 * GIB)
    assert (found.model.remat, found.sampling.tensor) == ("dots_attention", 8)
    assert found.grpo.sample_batch_size is None
    assert recipe.chosen(config, found) == "model.remat=dots_attention sampling.tensor=8"
    assert recipe.settle(config, MODEL, V5p(), 83 * GIB).model.remat == "dots"
    small = recipe.settle(config, MODEL, V5p(), 31 * GIB)
    assert small.model.remat == "full" and small.grpo.sample_batch_size <= 32


def test_what_cannot_be_kept_is_not_chosen(places):
    """cudnn's backward pass makes the forward pass again whatever is named."""
    model = dataclasses.replace(MODEL, attention="cudnn")
    found = recipe.settle(large("grpo"), model, V5p(), 400 * GIB)
    assert found.model.remat == "dots"


def test_what_is_set_stays(places):
    more = ("model.remat=attention", "sampling.tensor=4", "grpo.sample_batch_size=5")
    config = large("grpo", *more)
    assert recipe.settle(config, MODEL, V5p(), 92.6 * GIB) == config
    assert recipe.chosen(config, config) == ""


def test_heads_are_split_no_further_than_kv_heads():
    few = dataclasses.replace(LARGE, num_heads=28, num_kv_heads=4, d_model=3584)
    assert recipe.sampling_tensor(LARGE, V5p()) == 8
    assert recipe.sampling_tensor(few, V5p()) == 4
    tiny = dataclasses.replace(LARGE, d_model=64, d_ff=128, vocab_size=512, num_layers=4)
    assert recipe.sampling_tensor(tiny, V5p()) == 1  # two all-reduces a layer take longer


def test_a_cpu_keeps_everything_while_it_fits():
    config = load("grpo.py", ["model.name=x"])
    shape = dataclasses.replace(LARGE, d_model=64, d_ff=128, vocab_size=512, num_layers=2)
    model, mesh = Model(shape), make_mesh(devices=jax.devices()[:1])
    found = recipe.settle(config, model, mesh, 8 * GIB)
    assert found.model.remat == "none" and found.sampling == config.sampling
    assert found.grpo.sample_batch_size is None and recipe.chosen(config, found) == ""
    short = recipe.settle(config, model, mesh, 0.02 * GIB)
    assert short.model.remat != "none" and short.grpo.sample_batch_size is not None


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "ppo"])
def test_more_memory_never_costs_time(method, places):
    config = large(method) if method == "ppo" else load(f"{method}.py", ["model.name=x"])
    order = [
        recipe.REMAT.index(recipe.settle(config, MODEL, V5p(), size * GIB).model.remat)
        for size in (24, 48, 96, 200, 400)
    ]
    last = recipe.REMAT.index("dots_attention")
    assert order == sorted(order, reverse=True) and order[-1] == last


def test_as_many_prompts_are_answered_at_a_time_as_fit(monkeypatch):
    """64, halved while they do not fit; one where nothing is known to fit."""
    params = {"w": jax.device_put(np.zeros(1, np.float32))}
    found = []
    for size in (None, 900, 37, 1):
        memory = None if size is None else size * GIB
        monkeypatch.setattr(recipe, "device_memory", lambda mesh, memory=memory: memory)
        found.append(recipe.prompts_that_fit((MODEL, params), make_mesh(), 64, 5, 1024, 1024))
    assert found == [64, 64, 32, 1]
