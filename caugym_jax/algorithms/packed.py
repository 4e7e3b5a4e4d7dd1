"""Sampled completions without padding: several documents a row, a prompt once for several of them.

What a policy update computes is a sum over completions' tokens, so rows are free to hold anything.
Here they hold trees: a prompt (the trunk) and completions of it that go on from it and do not see
each other. Rows are filled by best fit, in microbatches one after the other, so that those beyond
the last document cost nothing (`step.gradients`) and one program serves every step.

Numbers about tokens lie in lists, one for the rows that a device takes in a microbatch: so no
logits are made for prompts. `Packing` says where each came from.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.data.packing import width_for
from caugym_jax.types import Experience

# Places of a microbatch and device at most, where a row is shorter: fewer leave less of the last
# microbatch empty, more make larger products.
PLACES = {"cpu": 1024}
MOST_PLACES = 8192  # on accelerators
# A row that holds whole groups pays while it is short: attention makes its scores with every place.
TREE_WIDTH = 384


class Shape(NamedTuple):
    """Of packed rows; a function of a run's settings alone."""

    width: int  # places of a row
    rows: int  # of a microbatch on one device
    microbatches: int  # enough for every completion in a row of its own
    shards: int  # devices that take rows
    trees: bool  # a prompt once for several completions; else once for each


class Packing(NamedTuple):
    """Of which completion and which of its tokens each number of the lists is, [lists, N] int32;
    -1: of none."""

    rows: np.ndarray
    columns: np.ndarray

    def pack(self, x: np.ndarray) -> np.ndarray:
        """[B, C], or [B] for all tokens of a completion, as lists; 0 where there is no token."""
        values = x[self.rows] if x.ndim == 1 else x[self.rows, self.columns]
        return np.where(self.rows >= 0, values, np.zeros((), x.dtype))

    def unpack(self, lists: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The inverse of `pack`: [B, C], 0 where a completion has no token."""
        out, known = np.zeros(shape, lists.dtype), self.rows >= 0
        out[self.rows[known], self.columns[known]] = lists[known]
        return out


def shape_for(
    completions: int,
    group_size: int,
    max_prompt: int,
    max_new: int,
    *,
    shards: int,
    microbatches: int | None,
    kernel: str,
    platform: str,
) -> Shape:
    """The shape of a minibatch's rows.

    Args:
      completions: in a full minibatch.
      microbatches: the parts into which a minibatch of padded rows would be cut; None: one row to
        each device. A microbatch is never larger than theirs.
      kernel: "plain" attends to trees, "splash" to documents.
    """
    trees = kernel == "plain"
    longest = max_prompt + max_new
    width = longest
    if trees:
        group = max_prompt + group_size * max_new // 2
        width = max(longest, width_for(min(group, TREE_WIDTH)))
    padded = completions // (shards * (microbatches or completions // shards))
    places = PLACES.get(platform, MOST_PLACES)
    rows = max(1, min(places, padded * longest) // width)
    return Shape(width, rows, math.ceil(completions / (shards * rows)), shards, trees)


class _Tree(NamedTuple):
    """A prompt's first completion, of which the prompt is read, and all that go on from it."""

    prompt: int
    completions: list[int]
    length: int


def _trees(e: Experience, shape: Shape) -> list[_Tree]:
    """Completions [B] with their prompts, those of equal prompts together, in pieces that fit a
    row."""
    P = e.prompt_width
    prompts = e.segment_ids[:, :P].sum(axis=1)
    lengths = e.segment_ids[:, P:].sum(axis=1)
    groups: dict[Any, list[int]] = {}
    for row in map(int, np.flatnonzero(lengths)):
        prompt_of_row = e.tokens[row, P - prompts[row] : P].tobytes()
        groups.setdefault(prompt_of_row if shape.trees else row, []).append(row)
    trees = []
    for rows in groups.values():
        held: list[int] = []
        used = prompt = int(prompts[rows[0]])
        for row in rows:
            if held and used + lengths[row] > shape.width:
                trees.append(_Tree(held[0], held, used))
                held, used = [], prompt
            held.append(row)
            used += int(lengths[row])
        trees.append(_Tree(held[0], held, used))
    return trees


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices of the lengths by row: longest first, each into the fullest row that holds it."""
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free places, row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        best = bisect.bisect_left(space, (lengths[i], 0))
        if best == len(space):
            free, row = width, len(rows)
            rows.append([])
        else:
            free, row = space.pop(best)
        rows[row].append(i)
        bisect.insort(space, (free - lengths[i], row))
    return rows


def pack_rows(e: Experience, shape: Shape) -> tuple[Experience, Packing]:
    """The completions of a padded Experience [B, P + C] (NumPy) in packed rows, and where they are.

    Arrays of rows are [microbatches x devices' rows, width], those of lists [microbatches x
    devices, places]; in both `step.split_rows` finds the microbatches. Advantages are each token's.
    """
    P, width = e.prompt_width, shape.width
    trees = _trees(e, shape)
    bins = best_fit([tree.length for tree in trees], width)
    K, together = shape.microbatches, shape.shards * shape.rows
    tokens, positions, segments, trunks = np.zeros((4, K * together, width), np.int32)
    lists = K * shape.shards, shape.rows * width
    places, targets, sequences, rows, columns = np.zeros((5, *lists), np.int32)
    rows[:], columns[:] = -1, -1
    filled = np.zeros(lists[0], int)
    for number, held in enumerate(bins):
        part, slot = number // together, number % together
        device, local = slot % shape.shards, slot // shape.shards
        row = (device * shape.rows + local) * K + part
        listed, start, segment = device * K + part, 0, 0
        for tree in (trees[i] for i in held):
            prompt = e.tokens[tree.prompt, :P][e.segment_ids[tree.prompt, :P] > 0]
            segment += 1
            trunk, end = segment, start + len(prompt)
            tokens[row, start:end], segments[row, start:end] = prompt, trunk
            positions[row, start:end] = np.arange(len(prompt))
            trunks[row, start:end] = trunk
            last = end - 1  # of the prompt: it predicts every first token
            for of in tree.completions:
                segment += shape.trees
                length = int(e.segment_ids[of, P:].sum())
                start, end = end, end + length
                tokens[row, start:end] = e.tokens[of, P : P + length]
                segments[row, start:end], trunks[row, start:end] = segment, trunk
                positions[row, start:end] = len(prompt) + np.arange(length)
                at = slice(filled[listed], filled[listed] + length)
                before = np.concatenate([[last], np.arange(start, end - 1)])
                places[listed, at] = local * width + before
                targets[listed, at] = tokens[row, start:end]
                sequences[listed, at] = 1 + sequences[listed, at.start - 1] * (at.start > 0)
                rows[listed, at], columns[listed, at] = of, np.arange(length)
                filled[listed] += length
            start = end
    packing = Packing(rows, columns)
    share = e.mask / np.maximum(e.mask.sum(axis=1, keepdims=True), 1)
    lists_of = {name: packing.pack(getattr(e, name)) for name in ("mask", "sampler_logprobs")}
    packed = Experience(
        tokens,
        positions,
        segments,
        lists_of["mask"],
        packing.pack(e.advantages),
        lists_of["sampler_logprobs"],
        None,
        None,
        trunks=trunks if shape.trees else None,
        places=places,
        targets=targets,
        sequences=sequences,
        share=packing.pack(share.astype(np.float32)),
    )
    return packed, packing
