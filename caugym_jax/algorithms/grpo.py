"""Group Relative Policy Optimization with the paper's settings, and its relatives by options."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from caugym_jax.algorithms.judging import Part, Prompt, overlong_reward
from caugym_jax.algorithms.rollouts import Rollouts, RolloutSettings
from caugym_jax.algorithms.step import (
    Algorithm,
    Learner,
    Losses,
    Prepared,
    Updated,
    init_state,
    make_step,
    mean_report,
    minibatches,
)
from caugym_jax.errors import UserError, require
from caugym_jax.objectives.advantages import group_advantages
from caugym_jax.objectives.policy import PolicyLoss, policy_loss
from caugym_jax.types import Experience, TrainState


@dataclasses.dataclass(frozen=True)
class Grpo(PolicyLoss, RolloutSettings):
    """Settings of GRPO. Defaults are the paper's where it states them: beta 0, clip 0.2/0.28,
    groups whose rewards all agree resampled.

    Attributes:
      overlong_buffer: the last so many tokens before max_completion_length cost reward
        (`rollouts.overlong_reward`); 0: off.
      overlong_penalty: the reward that they cost together.
      baseline: what is subtracted from a reward: the mean of its "group", of the group's others
        ("leave_one_out"), or "none". configs/grpo.py lists what GRPO's relatives set.
      scale_rewards: what the difference is divided by: the standard deviation of the "group", of
        the "batch", or "none".
      normalize_advantages: in the end, centre and scale the advantages over the whole batch.
      dynamic_sampling: drop groups without a signal and draw more prompts, at most `max_refills`
        times, until the step is full; surplus groups are dropped. If it stays short, the step is
        taken on the groups there are; with none it is skipped and counted.
      max_refills: how often more prompts are drawn in a step, at most.
      mask_truncated_completions: leave samples that did not end out of the loss.
      kl_in_reward: take beta times the sample's summed log p / p_ref (k1) off its reward, before
        baseline and scale, instead of adding a KL term to the loss (RLOO, REINFORCE++); this one
        has the gradient of the KL divergence in expectation.
    """

    method: ClassVar[str] = "grpo"

    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    baseline: str = "group"
    scale_rewards: str = "group"
    normalize_advantages: bool = False
    dynamic_sampling: bool = True
    max_refills: int = 4
    mask_truncated_completions: bool = False
    kl_in_reward: bool = False

    def __post_init__(self) -> None:
        RolloutSettings.__post_init__(self)
        PolicyLoss.__post_init__(self)
        require(self, "baseline", among=("group", "leave_one_out", "none"))
        require(self, "scale_rewards", among=("group", "batch", "none"))
        require(self, "max_refills", "overlong_penalty", at_least=0)
        require(
            self,
            "overlong_buffer",
            at_least=0,
            at_most=self.max_completion_length,
            hint="which is max_completion_length",
        )
        alone = self.baseline == "none" and self.scale_rewards != "group"
        if self.group_size < 2 and (self.dynamic_sampling or not alone):
            raise UserError(
                f"group_size={self.group_size}: a group needs at least 2 samples (1 is enough only "
                "for baseline none, scale_rewards none or batch, dynamic_sampling False)"
            )
        if self.cache_dtype is not None and self.importance_sampling_correction == "none":
            raise UserError(
                f"cache_dtype={self.cache_dtype!r} samples from slightly other probabilities than "
                "are trained: set importance_sampling_correction=token"
            )
        if self.kl_in_reward and not self.beta:
            raise UserError("kl_in_reward=True takes beta x KL off the reward: set beta")

    @property
    def on_policy(self) -> bool:
        """Whether a rollout is trained on once, so that the update's own log-probs are the old."""
        return self.updates == 1

    @property
    def part(self) -> Part | None:
        """The cost of long completions."""
        if not self.overlong_buffer:
            return None
        limit = self.max_completion_length, self.overlong_buffer, self.overlong_penalty
        return "overlong", lambda judged: overlong_reward(judged.lengths, *limit)


def grpo(learner: Learner, settings: Grpo, rollouts: Rollouts) -> Algorithm:
    """GRPO (Shao et al. 2024) as the paper trains it.

        loss = 1/G sum_i 1/|o_i| sum_t -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)
               + beta KL(policy || reference)

    The prompts of a step are what the loader draws, `group_size` samples each. The learner's
    reference is needed if beta > 0.
    """
    _, optimizer, mesh, adapter, reference = learner
    if settings.beta and reference is None:
        raise UserError("beta > 0 needs reference parameters: set a reference model")

    def loss(params: Any, e: Experience) -> Losses:
        scores = rollouts.score(params, e)
        horizon = settings.max_completion_length
        return policy_loss(scores.logprobs, scores.entropy, e, settings, horizon)

    step = make_step(
        loss,
        optimizer,
        mesh,
        adapter,
        microbatches=settings.microbatches,
        remedy=settings.remedy,
        work=rollouts.work,
    )
    own_logprobs = rollouts.scorer("score", own=True)
    reference_logprobs = rollouts.scorer("reference", own=False)

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[Prompt]]) -> Prepared:
        clock = time.perf_counter()
        collected = rollouts.collect(
            state,
            draw,
            only_informative=settings.dynamic_sampling,
            mask_truncated=settings.mask_truncated_completions,
            max_refills=settings.max_refills,
        )
        metrics, samples = collected.metrics, collected.samples
        if not collected.groups:
            return None, metrics, samples
        rewards = collected.rewards
        laid = rollouts.lay_out(collected, np.zeros_like(rewards))
        placed = rollouts.place(laid)
        if not settings.on_policy or settings.kl_in_reward:
            placed.compute("old_logprobs", own_logprobs, state.params)
        if settings.beta:
            placed.compute("ref_logprobs", reference_logprobs, reference)
        if settings.kl_in_reward:
            real = laid.segment_ids[: len(rewards), -laid.mask.shape[1] :]
            k1 = placed.fetch("old_logprobs") - placed.fetch("ref_logprobs")
            k1 = k1[: len(rewards)] * real
            metrics["kl"] = float(k1.sum() / real.sum())
            rewards = rewards - settings.beta * k1.sum(axis=1)
            placed.clear("ref_logprobs")
        if settings.on_policy:
            placed.clear("old_logprobs")
        advantages = group_advantages(
            rewards,
            settings.group_size,
            settings.scale_rewards,
            baseline=settings.baseline,
            normalize=settings.normalize_advantages,
        )
        collected.note_advantages(advantages)
        placed.set("advantages", np.pad(advantages, (0, len(laid.tokens) - len(rewards))))
        metrics["tokens_updated"] = int(laid.segment_ids.sum()) * settings.num_iterations
        metrics["time/prepare"] = time.perf_counter() - clock
        return placed.experience, metrics, samples

    def update(state: TrainState, e: Experience | list[Experience]) -> Updated:
        if isinstance(e, Experience):
            e = [e] if settings.on_policy else minibatches(e, settings.num_minibatches, mesh)
        if settings.on_policy:
            state, metrics = step(state, e[0])
            return state, metrics
        parts, reports = e, []
        for part in settings.num_iterations * parts:
            state, metrics = step(state, part)
            reports.append(metrics)
        return state, mean_report(reports)

    return Algorithm(init, prepare, update)
