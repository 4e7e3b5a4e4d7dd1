"""Rotary settings as files spell them: the frequencies that transformers makes of them."""

import numpy as np
import pytest

from caugym_jax.models.hf_config import from_hf_config, to_hf_config
from caugym_jax.models.rotary import rotary_frequencies
from tests.models.tiny import FAMILIES

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

DEFAULT = {"rope_type": "default", "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0}
TOP = {"rope_theta": 500_000.0}

# What stands in config.json beside the shape.
FILES = {
    "none": {},
    "theta": TOP,
    "parameters": {"rope_parameters": DEFAULT | {"rope_theta": 1e6}},
    "null scaling": {"rope_scaling": None} | TOP,
    # the older key replaces the newer one, its theta too
    "both, yarn": {"rope_parameters": DEFAULT, "rope_scaling": YARN},
    "both, llama3": {"rope_parameters": DEFAULT | {"rope_theta": 1e6}, "rope_scaling": LLAMA3},
    "both, linear": {"rope_parameters": DEFAULT | {"rope_theta": 1e6}, "rope_scaling": LINEAR}
    | TOP,
    "both, theta in the older": {
        "rope_parameters": YARN | {"rope_theta": 1e6},
        "rope_scaling": LINEAR | {"rope_theta": 2e5},
    },
    "both, empty older": {"rope_parameters": YARN, "rope_scaling": {}},
    "two thetas": {"rope_parameters": DEFAULT | {"rope_theta": 1e6}} | TOP,
    "type": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "type and rope_type": {"rope_scaling": YARN | {"type": "linear"}},
    "factor 1": {"rope_scaling": {"type": "linear", "factor": 1.0}},
    "yarn factor 1": {"rope_scaling": YARN | {"factor": 1.0}},
    "yarn without its context": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn without its factor": {"rope_scaling": YARN | {"factor": None}},
    "llama3 without its context": {
        "rope_scaling": {k: v for k, v in LLAMA3.items() if "original" not in k}
    },
    "context at the top": {"rope_scaling": YARN, "original_max_position_embeddings": 64},
    "yarn bounds": {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 2}},
    "yarn not truncated": {"rope_scaling": YARN | {"truncate": False}},
    "yarn attention": {"rope_scaling": YARN | {"attention_factor": 0.7}},
    "yarn mscale": {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn one mscale": {"rope_scaling": YARN | {"mscale": 0.7}},
    "yarn unknown key": {"rope_scaling": YARN | {"attn_factor": 0.8}},
    "yarn small theta": {"rope_scaling": YARN | {"rope_theta": 50.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "parameters, linear": {"rope_parameters": LINEAR | {"rope_theta": 1e6}},
}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("name", FILES)
def test_frequencies(family, name):
    hf = to_hf_config(FAMILIES[family])
    del hf["rope_theta"], hf["rope_scaling"]
    hf |= FILES[name]
    config = from_hf_config(hf)
    again = from_hf_config(to_hf_config(config))
    assert again == config
    kind = {"llama": "Llama", "qwen3": "Qwen3"}[family]
    theirs = getattr(transformers, f"{kind}Config")(**hf)
    module = getattr(transformers.models, family)
    made = getattr(getattr(module, f"modeling_{family}"), f"{kind}RotaryEmbedding")(theirs)
    ours = rotary_frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(ours, made.inv_freq.numpy(), rtol=3e-6)
    gain = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    assert gain == pytest.approx(made.attention_scaling, rel=1e-12)
