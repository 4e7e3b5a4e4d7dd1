"""Writes a model as a Hugging Face folder that `transformers` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np

from caugym_jax.devices.mesh import fetch
from caugym_jax.errors import UserError
from caugym_jax.models import weights
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.files import fresh_folder, write_json, write_tensors
from caugym_jax.models.hf_config import to_hf_config
from caugym_jax.models.transformer import Params, abstract_params

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tokenizer(Protocol):
    """What a tokenizer has to offer (see `data/tokenizer.py`)."""

    def generation_config(self) -> dict[str, Any]: ...

    def save(self, folder: Path, /) -> None: ...


def save_pretrained(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    *,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    max_shard_bytes: float = 5e9,
    card: str | None = None,
) -> Path:
    """Writes config.json, generation_config.json, sharded safetensors and the tokenizer's files.

    The folder appears whole or not at all; one tensor is in host memory at a time; tied weights
    are written once. With several processes all of them call this and the first one writes.

    Args:
      folder: the folder to make; it must not exist or be empty.
      params: the stacked parameter tree, of any sharding; or of what `np.asarray` reads and whose
        layers `[i]` reads, such as `stored.Stored`.
      tokenizer: writes its own files, the chat template among them, and tells the end tokens.
      generation: fields of generation_config.json; `eos_token_id` (a number or a list),
        `bos_token_id` and `pad_token_id` also go to config.json and default to the tokenizer's.
      dtype: "float32" or "bfloat16" (rounded to nearest).
      card: the text of README.md, the model card.

    Raises:
      UserError: the folder holds something, the disk is full, or a weight has another shape than
        the config asks for (named).
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: use {' or '.join(DTYPES)}")
    _check(config, params)
    own = {} if tokenizer is None else tokenizer.generation_config()
    generation = {**own, **(generation or {})}
    eos = generation.get("eos_token_id", [])
    hf = to_hf_config(
        config,
        eos=[eos] if isinstance(eos, int) else list(eos),
        bos=generation.get("bos_token_id"),
        pad=generation.get("pad_token_id"),
        dtype=dtype,
    )

    def part(name: str, index: tuple[int, ...], row: weights.Weight) -> np.ndarray:
        array = _picked(params["layers"][name], index) if index else params[name]
        here = fetch(array) if isinstance(array, jax.Array) else np.asarray(array)
        return weights.to_hf(here, row, config)

    def reading(held: Sequence[weights.Place]):
        def read() -> np.ndarray:
            parts = [part(*one) for one in held]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return read

    tensors = [
        (name, weights.hf_shape(held[0][2], config), DTYPES[dtype], reading(held))
        for name, held in weights.files(config).items()
    ]
    if jax.process_index() != 0:
        for *_, read in tensors:  # takes part in gathering what process 0 writes
            read()
        return folder
    with fresh_folder(folder) as out:
        if tokenizer is not None:
            tokenizer.save(out)
        write_json(out / "config.json", hf)
        write_json(out / "generation_config.json", generation)
        if card is not None:
            (out / "README.md").write_text(card, encoding="utf-8")
        write_tensors(out, tensors, max_shard_bytes)
    return folder


@jax.jit
def _pick(stack: jax.Array, index: tuple[jax.Array, ...]) -> jax.Array:
    for i in index:
        stack = jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)
    return stack


def _picked(stack: Any, index: tuple[int, ...]) -> Any:
    """One layer (and expert) of a stack, without a copy of the others and compiled once for all."""
    if isinstance(stack, jax.Array):
        return _pick(stack, index)
    layer, *expert = index
    return np.asarray(stack[layer])[tuple(expert)] if expert else stack[layer]


def _check(config: ModelConfig, params: Params) -> None:
    expected = abstract_params(config)
    want, have = (
        {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in flat}
        for flat in map(jax.tree_util.tree_leaves_with_path, (expected, params))
    )
    for name in [*want, *have]:
        if want.get(name) != have.get(name):
            raise UserError(
                f"weight {name!r} has shape {have.get(name)}; the config asks for {want.get(name)}"
            )
