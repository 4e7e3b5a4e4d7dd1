"""Direct preference optimisation: prefer the better of two completions, without sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.preference import (
    placing,
    reference_scorer,
    score_sequences,
    sequence_work,
)
from caugym_jax.algorithms.sft import REMEDY, Targets
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
from caugym_jax.devices.mesh import row_count
from caugym_jax.errors import UserError, require
from caugym_jax.models.transformer import Params
from caugym_jax.objectives import dpo as objective
from caugym_jax.types import Packed, Preference, TrainState


class Pairs(NamedTuple):
    """What an update needs; the axis of 2 is (chosen, rejected). Packed, what is [B] here is [R, M]
    of lists, with entries that are no pair."""

    targets: Targets | Packed  # padded: leaves [B, 2, ...]
    ref_logps: Any  # [B, 2] float32, summed over tokens
    pairs_per_token: Any  # [B] float32, equal: pairs over chosen tokens of the global batch


@dataclasses.dataclass(frozen=True)
class Dpo:
    """Settings of DPO and its relatives; names are TRL's.

    Attributes:
      beta: how strongly the policy is held to the reference.
      loss_type: one or several of "sigmoid", "robust", "ipo", "hinge", "sigmoid_norm", "sft" (the
        token mean of the chosen completions' negative log-likelihood); see `objectives.dpo`.
      loss_weights: a factor for each; None: 1.
      label_smoothing: the share of wrong labels that "sigmoid" (then conservative DPO) and "robust"
        expect, below 0.5.
      microbatches: parts into which a batch is cut to save memory; None: one pair to each device at
        a time. Changes no result.
      packed: put several pairs into a row, a prompt once for both of its completions; False: a row
        for each completion. None: packed, unless the attention kernel is cudnn, which takes one
        document a row. Changes no result.
    """

    beta: float = 0.1
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    microbatches: int | None = 1
    packed: bool | None = None

    def __post_init__(self) -> None:
        require(self, "beta", above=0)
        require(self, "microbatches", at_least=1)
        require(self, "loss_weights")
        require(self, "label_smoothing", at_least=0, below=0.5)
        named = ",".join(self.loss_type)
        if not self.loss_type or set(self.loss_type) - set(objective.LOSS_TYPES):
            known = ", ".join(objective.LOSS_TYPES)
            raise UserError(f"loss_type={named}: must be one or several of {known}")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise UserError(
                f"loss_weights has {len(self.loss_weights)} numbers for {len(self.loss_type)} "
                "losses: give one for each"
            )
        if self.label_smoothing and not set(self.loss_type) & set(objective.SMOOTHED):
            raise UserError(
                f"label_smoothing={self.label_smoothing} has no effect on {named}: it belongs to "
                f"{' and '.join(objective.SMOOTHED)}"
            )


def dpo(
    learner: Learner, settings: Dpo = Dpo(), *, max_length: int = 1024, pad_id: int = 0
) -> Algorithm:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290) and its relatives.

        loss = -log sigmoid(beta (r_chosen - r_rejected)),    r = log p(y) / p_ref(y)

    averaged over pairs; log-probabilities are sums over a completion's tokens. The loader gives
    (Preference, reference log-probabilities [2] or None); the learner's reference is needed unless
    items bring theirs.

    At step 0 all rewards are 0 and the loss is ln 2. Margins rise from there, while the chosen
    completions may well become less probable too (`logps/chosen`): the loss sees differences only.
    Adding "sft" to the losses holds them up.

    Args:
      max_length: of a prompt with a completion, in tokens.
    """
    model, optimizer, mesh, adapter, reference = learner
    microbatches = settings.microbatches

    def loss(params: Params, e: Pairs) -> Losses:
        scored = score_sequences(model, params, e.targets)
        s = jax.tree.map(lambda x: x.reshape(-1, 2), scored)
        ref_logps = e.ref_logps.reshape(-1, 2)
        total, pairs = objective.dpo(
            s.logps,
            ref_logps,
            s.lengths,
            settings.loss_type,
            loss_weights=settings.loss_weights,
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            pairs_per_token=e.pairs_per_token.reshape(-1),
        )
        counted = jnp.all(s.lengths > 0, axis=-1)
        rewards = settings.beta * (s.logps - ref_logps)
        chosen, rejected = rewards.T

        def mean(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(x * counted), pairs

        sums = {
            "rewards/chosen": mean(chosen),
            "rewards/rejected": mean(rejected),
            "rewards/accuracies": mean(chosen > rejected),
            "rewards/margins": mean(chosen - rejected),
            "logps/chosen": mean(s.logps[:, 0]),
            "logps/rejected": mean(s.logps[:, 1]),
            "entropy": (s.entropy.sum(), s.lengths.sum()),
            "mean_token_accuracy": (s.correct[:, 0].sum(), s.lengths[:, 0].sum()),
        }
        return (total, pairs), sums

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
    place = placing(learner, settings, max_length, pad_id)

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[tuple[Preference, Any]]]) -> Prepared:
        pairs, known = zip(*draw(), strict=True)
        check_rows(len(pairs), microbatches, row_count(mesh), "data.batch_size")
        placed = place([(p.prompt, (p.chosen, p.rejected)) for p in pairs])
        counted = placed.lengths[np.all(placed.lengths > 0, axis=1)]
        share = len(counted) / max(1, counted[:, 0].sum())
        if known[0] is None:
            assert score is not None  # items without a reference need the learner's
            ref_logps = score(placed.targets)
        else:
            ref_logps = placed.put(np.stack(known))
        shares = placed.put(np.full(len(pairs), share, np.float32))
        return Pairs(placed.targets, ref_logps, shares), {"tokens": placed.tokens}, []

    return Algorithm(init, prepare, step, measuring(loss, microbatches, REMEDY))
