"""Safetensors written tensor by tensor are what the library writes at once."""

import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from caugym_jax.errors import UserError
from caugym_jax.models.files import fresh_folder, write_tensors


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_bytes_are_the_librarys(tmp_path, dtype):
    draw = np.random.default_rng(0)
    shapes = {"b.ä": (3, 5), "a": (7,), "c.weight": (300, 400), "aa": (1, 2, 3)}
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["c.weight"] = np.asfortranarray(arrays["c.weight"])  # read as a transposed view
    read = []

    def reading(name):
        return lambda: read.append(name) or arrays[name]

    tensors = [(n, a.shape, np.dtype(dtype), reading(n)) for n, a in arrays.items()]
    write_tensors(tmp_path, tensors)
    plain = {n: np.ascontiguousarray(a).astype(dtype) for n, a in arrays.items()}
    save_file(plain, tmp_path / "expected", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    assert sorted(read) == sorted(arrays)


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    alive, most = set(), []

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def read():
        array = np.zeros((4, 4), np.float32).view(Counted)
        alive.add(id(array))
        most.append(len(alive))
        return array

    tensors = [(str(i), (4, 4), np.dtype(np.float32), read) for i in range(6)]
    write_tensors(tmp_path, tensors, max_bytes=3 * 64)
    assert max(most) == 1 and len(most) == 6
    assert len(list(tmp_path.glob("model-*-of-00002.safetensors"))) == 2


def test_a_tensor_of_another_shape_is_not_written(tmp_path):
    wrong = [("w", (2, 3), np.dtype(np.float32), lambda: np.zeros((3, 2), np.float32))]
    with pytest.raises(ValueError, match="w has shape"), fresh_folder(tmp_path / "out") as out:
        write_tensors(out, wrong)
    assert not list(tmp_path.iterdir())


def test_no_room(tmp_path):
    huge = [("w", (10**15,), np.dtype(np.float32), lambda: None)]
    with pytest.raises(UserError, match="the disk is full"):
        write_tensors(tmp_path, huge, math.inf)
