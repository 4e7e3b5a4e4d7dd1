"""Compiled programs: one executable per shape, checked against the memory before it runs.

`jax.jit` would start a program that cannot fit and be killed for it; a `Program` compiles first,
reads the compiler's own memory analysis, and says in one line what to lower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from caugym_jax.devices import processes, terminal
from caugym_jax.devices.memory import free_memory
from caugym_jax.devices.shapes import recorder
from caugym_jax.devices.starting import release_heap
from caugym_jax.errors import UserError

# Times a program's needs that must be free on a CPU, or freed memory is no longer kept.
ROOM = 4


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that are free: of the accelerator's own memory, or of this process's control group's
    or the machine's on a CPU; None where nothing tells."""
    if device.platform == "cpu":
        return free_memory()
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else limit - stats.get("bytes_in_use", 0)


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
        function: Callable[..., Any],
        remedy: str,
        donate: tuple[int, ...] = (),
        last: tuple[Any, ...] = (),
        places: Any = None,
        work: Callable[..., Any] | None = None,
    ):
        self.name, self.remedy, self.last = name, remedy, last
        self.places, self.work = places, work
        self._jitted = jax.jit(function, donate_argnums=donate, out_shardings=places)
        self._compiled: dict[Any, Any] = {}
        self._compiling = threading.Lock()

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
        if key not in self._compiled:
            with self._compiling:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(args)
        return self._compiled[key](*args)

    def _compile(self, args: Any) -> Any:
        terminal.doing(f"compiling {self.name}")
        compiled = self._jitted.lower(*args).compile()
        self._check(compiled)
        processes.meet()  # who compiled fastest waits here
        return compiled

    def _check(self, compiled: Any) -> None:
        analysis = compiled.memory_analysis()
        if analysis is None:
            return
        # The arguments are in memory already: what is free is left beside them.
        needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        needed -= analysis.alias_size_in_bytes
        outputs = jax.tree.leaves(compiled.output_shardings)
        devices = max((len(s.addressable_devices) for s in outputs), default=1)
        check_room(self.name, needed, devices, self.remedy)


def check_room(name: str, needed: int, devices: int, remedy: str) -> None:
    """Refuses what needs more memory than is free; see `free_room` and `refuse`."""
    free = free_room(needed, devices)
    if free is not None and needed > free:
        refuse(name, needed, free, devices, remedy)


def free_room(needed: float, devices: int) -> float | None:
    """Bytes that are free on each device; None: unknown. On a CPU the devices share one memory, to
    which goes back what this process keeps of it, unless much more is free than is needed.

    Args:
      needed: bytes on each device.
      devices: of this process.
    """
    device = jax.local_devices()[0]
    limit = memory_limit(device)
    if limit is None or device.platform != "cpu":
        return limit
    if ROOM * needed * devices > limit:
        release_heap()
        limit = memory_limit(device) or limit
    return limit / devices


def refuse(name: str, needed: float, free: float, devices: int, remedy: str) -> NoReturn:
    """Refuses a program for its memory; see `free_room`.

    Raises:
      UserError: always.
    """
    where = "per device"
    if jax.local_devices()[0].platform == "cpu":
        needed, free, where = needed * devices, free * devices, "on this machine"
    raise UserError(
        f"the {name} program needs {needed / 2**30:.2f} GiB of memory {where}, "
        f"{free / 2**30:.2f} GiB are available: lower {remedy}"
    )
