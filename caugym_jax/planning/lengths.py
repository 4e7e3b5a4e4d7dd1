"""A step in which completions end before they must: how long it takes when lengths are stated.

The report of every program counts rows as full. Here lengths are drawn, waves run as
`sampling/waves.py` runs them, rows are packed as `algorithms/packed.py` packs them, and attention
skips what `models/kernels.py` skips; the seconds are those of the same roofline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from caugym_jax.algorithms.packed import best_fit
from caugym_jax.algorithms.step import packed_in
from caugym_jax.data.packing import width_for
from caugym_jax.devices.chips import Chip
from caugym_jax.devices.shapes import Call
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.kernels import LANES, near_tiles, tiles
from caugym_jax.models.work import Work, layer_parameters, used_parameters
from caugym_jax.planning.collectives import Collective
from caugym_jax.planning.roofline import Efficiency, Prediction, exchange
from caugym_jax.sampling.waves import sizes

SIGMA = 0.8  # of the logarithm of completions' lengths; half of the variance lies within a group


class Lengths(NamedTuple):
    """Medians in tokens; completions are lognormal (sigma SIGMA) and cut at their limit."""

    completion: float
    prompt: float

    def draw(self, prompts: int, group: int, limit: int) -> np.ndarray:
        """[prompts, group] int: lengths of completions, the same at every call."""
        rng, share = np.random.default_rng(0), math.sqrt(0.5)
        of_prompt, of_sample = rng.normal(size=(prompts, 1)), rng.normal(size=(prompts, group))
        drawn = self.completion * np.exp(SIGMA * share * (of_prompt + of_sample))
        return np.clip(np.rint(drawn), 1, limit).astype(int)


def parse(text: str) -> Lengths:
    """COMPLETION,PROMPT

    Raises:
      UserError: it is not two lengths.
    """
    try:
        completion, prompt = map(float, text.split(","))
    except ValueError:
        completion = prompt = 0.0
    if min(completion, prompt) < 1:
        raise UserError(
            f"--lengths={text}: give two medians in tokens, of completions and of prompts, "
            "as in --lengths=2500,400"
        )
    return Lengths(completion, prompt)


class Place(NamedTuple):
    """On what a call runs."""

    chip: Chip
    efficiency: Efficiency
    mesh: dict[str, int]
    coordinates: Sequence[tuple[int, ...]]  # of devices on the torus

    @property
    def shards(self) -> int:
        """Devices that take different rows."""
        return self.mesh["data"] * self.mesh["fsdp"]


def seconds(
    call: Call,
    full: Prediction,
    drawing: Sequence[Collective],
    place: Place,
    lengths: Lengths,
    group: int,
) -> float:
    """Seconds of a call with completions of the stated lengths.

    Args:
      full: of rows that are full.
      drawing: the collectives of the loop that draws tokens.
      group: samples of each prompt.
    """
    if call.work.drawn:
        return full.seconds - full.decode + sampled(call.work, lengths, drawing, place)
    share, seen = filled(call, lengths, group, place)
    peak = place.chip.flops * math.prod(place.mesh.values())
    attention = full.flops.attention / (peak * place.efficiency.attention)
    arithmetic = share * (full.arithmetic - attention) + seen * attention
    terms = arithmetic, share * full.memory, share * full.exchange
    return (max(terms) if place.efficiency.overlapped else sum(terms)) + full.optimiser


def sampled(work: Work, lengths: Lengths, drawing: Sequence[Collective], place: Place) -> float:
    """Seconds of one wave's tokens, without its prefill."""
    prompts = min(work.width, width_for(int(2 * lengths.prompt)))  # padded to the longest
    drawn = lengths.draw(work.rows, work.samples, work.drawn).reshape(place.shards, -1)
    drawn.sort(axis=1)
    ladder = sizes(drawn.size, place.shards, work.drawn)
    total, start = 0.0, 0
    for size, smaller in zip(ladder, [*ladder[1:], 0], strict=True):
        # It goes on until no shard has more than `smaller` rows left.
        end = int(drawn[:, drawn.shape[1] - smaller - 1].max())
        sent = size / drawn.shape[1]
        scaled = [one._replace(bytes=one.bytes * sent) for one in drawing]
        waiting = exchange(scaled, place.chip, place.efficiency, place.coordinates) / work.drawn
        while start < end:
            begun = min(work.drawn, (start // work.piece + 1) * work.piece)
            stop = min(end, begun)
            slots = begun + prompts / (work.samples if size == ladder[0] else 1)
            terms = *drawing_terms(work, size, slots, place), waiting
            one = max(terms) if place.efficiency.overlapped else sum(terms)
            total += (stop - start) * one
            start = stop
    return total


def drawing_terms(work: Work, rows: int, slots: float, place: Place) -> tuple[float, float]:
    """Seconds of (arithmetic, memory) to draw one token of each of so many rows a shard, whose
    cache has so many slots; the terms of `roofline.operations` and `roofline.memory_traffic`."""
    c, chip, efficiency = work.model, place.chip, place.efficiency
    tensor = place.mesh["tensor"]
    products = c.num_layers * used_parameters(c) + c.d_model * c.vocab_size
    mixing = 2 * c.num_heads * c.head_dim * c.num_layers * slots
    arithmetic = 2 * rows / tensor / chip.flops
    arithmetic *= products / efficiency.matmul + mixing / efficiency.attention
    weights = c.num_layers * layer_parameters(c) + c.vocab_size * c.d_model
    kept = max(1, c.num_kv_heads / tensor) * work.slot_bytes
    memory = work.itemsize * weights / tensor + rows * slots * kept
    return arithmetic, memory / (chip.bandwidth * efficiency.memory)


def filled(call: Call, lengths: Lengths, group: int, place: Place) -> tuple[float, float]:
    """(the share of a call's microbatches that hold something, the share of attention that is
    done); 1 where rows are not packed."""
    packed = packed_in(call.arguments)
    if packed is None:
        return 1.0, 1.0
    rows, width = packed.tokens.shape
    microbatches = len(packed.places) // place.shards
    # There is room for each completion in a row of its own.
    drawn = lengths.draw(rows // group, group, call.work.scored) + int(lengths.prompt)
    drawn = np.minimum(drawn, width).reshape(-1)
    bins = best_fit(drawn.tolist(), width)
    share = math.ceil(len(bins) * microbatches / rows) / microbatches
    if call.work.kernel != "splash" or rows > microbatches * place.shards:
        return share, share
    done, causal = tiles_done([drawn[row] for row in bins], width, call.work.model, place.shards)
    return share, done / (causal * microbatches)


def tiles_done(
    documents: Sequence[np.ndarray], width: int, c: ModelConfig, shards: int
) -> tuple[int, int]:
    """Tiles that splash does of packed rows, over all layers: (in all microbatches, which last as
    long as that of their rows which has most; in one whose rows hold a single document).

    Args:
      documents: the lengths of each row's, which a microbatch takes `shards` at a time.
    """
    places = -(-width // LANES) * LANES
    segments = np.zeros((len(documents), places), np.int32)
    for row, lengths in zip(segments, documents, strict=True):
        row[: lengths.sum()] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    tile_q, tile_kv = tiles(places, places)
    near = near_tiles(segments, segments, tile_q, tile_kv)
    queries, keys = np.arange(0, places, tile_q)[:, None], np.arange(0, places, tile_kv)
    done = whole = 0
    for kind in c.kinds:
        back = places if kind.window is None else kind.window
        causal = (keys < queries + tile_q) & (queries - keys - tile_kv + 1 < back)
        each = (near & causal).sum(axis=(1, 2))
        done += sum(each[i : i + shards].max() for i in range(0, len(each), shards))
        whole += causal.sum()
    return int(done), int(whole)
