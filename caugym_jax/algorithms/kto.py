"""Kahneman-Tversky optimisation: learn from completions that are judged good or bad, unpaired."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.preference import (
    longest,
    placing,
    reference_scorer,
    score_sequences,
    sequence_work,
)
from caugym_jax.algorithms.sft import REMEDY, Targets
from caugym_jax.algorithms.step import (
    Algorithm,
    Learner,
    Loss,
    Losses,
    Prepared,
    Updated,
    check_rows,
    in_parts,
    init_state,
    make_step,
    measuring,
    microbatch_count,
)
from caugym_jax.devices.mesh import row_count, rows
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import computed
from caugym_jax.errors import UserError, require
from caugym_jax.models.transformer import Model, Params
from caugym_jax.models.work import Work
from caugym_jax.objectives import kto as objective
from caugym_jax.types import Judged, Packed, TrainState


class Completions(NamedTuple):
    """What an update needs. Packed, what is [B] here is [R, M] of lists, with entries that are no
    completion."""

    targets: Targets | Packed  # padded: leaves [B, 1, ...]
    ref_logps: Any  # [B, 1] float32, summed over tokens
    labels: Any  # [B] bool: desirable
    baseline: Any  # [B] float32, equal: the reference point z0 of the global batch


@dataclasses.dataclass(frozen=True)
class Kto:
    """Settings of KTO; names are TRL's.

    Attributes:
      beta: how strongly the policy is held to the reference.
      loss_type: "kto", or "apo_zero_unpaired" (D'Oosterlinck et al. 2024), which has z0 = 0.
      desirable_weight: of desirable completions in the loss. The paper advises weights such that
        the ratio of (number x weight) of desirable to undesirable ones is between 1 and 4/3.
      undesirable_weight: of undesirable completions.
      microbatches: parts into which a batch is cut to save memory; None: one row to each device at
        a time. Changes no result.
      packed: put several prompts with their completions into a row; False: one. None: packed,
        unless the attention kernel is cudnn, which takes one document a row. Changes no result.
    """

    beta: float = 0.1
    loss_type: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    microbatches: int | None = 1
    packed: bool | None = None

    def __post_init__(self) -> None:
        require(self, "beta", above=0)
        require(self, "loss_type", among=objective.LOSS_TYPES)
        require(self, "desirable_weight", "undesirable_weight", at_least=0)
        require(self, "microbatches", at_least=1)
        if not self.desirable_weight + self.undesirable_weight:
            raise UserError("desirable_weight=undesirable_weight=0: one must be above 0")


def kto(
    learner: Learner, settings: Kto = Kto(), *, max_length: int = 1024, pad_id: int = 0
) -> Algorithm:
    """KTO (Ethayarajh et al. 2024, arXiv 2402.01306).

        loss = mean of  desirable_weight   (1 - sigmoid(beta (r - z0)))  over desirable
               and      undesirable_weight (1 - sigmoid(beta (z0 - r)))  over undesirable ones

    with r = log p(y) / p_ref(y), summed over tokens, and z0 = max(0, mean of log p(y') / p_ref(y'))
    over completions y' of other prompts: an estimate of the KL, without gradient. z0 is taken with
    the present policy over the whole batch, so it does not depend on how the batch is cut. The
    loader gives (Judged, reference log-probabilities of (own, other) or None); the learner's
    reference is needed unless items bring theirs.

    Args:
      max_length: of a prompt with a completion, in tokens.
    """
    model, optimizer, mesh, adapter, reference = learner
    microbatches, loss = settings.microbatches, _loss(model, settings)
    step = make_step(
        loss,
        optimizer,
        mesh,
        adapter,
        microbatches=microbatches,
        remedy=REMEDY,
        work=lambda e: sequence_work(model, e.targets, max_length),
    )
    score = None if reference is None else reference_scorer(learner, microbatches, max_length)
    compare = _reference_point(learner, settings, max_length)
    place = placing(learner, settings, max_length, pad_id)

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[tuple[Judged, Any]]]) -> Prepared:
        items, known = zip(*draw(), strict=True)
        check_rows(len(items), microbatches, row_count(mesh), "data.batch_size")
        both = [[(x.prompt, (getattr(x, key),)) for x in items] for key in ("completion", "other")]
        own, other = (place(batch, max(map(longest, both))) for batch in both)
        metrics = {"tokens": own.tokens + other.tokens, "tokens_updated": own.tokens}
        if known[0] is None:
            assert score is not None  # items without a reference need the learner's
            ref_logps, of_other = score(own.targets), score(other.targets)
        else:
            ref_logps, of_other = own.put(np.stack(known)[:, :1]), other.put(np.stack(known)[:, 1:])
        labels = own.put(np.array([x.label for x in items]))
        z0 = compare(state.params, other.targets, of_other)
        return Completions(own.targets, ref_logps, labels, z0), metrics, []

    def update(state: TrainState, batch: Completions) -> Updated:
        state, metrics = step(state, batch)
        return state, computed(_means_by_class, metrics)

    return Algorithm(init, prepare, update, measuring(loss, microbatches, REMEDY))


def _loss(model: Model, settings: Kto) -> Loss:
    beta = settings.beta

    def loss(params: Params, e: Completions) -> Losses:
        scored = score_sequences(model, params, e.targets)
        s, ref_logps, labels, baseline = jax.tree.map(
            jnp.ravel, (scored, e.ref_logps, e.labels, e.baseline)
        )
        ratios = s.logps - ref_logps
        total, weight = objective.kto(
            ratios,
            labels,
            s.lengths,
            baseline,
            beta=beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
        )
        sums = {
            "kl": (baseline.sum(), jnp.float32(len(baseline))),
            "entropy": (s.entropy.sum(), s.lengths.sum()),
        }
        for name, of_class in (("chosen", labels), ("rejected", ~labels)):
            of_class = of_class & (s.lengths > 0)
            count = of_class.sum().astype(jnp.float32)
            sums[f"rewards/{name}"] = (jnp.sum(beta * ratios * of_class), count)
            sums[f"logps/{name}"] = (jnp.sum(s.logps * of_class), count)
            sums[f"count/{name}"] = (count, weight)
        return (total, weight), sums

    return loss


def _reference_point(learner: Learner, settings: Kto, max_length: int) -> Program:
    """The program (trained, mismatched completions, their reference) -> z0 at each entry."""
    model, adapter, microbatches = learner.model, learner.adapter, settings.microbatches

    def compare(
        params: Any, targets: Targets | Packed, ref_logps: jax.Array, frozen: Any
    ) -> jax.Array:
        z0 = jnp.float32(0)
        if settings.loss_type == "kto":
            weights = adapter.apply(params, frozen)
            s = in_parts(
                lambda part: score_sequences(model, weights, part), targets, 1, microbatches
            )
            z0 = objective.reference_point((s.logps - ref_logps).ravel(), s.lengths.ravel())
        return jnp.broadcast_to(z0, ref_logps.shape[:-1])

    def work(_: Any, targets: Targets | Packed, *rest: Any) -> Work:
        parts = microbatch_count(targets, microbatches)
        return sequence_work(model, targets, max_length)._replace(parts=parts)

    return Program(
        "reference point",
        compare,
        f"{REMEDY}, or raise microbatches",
        last=(adapter.frozen,),
        places=rows(learner.mesh),
        work=work,
    )


def _means_by_class(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """An update's metrics; NaN for the mean of a class that the batch lacks."""
    metrics = dict(metrics)
    for name in ("chosen", "rejected"):
        some = metrics.pop(f"count/{name}") > 0
        for key in (f"rewards/{name}", f"logps/{name}"):
            metrics[key] = jnp.where(some, metrics[key], jnp.nan)
    return metrics | {"rewards/margins": metrics["rewards/chosen"] - metrics["rewards/rejected"]}
