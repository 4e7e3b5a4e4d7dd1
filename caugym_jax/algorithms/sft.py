"""Supervised fine-tuning, which is also the cold start."""

from __future__ import annotations

from typing import Any

import numpy as np

from caugym_jax.algorithms.step import Algorithm, check_rows, init_state, make_step
from caugym_jax.models.transformer import Model
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.sft import nll
from caugym_jax.optim import Optimizer
from caugym_jax.sharding import put, row_count, rows
from caugym_jax.types import Batch


def sft(model: Model, optimizer: Optimizer, mesh, *, microbatches: int = 1) -> Algorithm:
    """The mean negative log-likelihood of completion tokens, over the global batch.

    Args:
      microbatches: parts into which a batch is cut to save memory; changes no result.
    """

    def loss(params, batch: Batch):
        scores = score(model, params, batch.tokens, batch.positions, batch.segment_ids)
        mask = batch.loss_mask[:, 1:]
        weight = mask.sum()
        sums = {
            "entropy": ((scores.entropy * mask).sum(), weight),
            "mean_token_accuracy": ((scores.correct * mask).sum(), weight),
        }
        return nll(scores.logprobs, mask), sums

    step = make_step(
        loss, optimizer, model.config, mesh,
        microbatches=microbatches, remedy="data.batch_size or data.max_length",
    )  # fmt: skip

    def init(params: Any):
        return init_state(params, optimizer, model.config, mesh)

    def prepare(state, draw):
        batch: Batch = draw()
        check_rows(len(batch.tokens), microbatches, row_count(mesh), "data.batch_size")
        metrics = {"num_tokens": int(np.sum(batch.segment_ids > 0))}
        return put(batch, rows(mesh)), metrics, []

    return Algorithm(init, prepare, step)
