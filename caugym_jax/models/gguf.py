"""Reads GGUF files (llama.cpp's format) of the llama, qwen2 and qwen3 architectures.

A GGUF file is dequantised once into a Hugging Face folder kept in a cache; from there it loads
like any other model. Llama files hold the rows of q and k in llama.cpp's interleaved rotary
order, which is undone here: a head's row 2i + j goes to j * H/2 + i.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caugym_jax.devices import processes
from caugym_jax.devices.starting import cache_folder
from caugym_jax.errors import UserError
from caugym_jax.models import weights
from caugym_jax.models.config import ModelConfig, RopeScaling
from caugym_jax.models.files import fresh_folder, write_json, write_tensors
from caugym_jax.models.hf_config import to_hf_config

if TYPE_CHECKING:
    import gguf

FAMILIES = ("llama", "qwen2", "qwen3")
_FACTORS = "rope_freqs.weight"  # what Llama 3.1's scaling divides each frequency by
_VERSION = 2  # of the conversion; a new one makes new cache entries
_ORIGIN = "gguf.json"  # in the converted folder: which file it was made of


def read_config(path: Path) -> ModelConfig:
    """The decoder described by a GGUF file's metadata.

    Raises:
      UserError: not a GGUF file, another architecture, or rotary scaling the decoder lacks.
    """
    return _config(path, _open(path))


def chat_template(path: Path) -> str:
    """The chat template of a GGUF file; empty where there is none."""
    return _field(_open(path), "tokenizer.chat_template") or ""


def convert(path: Path) -> Path:
    """The Hugging Face folder (float32 safetensors, config.json) of a GGUF file.

    Made on the first call and kept in the cache under the file's SHA-256; the tokenizer stays in
    the GGUF file. Each call reports the file, its quantisation and where the copy lies.
    """
    with _readable(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "gguf" / f"{path.stem}-{digest[:16]}-v{_VERSION}"
    if folder.exists():
        types = json.loads((folder / _ORIGIN).read_text())["types"]
        processes.say(f"{path} ({types}) is read from its float32 copy in {folder}")
        return folder
    reader = _open(path)
    config, types = _config(path, reader), _types(reader)
    eos, bos, pad = (
        _field(reader, f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "bos", "padding")
    )
    tensors = _tensors(path, reader, config)
    processes.say(f"{path} ({types}) is converted to float32, once, in {folder}")
    with fresh_folder(folder, reuse=True) as out:
        write_tensors(out, tensors)
        hf = to_hf_config(config, eos=[] if eos is None else [eos], bos=bos, pad=pad)
        write_json(out / "config.json", hf)
        write_json(out / _ORIGIN, {"file": path.name, "types": types})
    return folder


def _types(reader: gguf.GGUFReader) -> str:
    """The types of a file's weights, that of most weights first ("Q4_K, Q6_K, F32")."""
    counts: collections.Counter[str] = collections.Counter()
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return ", ".join(name for name, _ in counts.most_common())


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file")
    return path


def _open(path: Path) -> gguf.GGUFReader:
    from gguf import GGUFReader

    try:
        return GGUFReader(_readable(path))
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}): fetch it again") from error


