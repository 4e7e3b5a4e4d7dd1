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
from caugym_jax.planning.stretches import stretches
from caugym_jax.sampling.parking import Room

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
    work = call.work
    if work.drawn or call.name == "prefill":
        prefill = (full.seconds - full.decode) * padded(work, lengths) / work.width
        return prefill + (sampled(work, lengths, drawing, place) if work.drawn else 0.0)
    share, seen = filled(call, lengths, group, place)
    peak = place.chip.flops * math.prod(place.mesh.values())
    attention = full.flops.attention / (peak * place.efficiency.attention)
    arithmetic = share * (full.arithmetic - attention) + seen * attention
    terms = arithmetic, share * full.memory, share * full.exchange
    return (max(terms) if place.efficiency.overlapped else sum(terms)) + full.optimiser


def sampled(work: Work, lengths: Lengths, drawing: Sequence[Collective], place: Place) -> float:
    """Seconds of one wave's tokens, without its prefill."""
    drawn = lengths.draw(work.rows, work.samples, work.drawn)
    return decoding(work, padded(work, lengths), drawn, drawing, place).seconds


def padded(work: Work, lengths: Lengths) -> int:
    """The width of prompts, which the longest of them decides: taken as twice the median."""
    return min(work.width, width_for(int(2 * lengths.prompt)))


def all_full(
    call: Call, prediction: Prediction, drawing: Sequence[Collective], place: Place
) -> Prediction:
    """The prediction of a wave of which rows wait for others, with completions that are all as long
    as they may be; no formula of `roofline` counts it."""
    work = call.work
    drawn = np.full((work.rows, work.samples), work.drawn)
    spent = decoding(work, work.width, drawn, drawing, place)
    slower = spent.seconds / prediction.seconds
    return prediction._replace(
        seconds=spent.seconds,
        arithmetic=spent.arithmetic,
        memory=spent.memory,
        exchange=spent.exchange,
        decode=spent.seconds,
        mfu=prediction.mfu / slower,
        tokens_per_second=prediction.tokens_per_second / slower,
    )


class Spent(NamedTuple):
    """Seconds of a wave's tokens, and what they would be by each of their terms alone."""

    seconds: float
    arithmetic: float
    memory: float
    exchange: float


def decoding(
    work: Work, prompts: int, drawn: np.ndarray, drawing: Sequence[Collective], place: Place
) -> Spent:
    """What a wave's tokens take.

    Args:
      prompts: their width.
      drawn: [prompts, samples]: lengths of completions.
    """
    shape, total = (work.rows, prompts), math.inf if work.room is None else work.room
    room = Room.of(total, shape, work.samples, place.shards, work.drawn, work.piece)
    found, rows = np.zeros(4), room.ladder[0]
    for one in stretches(room, drawn.reshape(place.shards, -1)):
        scaled = [c._replace(bytes=c.bytes * one.rows / rows) for c in drawing]
        waiting = exchange(scaled, place.chip, place.efficiency, place.coordinates) / work.drawn
        slots = one.slots + (prompts if one.own else room.shared / rows)
        terms = np.array([*drawing_terms(work, one.rows, slots, place), waiting])
        longest = terms.max() if place.efficiency.overlapped else terms.sum()
        found += (one.stop - one.start) * np.array([longest, *terms])
    return Spent(*found.tolist())


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
