"""config.json: what is read, and what is refused rather than half computed."""

import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.config import RopeScaling
from caugym_jax.models.hf_config import from_hf_config, to_hf_config
from tests.models.tiny import FAMILIES

LLAMA31 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def hf(family="llama", **changes):
    return to_hf_config(FAMILIES[family]) | changes


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family):
    assert from_hf_config(to_hf_config(FAMILIES[family])) == FAMILIES[family]


def test_rope_of_transformers_5_and_4_read_the_same():
    old = hf(rope_theta=5e5, rope_scaling=LLAMA31)
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = LLAMA31 | {"rope_theta": 5e5}
    older = old | {"rope_scaling": {("type" if k == "rope_type" else k): v
                                    for k, v in LLAMA31.items()}}  # fmt: skip
    for config in (old, new, older):
        assert from_hf_config(config).rope_theta == 5e5
        assert from_hf_config(config).rope_scaling == RopeScaling("llama3", 8.0, 8192)


def test_absent_keys_take_the_defaults_of_transformers():
    config = hf()
    for key in ("head_dim", "num_key_value_heads", "tie_word_embeddings", "rope_theta"):
        del config[key]
    read = from_hf_config(config)
    assert (read.head_dim, read.num_kv_heads, read.tied, read.rope_theta) == (8, 6, False, 10_000.0)


def test_sliding_windows():
    assert from_hf_config(hf("mistral", sliding_window=None)).sliding_window is None
    assert from_hf_config(hf("mistral", sliding_window=99)).sliding_window == 99
    # Qwen2.5's files name a window and switch it off.
    off = hf("qwen2", sliding_window=99, use_sliding_window=False, max_window_layers=1)
    assert from_hf_config(off).sliding_window is None
    on = hf("qwen2", sliding_window=99, use_sliding_window=True, max_window_layers=0)
    assert from_hf_config(on).sliding_window == 99
    assert from_hf_config(on | {"max_window_layers": 3}).sliding_window is None
    assert from_hf_config(hf("qwen3", layer_types=["full_attention"] * 3)).sliding_window is None


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (hf(model_type="gemma2"), "model_type 'gemma2'"),
        (hf(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        (hf(hidden_act="gelu"), "hidden_act = 'gelu'"),
        (hf(attention_bias=True), "attention_bias = True"),
        (hf("qwen3", attention_bias=True), "attention_bias = True"),
        (hf(mlp_bias=True), "mlp_bias = True"),
        (hf(quantization_config={"bits": 4}), "quantization_config"),
        (hf(rope_scaling={"rope_type": "ntk", "factor": 4.0}), "rope type 'ntk'"),
        (hf(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is None"),
        (hf(rope_scaling={"factor": 4.0}), "factor of 4.0 and no rope_type"),
        (hf(rope_scaling={"rope_type": "linear"}), "factor is None"),
        (hf(rope_scaling=[4.0]), "rope_scaling is .4.0.; it must be an object"),
        (hf(rope_parameters={"full_attention": {"rope_type": "default"}}), "by layer type"),
        (hf(rope_theta="1e6"), "rope_theta is '1e6'"),
        (hf(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
        (hf(num_key_value_heads=4), "multiple of key/value heads"),
        (hf(vocab_size=None), "vocab_size is None"),
        (hf(num_hidden_layers="3"), "num_hidden_layers is '3'"),
        (
            hf("qwen2", sliding_window=9, use_sliding_window=True, max_window_layers=1),
            "different kinds of attention",
        ),
        (
            hf("qwen3", layer_types=["full_attention", "sliding_attention", "full_attention"]),
            "different kinds of attention",
        ),
        (hf("qwen3", layer_types=["chunked_attention"] * 3), "different kinds of attention"),
    ],
)
def test_refuses_what_it_does_not_compute(config, says):
    with pytest.raises(UserError, match=says):
        from_hf_config(config)
