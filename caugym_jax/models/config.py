"""The shape of a decoder: families differ in these fields and in nothing else."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling (`rope_type: llama3` in Hugging Face configurations)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Attributes:
      family: "llama", "qwen2", "qwen3" or "mistral"; the Hugging Face `model_type`.
      tied: the output head is the transposed embedding.
      qkv_bias: biases on the q, k and v projections (Qwen2).
      qk_norm: RMSNorm over the head size of q and k before rotation (Qwen3).
      sliding_window: a token sees itself and the `sliding_window - 1` tokens before it.
      max_position: longest sequence the model was made for, in tokens.
    """

    family: str
    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    max_position: int = 2048
