"""Supervised fine-tuning, which is also the cold start."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    check_rows,
    init_state,
    make_step,
)
from caugym_jax.data.packing import width_for
from caugym_jax.models.transformer import Model
from caugym_jax.objectives.logprobs import Scores, score_hidden
from caugym_jax.objectives.sft import nll
from caugym_jax.optim import Optimizer
from caugym_jax.sharding import put, row_count, rows
from caugym_jax.types import Batch


class Targets(NamedTuple):
    """A batch and where its targets stand, so that logits are made for them alone."""

    batch: Batch
    places: Any  # [B, N] int32: the t of each token to learn, rows filled up with 1
    mask: Any  # [B, N] float32: 1 on real places


def find_targets(batch: Batch) -> Targets:
    """The places with a loss mask, packed to the front of each row (NumPy); weights must be 0 or 1.

    By hand: a loss mask (0, 0, 1, 1, 0, 1) gives places (2, 3, 5, 1, 1, ...).
    """
    wanted = np.asarray(batch.loss_mask) > 0
    wanted[:, 0] = False  # nothing predicts the first token
    counts = wanted.sum(axis=1)
    width = width_for(int(counts.max(initial=1)), wanted.shape[1])
    mask = np.arange(width)[None] < counts[:, None]
    places = np.ones(mask.shape, np.int32)
    places[mask] = np.nonzero(wanted)[1]
    return Targets(batch, places, mask.astype(np.float32))


def score_targets(model: Model, params: Any, t: Targets) -> Scores:
    """Teacher-forced scores of the targets, [B, N]; they carry a meaning where the mask is 1."""
    b = t.batch
    hidden, _ = model.hidden(params, b.tokens, b.positions, b.segment_ids)
    hidden = jnp.take_along_axis(hidden, t.places[..., None] - 1, axis=1)
    targets = jnp.take_along_axis(b.tokens, t.places, axis=1)
    return score_hidden(model, params, hidden, targets)


def sft(
    model: Model,
    optimizer: Optimizer,
    mesh,
    adapter: Adapter = WHOLE,
    *,
    microbatches: int | None = 1,
) -> Algorithm:
    """The mean negative log-likelihood of completion tokens, over the global batch.

    Args:
      microbatches: parts into which a batch is cut to save memory; None: one row to each device
        at a time. Changes no result.
    """

    def loss(params, t: Targets):
        scores = score_targets(model, params, t)
        weight = t.mask.sum()
        sums = {
            "entropy": ((scores.entropy * t.mask).sum(), weight),
            "mean_token_accuracy": ((scores.correct * t.mask).sum(), weight),
        }
        return nll(scores.logprobs, t.mask), sums

    step = make_step(
        loss, optimizer, mesh, adapter,
        microbatches=microbatches, remedy="data.batch_size or data.max_length",
    )  # fmt: skip

    def init(params: Any):
        return init_state(params, optimizer, mesh)

    def prepare(state, draw):
        batch: Batch = draw()
        check_rows(len(batch.tokens), microbatches, row_count(mesh), "data.batch_size")
        metrics = {"tokens": int(np.sum(batch.segment_ids > 0))}
        return put(find_targets(batch), rows(mesh)), metrics, []

    return Algorithm(init, prepare, step)
