"""Supervised fine-tuning, which is also the cold start."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.step import (
    Algorithm,
    Learner,
    Losses,
    Prepared,
    check_rows,
    init_state,
    make_step,
    measuring,
)
from caugym_jax.data.packing import width_for
from caugym_jax.devices.mesh import fetch, put, row_count, rows
from caugym_jax.devices.shapes import computed
from caugym_jax.errors import require
from caugym_jax.models.transformer import Model
from caugym_jax.models.work import Work, forward
from caugym_jax.objectives.logprobs import Scores, score_hidden
from caugym_jax.objectives.sft import nll
from caugym_jax.types import Batch, TrainState

REMEDY = "data.batch_size or data.max_length"


class Targets(NamedTuple):
    """A batch and where its targets stand, so that logits are made for them alone.

    The targets of B // R rows are one list: of the rows that a device takes in a microbatch
    together, or (R = B) of each row.
    """

    batch: Batch
    places: Any  # [R, N] int32: of each token to learn, in its list's rows one after the other
    mask: Any  # [R, N] float32: their weights in the loss, 0 where lists were filled up
    noise: Any = None  # NEFTune: (keys [B] of the rows, size [B, T] float32 at each token)


def find_targets(batch: Batch, shards: int | None = None, microbatches: int = 1) -> Targets:
    """The places with a loss mask, and their weights, packed to the front of each list (NumPy).

    By hand: a loss mask (0, 0, 1, 1, 0, 2) gives places (2, 3, 5, 1, 1, ...) and weights
    (1, 1, 2, 0, 0, ...). A second row (0, 1, 0, 0, 0, 0) of the same list adds place 6 + 1 = 7.

    Args:
      shards, microbatches: a list holds the rows that one of so many devices takes at a time
        (`step.split_rows`), and has room for all their places: its width is the same for every
        batch of this shape. None: each row has a list, of a width that fits the batch.
    """
    wanted = np.asarray(batch.loss_mask) > 0
    wanted[:, 0] = False  # nothing predicts the first token
    weights = np.asarray(batch.loss_mask)
    if shards is None:
        width = width_for(int(wanted.sum(axis=1).max(initial=1)), wanted.shape[1])
    else:
        wanted, weights = (_joined(x, shards, microbatches) for x in (wanted, weights))
        width = wanted.shape[1]
    counts = wanted.sum(axis=1)
    real = np.arange(width)[None] < counts[:, None]
    places, mask = np.ones(real.shape, np.int32), np.zeros(real.shape, np.float32)
    places[real] = np.nonzero(wanted)[1]
    mask[real] = weights[wanted]
    return Targets(batch, places, mask)


def _joined(x: np.ndarray, shards: int, microbatches: int) -> np.ndarray:
    """[B, T] -> [shards x microbatches, B T / (shards x microbatches)]: the rows of each device
    and microbatch one after the other, in the order that `split_rows` expects."""
    parted = x.reshape(shards, -1, microbatches, x.shape[1]).swapaxes(1, 2)
    return parted.reshape(shards * microbatches, -1)


def noise_for(
    batch: Batch, alpha: float, width: int, seed: int, step: int
) -> tuple[jax.Array, np.ndarray]:
    """What NEFTune's noise of a step is drawn with (Jain et al. 2023): (row keys, sizes).

    Uniform in +-alpha / sqrt(n D) on each of the D numbers of a token's embedding, n being the
    length of the token's document; none on padding. Row i's key is
    fold_in(fold_in(key(seed), step), i), so that no split of the batch changes it.

    By hand: alpha 5, D 16, a document of 4 tokens: +-5 / 8.
    """
    segments = np.asarray(batch.segment_ids)
    size = np.zeros(segments.shape, np.float32)
    for segment in range(1, int(segments.max(initial=0)) + 1):
        inside = segments == segment
        length = np.maximum(inside.sum(axis=1, keepdims=True), 1)
        size += inside * alpha / np.sqrt(length * width, dtype=np.float32)
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(segments))), size


def _noise(t: Targets, width: int) -> jax.Array | None:
    """The noise [B, T, D] that `noise_for` described."""
    if t.noise is None:
        return None
    keys, size = t.noise
    shape = size.shape[1], width
    draw = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
    noise: jax.Array = draw(keys) * size[..., None]
    return noise


def score_targets(model: Model, params: Any, t: Targets) -> Scores:
    """Teacher-forced scores of the targets, [R, N]; they carry a meaning where the mask is 1."""
    b, lists = t.batch, len(t.places)
    noise = _noise(t, model.config.d_model)
    hidden, _ = model.hidden(params, b.tokens, b.positions, b.segment_ids, added=noise)
    hidden = hidden.reshape(lists, -1, hidden.shape[-1])
    hidden = jnp.take_along_axis(hidden, t.places[..., None] - 1, axis=1)
    targets = jnp.take_along_axis(b.tokens.reshape(lists, -1), t.places, axis=1)
    return score_hidden(model, params, hidden, targets, wanted=t.mask)


@dataclasses.dataclass(frozen=True)
class Sft:
    """Settings of supervised fine-tuning.

    Attributes:
      neftune_noise_alpha: noise on embeddings in training, see `noise_for` (5 is usual); 0: off.
      microbatches: parts into which a batch is cut to save memory; None: one row to each device
        at a time. Changes no result.
    """

    neftune_noise_alpha: float = 0.0
    microbatches: int | None = 1

    def __post_init__(self) -> None:
        require(self, "neftune_noise_alpha", at_least=0)
        require(self, "microbatches", at_least=1)


def target_work(model: Model, targets: Targets) -> Work:
    """Of `score_targets`; the leading axes of the targets' leaves are free."""
    tokens = targets.batch.tokens
    return forward(model, tokens.shape, targets.mask.size // (tokens.size // tokens.shape[-1]))


def sft(learner: Learner, settings: Sft = Sft(), *, seed: int = 0) -> Algorithm:
    """The mean negative log-likelihood of completion tokens, over the global batch."""
    model, optimizer, mesh, adapter, _ = learner
    alpha, microbatches = settings.neftune_noise_alpha, settings.microbatches

    def loss(params: Any, t: Targets) -> Losses:
        scores = score_targets(model, params, t)
        weight = t.mask.sum()
        sums = {
            "entropy": ((scores.entropy * t.mask).sum(), weight),
            "mean_token_accuracy": ((scores.correct * t.mask).sum(), weight),
        }
        return nll(scores.logprobs, t.mask), sums

    step = make_step(
        loss,
        optimizer,
        mesh,
        adapter,
        microbatches=microbatches,
        remedy=REMEDY,
        work=functools.partial(target_work, model),
    )
    spread = jax.jit(lambda keys: keys, out_shardings=rows(mesh))

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], Batch]) -> Prepared:
        started = time.perf_counter()
        batch = draw()
        waited = time.perf_counter() - started
        check_rows(len(batch.tokens), microbatches, row_count(mesh), "data.batch_size")
        metrics = {"tokens": int(np.sum(batch.segment_ids > 0)), "time/data": waited}
        shards = row_count(mesh)
        cut = microbatches or len(batch.tokens) // shards
        targets = put(find_targets(batch, shards, cut), rows(mesh))
        if alpha:
            drawn = functools.partial(noise_for, batch, alpha, model.config.d_model, seed)
            keys, size = computed(drawn, int(fetch(state.step)))
            noise = computed(spread, keys, places=rows(mesh)), put(size, rows(mesh))
            targets = targets._replace(noise=noise)
        return targets, metrics, []

    def without_noise(params: Any, t: Targets) -> Losses:
        return loss(params, t._replace(noise=None))

    return Algorithm(init, prepare, step, measuring(without_noise, microbatches, REMEDY))
