"""`ModelConfig` from and to the dictionary of a Hugging Face config.json.

Whatever the decoder does not compute exactly is refused: a half-right model is worse than none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_rope import read_layered_rope, read_rope, write_scaling


@dataclasses.dataclass(frozen=True)
class Family:
    """What a `model_type` means.

    Attributes:
      architecture: transformers' class.
      fields: of `ModelConfig`, those that every model of the family has.
      defaults: of config.json's keys, where they differ from Llama's.
      biased: `attention_bias` puts biases on attention's projections.
      layered: rotary settings stand in the file for full and sliding layers apart.
      mixed: layers may be of different kinds.
    """

    architecture: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    biased: bool = False
    layered: bool = False
    mixed: bool = False


_GEMMA = {
    "qk_norm": "head",
    "activation": "gelu_tanh",
    "post_norm": True,
    "norm_offset": True,
    "scaled_embedding": True,
}
_OLMO = {"qk_norm": "whole", "pre_norm": False, "post_norm": True}
_EPS = {"rms_norm_eps": 1e-5}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", biased=True),
    "qwen2": Family("Qwen2ForCausalLM", {"qkv_bias": True}, mixed=True),
    "qwen3": Family(
        "Qwen3ForCausalLM", {"qk_norm": "head"}, {"head_dim": 128}, biased=True, mixed=True
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", {"qk_norm": "head"}, {"num_experts_per_tok": 8}, biased=True
    ),
    "mistral": Family("MistralForCausalLM"),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _GEMMA,
        {
            "head_dim": 256,
            "tie_word_embeddings": True,
            "max_position_embeddings": 131_072,
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        biased=True,
        layered=True,
        mixed=True,
    ),
    "olmo2": Family("Olmo2ForCausalLM", _OLMO, _EPS, biased=True),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        _OLMO,
        {**_EPS, "rope_theta": 500_000.0, "sliding_window": 4096, "sliding_window_pattern": 4},
        biased=True,
        layered=True,
        mixed=True,
    ),
    "phi3": Family("Phi3ForCausalLM", {}, _EPS),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        {},
        {"tie_word_embeddings": True, "rope_theta": 2_000_000.0, "no_rope_layer_interval": 4},
        biased=True,
        mixed=True,
    ),
}
# Key -> values under which the model is a plain decoder of its family.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mlp_bias": (False, None),
    "rope_interleaved": (False,),
    "quantization_config": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "use_bidirectional_attention": (False, None),
    "clip_qkv": (None,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": (None, []),
}
_EXPERTS = ("qwen3_moe",)  # families whose feed-forward layers are of experts
_ACTIVATIONS = {"silu": ("silu", "swish"), "gelu_tanh": ("gelu_pytorch_tanh",)}
_KINDS = {"full": "full_attention", "sliding": "sliding_attention"}


def from_hf_config(hf: Mapping[str, Any]) -> ModelConfig:
    """The decoder described by a config.json of transformers 4 or 5.

    Absent keys take the defaults of transformers' own configuration classes where those do not
    depend on the model's size. Of a Gemma 3 that also sees images, the text model is read.

    Raises:
      UserError: another architecture, or a feature the decoder does not have (named).
    """
    if hf.get("model_type") == "gemma3" and isinstance(hf.get("text_config"), Mapping):
        hf = {**hf["text_config"], "model_type": "gemma3_text", "architectures": None}
    name, family = _family(hf)
    hf = {**family.defaults, **{k: v for k, v in hf.items() if k != "sliding_window_pattern" or v}}
    _check_neutral(hf, name, family)
    heads, width = _number(hf, "num_attention_heads"), _number(hf, "hidden_size")
    read = read_layered_rope if family.layered else read_rope
    theta, scaling, *local = read(hf, family.defaults.get("rope_theta", 10_000.0))
    head_dim = hf.get("head_dim") or width // heads
    kv_heads = _number(hf, "num_key_value_heads", default=heads)
    if heads % kv_heads or head_dim % 2:
        raise UserError(
            f"config.json: {heads} heads, {kv_heads} key/value heads, head_dim {head_dim}: heads "
            "must be a multiple of key/value heads and head_dim even"
        )
    window, pattern = _layers(hf, name, family)
    rotated = _rotated(hf, name, head_dim)
    pairs = (rotated or head_dim) // 2
    if scaling and scaling.short_factors and len(scaling.short_factors) != pairs:
        raise UserError(f"config.json: longrope needs {pairs} factors, one for each rotated pair")
    biases = {"qkv_bias": True, "o_bias": True} if hf.get("attention_bias") else {}
    scalar = hf.get("query_pre_attn_scalar") if name == "gemma3_text" else None
    return ModelConfig(
        family=name,
        vocab_size=_number(hf, "vocab_size"),
        d_model=width,
        num_layers=_number(hf, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=_number(hf, "moe_intermediate_size" if name in _EXPERTS else "intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        tied=bool(hf.get("tie_word_embeddings", False)),
        sliding_window=window,
        max_position=_number(hf, "max_position_embeddings"),
        rotated=rotated,
        pattern=pattern,
        local_theta=local[0] if local and window else None,
        query_scale=None if scalar is None else float(scalar) ** -0.5,
        **{**family.fields, **biases, **_experts(hf, name)},
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
    family = FAMILIES[config.family]
    hf: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _ACTIVATIONS[config.activation][0],
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
    if family.biased:
        hf["attention_bias"] = config.o_bias
    if config.family in ("llama", "smollm3"):
        hf["mlp_bias"] = False
    if config.family in _EXPERTS:
        hf |= {
            "moe_intermediate_size": config.d_ff,
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "norm_topk_prob": config.normalized_routing,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    hf |= _write_layers(config)
    if from_hf_config(hf) != config:
        raise UserError(
            f"Hugging Face's {config.family} has no counterpart of this decoder: {config}"
        )
    return hf


def _family(hf: Mapping[str, Any]) -> tuple[str, Family]:
    name = hf.get("model_type")
    if name not in FAMILIES:
        raise UserError(
            f"model_type {name!r} is not supported: models of {', '.join(FAMILIES)} are, by the "
            "name of a preset, a hub id, a folder or a GGUF file"
        )
    family = FAMILIES[name]
    architecture = (hf.get("architectures") or [family.architecture])[0]
    if architecture != family.architecture:
        raise UserError(
            f"architecture {architecture!r} is not supported: use {family.architecture}"
        )
    return name, family


def _check_neutral(hf: Mapping[str, Any], name: str, family: Family) -> None:
    for key, allowed in _NEUTRAL.items():
        if hf.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"config.json sets {key} = {hf[key]!r}, which is not supported for {name}"
            )
    if hf.get("attention_bias") and not family.biased:
        raise UserError(f"config.json sets attention_bias = True, which {name} does not have")
    known = _ACTIVATIONS[family.fields.get("activation", "silu")]
    key = "hidden_activation" if "hidden_activation" in hf else "hidden_act"
    if hf.get(key, known[0]) not in known:
        raise UserError(f"config.json sets {key} = {hf[key]!r}, which is not supported for {name}")


def _number(hf: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = default if hf.get(key) is None else hf[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {key} is {value!r}; it must be a positive integer")
    return value


def _experts(hf: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a mixture of experts."""
    if name not in _EXPERTS:
        return {}
    count = _number(hf, "num_experts", default=hf.get("num_local_experts"))
    chosen = _number(hf, "num_experts_per_tok")
    if chosen > count:
        raise UserError(f"config.json: {chosen} of {count} experts a token")
    return {
        "num_experts": count,
        "experts_per_token": chosen,
        "normalized_routing": bool(hf.get("norm_topk_prob", False)),
    }


