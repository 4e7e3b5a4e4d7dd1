"""The numbers behind a prediction: a chip's from the table, or this machine's own, measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from caugym_jax.devices.chips import Chip
from caugym_jax.devices.programs import memory_limit
from caugym_jax.planning.roofline import Efficiency, efficiency_of
from caugym_jax.planning.topology import HERE, Slice

# Of a TPU's memory libtpu keeps some to itself: of 16 GiB 15.75 are left, of 32 31.25. Of a GPU's
# jax takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION says more; CUDA itself needs some.
USABLE = {"tpu": 0.975, "gpu": 0.94}


class Machine(NamedTuple):
    """A device of a topology."""

    chip: Chip
    efficiency: Efficiency
    limit: float | None  # bytes of memory that a program may use; None: unknown

    def as_json(self) -> dict[str, Any]:
        chip, efficiency = dataclasses.asdict(self.chip), dataclasses.asdict(self.efficiency)
        return {"chip": chip, "efficiency": efficiency}


def machine_of(where: Slice) -> Machine:
    """A device of a slice. This machine's CPU is measured, which takes a few seconds."""
    device, count = where.devices[0], len(where.devices)
    efficiency = efficiency_of(device.platform)
    if where.name != HERE:
        assert where.chip is not None, where.name  # only this machine's may be unknown
        return Machine(where.chip, efficiency, USABLE[device.platform] * where.chip.hbm)
    limit = memory_limit(device)
    if where.chip is not None:
        return Machine(where.chip, efficiency, limit)
    share = None if limit is None else limit / count  # virtual devices share one memory
    chip = measured(share or 0.0)
    one = dataclasses.replace(chip, flops=chip.flops / count, bandwidth=chip.bandwidth / count)
    return Machine(one, efficiency, share)


def measured(memory: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> Chip:
    """This machine as a chip: float32 products of 1024 x 1024 matrices, and a pass of elementwise
    work over 64 MiB, each the best of some repeats.

    Args:
      clock: what a second is; `time.process_time` where others use the machine too.
    """
    a = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    flops = 2 * 1024**3 / _best(lambda: product(a), clock, 12)
    x = jnp.linspace(-1.0, 1.0, 2**24, dtype=jnp.float32)
    scaled = jax.jit(lambda x: x * 1.5 + 0.5)
    bandwidth = 2 * x.nbytes / _best(lambda: scaled(x), clock, 8)
    return Chip(flops, memory, bandwidth, bandwidth, 1, "measured here")


def _best(run: Callable[[], Any], clock: Callable[[], float], repeats: int) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(run())
        times.append(clock() - start)
    return min(times)