def _field(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _config(path: Path, reader: gguf.GGUFReader) -> ModelConfig:
    family = _field(reader, "general.architecture")
    if family not in FAMILIES:
        raise UserError(
            f"{path}: GGUF architecture {family!r} is not supported: use {', '.join(FAMILIES)}"
        )

    def get(key: str, default: Any = None) -> Any:
        value = _field(reader, f"{family}.{key}")
        value = default if value is None else value
        if value is None:
            raise UserError(f"{path}: GGUF field {family}.{key} is missing")
        return value

    stored = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in stored:
        raise UserError(f"{path}: weight 'token_embd.weight' is missing")
    if get("expert_count", 0) or get("attention.sliding_window", 0):
        raise UserError(f"{path}: experts and sliding windows are not supported in GGUF")
    width, heads = int(get("embedding_length")), int(get("attention.head_count"))
    head_dim = int(get("attention.key_length", width // heads))
    if int(get("rope.dimension_count", head_dim)) != head_dim:
        raise UserError(f"{path}: partial rotary embeddings are not supported")
    theta = float(get("rope.freq_base", 10_000.0))
    return ModelConfig(
        family=family,
        vocab_size=int(stored["token_embd.weight"].shape[-1]),  # GGUF lists axes fastest first
        d_model=width,
        num_layers=int(get("block_count")),
        num_heads=heads,
        num_kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        d_ff=int(get("feed_forward_length")),
        rope_theta=theta,
        rope_scaling=_scaling(path, get, stored, theta, head_dim),
        norm_eps=_decimal(get("attention.layer_norm_rms_epsilon")),
        tied="output.weight" not in stored,
        qkv_bias=family == "qwen2",
        qk_norm="head" if family == "qwen3" else "",
        max_position=int(get("context_length")),
    )


def _decimal(value: float) -> float:
    """The short decimal that was rounded to this float32, e.g. 1e-05."""
    return float(str(np.float32(value)))


def _scaling(
    path: Path, get: Callable, stored: Mapping, theta: float, head_dim: int
) -> RopeScaling | None:
    """As llama.cpp reads it: a factor without a type is linear, and its older key counts too."""
    kind = get("rope.scaling.type", "linear")
    factor = float(get("rope.scaling.factor", get("rope.scale_linear", 0.0))) or 1.0
    if kind == "none":
        factor = 1.0
    if kind not in ("none", "linear", "yarn"):
        raise UserError(
            f"{path}: rope scaling {kind!r} is not supported in GGUF: use none, linear or yarn"
        )
    if kind == "yarn":
        gain = float(get("rope.scaling.attn_factor", 1.0))
        return RopeScaling(
            kind,
            factor,
            int(get("rope.scaling.original_context_length", get("context_length"))),
            beta_fast=float(get("rope.scaling.yarn_beta_fast", 32.0)),
            beta_slow=float(get("rope.scaling.yarn_beta_slow", 1.0)),
            attention_factor=gain * (1.0 + 0.1 * math.log(max(factor, 1.0))),
        )
    if _FACTORS in stored and factor != 1.0:
        raise UserError(f"{path}: {_FACTORS!r} beside a linear factor is not supported")
    if _FACTORS in stored:
        return _llama3(path, np.asarray(stored[_FACTORS].data, np.float32), theta, head_dim)
    return None if factor == 1.0 else RopeScaling("linear", factor)


def _llama3(path: Path, found: np.ndarray, theta: float, head_dim: int) -> RopeScaling:
    """Llama 3.1's scaling, known by its published constants and the file's own factors."""
    scaling = RopeScaling("llama3", float(found.max()), 8192)
    if found.shape != (head_dim // 2,) or not np.allclose(
        found, _llama3_factors(scaling, theta, head_dim), rtol=1e-4
    ):
        raise UserError(f"{path}: {_FACTORS!r} is not Llama 3.1's rope scaling")
    return scaling


def _llama3_factors(scaling: RopeScaling, theta: float, head_dim: int) -> np.ndarray:
    """What each rotary frequency is divided by, [H/2]; see `attention.rotary_frequencies`."""
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position * frequency / (2 * np.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return 1.0 / (smooth + (1.0 - smooth) / scaling.factor)


def _tensors(path: Path, reader: gguf.GGUFReader, config: ModelConfig):
    """(Hugging Face name, shape, float32 dtype, function that dequantises it) of every weight."""
    from gguf import dequantize

    stored = {tensor.name: tensor for tensor in reader.tensors}
    wanted = {
        row.gguf.format(*index): (name, row, index) for name, index, row in weights.tensors(config)
    }
    for name in wanted:
        if name not in stored:
            raise UserError(f"{path}: weight {name!r} is missing")
    for name in stored:
        if name not in wanted and name != _FACTORS:
            raise UserError(f"{path}: unexpected weight {name!r} for architecture {config.family}")

    def reading(name: str, parameter: str, row: weights.Weight):
        def read() -> np.ndarray:
            tensor = stored[name]
            array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            if config.family == "llama" and parameter in ("q", "k"):
                array = unpermute(array, config.head_dim)
            return np.ascontiguousarray(array)

        shape = tuple(int(n) for n in reversed(stored[name].shape))
        if shape != weights.hf_shape(row, config):
            raise UserError(
                f"{path}: weight {name!r} has shape {list(shape)}; its metadata ask for "
                f"{list(weights.hf_shape(row, config))}"
            )
        return read

    # All checks come before the first tensor is written.
    found = [
        (row.hf.format(*index), row, reading(name, parameter, row))
        for name, (parameter, row, index) in wanted.items()
    ]
    return [
        (name, weights.hf_shape(row, config), np.dtype(np.float32), read)
        for name, row, read in found
    ]


def unpermute(array: np.ndarray, head_dim: int) -> np.ndarray:
    """[heads * H, D] from llama.cpp's interleaved rotary order to Hugging Face's halves."""
    rows, width = array.shape
    pairs = array.reshape(rows // head_dim, head_dim // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)
