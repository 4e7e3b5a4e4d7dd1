"""Waves that halve: rows that have ended leave, and the loop goes on with the live ones.

A loop over a fixed batch computes every row until the last one ends: with lengths as models draw
them that is mostly work on rows that ended long ago. Here the loop stops when half of the rows have
ended, and the live ones are gathered into arrays of half the size. Each row keeps its key, limit
and prompt, so a sample changes only where another number of rows rounds its logits otherwise. On a
mesh each shard of rows gathers its own; the fullest one decides.

A piece of cache is allocated when it begins, for the rows that there are by then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from caugym_jax.devices.mesh import fetch, put, replicated, row_count, rows
from caugym_jax.devices.programs import Program, check_room
from caugym_jax.models.transformer import Model, Params, Piece
from caugym_jax.sampling import decoding
from caugym_jax.sampling.decoding import Pause, Wave
from caugym_jax.sampling.picking import Settings
from caugym_jax.types import Rollout

# Fewer rows, or shorter completions, do not pay for the programs of other sizes.
LEAST_ROWS, LEAST_TOKENS = 16, 64


def sizes(rows: int, shards: int, max_new_tokens: int) -> list[int]:
    """Rows of a shard that a wave goes through: halved while more than LEAST_ROWS are left in all.

    By hand: 50 rows of 64 new tokens, 1 shard: 50, 25, 13; of 63: 50.
    """
    each = [rows // shards]
    while max_new_tokens >= LEAST_TOKENS and each[-1] * shards > LEAST_ROWS and each[-1] > 1:
        each.append(-(-each[-1] // 2))
    return each


class Waves:
    """Decodes waves of rows that halve: what `decoding.generate` returns, in NumPy.

    Args:
      unstacked: see `decoding.generate`.
      remedy: see `Program`.
      mesh, report_every: as `Sampler` has them.
    """

    def __init__(
        self,
        model: Model,
        max_new_tokens: int,
        unstacked: bool | None,
        remedy: str,
        mesh: jax.sharding.Mesh | None,
        report_every: int | None = None,
    ):
        if unstacked is None:
            unstacked = jax.default_backend() == "cpu"
        self._model, self._new, self._remedy, self._mesh = model, max_new_tokens, remedy, mesh
        self._shards = 1 if mesh is None else row_count(mesh)
        self._report_every = report_every or max_new_tokens
        begin = functools.partial(
            decoding.begin, model, max_new_tokens=max_new_tokens, unstacked=unstacked
        )
        advance = functools.partial(decoding.advance, model, unstacked=unstacked)
        self._begin = Program("prefill", begin, remedy)
        self._advance = Program("sample", advance, remedy, donate=(2, 3))
        self._empty = functools.partial(decoding.empty_piece, model, stacked=not unstacked)
        self._open = jax.jit(self._empty, static_argnums=(0, 1))
        self._take_rows = jax.jit(decoding.take_rows)
        self._take_piece = jax.jit(decoding.take_piece, static_argnames="samples")

    @property
    def compilations(self) -> int:
        """How many programs have been compiled to prefill and to decode."""
        return self._begin.compilations + self._advance.compilations

    def halve(self, rows: int) -> bool:
        """Whether a wave of so many rows would."""
        return len(sizes(rows, self._shards, self._new)) > 1

    def __call__(
        self,
        params: Params,
        prompts: jax.Array,
        lengths: jax.Array,
        keys: jax.Array,
        settings: Settings,
        end_ids: jax.Array,
        pad_id: jax.Array,
        limits: jax.Array,
        report: Callable[[int, int], None] = lambda t, live: None,
    ) -> Rollout:
        """See `decoding.generate`.

        Args:
          report: called now and then with the place that is reached and how many rows go on.
        """
        B, samples, width = len(keys), len(keys) // len(prompts), decoding.piece_width(self._new)
        self._check(B)
        first = [np.repeat(x, samples, axis=0) for x in fetch((prompts, lengths))]
        *cache, wave = self._begin(params, prompts, lengths, keys, pad_id, limits)
        ladder, drawn = sizes(B, self._shards, self._new), Drawn(B, self._new)
        owners, begun, t = np.arange(B), 0, 0  # whose row each of the wave's is; -1: nobody's
        while True:
            if t == begun:
                slots = min(width, self._new - begun)
                cache.append(self._open(len(owners), slots))
                begun += slots
            least, until = ladder[1] if len(ladder) > 1 else 0, t + self._report_every
            pause = self._put(Pause(np.int32(least), np.int32(until)))
            wave, *last, live = self._advance(
                params, tuple(cache[:-1]), cache.pop(), wave, settings, end_ids, pad_id, pause
            )
            cache += last
            del last  # so that `_shrink` frees a piece where it replaces it
            t, live = fetch((wave.t, live))
            live = live.reshape(self._shards, -1)
            report(int(t), int(live.sum()))
            most = live.sum(axis=1).max()
            fitting = [i for i, size in enumerate(ladder) if i and size >= most]
            if not most:
                break
            if fitting:
                drawn.write(owners, wave)
                ladder = ladder[fitting[-1] :]
                wave, owners = self._shrink(cache, wave, owners, live, ladder[0], samples)
                samples = 1
        drawn.write(owners, wave)
        tokens = np.concatenate([first[0], drawn.tokens], axis=1)
        return Rollout(tokens, first[1], drawn.count, drawn.ended, drawn.logprobs)

    def _shrink(
        self,
        cache: list[Piece],
        wave: Wave,
        owners: np.ndarray,
        live: np.ndarray,
        size: int,
        samples: int,
    ) -> tuple[Wave, np.ndarray]:
        """The wave's live rows, `size` a shard, and their owners; the cache's in place."""
        index, real = chosen(live, size)
        places = self._put_rows(index)
        for i in range(len(cache)):  # one at a time, so that few are there twice
            cache[i] = self._take_piece(cache[i], places, samples=1 if i else samples)
        wave = self._take_rows(wave, places, self._put_rows(real))
        owners = np.take_along_axis(owners.reshape(live.shape), index, axis=1).reshape(-1)
        return wave, np.where(real, owners, -1)

    def _check(self, rows: int) -> None:
        """Refuses a wave whose cache would not fit if all its rows were to reach the end."""
        cache = jax.eval_shape(lambda: self._empty(rows, self._new))
        needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
        split = self._shards
        if self._mesh is not None and not self._model.config.num_kv_heads % (
            tensor := self._mesh.shape["tensor"]
        ):
            split *= tensor
        devices = 1 if self._mesh is None else len(self._mesh.local_devices)
        check_room("sample", needed // split, devices, self._remedy)

    def _put(self, x: Any) -> Any:
        return jax.device_put(x) if self._mesh is None else put(x, replicated(self._mesh))

    def _put_rows(self, x: Any) -> Any:
        return jax.device_put(x) if self._mesh is None else put(x, rows(self._mesh))


class Drawn:
    """What the rows of a wave have drawn, on the host."""

    def __init__(self, rows: int, max_new_tokens: int):
        self.tokens = np.zeros((rows, max_new_tokens), np.int32)
        self.logprobs = np.zeros((rows, max_new_tokens), np.float32)
        self.count = np.zeros(rows, np.int32)
        self.ended = np.zeros(rows, bool)

    def write(self, owners: np.ndarray, wave: Wave) -> None:
        """Takes over what the wave's rows hold by now."""
        real = owners >= 0
        names = "tokens", "logprobs", "count", "ended"
        for name, there in zip(names, fetch([getattr(wave, n) for n in names]), strict=True):
            getattr(self, name)[owners[real]] = there[real]


def chosen(live: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The live rows of each shard, filled up: (index [shards, size] int32, real [shards * size]).

    By hand: live (0, 1, 1, 0), (0, 0, 0, 1) and size 2: (1, 2), (3, 0); the last is not real.
    """
    index = np.zeros((len(live), size), np.int32)
    real = np.arange(size) < live.sum(axis=1, keepdims=True)
    index[real] = np.nonzero(live)[1]
    return index, real.reshape(-1)
