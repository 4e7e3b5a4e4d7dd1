"""Writes tiny GGUF files as llama.cpp's converter lays them out. For tests of reading only."""

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from caugym_jax.models.config import ModelConfig

NAMES = {
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


def matrix(name: str, array: np.ndarray) -> np.ndarray:
    """Our axes to [out, in]."""
    if name in ("q", "k", "v"):
        return array.transpose(1, 2, 0).reshape(-1, array.shape[0])
    if name == "o":
        return array.transpose(2, 0, 1).reshape(array.shape[2], -1)
    return array.T if array.ndim == 2 and not name.endswith("bias") else array.reshape(-1)


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """Halves to pairs: row j * H/2 + i of a head moves to 2i + j."""
    out = np.empty_like(array)
    size = array.shape[0] // heads
    for head in range(heads):
        for i in range(size // 2):
            for j in (0, 1):
                out[head * size + 2 * i + j] = array[head * size + j * (size // 2) + i]
    return out


def rope_factors(config: ModelConfig) -> np.ndarray:
    """Llama 3.1's published rule, one frequency at a time."""
    s, factors = config.rope_scaling, []
    for i in range(config.head_dim // 2):
        wavelength = 2 * np.pi * config.rope_theta ** (2 * i / config.head_dim)
        if wavelength < s.original_max_position / s.high_freq_factor:
            factors.append(1.0)
        elif wavelength > s.original_max_position / s.low_freq_factor:
            factors.append(s.factor)
        else:
            smooth = (s.original_max_position / wavelength - s.low_freq_factor) / (
                s.high_freq_factor - s.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / s.factor + smooth))
    return np.array(factors, np.float32)


def write_gguf(path, config: ModelConfig, params: dict, *, quantized=False, **changes):
    """`changes`: `drop`, the GGUF name of a tensor to leave out; `rope`, other factors; `fields`,
    further metadata by name."""
    writer = GGUFWriter(path, config.family)
    writer.add_context_length(config.max_position)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(7)
    for key, value in changes.get("fields", {}).items():
        add_field = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add_field)(key, value)

    def add(name, array):
        array = np.ascontiguousarray(array, np.float32)
        if name == changes.get("drop"):
            return
        if quantized and array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)

    add("token_embd.weight", params["embed"])
    add("output_norm.weight", params["final_norm"])
    if not config.tied:
        add("output.weight", params["head"].T)
    if config.rope_scaling and config.rope_scaling.kind == "llama3":
        add("rope_freqs.weight", changes.get("rope", rope_factors(config)))
    for layer in range(config.num_layers):
        for name, stack in params["layers"].items():
            array = matrix(name, stack[layer])
            if config.family == "llama" and name in ("q", "k"):
                array = interleave(array, stack.shape[2])
            add(f"blk.{layer}.{NAMES[name]}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
