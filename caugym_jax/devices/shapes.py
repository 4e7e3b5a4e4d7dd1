"""A training step on shapes: nothing is computed, and the programs that it calls are recorded.

Inside `recording()` all that would lie on a device is a jax.ShapeDtypeStruct: `mesh.put` returns
shapes, `mesh.fetch` returns zeros of those shapes, and a `Program` records its call and returns the
shapes of its results. So the step that trains is also the step that is planned.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np


class Call(NamedTuple):
    """A program as a training step calls it."""

    name: str
    program: Any  # `programs.Program`
    arguments: tuple[Any, ...]  # pytrees of jax.ShapeDtypeStructs, for `Program.lower`
    work: Any  # what it computes (`models.work.Work`); None: not stated
    beside: tuple[Any, ...]  # jax.ShapeDtypeStructs: what else stays on the devices meanwhile
    times: int = 1  # in a step


class Recorder:
    """The calls of a step, each once, in the order of their first occurrence.

    Args:
      resident: pytree of what lies on the devices for the whole step (training state, reference).
      results: shapes of programs' results by program and arguments, which are looked up before a
        program is traced; they depend on no mesh, so recorders of several may share them.
      memory: bytes of a device; None: unknown.
    """

    def __init__(
        self,
        resident: Any = (),
        results: dict[Any, Any] | None = None,
        memory: float | None = None,
    ):
        unique = {id(leaf): leaf for leaf in jax.tree.leaves(resident)}
        self._resident = tuple(unique.values())
        self._results = {} if results is None else results
        self._calls: dict[Any, Call] = {}
        self._memory = memory

    def free(self, arguments: Any) -> float | None:
        """Bytes of a device beside what stays there and these arguments; None: unknown."""
        if self._memory is None:
            return None
        described = collections.Counter(map(_described, jax.tree.leaves(arguments)))
        return self._memory - local_bytes((arguments, self._beside(described)))

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls.values())

    def record(
        self, program: Any, arguments: tuple[Any, ...], work: Any = None, beside: Any = ()
    ) -> Any:
        """Records a call with these arguments; returns the shapes of its results.

        Args:
          work: what it computes; None: what the program says.
          beside: what lies on the devices only meanwhile, beside what stays there.
        """
        leaves, structure = jax.tree.flatten((arguments, program.last))
        described = tuple(map(_described, leaves))
        key = program, structure, described
        if key in self._calls:
            call = self._calls[key]
            self._calls[key] = call._replace(times=call.times + 1)
        else:
            if work is None and program.work is not None:
                work = program.work(*arguments)
            beside = (*self._beside(collections.Counter(described)), *beside)
            self._calls[key] = Call(program.name, program, arguments, work, beside)
        key = program.name, structure, tuple(described[:2] for described in described)
        if key not in self._results:
            self._results[key] = program.results(*arguments)
        return placed(self._results[key], program.places)

    def _beside(self, arguments: collections.Counter[Any]) -> tuple[Any, ...]:
        """The residents that are not among the arguments. They are compared by what describes
        them: an update returns new arrays for the state that it takes."""
        beside = []
        for leaf in self._resident:
            if arguments[_described(leaf)]:
                arguments[_described(leaf)] -= 1
            else:
                beside.append(leaf)
        return tuple(beside)


_recorder: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar(
    "recorder", default=None
)


@contextlib.contextmanager
def recording(recorder: Recorder | None = None) -> Iterator[Recorder]:
    """Runs the block on shapes."""
    recorder = recorder or Recorder()
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


def recorder() -> Recorder | None:
    """The recorder of the block that is running; None outside `recording`."""
    return _recorder.get()


def on_shapes() -> bool:
    """Whether the code runs inside `recording`."""
    return _recorder.get() is not None


def local_bytes(tree: Any) -> int:
    """Of a tree of jax.ShapeDtypeStructs, what lies on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def computed(function: Callable[..., Any], *arguments: Any, places: Any = None) -> Any:
    """function(*arguments); on shapes the shapes of its result. For what is too small to be a
    `Program`.

    Args:
      places: where the result lies, see `placed`; read only on shapes.
    """
    if on_shapes():
        return placed(jax.eval_shape(function, *arguments), places)
    return function(*arguments)


def placed(tree: Any, places: Any) -> Any:
    """A tree of arrays (NumPy's too) as jax.ShapeDtypeStructs.

    Args:
      places: a sharding for all, None (unknown), a tree of shardings, or a tuple of these for the
        parts of a tuple.
    """
    if type(places) is tuple:
        return tuple(placed(*pair) for pair in zip(tree, places, strict=True))
    if places is None or isinstance(places, jax.sharding.Sharding):
        return jax.tree.map(lambda x: _shape(x, places), tree)
    return jax.tree.map(_shape, tree, places)


def _shape(x: Any, place: jax.sharding.Sharding | None) -> jax.ShapeDtypeStruct:
    if not isinstance(x, jax.ShapeDtypeStruct):
        x = np.asarray(x)
        x = jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _described(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)
