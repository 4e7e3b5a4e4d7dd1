"""The shape of a decoder: families differ in these fields and in nothing else."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from caugym_jax.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are scaled (`models/rotary.py`); the names are Hugging Face's.

    Attributes:
      kind: "linear", "dynamic", "yarn", "llama3" or "longrope".
      factor: how many times slower the slowed pairs turn; unused by longrope.
      original_max_position: tokens of the pretraining's context (yarn, llama3, longrope).
      low_freq_factor, high_freq_factor: llama3's bounds.
      beta_fast, beta_slow, truncate: yarn's bounds, and whether they are whole pairs.
      attention_factor: what rotated queries and keys are multiplied by (yarn, longrope).
      short_factors, long_factors: longrope's divisors within and beyond the original context.
    """

    kind: str
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


class LayerKind(NamedTuple):
    """What layers differ in apart from their weights."""

    window: int | None  # how many places back a token sees, itself included; None: all
    theta: float  # of the rotary frequencies; 0: nothing is rotated
    scaling: RopeScaling | None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder: RMSNorm, rotary positions, grouped-query attention, gated feed-forward.

    Attributes:
      family: the Hugging Face `model_type` ("llama", "qwen3", ...; `models/hf_config.py`).
      tied: the output head is the transposed embedding.
      qkv_bias, o_bias: biases on attention's input and output projections.
      qk_norm: RMSNorm of q and k before rotation: "" none, over each "head" (Qwen3, Gemma 3), or
        over the "whole" of all heads (OLMo 2).
      sliding_window: a token sees itself and the `sliding_window - 1` tokens before it, in every
        layer or in those that `pattern` names.
      max_position: longest sequence the model was made for, in tokens.
      rotated: how many of a head's numbers rotary positions turn; 0 is all.
      pattern: each layer's kind, "full", "sliding" or "unrotated"; empty: all are alike.
      local_theta: the theta of layers that slide, which are then not scaled; None: as the others.
      activation: of the gate, "silu" or "gelu_tanh".
      pre_norm, post_norm: RMSNorm before, and after, attention and feed-forward.
      norm_offset: the scales of norms are stored less one (Gemma).
      scaled_embedding: embeddings are multiplied by sqrt(d_model) (Gemma).
      query_scale: what attention's scores are multiplied by; None: 1 / sqrt(head_dim).
      num_experts: feed-forward layers are of so many experts, each d_ff wide; 0: there are none.
      experts_per_token: how many of them each token takes.
      normalized_routing: the weights of those sum to 1.
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
    qk_norm: str = ""
    sliding_window: int | None = None
    max_position: int = 2048
    o_bias: bool = False
    rotated: int = 0
    pattern: tuple[str, ...] = ()
    local_theta: float | None = None
    activation: str = "silu"
    pre_norm: bool = True
    post_norm: bool = False
    norm_offset: bool = False
    scaled_embedding: bool = False
    query_scale: float | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    normalized_routing: bool = False

    @property
    def rotary_dim(self) -> int:
        """How many of a head's numbers rotary positions turn."""
        return self.rotated or self.head_dim

    @property
    def longest(self) -> int:
        """The longest text in tokens for which the rotary frequencies here are the model's."""
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "longrope":
            return scaling.original_max_position
        return self.max_position

    @property
    def idle_parameters(self) -> int:
        """How many weights a token is not multiplied with: of experts that it does not take."""
        idle = self.num_experts - self.experts_per_token
        return 3 * self.num_layers * self.d_model * self.d_ff * idle

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """Each layer's kind."""
        full = LayerKind(None, self.rope_theta, self.rope_scaling)
        if self.local_theta is None:
            sliding = full._replace(window=self.sliding_window)
        else:
            sliding = LayerKind(self.sliding_window, self.local_theta, None)
        if not self.pattern:
            return (sliding if self.sliding_window else full,) * self.num_layers
        named = {"full": full, "sliding": sliding, "unrotated": LayerKind(None, 0.0, None)}
        return tuple(named[name] for name in self.pattern)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a new model.

    Attributes:
      layers: how many; 0: the new model has the shape of the named one.
      width: of the residual stream.
      heads: of queries.
      kv_heads: of keys and values; None: as many as of queries.
      head_dim: of a head; None: width / heads.
      d_ff: the feed-forward width.
      family: llama, qwen2, qwen3 or mistral.
      rope_theta: the base of the rotary positions' frequencies.
      tied: the head is the transposed embedding.
      max_position: the longest sequence, in tokens.
    """

    layers: int = 0
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int = 384
    family: str = "qwen3"
    rope_theta: float = 10_000.0
    tied: bool = False
    max_position: int = 2048

    def __post_init__(self):
        require(self, "layers", at_least=0)
        require(self, "width", "heads", "kv_heads", "head_dim", "d_ff", "max_position", at_least=1)
        require(self, "rope_theta", above=1)
        require(self, "family", among=("llama", "qwen2", "qwen3", "mistral"))
        if self.heads % (self.kv_heads or self.heads):
            raise UserError(f"heads={self.heads}: must be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim is None and self.width % self.heads:
            raise UserError(f"width={self.width}: must be a multiple of heads={self.heads}")
        if (self.head_dim or self.width // self.heads) % 2:
            raise UserError("head_dim must be even: rotary positions turn pairs of numbers")

    def config(self, vocab_size: int) -> ModelConfig:
        """The decoder of this shape for so many tokens."""
        return ModelConfig(
            self.family,
            vocab_size,
            self.width,
            self.layers,
            self.heads,
            self.kv_heads or self.heads,
            self.head_dim or self.width // self.heads,
            self.d_ff,
            rope_theta=self.rope_theta,
            tied=self.tied,
            qkv_bias=self.family == "qwen2",
            qk_norm="head" if self.family == "qwen3" else "",
            max_position=self.max_position,
        )
