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


FULL, SLIDING = "full_attention", "sliding_attention"


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
    some = from_hf_config(on | {"max_window_layers": 1})
    assert (some.sliding_window, some.pattern) == (99, ("full", "sliding", "sliding"))
    listed = from_hf_config(on | {"layer_types": [SLIDING, FULL, SLIDING]})
    assert listed.pattern == ("sliding", "full", "sliding")


def test_layers_of_families_that_mix_them():
    """By the rules of the files on the hub, which list nothing."""
    rule = {"layer_types": None, "num_hidden_layers": 8}
    gemma = from_hf_config(hf("gemma3", **rule, sliding_window_pattern=4))
    assert gemma.pattern == ("sliding", "sliding", "sliding", "full") * 2
    assert from_hf_config(hf("gemma3", **rule)).pattern.index("full") == 5
    olmo = from_hf_config(hf("olmo3", **rule))
    assert olmo.pattern == ("sliding", "sliding", "sliding", "full") * 2
    assert (olmo.kinds[0].scaling, olmo.kinds[3].scaling.kind) == (None, "yarn")
    smol = from_hf_config(hf("smollm3", no_rope_layers=None, num_hidden_layers=8))
    assert smol.pattern == ("full", "full", "full", "unrotated") * 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (hf(model_type="gemma2"), "model_type 'gemma2'"),
        (hf(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        (hf(hidden_act="gelu"), "hidden_act = 'gelu'"),
        (hf("mistral", attention_bias=True), "attention_bias = True"),
        (hf("gemma3", final_logit_softcapping=30.0), "final_logit_softcapping = 30.0"),
        (hf("gemma3", hidden_activation="silu"), "hidden_activation = 'silu'"),
        (hf("qwen3-moe", decoder_sparse_step=2), "decoder_sparse_step = 2"),
        (hf("qwen3-moe", num_experts_per_tok=9), "9 of 8 experts"),
        (hf("olmo3", rope_parameters={"rope_theta": 1e4}), "by layer type, not 'rope_theta'"),
        (hf("phi3-long", partial_rotary_factor=0.5), "longrope needs 2 factors"),
        (hf("phi3", rope_scaling={"type": "linear", "factor": 2.0}), "use longrope"),
        (
            hf("smollm3", use_sliding_window=True, sliding_window=9, layer_types=[SLIDING] * 3),
            "sliding windows are not supported for smollm3",
        ),
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
        (hf("qwen3", layer_types=[FULL, SLIDING, FULL]), "sliding_window is None"),
        (hf("qwen3", layer_types=["chunked_attention"] * 3), "not 'chunked_attention'"),
        (hf("qwen3", layer_types=[FULL]), "each of 3 layers"),
        (hf("llama", layer_types=[SLIDING] * 3), "no effect on a llama, whose layers are all full"),
        (hf("mistral-window", layer_types=[FULL] * 3), "no effect on a mistral"),
    ],
)
def test_refuses_what_it_does_not_compute(config, says):
    with pytest.raises(UserError, match=says):
        from_hf_config(config)
