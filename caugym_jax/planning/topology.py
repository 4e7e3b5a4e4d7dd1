"""Devices that are not there: of TPU slices, as libtpu's compiler describes them, and GPUs, of
which nothing is known but what `devices/chips.py` states: their programs are not compiled."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import Any, NamedTuple

from caugym_jax.devices.chips import CHIPS, Chip, chip_named
from caugym_jax.errors import UserError

HERE = "here"
# Slices on offer, smallest first (docs.cloud.google.com/tpu/docs).
FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
GPUS = ("1", "2", "4", "8")  # of one machine, joined by NVLink
# Set before jax is imported: it must neither look for a TPU nor ask the cloud for one.
_SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class AbsentGpu:
    """What a mesh asks of a device, for a GPU that is not there."""

    id: int
    device_kind: str
    process_index: int  # its machine
    platform: str = "gpu"


class Slice(NamedTuple):
    """The devices of a topology."""

    name: str
    devices: list[Any]
    chip: Chip | None  # None: not in the table (a CPU)

    @property
    def coordinates(self) -> dict[int, tuple[int, ...]]:
        """Places on the torus by a device's id; empty where there is none."""
        if self.devices[0].platform != "tpu":
            return {}
        return {device.id: tuple(device.coords) for device in self.devices}

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler for these devices."""
        return not isinstance(self.devices[0], AbsentGpu)


def check_name(name: str) -> None:
    """Refuses what no slice is called.

    Raises:
      UserError: an unknown kind, or a shape that is not like "2x2x4" (of GPUs: their number).
    """
    kind, _, shape = name.partition(":")
    if name == HERE:
        return
    chip = chip_named(kind)
    if chip is None:
        known = ", ".join(c.topology for c in CHIPS.values() if c.topology)
        raise UserError(
            f"--topology={name}: use here, or one of {known} with a shape (v5p:2x2x4, h100:8)"
        )
    if chip.is_gpu:
        if shape not in GPUS:
            raise UserError(
                f"--topology={name}: a machine has {', '.join(GPUS)} GPUs ({kind}:8); of several "
                "set config.mesh.slices"
            )
        return
    sides = shape.split("x")
    axes = chip.links // 2
    if len(sides) != axes or not all(side.isdigit() and int(side) for side in sides):
        example = (CUBES if axes == 3 else FLAT)[2]
        raise UserError(f"--topology={name}: {kind} slices are called like {kind}:{example}")


def prepare(name: str) -> None:
    """Settings that libtpu reads when jax is imported; to be called before that.

    Raises:
      UserError: libtpu is not installed.
    """
    if name == HERE:
        return
    if (chip := chip_named(name)) is not None and chip.is_gpu:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        return
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which works without one: "
            "pip install -r requirements-tpu-compile.txt"
        )
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)


def open_slice(name: str, slices: int = 1) -> Slice:
    """The devices of this machine, or those that so many slices (machines with GPUs) of that name
    would have."""
    if (chip := chip_named(name)) is not None and chip.is_gpu:
        kind = next(kind for kind, one in CHIPS.items() if one is chip)
        each = int(name.partition(":")[2])
        return Slice(name, [AbsentGpu(i, kind, i // each) for i in range(each * slices)], chip)
    import jax

    from caugym_jax.devices.chips import chip_of

    if name == HERE:
        devices = jax.devices()
        return Slice(name, devices, chip_of(devices[0].device_kind))
    from jax.experimental import topologies

    more: dict[str, Any] = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    if slices > 1:
        more["num_slices"] = slices
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except Exception as error:  # libtpu says what it dislikes about the name in several types
        raise UserError(f"--topology={name}: {str(error).splitlines()[0]}") from error
    return Slice(name, list(found.devices), chip_named(name))


def slices_of(name: str) -> list[str]:
    """The slices of a topology's kind, smallest first."""
    kind = name.partition(":")[0]
    chip = chip_named(kind)
    shapes: tuple[str, ...] = ()
    if chip is not None:
        shapes = GPUS if chip.is_gpu else CUBES if chip.links == 6 else FLAT
    return [f"{kind}:{shape}" for shape in shapes]
