"""`ModelConfig` from and to the dictionary of a Hugging Face config.json.

Whatever the decoder does not compute exactly is refused: a half-right model is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_rope import read_rope, write_scaling

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
_NEUTRAL = {  # key -> values under which the model is a plain decoder of its family
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "quantization_config": (None,),
}


def from_hf_config(hf: dict[str, Any]) -> ModelConfig:
    """The decoder described by a config.json of transformers 4 or 5.

    Absent keys take the defaults of transformers' own configuration classes where those do not
    depend on the model's size.

    Raises:
      UserError: another architecture, or a feature the decoder does not have (named).
    """
    family = hf.get("model_type")
    if family not in ARCHITECTURES:
        raise UserError(f"model_type {family!r} is not supported: use {', '.join(ARCHITECTURES)}")
    architecture = (hf.get("architectures") or [ARCHITECTURES[family]])[0]
    if architecture != ARCHITECTURES[family]:
        raise UserError(
            f"architecture {architecture!r} is not supported: use {ARCHITECTURES[family]}"
        )
    for key, allowed in _NEUTRAL.items():
        if hf.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"config.json sets {key} = {hf[key]!r}, which is not supported for {family}"
            )
    heads, width = _number(hf, "num_attention_heads"), _number(hf, "hidden_size")
    theta, scaling = read_rope(hf)
    head_dim = hf.get("head_dim") or (128 if family == "qwen3" else width // heads)
    kv_heads = _number(hf, "num_key_value_heads", default=heads)
    if heads % kv_heads or head_dim % 2:
        raise UserError(
            f"config.json: {heads} heads, {kv_heads} key/value heads, head_dim {head_dim}: heads "
            "must be a multiple of key/value heads and head_dim even"
        )
    return ModelConfig(
        family=family,
        vocab_size=_number(hf, "vocab_size"),
        d_model=width,
        num_layers=_number(hf, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=_number(hf, "intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        tied=bool(hf.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        sliding_window=_window(hf),
        max_position=_number(hf, "max_position_embeddings"),
    )


def to_hf_config(
    config: ModelConfig,
    *,
    eos: Sequence[int] = (),
    bos: int | None = None,
    pad: int | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The config.json from which transformers 4 and 5 build the same decoder.

    Args:
      eos: end-token ids; one is written as a number, several as a list, none as null.
    """
    if (config.qkv_bias, config.qk_norm) != (config.family == "qwen2", config.family == "qwen3"):
        raise UserError(
            f"family {config.family!r} with qkv_bias={config.qkv_bias} and "
            f"qk_norm={config.qk_norm} has no Hugging Face counterpart"
        )
    hf: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "pad_token_id": pad,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.rope_scaling:
        hf["rope_scaling"] = write_scaling(config.rope_scaling)
    if config.family in ("llama", "qwen3"):
        hf["attention_bias"] = False
    if config.family == "llama":
        hf["mlp_bias"] = False
    if config.family == "mistral":
        hf["sliding_window"] = config.sliding_window
    if config.family in ("qwen2", "qwen3"):
        hf["use_sliding_window"] = config.sliding_window is not None
        hf["sliding_window"] = config.sliding_window
        hf["max_window_layers"] = 0 if config.sliding_window else config.num_layers
    if config.family == "llama" and config.sliding_window:
        raise UserError("Hugging Face's llama has no sliding window: export it as mistral")
    return hf


def _number(hf: dict[str, Any], key: str, default: int | None = None) -> int:
    value = default if hf.get(key) is None else hf[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {key} is {value!r}; it must be a positive integer")
    return value


def _window(hf: dict[str, Any]) -> int | None:
    """The sliding window that every layer has, or None if no layer has one."""
    family, layers = hf["model_type"], hf["num_hidden_layers"]
    if family == "llama":
        window = None
    elif family == "mistral":
        window = hf.get("sliding_window", 4096)
    else:
        window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None
    full = ["full_attention"] * layers
    if window is None:
        kinds = full
    elif family == "mistral":
        kinds = ["sliding_attention"] * layers
    else:
        first = hf.get("max_window_layers", 28)
        kinds = full[:first] + ["sliding_attention"] * max(0, layers - first)
    kinds = hf.get("layer_types") or kinds
    if len(set(kinds)) != 1 or kinds[0] not in ("full_attention", "sliding_attention"):
        raise UserError("config.json: layers with different kinds of attention are not supported")
    if kinds[0] == "full_attention":
        return None
    if not isinstance(window, int) or window < 1:
        raise UserError(f"config.json: sliding_window is {window!r}; it must be positive")
    return window
