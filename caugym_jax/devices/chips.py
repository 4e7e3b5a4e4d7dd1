"""What accelerators can do, in one table: the numbers behind utilisation and the roofline.

All numbers are of one jax device, which is a chip except where `devices_per_chip` says otherwise.
"""

from __future__ import annotations

import dataclasses
import re

_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device.

    Attributes:
      flops: dense bfloat16 operations a second.
      hbm: bytes of memory.
      bandwidth: bytes a second between memory and chip.
      link: bytes a second that one link to a neighbour carries in one direction.
      links: to neighbours (ICI: 4 in a 2D torus, 6 in a 3D one; NVLink: all taken as one).
      source: where the numbers are stated.
      topology: the kind in a topology's name ("v5p" in "v5p:2x2x4", as libtpu calls it; "h100" in
        "h100:8"); "": it has none.
      whole: from how many chips along an axis its ring is closed in a slice.
      devices_per_chip: jax devices that share a chip.
      outside: bytes a second of a device to other slices, over the data centre's network (the v5e
        and v6e pages state it for 256 chips; where no page does, v5e's is taken, the lowest; GPUs
        of DGX and HGX machines: a network card of 400 Gb/s, of the A100 200 Gb/s, for each).
    """

    flops: float
    hbm: float
    bandwidth: float
    link: float
    links: int
    source: str
    topology: str = ""
    whole: int = 0
    devices_per_chip: int = 1
    outside: float = 3.125e9

    @property
    def is_gpu(self) -> bool:
        return self.source.startswith(_NVIDIA)


# By what jax calls the device (its beginning). Google states ICI as bytes (or bits) a second of a
# chip, over all links and, where it says bidirectional, both directions: divided here.
CHIPS: dict[str, Chip] = {
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 50e9, 6, _CLOUD + "v4", "v4", 4),
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 50e9, 4, _CLOUD + "v5e", "v5e", 16),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 100e9, 6, _CLOUD + "v5p", "v5p", 4, 1, 6.25e9),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1638e9, 100e9, 4, _CLOUD + "v6e", "v6e", 16, 1, 12.5e9),
    "TPU7x": Chip(  # a chip is two devices, which share its links
        2307e12 / 2, 96 * 2**30, 7380e9 / 2, 50e9, 6, _CLOUD + "tpu7x", "tpu7x", 4, 2
    ),
    "NVIDIA A100": Chip(312e12, 80e9, 2039e9, 300e9, 1, _NVIDIA + "a100/", "a100", outside=25e9),
    "NVIDIA H100 PCIe": Chip(756e12, 80e9, 2000e9, 64e9, 1, _NVIDIA + "h100/"),
    "NVIDIA H100": Chip(  # the SXM module
        989e12, 80e9, 3350e9, 450e9, 1, _NVIDIA + "h100/", "h100", outside=50e9
    ),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9, 1, _NVIDIA + "h200/", "h200", outside=50e9),
    "NVIDIA B200": Chip(
        2250e12, 180e9, 8000e9, 900e9, 1, _NVIDIA + "dgx-b200/", "b200", outside=50e9
    ),
    "NVIDIA L4": Chip(121e12, 24e9, 300e9, 32e9, 1, _NVIDIA + "l4/"),
    "NVIDIA L40S": Chip(362e12, 48e9, 864e9, 32e9, 1, _NVIDIA + "l40s/"),
}


def chip_of(kind: str) -> Chip | None:
    """The chip that jax calls `kind`; None for one that is not in the table (a CPU).

    The longest name counts: "TPU v5 lite" is not "TPU v5".
    """
    names = [name for name in CHIPS if re.match(rf"{name}p?\b", kind)]  # "TPU v5" is also "v5p"
    return CHIPS[max(names, key=len)] if names else None


def chip_named(topology: str) -> Chip | None:
    """The chip of a topology's name ("v5p:2x2x4", or "v5p" alone)."""
    kind = topology.partition(":")[0]
    return next((chip for chip in CHIPS.values() if kind and chip.topology == kind), None)
