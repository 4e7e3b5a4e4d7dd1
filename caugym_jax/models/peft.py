"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

A layer's A [in..., r] is stored as `...q_proj.lora_A.weight` [r, in], its B [r, out...] as
`...q_proj.lora_B.weight` [out, r]; the strength (alpha, rank, rslora) stands in the JSON file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
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

# How an adapter was drawn before it was trained; these leave the base's weights as they are.
# Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part of the base away when they begin.
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
# Settings that are read here, and those that do not change what an adapter computes; any other
# that is set is refused.
_READ = (
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "bias", "init_lora_weights",
    "rank_pattern", "alpha_pattern",
)  # fmt: skip
_NEUTRAL = (
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "peft_version", "megatron_core", "qalora_group_size", "layers_pattern",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "ensure_weight_tying",
)  # fmt: skip


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
        are named), one whose beginning changed the base, or one that does not fit the model.
    """
    folder = Path(folder)
    settings = _check_settings(folder, config, lora)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error})") from error
    shapes = adapter_layout(config, lora).shapes["layers"]
    layers = {name: np.empty(leaf.shape, np.float32) for name, leaf in shapes.items()}
    for name, layer, key in _names(config, lora):
        if key not in stored:
            raise UserError(f"{folder}: {key!r} is missing")
        tensor, place = stored.pop(key).astype(np.float32), layers[name][layer]
        if not np.isfinite(tensor).all():
            raise UserError(f"{folder}: {key!r} holds NaN or an infinity")
        rank, scale = _strength(settings, key)
        matrix = tensor.T
        if name.endswith("_b"):  # ours has one scale for all modules, and the largest rank
            matrix = matrix * np.float32(scale / lora.scale) if scale != lora.scale else matrix
        if rank < lora.rank and rank in matrix.shape:
            matrix = _wider(matrix, name, lora.rank)
        if matrix.shape != _matrix(place, name).shape:
            raise UserError(
                f"{folder}: {key!r} has shape {list(tensor.shape)}, the model asks for "
                f"{list(_matrix(place, name).T.shape)}: it belongs to another model"
            )
        layers[name][layer] = matrix.reshape(place.shape)
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
    row = weights.layer_rows(config)[matrix]
    if row.parts:
        raise UserError(
            f"{config.family} keeps {matrix} in one matrix with others, for which PEFT has one "
            "adapter: merge the adapter (export without --adapter)"
        )
    return row.hf.removesuffix(".weight")


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


def _strength(settings: Mapping[str, Any], key: str) -> tuple[int, float]:
    """(rank, scale) of the module that a tensor of the file belongs to."""
    module = key.removeprefix("base_model.model.").rpartition(".lora_")[0]

    def of(pattern: str, default: str) -> Any:
        known = settings.get(pattern) or {}
        found = next((k for k in known if re.match(rf"(.*\.)?({k})$", module)), None)
        return settings[default] if found is None else known[found]

    rank, alpha = of("rank_pattern", "r"), of("alpha_pattern", "lora_alpha")
    return rank, alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _wider(matrix: np.ndarray, name: str, rank: int) -> np.ndarray:
    """A [in, r] or B [r, out] with zeros up to a larger rank: the same product."""
    axis = 1 if name.endswith("_a") else 0
    room = [(0, 0), (0, 0)]
    room[axis] = (0, rank - matrix.shape[axis])
    return np.pad(matrix, room)


def _check_pattern(path: Path, key: str, pattern: Any) -> None:
    """Refuses what is not a table of regular expressions and positive numbers."""
    try:
        right = all(re.compile(name) and value > 0 for name, value in pattern.items())
    except (re.error, TypeError, AttributeError):
        right = False
    if not right:
        raise UserError(f"{path}: {key}={pattern!r}: it must give modules a positive number each")


def _check_settings(folder: Path, config: ModelConfig, lora: Lora) -> dict[str, Any]:
    """PEFT's settings of an adapter, which must be those of `lora`."""
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as PEFT's settings ({error})") from error
    kind = stored.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path}: an adapter of type {kind!r}; only LORA is supported")
    if whole := stored.get("modules_to_save"):
        raise UserError(
            f"{path}: modules_to_save={whole!r}: whole modules are not supported: merge the "
            "adapter into its base with PEFT (model.merge_and_unload()) and start from that model"
        )
    for key, value in stored.items():
        if value and key not in (*_READ, *_NEUTRAL):
            raise UserError(f"{path}: {key}={value!r} is not supported")
    init = stored.get("init_lora_weights")
    if (init.lower() if isinstance(init, str) else init) not in _PLAIN_INITS:
        raise UserError(
            f"{path}: init_lora_weights={init!r} changes the base's weights and is not supported: "
            "convert the adapter with PEFT (model.save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...)) or merge it into its base there"
        )
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
    for key in ("rank_pattern", "alpha_pattern"):
        _check_pattern(path, key, stored.get(key) or {})
    ranks = [stored.get("r"), *(stored.get("rank_pattern") or {}).values()]
    theirs = {
        "rank": max(ranks) if isinstance(ranks[0], int) else ranks[0],
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
    return stored
