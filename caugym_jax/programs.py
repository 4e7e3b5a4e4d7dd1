"""Compiled programs: one executable per shape, checked against the memory before it runs.

`jax.jit` would start a program that cannot fit and be killed for it; a `Program` compiles first,
reads the compiler's own memory analysis, and says in one line what to lower.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from caugym_jax.errors import UserError


def memory_limit(device: jax.Device) -> int | None:
    """Bytes a program may use: the accelerator's limit, or this process's control group's or
    machine's free memory on a CPU; None where nothing tells."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit")
    found = []
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        if Path(limit).exists() and Path(usage).exists():
            text = Path(limit).read_text().strip()
            if text.isdigit():  # "max" means unlimited
                found.append(int(text) - int(Path(usage).read_text()))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    return min(found) if found else None


class Program:
    """A jitted function that compiles once per shape and refuses what will not fit.

    Args:
      name: what the user knows it as ("update", "sample").
      function: a pure function of pytrees of arrays.
      remedy: which settings to lower where it does not fit.
      donate: positions of arguments whose buffers may be reused.

    Raises (on call):
      UserError: the compiled program needs more memory than is free.
    """

    def __init__(
        self, name: str, function: Callable, remedy: str, donate: tuple[int, ...] = (), **jit: Any
    ):
        self.name, self.remedy = name, remedy
        self._jitted = jax.jit(function, donate_argnums=donate, **jit)
        self._compiled: dict[Any, Any] = {}

    @property
    def compilations(self) -> int:
        """How many shapes have been compiled."""
        return len(self._compiled)

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        key = (
            structure,
            tuple((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves),
        )
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._jitted.lower(*args).compile()
            self._check(compiled)
            self._compiled[key] = compiled
        return compiled(*args)

    def _check(self, compiled) -> None:
        analysis = compiled.memory_analysis()
        device = jax.local_devices()[0]
        limit = memory_limit(device)
        if analysis is None or limit is None:
            return
        # On a CPU the arguments are in memory already and `limit` is what is left beside them.
        needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        needed -= analysis.alias_size_in_bytes
        if device.platform != "cpu":
            needed += analysis.argument_size_in_bytes
        if needed > limit:
            raise UserError(
                f"the {self.name} program needs {needed / 2**30:.2f} GiB of memory per device, "
                f"{limit / 2**30:.2f} GiB are available: lower {self.remedy}"
            )
