"""Meshes and slices by estimate."""

import math

import jax
import pytest

from caugym_jax.devices.chips import CHIPS
from caugym_jax.devices.shapes import local_bytes
from caugym_jax.errors import UserError
from caugym_jax.planning import machine, search
from caugym_jax.planning.abstract import plan
from caugym_jax.planning.compiling import compile_call
from caugym_jax.planning.roofline import TPU
from caugym_jax.planning.topology import Slice, slices_of
from caugym_jax.runs.settings import load
from tests.tiny_model import tiny_model  # noqa: F401

TINY = "tests/end_to_end/tiny_config.py"
EIGHT = Slice("here", jax.devices()[:8], None)


def test_factorizations_by_hand():
    found = [tuple(mesh.values()) for mesh in search.factorizations(4)]
    assert sorted(found) == sorted(
        [(4, 1, 1, 1), (2, 2, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2), (1, 4, 1, 1), (1, 1, 4, 1),
         (1, 1, 1, 4), (1, 2, 2, 1), (1, 2, 1, 2), (1, 1, 2, 2)]
    )  # fmt: skip
    for mesh in search.factorizations(64):
        assert mesh["tensor"] <= 16 and mesh["context"] <= 8


def test_slices_grow():
    def chips(name):
        sizes = [int(side) for side in name.partition(":")[2].split("x")]
        return math.prod(sizes)

    for kind in ("v5e", "v5p"):
        sizes = [chips(name) for name in slices_of(kind)]
        assert sizes == sorted(sizes) and sizes[0] == 4 and sizes[-1] >= 256


@pytest.fixture
def as_v5e(monkeypatch):
    """This machine's virtual devices with a v5e chip's numbers, and a limit that a test sets."""

    def use(limit):
        chip = machine.Machine(CHIPS["TPU v5 lite"], TPU, limit)
        monkeypatch.setattr(search, "machine_of", lambda where: chip)

    return use


def test_a_model_that_fits_no_single_chip_is_split(as_v5e):
    """7.6e9 parameters with moments: 91 GB, 11.4 GB on each of eight; nothing is left where only
    four share them."""
    config = load("sft.py:qwen2.5-7b", ["data.max_length=512"])
    as_v5e(40e9)
    ranked = search.best_meshes(config, EIGHT)
    assert ranked and all(c.mesh["fsdp"] * c.mesh["tensor"] == 8 for c in ranked if c.bytes < 20e9)
    assert all(c.bytes <= 0.95 * 40e9 for c in ranked)
    assert [c.seconds for c in ranked] == sorted(c.seconds for c in ranked)
    as_v5e(8e9)
    assert search.best_meshes(config, EIGHT) == []


def test_the_smallest_slice_is_the_first_with_room(as_v5e, monkeypatch):
    config = load("sft.py:qwen2.5-7b", ["data.max_length=512"])
    as_v5e(40e9)
    slices = {str(n): Slice(str(n), jax.devices()[:n], None) for n in (1, 2, 4, 8)}
    monkeypatch.setattr(search, "open_slice", lambda name, number: slices[name])
    assert search.smallest_slice(config, ["1", "2", "4", "8"]) in ("4", "8")
    assert search.smallest_slice(config, ["1"]) is None


def test_what_no_mesh_can_mend_is_said(as_v5e):
    config = load("sft.py:qwen2.5-7b", ["model.name=no-such-model"])
    as_v5e(40e9)
    with pytest.raises(UserError, match="no-such-model"):
        search.best_meshes(config, EIGHT)


def test_the_estimate_is_near_what_the_compiler_says(tiny_model):  # noqa: F811
    """Arguments but for those that nothing reads; the whole within a factor of three on a model of
    this size, of whose temporaries the estimate knows few (512 tokens' logits at a time)."""
    options = [f"model.name={tiny_model}", "mesh.fsdp=8", "mesh.data=1", "model.remat=full"]
    config = load(f"{TINY}:sft", options)
    planned = plan(config, jax.devices()[:8])
    (update,) = planned.calls
    compiled, _, _ = compile_call(update)
    sizes = compiled.memory_analysis()
    fixed = local_bytes((update.arguments, update.program.last))
    assert fixed == pytest.approx(sizes.argument_size_in_bytes, rel=0.01)
    work = update.work
    assert (work.rows, work.train, work.remat) == (8, True, "full")
    whole = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    assert 1 / 3 < search.estimated_bytes(update) / whole < 2
