"""How well a run uses its machine: arithmetic against the peak, and memory."""

from __future__ import annotations

import re
import resource
import sys

import jax

# Dense bfloat16 operations a second and device, by what jax calls the device (its beginning).
PEAK_FLOPS = {
    "TPU v4": 275e12,  # cloud.google.com/tpu/docs/v4
    "TPU v5 lite": 197e12,  # cloud.google.com/tpu/docs/v5e
    "TPU v5": 459e12,  # cloud.google.com/tpu/docs/v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # cloud.google.com/tpu/docs/v6e
    "TPU7x": 2307e12,  # cloud.google.com/tpu/docs/tpu7x
    "NVIDIA A100": 312e12,  # NVIDIA A100 data sheet
    "NVIDIA H100 PCIe": 756e12,  # NVIDIA H100 data sheet, without sparsity
    "NVIDIA H100": 989e12,  # of the SXM module
    "NVIDIA H200": 989e12,  # NVIDIA H200 data sheet, without sparsity
    "NVIDIA B200": 2250e12,  # NVIDIA DGX B200 data sheet, without sparsity
    "NVIDIA L4": 121e12,  # NVIDIA L4 data sheet, without sparsity
    "NVIDIA L40S": 362e12,  # NVIDIA L40S data sheet, without sparsity
}


def peak_flops(kind: str) -> float | None:
    """The stated peak of a device kind; None for one that is not in the table (a CPU)."""
    names = [name for name in PEAK_FLOPS if re.match(rf"{name}\b", kind)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def mfu(parameters: int, tokens: int, seconds: float, devices: int, kind: str) -> float | None:
    """Model FLOPs utilisation of updates: 6 N tokens / (seconds devices peak); None without a peak.

    6 operations a parameter and token, forward and backward; attention and recomputation are not
    counted, so that the figure is low for long rows (Chowdhery et al. 2022, appendix B).

    By hand: 1e9 parameters, 1e5 tokens in 1 s on one H200: 6e14 / 989e12 = 0.607.
    """
    peak = peak_flops(kind)
    return None if peak is None else 6 * parameters * tokens / (seconds * devices * peak)


def peak_memory() -> float:
    """GiB: the most that a device of this process has held, or the process itself on a CPU."""
    used = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    known = [x for x in used if x is not None]
    if known:
        return max(known) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
