"""How a wave goes whose completions' lengths are known: what `sampling/waves.py` does, counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from caugym_jax.sampling.evening import evened, filled
from caugym_jax.sampling.parking import Parked, Room


class Stretch(NamedTuple):
    """Tokens that are drawn in arrays of one size.

    Attributes:
      rows: of a shard's arrays.
      start, stop: the first token's place and the one after the last.
      slots: of the completions' pieces that are read.
      own: each row has its own row of the prompts' piece.
      waiting: what is parked meanwhile.
    """

    rows: int
    start: int
    stop: int
    slots: int
    own: bool
    waiting: tuple[Parked, ...]


def stretches(room: Room, lengths: np.ndarray) -> Iterator[Stretch]:
    """The stretches of a wave, in their order.

    Args:
      lengths: [shards, rows]: tokens of each completion, at most those of all pieces.
    """
    waiting: list[tuple[Parked, np.ndarray]] = []
    begun, own, resumed = 0, not room.shared, False
    while True:
        t = room.slots(begun)
        while most := _most(lengths, t):
            if t == room.slots(begun):
                parked = [one for one, _ in waiting]
                size = room.going(most, begun, own, parked, resumed)
                if size < most or resumed:
                    even = _even(lengths, t, most)
                    rank = (even > t).cumsum(axis=1)
                    lengths = _gathered(even, (even > t) & (rank <= size), size)
                    if size < most:
                        rest = Parked(room.padded(most - size), begun, own)
                        rows = _gathered(even, (even > t) & (rank > size), rest.rows)
                        waiting.append((rest, rows))
                    own = True
                begun, resumed = begun + 1, False
            size = lengths.shape[1]
            live = np.sort(lengths[lengths > t])[::-1]
            least = room.smaller(size) * len(lengths)
            stop = min(room.slots(begun), int(live[least]) if len(live) > least else t)
            yield Stretch(size, t, stop, room.slots(begun), own, tuple(one for one, _ in waiting))
            t, tight = stop, room.tight(_most(lengths, stop))
            if tight < size:
                even = _even(lengths, t, tight)
                lengths, own = _gathered(even, even > t, tight), True
        if not waiting:
            return
        (_, begun, own), lengths = waiting.pop()
        resumed = True


def _most(lengths: np.ndarray, t: int) -> int:
    return -(-int((lengths > t).sum()) // len(lengths))


def _even(lengths: np.ndarray, t: int, most: int) -> np.ndarray:
    even = lengths.copy()
    for shard, row, to, place in evened(lengths > t, most):
        even[to, place], even[shard, row] = even[shard, row], 0
    return even


def _gathered(lengths: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    index, real = filled(rows, size)
    return np.where(real, np.take_along_axis(lengths, index, axis=1), 0)
