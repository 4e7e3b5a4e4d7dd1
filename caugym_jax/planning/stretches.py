"""How a wave goes whose completions' lengths are known: what `sampling/waves.py` does, counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

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
    # Of each shard the lengths of its live rows.
    waiting: list[tuple[Parked, list[np.ndarray]]] = []
    live, begun, own, resumed = list(lengths), 0, not room.shared, False
    while True:
        size, t = room.tight(_most(live)), room.slots(begun)
        while most := _most(live):
            if t == room.slots(begun):
                parked = [one for one, _ in waiting]
                size = room.going(most, begun, own, parked, resumed)
                if size < most:
                    rest = Parked(room.padded(most - size), begun, own)
                    waiting.append((rest, [ends[size:] for ends in live]))
                    live = [ends[:size] for ends in live]
                own = own or resumed or size < most
                begun, resumed = begun + 1, False
            smaller = room.smaller(size)
            few = max(_end(ends, smaller) for ends in live)
            stop = min(room.slots(begun), few)
            yield Stretch(size, t, stop, room.slots(begun), own, tuple(one for one, _ in waiting))
            t, live = stop, [ends[ends > stop] for ends in live]
            if room.tight(_most(live)) < size:
                size, own = room.tight(_most(live)), True
        if not waiting:
            return
        (_, begun, own), live = waiting.pop()
        resumed = True


def _most(live: list[np.ndarray]) -> int:
    return max(map(len, live))


def _end(lengths: np.ndarray, rows: int) -> int:
    """Where no more than so many rows are live."""
    return int(np.sort(lengths)[len(lengths) - rows - 1]) if len(lengths) > rows else 0
