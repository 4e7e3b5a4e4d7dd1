"""An endless, seeded, resumable stream of batches, the same on one process or many.

Global batch k is a function of (items, batch_size, seed, k) alone. Process p of n receives the rows
p, p + n, p + 2n, ... of every global batch, so the shards are disjoint and together cover it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grain

from caugym_jax.errors import UserError

Item = TypeVar("Item")

ENDLESS = 2**50  # items; grain's own endless repeat overflows in batches of one


class Mixed(NamedTuple):
    """Several sequences to draw from."""

    sequences: Sequence[Sequence[Any]]
    weights: Sequence[float]


def make_loader(
    items: Sequence[Item] | Callable[[int], Item] | Mixed,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    transform: Callable[[list[Item]], Any] = list,
) -> grain.DatasetIterator:
    """Iterates forever over `transform(list of batch_size / process_count items)`.

    Every epoch is shuffled anew. Batches run across the ends of epochs: no item is dropped, none
    is padded, each comes up exactly once an epoch, and every batch is full.

    `get_state()` gives a small dict that JSON can hold and `set_state` takes: the stream goes on
    with the very next batch. All work is done in the calling thread, when a batch is asked for.

    Args:
      items: a sequence; or a function from 0, 1, 2, ... to items, an unlimited source (a generator
        of problems that is seeded by its index), which is neither shuffled nor repeated; or
        several sequences with weights, of which every so many items hold so many of each.
      batch_size: rows of the global batch.
      transform: what is made of this process's rows: where processes train together, of the rows of
        all (`processes.all_rows`).
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"the batch of {batch_size} does not divide into {process_count} processes: "
            f"use a multiple of {process_count}"
        )
    if callable(items):
        stream = grain.MapDataset.range(ENDLESS).map(items)
    elif isinstance(items, Mixed):
        streams = [_repeated(x, seed + i, shuffle) for i, x in enumerate(items.sequences)]
        stream = grain.MapDataset.mix(streams, items.weights)
    else:
        stream = _repeated(items, seed, shuffle)
    return iter(
        stream[process_index::process_count]
        .batch(batch_size // process_count, batch_fn=list)
        .map(transform)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    )


def _repeated(items: Sequence[Any], seed: int, shuffle: bool) -> grain.MapDataset:
    if not len(items):
        raise UserError("there are no items to load")
    stream = grain.MapDataset.source(items).seed(seed)
    return (stream.shuffle() if shuffle else stream).repeat(ENDLESS // len(items))
