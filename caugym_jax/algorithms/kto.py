"""Kahneman-Tversky optimisation: learn from completions that are judged good or bad, unpaired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.preference import lay_out, reference_scorer, score_sequences
from caugym_jax.algorithms.sft import Targets
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    check_rows,
    in_parts,
    init_state,
    make_step,
    state_template,
)
from caugym_jax.devices.mesh import put, row_count, rows
from caugym_jax.devices.programs import Call, Program, described
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.objectives import kto as objective
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.types import Judged, TrainState

REMEDY = "data.batch_size or data.max_length"


class Completions(NamedTuple):
    """What an update needs."""

    targets: Targets  # leaves [B, ...]
    ref_logps: Any  # [B] float32, summed over tokens
    labels: Any  # [B] bool: desirable
    baseline: Any  # [B] float32, equal: the reference point z0 of the global batch


def kto(
    model: Model,
    optimizer: Optimizer,
    mesh,
    reference: Params | None,
    adapter: Adapter = WHOLE,
    *,
    max_length: int = 1024,
    pad_id: int = 0,
    beta: float = 0.1,
    loss_type: str = "kto",
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    microbatches: int | None = 1,
) -> Algorithm:
    """KTO (Ethayarajh et al. 2024, arXiv 2402.01306); names are TRL's.

        loss = mean of  desirable_weight   (1 - sigmoid(beta (r - z0)))  over desirable
               and      undesirable_weight (1 - sigmoid(beta (z0 - r)))  over undesirable ones

    with r = log p(y) / p_ref(y), summed over tokens, and z0 = max(0, mean of log p(y') / p_ref(y'))
    over completions y' of other prompts: an estimate of the KL, without gradient. z0 is taken with
    the present policy over the whole batch, so it does not depend on how the batch is cut. The
    loader gives (Judged, reference log-probabilities of (own, other) or None).

    Args:
      reference: the first model's weights, without adapters; needed unless items bring their
        reference log-probabilities.
      max_length: what rows are padded to at most.
      beta: how strongly the policy is held to the reference.
      loss_type: "kto", or "apo_zero_unpaired" (D'Oosterlinck et al. 2024), which has z0 = 0.
      desirable_weight, undesirable_weight: the paper advises weights such that the ratio of
        (number x weight) of desirable to undesirable ones is between 1 and 4/3.
      microbatches: parts into which a batch is cut to save memory; None: one row to each device at
        a time. Changes no result.
    """
    if beta <= 0:
        raise UserError(f"kto.beta={beta}: a number above 0 is wanted")
    if loss_type not in objective.LOSS_TYPES:
        raise UserError(f"kto.loss_type={loss_type!r}: use {' or '.join(objective.LOSS_TYPES)}")
    if min(desirable_weight, undesirable_weight) < 0 or desirable_weight + undesirable_weight <= 0:
        raise UserError("kto.desirable_weight and kto.undesirable_weight: not below 0, nor both 0")

    def loss(params: Params, e: Completions):
        s = score_sequences(model, params, e.targets)
        ratios = s.logps - e.ref_logps
        total, weight = objective.kto(
            ratios, e.labels, s.lengths, e.baseline, beta=beta,
            desirable_weight=desirable_weight, undesirable_weight=undesirable_weight,
        )  # fmt: skip
        sums = {
            "kl": (e.baseline.sum(), jnp.float32(len(e.baseline))),
            "entropy": (s.entropy.sum(), s.lengths.sum()),
        }
        for name, of_class in (("chosen", e.labels), ("rejected", ~e.labels)):
            of_class = of_class & (s.lengths > 0)
            count = of_class.sum().astype(jnp.float32)
            sums[f"rewards/{name}"] = (jnp.sum(beta * ratios * of_class), count)
            sums[f"logps/{name}"] = (jnp.sum(s.logps * of_class), count)
            sums[f"count/{name}"] = (count, jnp.float32(len(e.labels)))
        return (total, weight), sums

    step = make_step(loss, optimizer, mesh, adapter, microbatches=microbatches, remedy=REMEDY)
    rescore = None if reference is None else reference_scorer(
        model, reference, microbatches, REMEDY
    )  # fmt: skip

    def compare(params, targets: Targets, ref_logps, labels, frozen) -> Completions:
        """Takes z0 and leaves the mismatched completions behind."""
        own, other = (jax.tree.map(lambda x, i=i: x[:, i], targets) for i in (0, 1))
        if loss_type == "kto":
            weights = adapter.apply(params, frozen)
            s = in_parts(lambda part: score_sequences(model, weights, part), other, 1, microbatches)
            z0 = objective.reference_point(s.logps - ref_logps[:, 1], s.lengths)
        else:
            z0 = jnp.float32(0)
        return Completions(own, ref_logps[:, 0], labels, jnp.broadcast_to(z0, labels.shape))

    compare = Program(
        "reference point",
        compare,
        f"{REMEDY}, or raise microbatches",
        last=(adapter.frozen,),
        out_shardings=rows(mesh),
    )

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[tuple[Judged, Any]]]):
        items, known = zip(*draw(), strict=True)
        check_rows(len(items), microbatches, row_count(mesh), "data.batch_size")
        laid_out = lay_out([(x.prompt, x.completion, x.other) for x in items], max_length, pad_id)
        tokens = np.sum(laid_out.batch.segment_ids > 0, axis=(0, 2))
        metrics = {"tokens": int(tokens.sum()), "tokens_updated": int(tokens[0])}
        targets = put(laid_out, rows(mesh))
        ref_logps = rescore(targets) if known[0] is None else put(np.stack(known), rows(mesh))
        labels = put(np.array([x.label for x in items]), rows(mesh))
        return compare(state.params, targets, ref_logps, labels), metrics, []

    def update(state: TrainState, batch: Completions):
        state, metrics = step(state, batch)
        for name in ("chosen", "rejected"):  # of a class that the batch lacks there is no mean
            some = metrics.pop(f"count/{name}") > 0
            for key in (f"rewards/{name}", f"logps/{name}"):
                metrics[key] = jnp.where(some, metrics[key], jnp.nan)
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        return state, metrics

    def calls(items: list[tuple[Judged, Any]]) -> tuple[Call, ...]:
        count = len(items)
        laid_out = lay_out(
            [(x.prompt, x.completion, x.other) for x, _ in items], max_length, pad_id
        )
        state, targets = state_template(optimizer, mesh), described(laid_out, rows(mesh))
        numbers = (
            np.zeros((count, 2), np.float32),
            np.zeros(count, bool),
            np.zeros(count, np.float32),
        )
        both, labels, each = described(numbers, rows(mesh))
        own = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype), targets
        )
        found = [] if rescore is None else [Call("reference", rescore, (targets,), beside=state)]
        moments = state.opt_state, reference
        found.append(
            Call("reference point", compare, (state.params, targets, both, labels), beside=moments)
        )
        e = Completions(described(own, rows(mesh)), each, labels, each)
        return (*found, Call("update", step, (state, e), beside=reference))

    return Algorithm(init, prepare, update, calls)
