"""Compiled programs: one executable per shape, checked against the memory before it runs.

`jax.jit` would start a program that cannot fit and be killed for it; a `Program` compiles first,
reads the compiler's own memory analysis, and says in one line what to lower.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from caugym_jax.devices import processes
from caugym_jax.devices.shapes import recorder
from caugym_jax.errors import UserError

# Of each version of control groups: the limit, the usage, the statistics, and what the names of
# those that include the groups below begin with.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_",
    ),
)


def memory_limit(device: jax.Device, root: Path = Path("/")) -> int | None:
    """Bytes that are free: of the accelerator's own memory, or of this process's control group's
    or the machine's on a CPU; None where nothing tells.

    A control group's usage counts the files that the kernel caches, which give way when memory is
    asked for: they are free.

    Args:
      root: where /proc and /sys lie.
    """
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    found = []
    for *names, prefix in _CGROUPS:
        limit, usage, statistics = (root / "sys/fs/cgroup" / name for name in names)
        if limit.exists() and usage.exists():
            text = limit.read_text().strip()
            if text.isdigit():  # "max" means unlimited
                cached = _numbers(statistics)
                free = int(text) - int(usage.read_text())
                free += cached.get(f"{prefix}active_file", 0)
                free += cached.get(f"{prefix}inactive_file", 0)
                found.append(free)
    available = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if available is not None:
        found.append(available * 1024)
    return min(found) if found else None


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name number ...` of a file of the kernel; none if there is no file."""
    if not path.exists():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


class Program:
    """A jitted function that compiles once per shape and refuses what will not fit.

    On shapes (`shapes.recording`) a call is recorded and returns shapes.

    Args:
      name: what the user knows it as ("update", "sample").
      function: a pure function of pytrees of arrays.
      remedy: which settings to lower where it does not fit.
      donate: positions of arguments whose buffers may be reused.
      last: what every call gets as last arguments (frozen weights, which so are not compiled in).
      places: where the results lie: a sharding, a tree of them, or a tuple of these and of None for
        the parts of a tuple; None: as the compiler likes.
      work: what a call computes (`models.work.Work`), from the arguments' shapes.

    Raises (on call):
      UserError: the compiled program needs more memory than is free.
    """

    def __init__(
        self,
        name: str,
        function: Callable,
        remedy: str,
        donate: tuple[int, ...] = (),
        last: tuple = (),
        places: Any = None,
        work: Callable | None = None,
    ):
        self.name, self.remedy, self.last = name, remedy, last
        self.places, self.work = places, work
        self._jitted = jax.jit(function, donate_argnums=donate, out_shardings=places)
        self._compiled: dict[Any, Any] = {}

    @property
    def compilations(self) -> int:
        """How many shapes have been compiled."""
        return len(self._compiled)

    def lower(self, *args: Any) -> Any:
        """The program for arguments of these shapes, types and shardings, to be compiled without
        being run: jax.ShapeDtypeStructs will do, here and as what `last` was given."""
        return self._jitted.lower(*args, *self.last)

    def results(self, *args: Any) -> Any:
        """The shapes and types of what a call with arguments of these shapes returns."""
        return jax.eval_shape(self._jitted, *args, *self.last)

    def __call__(self, *args: Any) -> Any:
        if (recording := recorder()) is not None:
            return recording.record(self, args)
        args = (*args, *self.last)
        leaves, structure = jax.tree.flatten(args)
        key = (
            structure,
            tuple((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves),
        )
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._jitted.lower(*args).compile()
            self._check(compiled)
            processes.meet()  # who compiled fastest waits here
            self._compiled[key] = compiled
        return compiled(*args)

    def _check(self, compiled) -> None:
        analysis = compiled.memory_analysis()
        device = jax.local_devices()[0]
        limit = memory_limit(device)
        if analysis is None or limit is None:
            return
        # The arguments are in memory already: `limit` is what is left beside them.
        needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        needed -= analysis.alias_size_in_bytes
        where = "per device"
        if device.platform == "cpu":  # whose devices share one memory
            outputs = jax.tree.leaves(compiled.output_shardings)
            needed *= max((len(s.addressable_devices) for s in outputs), default=1)
            where = "on this machine"
        if needed > limit:
            raise UserError(
                f"the {self.name} program needs {needed / 2**30:.2f} GiB of memory {where}, "
                f"{limit / 2**30:.2f} GiB are available: lower {self.remedy}"
            )
