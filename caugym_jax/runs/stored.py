"""Arrays of a checkpoint that stay on the disk, read layer by layer."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath

from caugym_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of a checkpoint that stays on the disk; read as a whole or, a stack, by layers.

    Beside what is read one chunk of it is in memory.
    """

    _array: Any  # tensorstore.TensorStore

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def __getitem__(self, layer: int) -> np.ndarray:
        return _read(self._array[layer])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _read(self._array).astype(dtype or self._array.dtype.numpy_dtype, copy=False)


def _read(array: Any) -> np.ndarray:
    result = np.empty(array.shape, array.dtype.numpy_dtype)
    steps = array.chunk_layout.read_chunk.shape
    sides = [range(0, size, step) for size, step in zip(array.shape, steps, strict=True)]
    for corner in itertools.product(*sides):
        ends = map(min, map(sum, zip(corner, steps, strict=True)), array.shape)
        box = tuple(map(slice, corner, ends))
        try:
            result[box] = array[box].read().result()
        except (ValueError, KeyError, OSError) as error:
            why = str(error).strip().splitlines()[0][:200]
            raise UserError(f"a checkpoint's array is gone or cannot be read ({why})") from error
    return result


def open_tree(folder: epath.Path, abstract: Any) -> Any:
    """The arrays of an Orbax item, as a tree of `Stored`.

    Args:
      abstract: a tree of some of its arrays, by name, with their shapes.

    Raises:
      UserError: it holds no such array, or one of another shape (named).
    """
    remote = "://" in str(folder)
    # tensorstore takes no ".." in a path.
    base = f"{folder}/" if remote else {"driver": "file", "path": f"{os.path.abspath(folder)}/"}
    # What is read is decoded one chunk at a time: more threads would each keep memory.
    alone = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
    context = tensorstore.Context(alone)

    def open_one(path, leaf) -> Stored:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        # A live run may delete the checkpoint: what is missing must not be read as zeros.
        spec = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}
        try:
            array = tensorstore.open(spec, read=True, context=context).result()
        except ValueError as error:
            why = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{folder} holds no {name} ({why})") from error
        if array.shape != leaf.shape:
            raise UserError(f"{folder}: {name} is {array.shape}, should be {leaf.shape}")
        return Stored(array)

    return jax.tree.map_with_path(open_one, abstract)
