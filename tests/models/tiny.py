"""Tiny decoders of every family, and parameters in which nothing is zero, one or tied by chance."""

import dataclasses
import math

import jax
import numpy as np

from caugym_jax.models.config import ModelConfig, RopeScaling
from caugym_jax.models.transformer import abstract_params

_BASE = ModelConfig(
    family="llama",
    vocab_size=200,
    d_model=48,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,  # so that N * H differs from D
    d_ff=80,
    norm_eps=1e-5,
    max_position=512,
)
_YARN = RopeScaling("yarn", 4.0, 64, attention_factor=0.1 * math.log(4.0) + 1.0)
_SCALING = RopeScaling("llama3", 8.0, 64)  # a context of 64, so that 256 tokens feel it


def _but(**changes) -> ModelConfig:
    return dataclasses.replace(_BASE, **changes)


_GEMMA = {
    "family": "gemma3_text", "tied": True, "qk_norm": "head", "activation": "gelu_tanh",
    "post_norm": True, "norm_offset": True, "scaled_embedding": True, "sliding_window": 37,
    "query_scale": 24.0**-0.5,
}  # fmt: skip
_OLMO = {"qk_norm": "whole", "pre_norm": False, "post_norm": True}

FAMILIES = {
    "llama": _BASE,
    "llama-tied": _but(tied=True, rope_theta=100_000.0),
    "llama-scaled": _but(rope_scaling=_SCALING, rope_theta=500_000.0),
    "llama-scaled-tied": _but(rope_scaling=_SCALING, rope_theta=10_000.0, tied=True),
    "llama-linear": _but(rope_scaling=RopeScaling("linear", 3.0)),
    "llama-dynamic": _but(rope_scaling=RopeScaling("dynamic", 2.0), max_position=300),
    "qwen2": _but(family="qwen2", qkv_bias=True, rope_theta=1e6, norm_eps=1e-6),
    "qwen2-tied": _but(family="qwen2", qkv_bias=True, tied=True),
    "qwen3": _but(family="qwen3", qk_norm="head", rope_theta=1e6, norm_eps=1e-6),
    "qwen3-tied": _but(family="qwen3", qk_norm="head", tied=True),
    "qwen3-yarn": _but(family="qwen3", qk_norm="head", rope_theta=1e6, rope_scaling=_YARN),
    "llama-bias": _but(qkv_bias=True, o_bias=True),
    "qwen3-partial": _but(
        family="qwen3", qk_norm="head", sliding_window=37, pattern=("full", "sliding", "sliding")
    ),
    "gemma3": _but(
        **_GEMMA, pattern=("sliding", "sliding", "full"), rope_theta=1e6, local_theta=10_000.0,
        rope_scaling=RopeScaling("linear", 8.0),
    ),
    "olmo2": _but(family="olmo2", **_OLMO, head_dim=8),
    "olmo3": _but(
        family="olmo3", **_OLMO, head_dim=8, sliding_window=37, rope_theta=500_000.0,
        pattern=("sliding", "full", "sliding"), local_theta=500_000.0, rope_scaling=_YARN,
    ),
    "phi3": _but(family="phi3", sliding_window=37, head_dim=8),
    "phi3-partial": _but(family="phi3", tied=True, rotated=6, head_dim=8),
    "smollm3": _but(
        family="smollm3", tied=True, head_dim=8, pattern=("full", "full", "unrotated"),
        rope_theta=2e6,
    ),
    "qwen3-moe": _but(
        family="qwen3_moe", qk_norm="head", d_ff=24, num_experts=8, experts_per_token=3,
        normalized_routing=True,
    ),
    "phi3-long": _but(
        family="phi3", head_dim=8, max_position=1024,
        rope_scaling=RopeScaling(
            "longrope", original_max_position=256, attention_factor=1.25**0.5,
            short_factors=(1.0, 1.1, 1.5, 2.0), long_factors=(1.0, 2.0, 3.0, 4.0),
        ),
    ),
    "mistral": _but(family="mistral"),
    "mistral-window": _but(family="mistral", sliding_window=37),
}  # fmt: skip


def random_params(config: ModelConfig, seed: int = 0) -> dict:
    """NumPy float32 parameters; logits have a standard deviation of a few units."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        x = rng.standard_normal(leaf.shape, np.float32)
        if name.endswith("norm"):
            return (0 if config.norm_offset else 1) + 0.3 * x
        if name.endswith("bias"):
            return 0.4 * x
        if name == "embed":
            return 0.4 * x
        fan_in = {"o": config.num_heads * config.head_dim, "down": config.d_ff}
        gain = 2 if name == "head" else 1.25
        return gain * x * fan_in.get(name, config.d_model) ** -0.5

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))
