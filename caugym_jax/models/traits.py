"""What a model's name says of it before it is opened: its shape, and whether it thinks.

The same for a preset's name, its hub id and a folder or GGUF file of the same model, so that a
configuration is the same however its model is named. Reads no weights; of a hub id that is no
preset's, the small files are fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from caugym_jax.errors import UserError
from caugym_jax.models import gguf
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hub import PACKAGED, hub_like, load_config, locate
from caugym_jax.models.presets import ALIASES, PRESETS, Preset, parameter_count, preset

_SMALL = ("config.json", "tokenizer_config.json", "chat_template.jinja")
SPREAD = 1e9  # parameters from which a model is split over all devices, not copied to each


class Traits(NamedTuple):
    """What is known of a model by its name."""

    config: ModelConfig | None  # None: a hub id that cannot be reached from here
    thinks: bool  # it thinks at length before it answers

    @property
    def large(self) -> bool:
        """Whether it is better split over all devices than copied to each."""
        return self.config is not None and parameter_count(self.config) >= SPREAD


def traits(name: str) -> Traits:
    """The traits of a model by what a configuration calls it (see `runs.opening.open_model`).

    A model thinks if its chat template knows of `<think>` (R1's distillations, Qwen3, SmolLM3).

    Raises:
      UserError: no such preset, or a folder or file that is no model of a known kind.
    """
    path = PACKAGED.get(name, Path(name).expanduser())
    if path.exists():
        path = locate(path)  # refuses what is neither a folder nor a GGUF file
        return _of_path(path / "model" if (path / "checkpoints").is_dir() else path)
    if (found := _preset(name)) is not None:
        return Traits(found.config, found.thinks)
    if not hub_like(name):
        return Traits(None, False) if "/" in name else _unknown(name)
    from huggingface_hub import snapshot_download

    try:
        return _of_path(Path(snapshot_download(name, allow_patterns=list(_SMALL))))
    except UserError:
        raise
    except Exception:  # no network: opening the model names what is wrong
        return Traits(None, False)


def _unknown(name: str) -> Traits:
    return Traits(preset(name).config, False)  # raises: says which names are near


def _preset(name: str) -> Preset | None:
    """The preset of that name or hub id."""
    key = name.lower()
    if key in PRESETS or key in ALIASES:
        return preset(name)
    return next((p for p in PRESETS.values() if p.hub_id.lower() == key), None)


def _of_path(path: Path) -> Traits:
    template = gguf.chat_template(path) if path.suffix == ".gguf" else _template(path)
    return Traits(load_config(path), "<think>" in template or "</think>" in template)


def _template(folder: Path) -> str:
    """The text of a folder's chat templates; empty where there is none."""
    own = folder / "chat_template.jinja"
    settings = folder / "tokenizer_config.json"
    text: Any = own.read_text() if own.exists() else ""
    if not text and settings.exists():
        try:
            text = json.loads(settings.read_text()).get("chat_template") or ""
        except (ValueError, AttributeError) as error:
            raise UserError(f"{settings} cannot be read as JSON ({error})") from error
    return text if isinstance(text, str) else json.dumps(text)  # a list names several
