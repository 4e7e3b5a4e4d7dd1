"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

A layer's A [in..., r] is stored as `...q_proj.lora_A.weight` [r, in], its B [r, out...] as
`...q_proj.lora_B.weight` [out, r]; the strength (alpha, rank, rslora) stands in the JSON file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from caugym_jax.devices.mesh import fetch
from caugym_jax.errors import UserError
from caugym_jax.models import weights
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.files import fresh_folder, write_json, write_tensors
from caugym_jax.models.lora import MATRICES, Lora, adapter_layout
from caugym_jax.models.transformer import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What changes the adapter's meaning and is not supported; it must be absent or "off".
_REFUSED = (
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "use_dora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "exclude_modules",
)


def save_adapter(
    folder: Path, config: ModelConfig, lora: Lora, adapters: Params, base: str
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained(base_model, folder)` loads.

    Args:
      folder: made whole or not at all; it must not exist or be empty.
      base: the name or path of the model that the adapter belongs to.
    """
    tensors = []
    for name, layer, key in _names(config, lora):
        stack = adapters["layers"][name]

        def read(stack=stack, layer=layer, name=name) -> np.ndarray:
            return np.ascontiguousarray(_matrix(fetch(stack[layer]), name).T)

        shape = _matrix(np.empty(stack.shape[1:], np.bool_), name).T.shape
        tensors.append((key, shape, np.dtype(np.float32), read))
    with fresh_folder(Path(folder)) as out:
        write_json(out / CONFIG, _describe(config, lora, base))
        write_tensors(out, sorted(tensors, key=lambda t: t[0]), math.inf, WEIGHTS)


def load_adapter(folder: str | Path, config: ModelConfig, lora: Lora) -> Params:
    """An adapter made by `peft` or `save_adapter`, as NumPy arrays in float32.

    Raises:
      UserError: no such adapter, one of another kind, one with other settings than `lora` (they
        are named), or one that does not fit the model.
    """
    folder = Path(folder)
    _check_settings(folder, config, lora)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error})") from error
    shapes = adapter_layout(config, lora).shapes["layers"]
    layers = {name: np.empty(leaf.shape, np.float32) for name, leaf in shapes.items()}
    for name, layer, key in _names(config, lora):
        if key not in stored:
            raise UserError(f"{folder}: {key!r} is missing")
        tensor, place = stored.pop(key), layers[name][layer]
        if tensor.T.shape != _matrix(place, name).shape:
            raise UserError(
                f"{folder}: {key!r} has shape {list(tensor.shape)}, the model asks for "
                f"{list(_matrix(place, name).T.shape)}: it belongs to another model"
            )
        layers[name][layer] = tensor.T.reshape(place.shape)
    if stored:
        raise UserError(f"{folder}: unexpected weight {next(iter(stored))!r}")
    return {"layers": layers}


def _names(config: ModelConfig, lora: Lora) -> Iterator[tuple[str, int, str]]:
    """(name in `adapters`, layer, name in the file) of every tensor."""
    for layer in range(config.num_layers):
        for matrix in lora.matrices:
            module = _module(config, matrix).format(layer)
            for kind in "AB":
                key = f"base_model.model.{module}.lora_{kind}.weight"
                yield f"{matrix}_lora_{kind.lower()}", layer, key


def _module(config: ModelConfig, matrix: str) -> str:
    return weights.table(config)["layers"][matrix].hf.removesuffix(".weight")


def _matrix(array: np.ndarray, name: str) -> np.ndarray:
    """A layer's A as [in, r], its B as [r, out]."""
    if name.endswith("_a"):
        return array.reshape(-1, array.shape[-1])
    return array.reshape(array.shape[0], -1)


def _describe(config: ModelConfig, lora: Lora, base: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": sorted(_modules(config, lora)),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
    }


def _modules(config: ModelConfig, lora: Lora) -> set[str]:
    return {_module(config, matrix).rpartition(".")[2] for matrix in lora.matrices}


def _check_settings(folder: Path, config: ModelConfig, lora: Lora) -> None:
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as PEFT's settings ({error})") from error
    kind = stored.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path}: an adapter of type {kind!r}; only LORA is supported")
    for key in _REFUSED:
        if stored.get(key):
            raise UserError(f"{path}: {key}={stored[key]!r} is not supported")
    if stored.get("bias", "none") != "none":
        raise UserError(f"{path}: bias={stored['bias']!r} is not supported")
    by_module = {_module(config, matrix).rpartition(".")[2]: matrix for matrix in MATRICES}
    targets = stored.get("target_modules")
    if targets == "all-linear":
        targets = by_module
    if not isinstance(targets, (list, dict)):
        raise UserError(f"{path}: target_modules={targets!r}: must be a list of names")
    strange = [t for t in targets if t not in by_module]
    if strange:
        raise UserError(f"{path}: this decoder has no target module {strange[0]!r}")
    theirs = {
        "rank": stored.get("r"),
        "alpha": stored.get("lora_alpha"),
        "rslora": bool(stored.get("use_rslora")),
        "targets": Lora(rank=1, targets=",".join(by_module[t] for t in targets)).matrices,
    }
    ours = {"rank": lora.rank, "alpha": lora.alpha, "rslora": lora.rslora, "targets": lora.matrices}
    if differing := [key for key in theirs if theirs[key] != ours[key]]:
        flags = (
            f"--config.lora.{k}={','.join(v) if isinstance(v := theirs[k], tuple) else v}"
            for k in differing
        )
        raise UserError(f"{folder} was made with other settings: set {' '.join(flags)}")
