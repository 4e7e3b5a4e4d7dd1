"""Writes safetensors and JSON into a folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caugym_jax.errors import UserError

Tensor = tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]
"""(name, shape, dtype to be written, function that returns the array, of any type and strides)."""

_NAMES = {"float32": "F32", "bfloat16": "BF16"}  # of types, in safetensors files
_BLOCK = 1 << 22  # bytes written at once


@contextlib.contextmanager
def fresh_folder(folder: Path, *, reuse: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well.

    Args:
      reuse: a folder that another process finished meanwhile is as good as ours.

    Raises:
      UserError: the folder holds something already, or the disk is full.
    """
    if not reuse and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: choose another --out")
    folder = folder.absolute()
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had our id
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield partial
        try:
            os.replace(partial, folder)
        except OSError:
            if not (reuse and folder.is_dir()):
                raise
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise UserError(f"{folder} was not written: {why}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_tensors(
    folder: Path,
    tensors: Sequence[Tensor],
    max_bytes: float = 5e9,
    whole: str = "model.safetensors",
) -> None:
    """Writes one file called `whole`, or several shards of at most `max_bytes` and their index.

    One tensor is in memory at a time. A tensor larger than `max_bytes` gets a shard of its own.

    Raises:
      UserError: the disk has no room for it.
    """
    sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype, _ in tensors]
    free = shutil.disk_usage(folder).free
    if sum(sizes) > free:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, the model needs "
            f"{sum(sizes) / 1e9:.1f} GB: the disk is full"
        )
    shards: list[list[Tensor]] = []
    room = 0.0
    for tensor, size in zip(tensors, sizes, strict=True):
        if not shards or size > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room -= size
    names = [
        whole if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard)
    if len(shards) > 1:
        weight_map = {
            tensor: name for name, shard in zip(names, shards, strict=True) for tensor, *_ in shard
        }
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    """One safetensors file: the header's length, the header, the tensors by name.

    `safetensors.numpy.save_file` writes the same bytes, but wants all tensors in memory, twice.
    """
    tensors = sorted(tensors, key=lambda tensor: tensor[0])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype, _ in tensors:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype.name], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape, dtype, read in tensors:
            array = read()
            if array.shape != tuple(shape):
                raise ValueError(f"{name} has shape {array.shape}, not {shape}")
            rows = max(1, _BLOCK * len(array) // max(1, array.size * dtype.itemsize))
            for row in range(0, len(array), rows):
                block = np.ascontiguousarray(array[row : row + rows], dtype)
                file.write(block.view(np.uint8).data)
            del array, block  # before the next one is read
