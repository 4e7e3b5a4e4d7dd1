"""Utilisation and memory figures."""

import jax
import pytest

from caugym_jax.devices.speed import mfu, peak_flops, peak_memory


def test_a_device_s_peak_is_that_of_the_longest_name():
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA L40S") == 362e12 and peak_flops("NVIDIA L40") is None
    assert peak_flops("cpu") is None and peak_flops(jax.devices("cpu")[0].device_kind) is None


def test_mfu_by_hand():
    assert mfu(10**9, 10**9, 10**5, 1.0, 1, "NVIDIA H200") == pytest.approx(6e14 / 989e12)
    assert mfu(10**9, 10**9, 10**5, 2.0, 4, "NVIDIA H200") == pytest.approx(6e14 / 989e12 / 8)
    assert mfu(10**9, 10**9, 10**5, 1.0, 1, "cpu") is None
    adapters = mfu(10**9, 10**7, 10**5, 1.0, 1, "NVIDIA H200")
    assert adapters == pytest.approx(4.02e14 / 989e12)


def test_this_process_uses_some_memory():
    assert 0.05 < peak_memory() < 1000
