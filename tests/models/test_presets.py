"""Presets against the published parameter counts and their own config.json round trip."""

import math

import jax
import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.hf_config import FAMILIES, from_hf_config, to_hf_config
from caugym_jax.models.presets import ALIASES, PRESETS, parameter_count, preset
from caugym_jax.models.transformer import abstract_params
from tests.shared import ROOT

# Exact counts: the sum over the repository's safetensors headers, as the hub's pages show it.
PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "r1-distill-qwen-1.5b": 1_777_088_000,
    "r1-distill-qwen-7b": 7_615_616_512,
    "r1-distill-qwen-14b": 14_770_033_664,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    assert parameter_count(preset(name).config) == PARAMETERS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_is_that_of_the_arrays(name):
    leaves = jax.tree.leaves(abstract_params(preset(name).config))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameter_count(preset(name).config)


def test_the_distillations_of_r1_and_qwen3_think():
    assert preset("deepseek-r1-distill-qwen-14b").thinks and preset("qwen3-8b").thinks
    assert not any(preset(name).thinks for name in ("qwen2.5-7b-instruct", "smollm2-135m"))
    assert sum(found.thinks for found in PRESETS.values()) == 5 + 7 + 1  # and SmolLM3


@pytest.mark.parametrize("name", PRESETS)
def test_config_json_round_trip(name):
    config = preset(name).config
    assert from_hf_config(to_hf_config(config)) == config


def test_rotary_and_window_settings():
    assert preset("mistral-7b").config.sliding_window == 4096
    assert preset("mistral-7b-v0.3").config.sliding_window is None
    assert preset("llama-3-8b").config.rope_scaling is None
    assert preset("llama-3.1-8b").config.rope_scaling.factor == 8
    assert preset("llama-3.2-1b").config.rope_scaling.factor == 32
    assert preset("r1-distill-qwen-7b").config.rope_theta == 10_000
    assert preset("r1-distill-qwen-14b").config.rope_theta == 1_000_000


def test_names():
    assert preset("Qwen2.5-7B-Instruct").hub_id == "Qwen/Qwen2.5-7B-Instruct"
    assert preset("deepseek-r1-distill-qwen-14b") == preset("r1-distill-qwen-14b")
    assert all(target in PRESETS for target in ALIASES.values())
    assert not set(ALIASES) & set(PRESETS)
    with pytest.raises(UserError, match=r"'qwen2\.5-7bb'.*did you mean qwen2\.5-7b"):
        preset("qwen2.5-7bb")


def test_the_document_lists_every_preset_and_family():
    text = (ROOT / "docs/models.md").read_text()
    assert not [name for name in (*PRESETS, *FAMILIES) if f"`{name}`" not in text]
