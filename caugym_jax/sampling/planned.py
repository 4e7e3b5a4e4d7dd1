"""What lies on the devices while a wave of which rows might have to wait is at its fullest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from caugym_jax.devices.mesh import replicated, row_count, rows
from caugym_jax.devices.shapes import placed
from caugym_jax.models.transformer import Piece
from caugym_jax.sampling.decoding import Wave, laid_out, take_wave
from caugym_jax.sampling.parking import Room


def fullest(
    wave: Wave,
    empty: Callable[[int, int], Piece],
    mesh: jax.sharding.Mesh,
    room: Room,
    slot_bytes: float,
) -> tuple[Any, ...]:
    """The wave, its cache's pieces and what else the room holds: of the rows that go on first, as
    many as may, in the last piece that they begin together. The cache as a whole fills its room.

    Args:
      wave: of all rows, as it begins.
      empty: (rows, slots) -> a piece; called for its shape alone.
    """
    size, begun, own = room.together()
    shards = row_count(mesh)
    if own:  # they were gathered
        index = np.zeros((shards, size), np.int32)
        wave = jax.eval_shape(take_wave, wave, index, index.reshape(-1) > 0)
    whole = replicated(mesh)
    wave = placed(wave._replace(t=None), rows(mesh))._replace(t=placed(wave.t, whole))
    prompts = (size if own else room.shared // room.width) * shards
    of = [(prompts, room.width), *((size * shards, slots) for slots in room.pieces[:begun])]
    pieces = [jax.eval_shape(lambda one=one: empty(*one)) for one in of]
    pieces = [placed(x, laid_out(x, mesh, written=x is pieces[-1])) for x in pieces]
    here = size * (room.slots(begun) + own * room.width) + (not own) * room.shared
    others = np.broadcast_to(np.uint8(0), max(0, int((room.total - here) * slot_bytes)))
    return wave, *pieces, placed(others, whole)
