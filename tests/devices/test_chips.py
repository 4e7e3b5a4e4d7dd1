"""The one table of chips."""

import pytest

from caugym_jax.devices.chips import CHIPS, chip_named, chip_of


def test_a_kind_is_that_of_the_longest_name():
    assert chip_of("TPU v5 lite").topology == "v5e" and chip_of("TPU v5").topology == "v5p"
    assert chip_of("TPU v5p") == chip_of("TPU v5")
    assert chip_of("NVIDIA H100 80GB HBM3") == CHIPS["NVIDIA H100"]
    assert chip_of("NVIDIA H100 PCIe") == CHIPS["NVIDIA H100 PCIe"]
    assert chip_of("NVIDIA L40") is None and chip_of("cpu") is None


def test_a_topology_names_its_chip():
    assert chip_named("v5p:2x2x4") == CHIPS["TPU v5"] == chip_named("v5p")
    assert chip_named("tpu7x:2x2x1") == CHIPS["TPU7x"]
    assert chip_named("v9:2x2") is None and chip_named("") is None


@pytest.mark.parametrize("name", CHIPS)
def test_numbers_are_those_of_a_real_chip(name):
    """Orders of magnitude: a slipped power of ten, or GB for GiB a second, would stand out."""
    chip = CHIPS[name]
    assert 1e14 < chip.flops < 3e15 and 15e9 < chip.hbm < 2e11
    assert 100 < chip.flops / chip.bandwidth < 700  # operations a byte
    assert 10e9 < chip.link <= 900e9 and chip.source.startswith("https://")
    assert bool(chip.whole) == name.startswith("TPU") != chip.is_gpu
    assert chip.topology or chip.is_gpu


def test_what_google_states_of_a_whole_chip():
    """Bidirectional ICI: v5p 1200, v6e 800, TPU7x 1200, v5e 400 GB/s (docs.cloud.google.com)."""
    stated = {"TPU v5": 1200e9, "TPU v6 lite": 800e9, "TPU7x": 1200e9, "TPU v5 lite": 400e9}
    for name, total in stated.items():
        chip = CHIPS[name]
        assert 2 * chip.links * chip.link * chip.devices_per_chip == total
    assert CHIPS["TPU7x"].flops * 2 == 2307e12 and CHIPS["TPU7x"].hbm * 2 == 192 * 2**30
