"""Waves that halve: rows that have ended leave, and the loop goes on with the live ones.

A loop over a fixed batch computes every row until the last one ends: with lengths as models draw
them that is mostly work on rows that ended long ago. Here the loop stops when half of the rows have
ended, and the live ones are gathered into arrays of half the size. Each row keeps its key, limit
and prompt, so a sample changes only where another number of rows rounds its logits otherwise. On a
mesh each shard of rows gathers its own, after the fullest ones have sent some of theirs to others.

A piece of cache is allocated when it begins, for the rows that there are by then. Where it might
not fit to the end, some rows wait (`sampling/parking.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from caugym_jax.devices import processes, shapes
from caugym_jax.devices.mesh import fetch, put, replicated, row_count, rows
from caugym_jax.devices.programs import Program, free_room, refuse
from caugym_jax.models.transformer import Model, Params, Piece
from caugym_jax.models.work import Work, forward
from caugym_jax.sampling import decoding
from caugym_jax.sampling.decoding import Pause, Wave
from caugym_jax.sampling.evening import Move, evened, filled, rounds
from caugym_jax.sampling.parking import Memory, Parked, Room, least_rows, sizes
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.planned import fullest
from caugym_jax.types import Rollout

# What of a piece is gathered at a time, so that little is there twice.
_AT_A_TIME = ("k",), ("v", "positions", "segment_ids")


def lays_out(mesh: jax.sharding.Mesh) -> bool:
    """Whether the compiler orders what a loop writes in another way than arguments."""
    return bool(mesh.devices.flat[0].platform == "tpu")


class Sized(NamedTuple):
    """What serves rows of one size."""

    open: Any  # (rows, slots) -> an unwritten piece
    advance: Program
    written: Piece | None  # where the piece lies that is written; None: as any


@dataclasses.dataclass
class Part:
    """Rows of a wave that are decoded, or wait, together.

    Attributes:
      cache: the prompts' piece and the completions'.
      wave: what is drawn, and what draws it.
      owners: [shards, size]: which row of the rollout each of them is; -1: none (any more).
      live: [shards, size] bool: which of them go on.
      t: the place of their next token.
      slots: of the completions' pieces.
      samples: rows of the rollout that share a row of the prompts' piece, which holds the whole
        wave's; 1: each row has its own.
      waited: they were parked.
    """

    cache: list[Any]
    wave: Wave
    owners: np.ndarray
    live: np.ndarray
    t: int = 0
    slots: int = 0
    samples: int = 1
    waited: bool = False

    @property
    def begun(self) -> int:
        """Pieces of completions."""
        return len(self.cache) - 1

    @property
    def own(self) -> bool:
        """Each row has its own row of the prompts' piece."""
        return self.samples == 1

    @property
    def most(self) -> int:
        """Live rows of a shard, if all have as many."""
        return -(-int(self.live.sum()) // len(self.live))

    @property
    def parked(self) -> Parked:
        return Parked(self.live.shape[1], self.begun, self.own)


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
        self._least = least_rows(max_new_tokens, unstacked)
        self._shards = 1 if mesh is None else row_count(mesh)
        self._report_every = report_every or max_new_tokens
        begin = functools.partial(
            decoding.begin, model, max_new_tokens=max_new_tokens, unstacked=unstacked
        )
        self._begin = Program("prefill", begin, remedy, work=self._prefill)
        self._step = functools.partial(decoding.advance, model, unstacked=unstacked)
        self._empty = functools.partial(decoding.empty_piece, model, stacked=not unstacked)
        self._take_wave = jax.jit(decoding.take_wave)
        self._take_fields = jax.jit(decoding.take_fields)
        self._send_wave = jax.jit(decoding.send_wave, donate_argnums=0)
        self._send_fields = jax.jit(decoding.send_fields, donate_argnums=0)
        self._sizes = {0: self._sized(None)}

    def _sized(self, written: Piece | None) -> Sized:
        begun = jax.jit(self._empty, static_argnums=(0, 1), out_shardings=written)
        places = written and (None, written, None)
        advance = Program("sample", self._step, self._remedy, donate=(2, 3), places=places)
        return Sized(begun, advance, written)

    def _of(self, size: int) -> Sized:
        """The programs for so many rows of a shard; mostly they serve all sizes."""
        if self._mesh is None or not lays_out(self._mesh):
            return self._sizes[0]
        if size not in self._sizes:
            piece = jax.eval_shape(lambda: self._empty(size * self._shards, 1))
            written = decoding.laid_out(piece, self._mesh, written=True)
            self._sizes[size] = self._sized(written)
        return self._sizes[size]

    @property
    def compilations(self) -> int:
        """How many programs have been compiled to prefill and to decode."""
        decoding = sum(one.advance.compilations for one in self._sizes.values())
        return self._begin.compilations + decoding

    def halve(self, rows: int) -> bool:
        """Whether a wave of so many rows would."""
        return len(sizes(rows, self._shards, self._new, self._least)) > 1

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
        beside: int = 1,
        ended: Callable[[np.ndarray, Rollout], None] | None = None,
    ) -> Rollout:
        """See `decoding.generate`.

        Args:
          report: called now and then with the place that is reached and how many rows go on.
          beside: waves that run at the same time and share the memory, this one among them.
          ended: called when rows leave the wave, with their numbers and their rollout; once for
            each row.
        """
        B, samples = len(keys), len(keys) // len(prompts)
        room = self._room(prompts.shape, samples, beside)
        first = [np.repeat(x, samples, axis=0) for x in fetch((prompts, lengths))]
        prompt, wave = self._begin(params, prompts, lengths, keys, pad_id, limits)
        owners = np.arange(B).reshape(self._shards, -1)
        drawn = Drawn(first[0], first[1], self._new, ended)
        waiting = [Part([prompt], wave, owners, np.ones_like(owners, bool), samples=samples)]
        del prompt, wave  # here and below: so that what is gathered is freed
        decode = functools.partial(self._decode, params, settings, end_ids, pad_id)

        def step(part: Part) -> None:
            decode(part, room.smaller(part.live.shape[1]))
            report(part.t, int(sum(one.live.sum() for one in (part, *waiting))))

        while waiting:
            self._until_ended(waiting.pop(), waiting, room, drawn, step)
        return drawn.rollout

    def _until_ended(
        self,
        part: Part,
        waiting: list[Part],
        room: Room,
        drawn: Drawn,
        step: Callable[[Part], None],
    ) -> None:
        """Decodes rows until all of them have ended or wait."""
        while part.most:
            if part.t == part.slots:
                part = self._opened(part, waiting, room, drawn)
            step(part)
            size = room.tight(part.most)
            if part.most and size < part.live.shape[1]:
                self._even(part, size, drawn)
                [part] = self._gathered(part, [(part.live, size)], drawn)
        drawn.write(part)

    def _opened(self, part: Part, waiting: list[Part], room: Room, drawn: Drawn) -> Part:
        """Those of the rows that go on, with a new piece of cache; the others wait."""
        parked, most = [one.parked for one in waiting], part.most
        size = room.going(most, part.begun, part.own, parked, part.waited)
        if size < most or part.waited:
            self._even(part, most, drawn)
            rank = part.live.cumsum(axis=1)
            chosen = [(part.live & (rank <= size), size)]
            if size < most:
                chosen.append((part.live & (rank > size), room.padded(most - size)))
            part, *rest = self._gathered(part, chosen, drawn)
            waiting += rest
        elif part.begun:
            self._order_last(part, None)
        slots = room.pieces[part.begun]
        part.cache.append(self._of(size).open(part.live.size, slots))
        part.slots += slots
        return part

    def _decode(
        self,
        params: Params,
        settings: Settings,
        end_ids: jax.Array,
        pad_id: jax.Array,
        part: Part,
        least: int,
    ) -> None:
        """Decodes until `least` live rows a shard would hold all, or the last piece is full."""
        until = np.int32(part.t + self._report_every)
        pause = self._put(Pause(np.int32(least * self._shards), until))
        piece = part.cache.pop()
        part.wave, piece, live = self._of(part.live.shape[1]).advance(
            params, tuple(part.cache), piece, part.wave, settings, end_ids, pad_id, pause
        )
        part.cache.append(piece)
        t, live = fetch((part.wave.t, live))
        part.t, part.live = int(t), live.reshape(self._shards, -1)

    def _gathered(
        self, part: Part, chosen: Sequence[tuple[np.ndarray, int]], drawn: Drawn
    ) -> list[Part]:
        """Parts of the rows, in place of all: the first one is to go on, the others wait.

        Args:
          chosen: for each part its rows [shards, size], bool, and how many a shard it holds.
        """
        drawn.write(part)
        parts, indices = [], [filled(rows, size) for rows, size in chosen]
        on_device = [self._put_rows(index) for index, _ in indices]
        for (index, real), there in zip(indices, on_device, strict=True):
            owners, t = np.take_along_axis(part.owners, index, axis=1), self._put(np.int32(part.t))
            wave = self._take_wave(part.wave, there, self._put_rows(real.reshape(-1)))
            owners = np.where(real, owners, -1)
            parts.append(Part([], wave._replace(t=t), owners, real, part.t, part.slots))
        self._order_last(part, None)
        taken = [self._taken(part.cache, i, on_device) for i in range(1, len(part.cache))]
        if part.own:
            taken.insert(0, self._taken(part.cache, 0, on_device))
        for i, one in enumerate(parts):
            one.cache, one.waited = [pieces[i] for pieces in taken], i > 0
            if not part.own:
                self._share(part, one)
        if part.t < part.slots:
            self._order_last(parts[0], self._of(parts[0].live.shape[1]).written)
        return parts

    def _order_last(self, part: Part, written: Piece | None) -> None:
        """Orders the last piece as one that is written, or (None) that is full."""
        own = self._of(part.live.shape[1]).written
        if own is None or not part.begun:
            return
        assert self._mesh is not None  # it says how pieces are ordered
        piece = part.cache.pop()._asdict()
        to = written or decoding.laid_out(Piece(**piece), self._mesh, written=False)
        for name in Piece._fields:  # one after the other, so that little is there twice
            piece[name] = jax.device_put(piece[name], getattr(to, name))
        part.cache.append(Piece(**piece))

    def _even(self, part: Part, most: int, drawn: Drawn) -> None:
        """Moves rows of the fullest shards to where others' rows have ended, so that no shard has
        more than `most` live ones."""
        if not (moves := evened(part.live, most)):
            return
        drawn.write(part)
        self._order_last(part, None)
        part.live = part.live.copy()
        for sent, into in self._rounds(moves):
            part.wave = self._send_wave(part.wave, sent, into)
            for i in range(not part.own, len(part.cache)):
                part.cache[i] = self._sent(part.cache, i, None, sent, into)
        for shard, row, to, place in moves:
            part.owners[to, place], part.owners[shard, row] = part.owners[shard, row], -1
            part.live[to, place], part.live[shard, row] = True, False

    def _share(self, part: Part, one: Part) -> None:
        """Gives rows of a part what they need of the prompts' piece that samples share: those that
        go on their own rows of it, those that wait all of it."""
        shared = part.cache[0]
        if one.waited:
            one.cache.insert(0, shared)
            one.samples = part.samples
            return
        each, shards = len(shared.positions) // self._shards, range(self._shards)
        prompts, rows = np.maximum(one.owners, 0) // part.samples % each, one.owners // part.samples
        taken = self._taken([shared], 0, [self._put_rows(prompts.astype(np.int32))])
        moves = [
            (int(rows[to, place]) // each, int(prompts[to, place]), to, place)
            for to in shards
            for place in np.flatnonzero((rows[to] >= 0) & (rows[to] // each != to)).tolist()
        ]
        for sent, into in self._rounds(moves):
            taken[0] = self._sent(taken, 0, shared, sent, into)
        one.cache.insert(0, taken[0])

    def _rounds(self, moves: Sequence[Move]) -> list[tuple[jax.Array, jax.Array]]:
        return [self._put_rows(one) for one in rounds(moves, self._shards)]

    def _sent(self, cache: list[Any], i: int, source: Piece | None, sent: Any, into: Any) -> Piece:
        """A piece with rows of another one (None: of itself) written to it, bit by bit."""
        piece, whole = cache[i]._asdict(), {} if source is None else source._asdict()
        cache[i] = None
        for names in _AT_A_TIME:
            fields = {name: piece.pop(name) for name in names}
            of = {name: whole[name] for name in names if whole}
            piece |= self._send_fields(fields, of, sent, into)
        return Piece(**piece)

    def _taken(self, cache: list[Any], i: int, places: Sequence[jax.Array]) -> list[Piece]:
        """The rows of a piece at each of the places; it leaves the cache bit by bit."""
        taken: list[dict[str, Any]] = [{} for _ in places]
        piece = cache[i]._asdict()
        cache[i] = None
        for names in _AT_A_TIME:
            fields = {name: piece.pop(name) for name in names}
            for into, there in zip(taken, places, strict=True):
                into |= self._take_fields(fields, there)
            del fields
        return [Piece(**fields) for fields in taken]

    def _room(self, prompts: Sequence[int], samples: int, beside: int) -> Room:
        """The room of a wave.

        Raises:
          UserError: not even a few of its rows would fit.
        """
        room, memory = self._shape(prompts, samples)
        devices = beside * (1 if self._mesh is None else len(self._mesh.local_devices))
        free = free_room(memory.bytes(room.to_the_end()), devices)
        known = [size for size in processes.share(free) if size is not None]
        if not known:
            return room
        if (needed := memory.bytes(room.least())) > min(known):
            refuse("sample", needed, min(known), devices, self._remedy)
        return room._replace(total=memory.slots(min(known)))

    def _shape(self, prompts: Sequence[int], samples: int) -> tuple[Room, Memory]:
        """(a wave with room for everything, what it takes beside its cache)."""
        config, piece = self._model.config, decoding.piece_width(self._new)
        room = Room.of(math.inf, prompts, samples, self._shards, self._new, piece, self._least)
        tensor = 1 if self._mesh is None else self._mesh.shape["tensor"]
        cache = jax.eval_shape(lambda: self._empty(self._shards, 1))
        slot = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) / self._shards
        slot /= tensor if config.num_kv_heads % tensor == 0 else 1
        logits, copied = config.vocab_size / tensor, 0.0
        if self._mesh is not None and lays_out(self._mesh):
            itemsize = jax.numpy.dtype(self._model.dtype).itemsize
            written = room.ladder[0] * room.pieces[0] * slot
            copied = decoding.reordered_bytes(config, tensor, itemsize, written)
        return room, Memory(slot, room.ladder[0], logits, self._new, copied)

    def record(self, params: Params, prompts: Any, lengths: Any, keys: Any, *more: Any) -> bool:
        """On shapes: records the programs of a wave of which rows might have to wait, as a call
        with these arguments would run them (see `planned.fullest`).

        Returns:
          whether it did: not where all rows fit, or not even a few.
        """
        recorder, samples = shapes.recorder(), keys.shape[0] // prompts.shape[0]
        if recorder is None or self._mesh is None or (free := recorder.free(params)) is None:
            return False
        room, memory = self._shape(prompts.shape, samples)
        room = room._replace(total=memory.slots(free))
        if not room.least() <= room.total < room.to_the_end():
            return False
        settings, end_ids, pad_id, limits = more
        begin = params, prompts, lengths, keys, pad_id, limits
        self._begin(*begin)
        _, wave = self._begin.results(*begin)
        work = self._prefill(params, prompts)._replace(drawn=self._new, samples=samples)
        work = work._replace(piece=room.pieces[0], room=room.total)
        wave, *cache, others = fullest(wave, self._empty, self._mesh, room, memory.slot)
        pause = self._put(Pause(np.int32(0), np.int32(0)))
        arguments = params, tuple(cache[:-1]), cache[-1], wave, settings, end_ids, pad_id, pause
        recorder.record(self._of(room.together()[0]).advance, arguments, work, (others,))
        return True

    def _prefill(self, params: Params, prompts: Any, *_: Any) -> Work:
        """What the prompts alone take."""
        return forward(self._model, prompts.shape)

    def _put(self, x: Any) -> Any:
        return jax.device_put(x) if self._mesh is None else put(x, replicated(self._mesh))

    def _put_rows(self, x: Any) -> Any:
        return jax.device_put(x) if self._mesh is None else put(x, rows(self._mesh))


class Drawn:
    """What the rows of a wave have drawn, on the host.

    Args:
      prompts, lengths: [B, P], [B], of each row.
      leave: see `Waves.__call__`.
    """

    def __init__(
        self,
        prompts: np.ndarray,
        lengths: np.ndarray,
        max_new_tokens: int,
        leave: Callable[[np.ndarray, Rollout], None] | None = None,
    ):
        rows, P = prompts.shape
        self.rollout = Rollout(
            np.pad(prompts, ((0, 0), (0, max_new_tokens))),
            lengths,
            np.zeros(rows, np.int32),
            np.zeros(rows, bool),
            np.zeros((rows, max_new_tokens), np.float32),
        )
        self._leave = leave
        self._into = {
            "tokens": self.rollout.tokens[:, P:],
            "logprobs": self.rollout.logprobs,
            "count": self.rollout.completion_length,
            "ended": self.rollout.ended,
        }

    def write(self, part: Part) -> None:
        """Takes over what the rows hold by now; those that do not go on leave."""
        owners = part.owners.reshape(-1)
        real = owners >= 0
        found = fetch([getattr(part.wave, name) for name in self._into])
        for into, there in zip(self._into.values(), found, strict=True):
            into[owners[real]] = there[real]
        left = owners[real & ~part.live.reshape(-1)]
        part.owners = np.where(part.live, part.owners, -1)
        if self._leave is not None and left.size:
            self._leave(left, Rollout(*(x[left] for x in self.rollout)))
