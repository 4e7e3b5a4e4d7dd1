"""Which rows of a wave are gathered, and which change shards before, so that all have as many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A row that changes shards: (shard, row, to, place), rows counted from a shard's first.
Move = tuple[int, int, int, int]
_NOWHERE = np.iinfo(np.int32).max


def filled(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows of each shard are, filled up: (index [shards, size] int32, real, bool).

    By hand: rows (0, 1, 1, 0), (0, 0, 0, 1) and size 2: (1, 2), (3, 0); the last is not real.
    """
    index = np.zeros((len(rows), size), np.int32)
    real = np.arange(size) < rows.sum(axis=1, keepdims=True)
    index[real] = np.nonzero(rows)[1]
    return index, real


def evened(live: np.ndarray, most: int) -> list[Move]:
    """The fewest moves of live rows [shards, rows] to places of others with which no shard has more
    than `most`; each goes to the emptiest shard.

    By hand: rows (1, 1, 1), (0, 1, 0), (0, 0, 0) and 2: the first shard's last row to place 0 of
    the third.
    """
    live, moves = live.copy(), []
    for shard in np.flatnonzero(live.sum(axis=1) > most).tolist():
        for row in np.flatnonzero(live[shard])[most:].tolist():
            to = int(live.sum(axis=1).argmin())
            place = int(live[to].argmin())
            live[shard, row], live[to, place] = False, True
            moves.append((shard, row, to, place))
    return moves


def rounds(moves: Sequence[Move], shards: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The moves as arguments of `send_rows`, by which a shard sends every other one row."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    turns: dict[tuple[int, int], int] = {}
    for shard, row, to, place in moves:
        turn = turns[shard, to] = turns.get((shard, to), -1) + 1
        if turn == len(found):
            nowhere = np.full((shards, shards), _NOWHERE, np.int32)
            found.append((np.zeros((shards, shards), np.int32), nowhere))
        sent, into = found[turn]
        sent[shard, to], into[to, shard] = row, place
    return found
