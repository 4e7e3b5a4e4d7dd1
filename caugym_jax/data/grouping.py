"""Batches of rows of like length from a source without end, made ahead by worker processes.

Group g is `size` examples, function of g alone; sorted by length they are cut into batches of about
`places` places each, in random order. So little is padding, no row is packed with another, and few
shapes are compiled.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from caugym_jax.cli.workers import spawned
from caugym_jax.data.packing import pad
from caugym_jax.types import Batch, Example

# Widths of rows: a step of 32 where most are, larger ones beyond.
WIDTHS = (*range(64, 321, 32), 384, 448, 512, 640, 768, 1024, 1536, 2048)


def sorted_batches(
    examples: Sequence[Example],
    places: int,
    pad_id: int,
    rng: random.Random,
    multiple: int = 1,
) -> list[Batch]:
    """The examples in batches [places // width, width] of rows of like length.

    The number of rows is a multiple of `multiple`; rows that a batch lacks hold no document.
    Examples longer than the largest width are left out.
    """

    def length(example: Example) -> int:
        return len(example.prompt) + len(example.completion)

    left = sorted((e for e in examples if length(e) <= WIDTHS[-1]), key=length)
    batches = []
    while left:
        width = next(w for w in WIDTHS if w >= length(left[-1]))
        rows = max(1, places // width // multiple) * multiple
        batches.append(pad(left[-rows:], width, pad_id, rows))
        del left[-rows:]
    rng.shuffle(batches)
    return batches


class Batches:
    """An endless iterator over groups' batches, which goes on where `get_state` was taken.

    make: g -> the batches of group g; with workers it must be picklable.
    workers: processes that make groups ahead; 0: the calling process makes each when it is due.
    """

    def __init__(self, make: Callable[[int], list[Batch]], workers: int = 0) -> None:
        self.make = make
        self.workers = workers
        self.pool: Any = None
        self.waited = 0.0  # seconds, in all
        self.batches: list[Batch] = []
        self.place = 0  # in `batches`
        self.due: collections.deque[Any] = collections.deque()
        self.following = self.asked = 0  # groups

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        while self.place >= len(self.batches):
            self.batches, self.place = self._group(), self.place - len(self.batches)
        batch = self.batches[self.place]
        self.place += 1
        self.waited += time.perf_counter() - started
        return batch

    def get_state(self) -> dict[str, int]:
        return {"group": self.following - 1 if self.batches else 0, "batch": self.place}

    def set_state(self, state: dict[str, int]) -> None:
        self.following, self.place = state["group"], state["batch"]
        self.batches = []
        self.due = collections.deque()
        self.asked = self.following

    def _group(self) -> list[Batch]:
        self.following += 1
        if not self.workers:
            return self.make(self.following - 1)
        if self.pool is None:
            self.pool = spawned(self.workers)
        while len(self.due) < 2 * self.workers:
            self.due.append(self.pool.submit(self.make, self.asked))
            self.asked += 1
        return self.due.popleft().result()

    def close(self) -> None:
        """Ends the workers after the groups that they are making."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def stage_at(stages: Sequence[tuple[int, Any]], index: int) -> tuple[Any, float]:
    """(the stage that example `index` belongs to, how far into it that is, 0 to 1).

    stages: (examples, stage), one after the other; the last one goes on for ever.
    """
    for i, (length, stage) in enumerate(stages):
        if index < length or i == len(stages) - 1:
            return stage, min(1.0, index / max(1, length))
        index -= length
    raise ValueError("there are no stages")


def drawn(weights: dict[str, float], rng: random.Random) -> str:
    """A name, as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]


def places_used(batch: Batch) -> float:
    """The share of a batch's places that are no padding."""
    return float(np.mean(np.asarray(batch.segment_ids) > 0))
