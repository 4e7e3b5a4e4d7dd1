"""How well a run uses its machine: arithmetic against the peak, and memory."""

from __future__ import annotations

import resource
import sys

import jax

from caugym_jax.devices.chips import chip_of


def peak_flops(kind: str) -> float | None:
    """The stated peak of a device kind; None for one that is not in the table (a CPU)."""
    chip = chip_of(kind)
    return None if chip is None else chip.flops


def mfu(
    parameters: int, trained: int, tokens: int, seconds: float, devices: int, kind: str
) -> float | None:
    """Model FLOPs utilisation of updates: (4 N + 2 T) tokens / (seconds devices peak), of N
    parameters of which T are trained (adapters: their own number); None without a peak.

    2 operations a parameter and token forward, 2 backward, and 2 for its gradient if it has one;
    attention and recomputation are not counted, so that the figure is low for long rows (Chowdhery
    et al. 2022, appendix B).

    By hand: 1e9 parameters, 1e5 tokens in 1 s on one H200: 6e14 / 989e12 = 0.607.
    """
    peak = peak_flops(kind)
    operations = (4 * parameters + 2 * trained) * tokens
    return None if peak is None else operations / (seconds * devices * peak)


def peak_memory() -> float:
    """GiB: the most that a device of this process has held, or the process itself on a CPU."""
    used = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    known = [x for x in used if x is not None]
    if known:
        return float(max(known)) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
