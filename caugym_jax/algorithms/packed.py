"""Completions without padding: several documents a row, a prompt once for several of them.

What an update computes is a sum over completions' tokens, so rows are free to hold anything.
Here they hold trees: a prompt (the trunk) and completions of it that go on from it and do not see
each other. Rows are filled by best fit, in microbatches one after the other, so that those beyond
the last document cost nothing (`step.gradients`) and one program serves every step.

Numbers about tokens lie in lists, one for the rows that a device takes in a microbatch: so no
logits are made for prompts. `Packing` says where each came from. A loss of several completions, as
DPO's of a pair, needs them in one list (`pack_together`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.data.packing import width_for
from caugym_jax.errors import UserError
from caugym_jax.types import Experience, Packed

# Places of a microbatch and device at most, where a row is shorter: fewer leave less of the last
# microbatch empty, more make larger products. On a CPU a twentieth of a padded minibatch, within
# these two.
CPU_PLACES = 1024, 2048
MOST_PLACES = 8192  # on accelerators
# A row that holds whole groups pays while it is short: attention makes its scores with every place.
TREE_WIDTH = 384
# A list has room for one entry of `pack_together` to so many places, besides one a row.
LEAST = 16


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
    longest: int,
    tree: int,
    *,
    shards: int,
    microbatches: int | None,
    kernel: str,
    platform: str,
    together: int = 1,
) -> Shape:
    """The shape of a minibatch's rows.

    Args:
      completions: in a full minibatch.
      longest: tokens of a prompt with a completion, at most.
      tree: tokens of a prompt with several, as a row might hold them.
      microbatches: the parts into which a minibatch of padded rows would be cut; None: the least
        that each device may take. A microbatch is never larger than theirs.
      kernel: "plain" attends to trees, "splash" to documents.
      together: so many completions of a prompt must lie in one list.
    """
    trees = kernel == "plain"
    width = max(longest, width_for(min(tree, TREE_WIDTH))) if trees else longest
    padded = completions // (shards * (microbatches or completions // (shards * together)))
    places = MOST_PLACES
    if platform == "cpu":
        places = min(max(CPU_PLACES[0], completions * longest // 20), CPU_PLACES[1])
    rows = max(1, min(places, padded * longest) // width)
    held = rows - rows % together  # completions of a list, at least
    if trees and rows < together:
        width, rows, held = longest, together, together
    if not trees and rows <= together:  # of a row alone, splash skips what is not seen
        width, rows, held = together * longest, 1, together
    microbatches = math.ceil(completions / (shards * held))
    return Shape(width, rows, microbatches, shards, trees)


class _Tree(NamedTuple):
    """A prompt and the completions that go on from it, by their numbers."""

    prompt: np.ndarray
    completions: list[int]
    length: int


def _trees(e: Experience, said: Sequence[np.ndarray], shape: Shape) -> list[_Tree]:
    """Completions with their prompts, those of equal prompts together, in pieces that fit a row."""
    P = e.prompt_width
    groups: dict[Any, tuple[np.ndarray, list[int]]] = {}
    for row in (row for row, tokens in enumerate(said) if len(tokens)):
        prompt = e.tokens[row, :P][e.segment_ids[row, :P] > 0]
        _, rows = groups.setdefault(prompt.tobytes() if shape.trees else row, (prompt, []))
        rows.append(row)
    trees = []
    for prompt, rows in groups.values():
        held: list[int] = []
        used = len(prompt)
        for row in rows:
            if held and used + len(said[row]) > shape.width:
                trees.append(_Tree(prompt, held, used))
                held, used = [], len(prompt)
            held.append(row)
            used += len(said[row])
        trees.append(_Tree(prompt, held, used))
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
    P = e.prompt_width
    lengths = e.segment_ids[:, P:].sum(axis=1)
    said = [row[P : P + length] for row, length in zip(e.tokens, lengths, strict=True)]
    trees = _trees(e, said, shape)
    bins = best_fit([tree.length for tree in trees], shape.width)
    filled, packing = _fill([[trees[i] for i in held] for held in bins], said, shape)
    share = e.mask / np.maximum(e.mask.sum(axis=1, keepdims=True), 1)
    packed = Experience(
        filled.tokens,
        filled.positions,
        filled.segment_ids,
        packing.pack(e.mask),
        packing.pack(e.advantages),
        packing.pack(e.sampler_logprobs),
        None,
        None,
        trunks=filled.trunks,
        places=filled.places,
        targets=filled.targets,
        sequences=filled.sequences,
        share=packing.pack(share.astype(np.float32)),
    )
    return packed, packing


# A prompt and completions of it, as tokens.
Item = tuple[Sequence[int], Sequence[Sequence[int]]]


def pack_together(items: Sequence[Item], shape: Shape) -> tuple[Packed, np.ndarray]:
    """The completions of items in packed rows (NumPy), all E of an item in one list.

    Returns:
      (rows, members [lists, M] int32): of which item a list's entries are; -1: of none. Sequence
      1 + m E + e of a list is completion e of its entry m.

    Raises:
      UserError: a prompt with a completion is longer than a row.
    """
    said: list[np.ndarray] = []
    pieces = []
    for prompt, replies in items:
        own = []
        for reply in replies:
            first = reply[: not prompt]  # nothing predicts it
            said.append(np.asarray(reply[len(first) :], np.int32))
            tree = _Tree(np.asarray(prompt or first, np.int32), [len(said) - 1], 0)
            if len(said[-1]):
                own.append(tree._replace(length=len(prompt) + len(reply)))
        both = sum(tree.length for tree in own) - len(prompt) * (len(own) - 1)
        if shape.trees and prompt and own and both <= shape.width:
            own = [_Tree(own[0].prompt, [i for tree in own for i in tree.completions], both)]
        pieces.append(own)
    each = len(items[0][1])
    bins, entries = _place_together(pieces, shape, each)
    filled, packing = _fill(bins, said, shape)
    slots, members = np.zeros(len(items), int), np.full(entries.shape, -1, np.int32)
    lengths = np.zeros((*entries.shape, each), np.float32)
    K = shape.microbatches
    for number, of_list in enumerate(entries):
        listed = number % shape.shards * K + number // shape.shards
        members[listed] = of_list
        for slot, item in enumerate(of_list[of_list >= 0]):
            slots[item] = slot
            lengths[listed, slot] = [len(x) for x in said[item * each : (item + 1) * each]]
    of = packing.rows
    sequences = np.where(of >= 0, 1 + slots[of // each] * each + of % each, 0).astype(np.int32)
    return filled._replace(sequences=sequences, lengths=lengths), members


def _place_together(
    pieces: Sequence[Sequence[_Tree]], shape: Shape, each: int
) -> tuple[list[list[_Tree]], np.ndarray]:
    """(trees by row, items by list): the longest items first, each into the first list whose rows
    hold its pieces, each of these into the fullest row that does. Lists of a microbatch are
    neighbours. There is room for all: a list that holds fewer than rows // E items has E free rows,
    or one that holds any item (`shape_for`).
    """
    lists, together = shape.microbatches * shape.shards, shape.shards * shape.rows
    room = max(shape.rows, shape.rows * shape.width // LEAST)
    entries = np.full((lists, min(len(pieces), room)), -1, np.int32)
    count = np.zeros(lists, int)
    free = [[shape.width] * shape.rows for _ in range(lists)]
    bins: list[list[_Tree]] = [[] for _ in range(shape.microbatches * together)]

    def size(item: int) -> int:
        return sum(tree.length for tree in pieces[item])

    for item in sorted(filter(size, range(len(pieces))), key=size, reverse=True):
        lengths = [tree.length for tree in pieces[item]]
        fitting = (
            (number, rows)
            for number in range(lists)
            if count[number] < entries.shape[1] and (rows := _rows_for(lengths, free[number]))
        )
        number, rows = next(fitting, (-1, []))
        if number < 0:
            raise UserError(
                f"example {item} (counting from 0) has {max(lengths)} tokens, a row holds "
                f"{shape.width}"
            )
        entries[number, count[number]] = item
        count[number] += 1
        part, device = divmod(number, shape.shards)
        for tree, row in zip(pieces[item], rows, strict=True):
            free[number][row] -= tree.length
            bins[part * together + row * shape.shards + device].append(tree)
    return bins, entries


def _rows_for(lengths: Sequence[int], free: Sequence[int]) -> list[int]:
    """For each length the fullest row that holds it beside those before; []: there is none."""
    left, rows = list(free), []
    for length in lengths:
        row = min((r for r, f in enumerate(left) if f >= length), key=left.__getitem__, default=-1)
        if row < 0:
            return []
        left[row] -= length
        rows.append(row)
    return rows


def _fill(
    bins: Sequence[Sequence[_Tree]], said: Sequence[np.ndarray], shape: Shape
) -> tuple[Packed, Packing]:
    """The trees of rows 0, 1, ... laid out: row i is of microbatch i // (shards x rows).

    Args:
      said: the completions, by number.
    """
    width = shape.width
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
        for tree in held:
            segment += 1
            trunk, end = segment, start + len(tree.prompt)
            tokens[row, start:end], segments[row, start:end] = tree.prompt, trunk
            positions[row, start:end] = np.arange(len(tree.prompt))
            trunks[row, start:end] = trunk
            last = end - 1  # of the prompt: it predicts every first token
            for of in tree.completions:
                segment += shape.trees
                length = len(said[of])
                start, end = end, end + length
                tokens[row, start:end] = said[of]
                segments[row, start:end], trunks[row, start:end] = segment, trunk
                positions[row, start:end] = len(tree.prompt) + np.arange(length)
                at = slice(filled[listed], filled[listed] + length)
                before = np.concatenate([[last], np.arange(start, end - 1)])
                places[listed, at] = local * width + before
                targets[listed, at] = tokens[row, start:end]
                sequences[listed, at] = 1 + sequences[listed, at.start - 1] * (at.start > 0)
                rows[listed, at], columns[listed, at] = of, np.arange(length)
                filled[listed] += length
            start = end
    trees = trunks if shape.trees else None
    packed = Packed(tokens, positions, segments, trees, places, targets, sequences)
    return packed, Packing(rows, columns)
