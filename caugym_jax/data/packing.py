"""Token lists to rectangular arrays. Masks come from lengths, never from `id == pad`."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from caugym_jax.errors import UserError
from caugym_jax.types import Batch, Example


def width_for(length: int, limit: int | None = None) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is no less than `length`, at most `limit`.

    Rows are padded to such widths, so that few shapes are compiled and at most a third of the
    longest row of a batch is padding.
    """
    width = 16
    while width < length:
        width = width * 3 // 2 if width & (width - 1) == 0 else width // 3 * 4
    return width if limit is None else max(min(width, limit), length)


def pad(examples: Sequence[Example], width: int, pad_id: int = 0, rows: int | None = None) -> Batch:
    """One example a row, padded on the right to [rows, width] (rows: as many as examples).

    Rows beyond the examples hold no document: segment 0 and loss mask 0 throughout.

    Raises:
      UserError: an example longer than `width` (its place and length are named), or too many.
    """
    for i, example in enumerate(examples):
        if _length(example) > width:
            raise UserError(
                f"example {i} (counting from 0) has {_length(example)} tokens, a row holds {width}"
            )
    rows = len(examples) if rows is None else rows
    if len(examples) > rows:
        raise UserError(f"{len(examples)} examples do not fit {rows} rows")
    filled = [[example] for example in examples]
    return _lay_out(filled + [[]] * (rows - len(filled)), width, pad_id)


def pack(examples: Sequence[Example], width: int, pad_id: int = 0) -> tuple[Batch, int]:
    """(rows, dropped): several examples a row by best fit, longest first.

    Each example is put whole into the fullest row that still holds it; one longer than `width` is
    dropped and counted. Documents of a row are numbered from 1 in `segment_ids` and restart
    `positions` at 0; attention must not cross segments.

    Example: lengths 5, 4, 3, 3 and width 8 give the rows (5, 3) and (4, 3).
    """
    fitting = sorted((e for e in examples if _length(e) <= width), key=_length, reverse=True)
    rows: list[list[Example]] = []
    space: list[tuple[int, int]] = []  # (free places, row), sorted
    for example in fitting:
        length = _length(example)
        best = bisect.bisect_left(space, (length, 0))
        if best == len(space):
            free, row = width, len(rows)
            rows.append([])
        else:
            free, row = space.pop(best)
        rows[row].append(example)
        bisect.insort(space, (free - length, row))
    return _lay_out(rows, width, pad_id), len(examples) - len(fitting)


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.completion)


def _lay_out(rows: Sequence[Sequence[Example]], width: int, pad_id: int) -> Batch:
    shape = (len(rows), width)
    tokens = np.full(shape, pad_id, np.int32)
    loss_mask = np.zeros(shape, np.float32)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    for i, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, 1):
            end = start + _length(example)
            tokens[i, start:end] = [*example.prompt, *example.completion]
            learned = [1] * len(example.completion) if example.mask is None else example.mask
            loss_mask[i, end - len(learned) : end] = learned
            loss_mask[i, start : start + 1] = 0  # a document's first token has nothing before it
            segment_ids[i, start:end] = segment
            positions[i, start:end] = np.arange(end - start)
            start = end
    return Batch(tokens, loss_mask, segment_ids, positions)