def _rotated(hf: Mapping[str, Any], name: str, head_dim: int) -> int:
    """How many of a head's numbers are rotated where it is not all: Phi's alone may differ."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
    if name != "phi3" or share in (None, 1, 1.0):
        return 0
    if not isinstance(share, float) or not 0 < share < 1 or int(head_dim * share) % 2:
        raise UserError(f"config.json: partial_rotary_factor is {share!r}")
    return int(head_dim * share)


def _layers(hf: Mapping[str, Any], name: str, family: Family) -> tuple[int | None, tuple[str, ...]]:
    """(sliding window or None, each layer's kind or () where all are alike)."""
    count = _number(hf, "num_hidden_layers")
    window = _window(hf, name)
    kinds = _listed(hf, count) if family.mixed else None
    if kinds is None:
        kinds = _by_rule(hf, name, count, window)
    if not family.mixed and (listed := _listed(hf, count)) not in (None, kinds):
        raise UserError(
            f"config.json: layer_types {sorted(set(listed))} have no effect on a {name}, whose "
            f"layers are all {kinds[0]}: remove them"
        )
    if name == "smollm3":
        kinds = _unrotated(hf, kinds)
    if "sliding" in kinds and window is None:
        raise UserError(
            f"config.json: sliding_window is {hf.get('sliding_window')!r}; it must be positive"
        )
    if "sliding" not in kinds:
        window = None
    return window, () if len(set(kinds)) == 1 and kinds[0] != "unrotated" else tuple(kinds)


def _window(hf: Mapping[str, Any], name: str) -> int | None:
    """How far layers see that slide, if there are any."""
    if name in ("llama", "olmo2"):
        return None
    if name in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and not hf.get("use_sliding_window"):
        return None
    default = 4096 if name in ("mistral", "qwen2", "qwen3", "qwen3_moe") else None
    window = hf.get("sliding_window", default)
    if window is not None and (not isinstance(window, int) or window < 1):
        raise UserError(f"config.json: sliding_window is {window!r}; it must be positive")
    return window


def _listed(hf: Mapping[str, Any], count: int) -> list[str] | None:
    """The kinds that `layer_types` names."""
    types = hf.get("layer_types")
    if types is None:
        return None
    by_type = {value: kind for kind, value in _KINDS.items()}
    strange = [t for t in types if t not in by_type]
    if strange or len(types) < count:
        raise UserError(
            f"config.json: layer_types must give each of {count} layers one of "
            f"{', '.join(by_type)}" + (f", not {strange[0]!r}" if strange else "")
        )
    return [by_type[t] for t in types[:count]]


def _by_rule(hf: Mapping[str, Any], name: str, count: int, window: int | None) -> list[str]:
    """The kinds of layers that a file does not list."""
    if window is None:
        return ["full"] * count
    if name in ("mistral", "phi3", "qwen3_moe"):
        return ["sliding"] * count
    if name in ("qwen2", "qwen3"):
        first = hf.get("max_window_layers", 28)
        return ["full" if i < first else "sliding" for i in range(count)]
    every = _number(hf, "sliding_window_pattern", default=1)
    return ["sliding" if (i + 1) % every else "full" for i in range(count)]


def _unrotated(hf: Mapping[str, Any], kinds: list[str]) -> list[str]:
    """SmolLM3's layers without positions: every fourth, or those marked 0."""
    if "sliding" in kinds:
        raise UserError("config.json: sliding windows are not supported for smollm3")
    every = _number(hf, "no_rope_layer_interval")
    marked = hf.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(len(kinds))]
    if len(marked) < len(kinds):
        raise UserError(f"config.json: no_rope_layers must mark each of {len(kinds)} layers")
    return ["full" if mark else "unrotated" for mark in marked[: len(kinds)]]


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    """The keys that say what kind each layer is of."""
    family, window = config.family, config.sliding_window
    kinds = config.pattern or (("sliding" if window else "full"),) * config.num_layers
    types = [_KINDS.get(kind, "full_attention") for kind in kinds]
    if family in ("mistral", "phi3"):
        keys: dict[str, Any] = {"sliding_window": window}
        if family == "phi3":
            keys |= {
                "partial_rotary_factor": config.rotary_dim / config.head_dim,
                "original_max_position_embeddings": config.longest,
            }
        return keys
    if family == "qwen3_moe":
        return {"use_sliding_window": window is not None, "sliding_window": window}
    if family in ("qwen2", "qwen3"):
        keys = {"use_sliding_window": window is not None, "sliding_window": window}
        keys["max_window_layers"] = types.count("full_attention")
        return keys | ({"layer_types": types} if config.pattern else {})
    if family in ("gemma3_text", "olmo3"):
        keys = {"sliding_window": window, "layer_types": types}
        if family == "gemma3_text":
            keys |= {
                "hidden_activation": _ACTIVATIONS[config.activation][0],
                "rope_local_base_freq": config.local_theta,
                "query_pre_attn_scalar": _scalar(config),
            }
        return keys
    if family == "smollm3":
        marks = [int(kind != "unrotated") for kind in kinds]
        return {"no_rope_layers": marks, "use_sliding_window": False}
    return {}


def _scalar(config: ModelConfig) -> float:
    """Gemma's query_pre_attn_scalar: a whole number in its files."""
    scalar = config.head_dim if config.query_scale is None else config.query_scale**-2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
