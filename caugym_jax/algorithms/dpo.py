"""Direct preference optimisation: prefer the better of two completions, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.preference import lay_out, reference_scorer, score_sequences
from caugym_jax.algorithms.sft import Targets
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    check_rows,
    init_state,
    make_step,
    state_template,
)
from caugym_jax.devices.mesh import put, row_count, rows
from caugym_jax.devices.programs import Call, described
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.objectives import dpo as objective
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.types import Preference, TrainState

REMEDY = "data.batch_size or data.max_length"


class Pairs(NamedTuple):
    """What an update needs; the second axis is (chosen, rejected)."""

    targets: Targets  # leaves [B, 2, ...]
    ref_logps: Any  # [B, 2] float32, summed over tokens
    pairs_per_token: Any  # [B] float32, equal: pairs over chosen tokens of the global batch


def dpo(
    model: Model,
    optimizer: Optimizer,
    mesh,
    reference: Params | None,
    adapter: Adapter = WHOLE,
    *,
    max_length: int = 1024,
    pad_id: int = 0,
    beta: float = 0.1,
    loss_type: Sequence[str] = ("sigmoid",),
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    microbatches: int | None = 1,
) -> Algorithm:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290) and its relatives; names are TRL's.

        loss = -log sigmoid(beta (r_chosen - r_rejected)),    r = log p(y) / p_ref(y)

    averaged over pairs; log-probabilities are sums over a completion's tokens. The loader gives
    (Preference, reference log-probabilities [2] or None).

    At step 0 all rewards are 0 and the loss is ln 2. Margins rise from there, while the chosen
    completions may well become less probable too (`logps/chosen`): the loss sees differences only.
    Adding "sft" to the losses holds them up.

    Args:
      reference: the first model's weights, without adapters; needed unless items bring their
        reference log-probabilities.
      max_length: what rows are padded to at most.
      beta: how strongly the policy is held to the reference.
      loss_type: one or several of "sigmoid", "robust", "ipo", "hinge", "sigmoid_norm", "sft" (the
        token mean of the chosen completions' negative log-likelihood); see `objectives.dpo`.
      loss_weights: a factor for each; None: 1.
      label_smoothing: the share of wrong labels that "sigmoid" (then conservative DPO) and "robust"
        expect, below 0.5.
      microbatches: parts into which a batch is cut to save memory; None: one pair to each device at
        a time. Changes no result.
    """
    _check(beta, loss_type, loss_weights, label_smoothing)

    def loss(params: Params, e: Pairs):
        s = score_sequences(model, params, e.targets)
        total, pairs = objective.dpo(
            s.logps, e.ref_logps, s.lengths, loss_type, loss_weights=loss_weights, beta=beta,
            label_smoothing=label_smoothing, pairs_per_token=e.pairs_per_token,
        )  # fmt: skip
        counted = jnp.all(s.lengths > 0, axis=-1)
        rewards = beta * (s.logps - e.ref_logps)
        chosen, rejected = rewards.T

        def mean(x):
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

    step = make_step(loss, optimizer, mesh, adapter, microbatches=microbatches, remedy=REMEDY)
    rescore = None if reference is None else reference_scorer(
        model, reference, microbatches, REMEDY
    )  # fmt: skip

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[tuple[Preference, Any]]]):
        pairs, known = zip(*draw(), strict=True)
        check_rows(len(pairs), microbatches, row_count(mesh), "data.batch_size")
        laid_out = lay_out([(p.prompt, p.chosen, p.rejected) for p in pairs], max_length, pad_id)
        metrics = {"tokens": int(np.sum(laid_out.batch.segment_ids > 0))}
        share = len(pairs) / laid_out.mask[:, 0].sum()
        targets = put(laid_out, rows(mesh))
        ref_logps = rescore(targets) if known[0] is None else put(np.stack(known), rows(mesh))
        shares = put(np.full(len(pairs), share, np.float32), rows(mesh))
        return Pairs(targets, ref_logps, shares), metrics, []

    def calls(pairs: list[tuple[Preference, Any]]) -> tuple[Call, ...]:
        laid_out = lay_out([(p.prompt, p.chosen, p.rejected) for p, _ in pairs], max_length, pad_id)
        state, targets = state_template(optimizer, mesh), described(laid_out, rows(mesh))
        sums = np.zeros((len(pairs), 2), np.float32), np.zeros(len(pairs), np.float32)
        e = Pairs(targets, *described(sums, rows(mesh)))
        found = () if rescore is None else (Call("reference", rescore, (targets,), beside=state),)
        return (*found, Call("update", step, (state, e), beside=reference))

    return Algorithm(init, prepare, step, calls)


def _check(
    beta: float,
    loss_type: Sequence[str],
    loss_weights: Sequence[float] | None,
    label_smoothing: float,
) -> None:
    if beta <= 0:
        raise UserError(f"dpo.beta={beta}: a number above 0 is wanted")
    wrong = [name for name in loss_type if name not in objective.LOSS_TYPES]
    if wrong or not loss_type:
        raise UserError(
            f"dpo.loss_type={','.join(loss_type)}: use one or several of "
            f"{', '.join(objective.LOSS_TYPES)}"
        )
    if loss_weights is not None and len(loss_weights) != len(loss_type):
        raise UserError(
            f"dpo.loss_weights has {len(loss_weights)} numbers for {len(loss_type)} losses"
        )
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"dpo.label_smoothing={label_smoothing}: from 0 to below 0.5")
    if label_smoothing and not set(loss_type) & set(objective.SMOOTHED):
        raise UserError(
            f"dpo.label_smoothing={label_smoothing} has no effect on {','.join(loss_type)}: it "
            f"belongs to {' and '.join(objective.SMOOTHED)}"
        )
