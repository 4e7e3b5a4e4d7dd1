"""Writes a Hugging Face folder of a llama, qwen2 or qwen3 model as a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from caugym_jax.errors import UserError
from caugym_jax.models import weights
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.gguf import FAMILIES, read_config
from caugym_jax.models.hub import load_config

KINDS = ("f16", "q8_0")


def write_gguf(folder: Path, path: Path, kind: str, tokenizer: Mapping[str, Any]) -> None:
    """Writes the file as llama.cpp's converter lays it out: matrices as `kind`, vectors in float32.

    Args:
      folder: safetensors and config.json.
      kind: one of KINDS; a matrix whose rows are no multiple of 32 long stays f16 in q8_0.
      tokenizer: metadata, by their names behind "tokenizer.".

    Raises:
      UserError: another family or rotary scaling, or the file cannot be written.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    config = load_config(folder)
    if config.family not in FAMILIES or config.rope_scaling is not None:
        raise UserError(
            f"{folder} cannot be written as GGUF: {', '.join(FAMILIES)} without rope scaling can be"
        )
    partial = path.with_name(f".{path.name}.tmp")
    try:
        writer = GGUFWriter(partial, config.family, use_temp_file=True)
        _metadata(writer, config, tokenizer)
        for name, array in _tensors(folder, config):
            if array.ndim == 1:
                writer.add_tensor(name, array)
            elif kind == "q8_0" and array.shape[1] % 32 == 0:
                quantized = GGMLQuantizationType.Q8_0
                writer.add_tensor(name, quantize(array, quantized), raw_dtype=quantized)
            else:
                writer.add_tensor(name, array.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if read_config(partial) != config:
            raise UserError(
                f"{folder} cannot be written as GGUF: its configuration is not read back equal"
            )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _metadata(writer: Any, config: ModelConfig, tokenizer: Mapping[str, Any]) -> None:
    writer.add_context_length(config.max_position or config.longest)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for key, value in tokenizer.items():
        name = f"tokenizer.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_array(name, value)


def _tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, float32 array) of every weight; llama's q and k in llama.cpp's order."""
    files = sorted(folder.glob("*.safetensors"))
    stored: dict[str, Path] = {}
    for file in files:
        with safe_open(file, "np") as reader:
            stored |= dict.fromkeys(reader.keys(), file)
    for parameter, place, row in weights.tensors(config):
        name = row.hf.format(*place)
        with safe_open(stored[name], "np") as reader:
            array = np.asarray(reader.get_tensor(name), np.float32)
        if config.family == "llama" and parameter in ("q", "k"):
            array = permute(array, config.head_dim)
        yield row.gguf.format(*place), np.ascontiguousarray(array)


def permute(array: np.ndarray, head_dim: int) -> np.ndarray:
    """[heads * H, D] from Hugging Face's rotary halves to llama.cpp's interleaved order."""
    rows, width = array.shape
    halves = array.reshape(rows // head_dim, 2, head_dim // 2, width)
    return halves.swapaxes(1, 2).reshape(rows, width)
