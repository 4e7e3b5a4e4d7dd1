"""Group Relative Policy Optimization with the paper's settings, and its relatives by options."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.groups import Prompt, judge, lay_out, make_groups, rollout_metrics
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    check_rows,
    init_state,
    make_step,
    merge_rows,
    microbatch_count,
    split_rows,
)
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model
from caugym_jax.objectives import policy
from caugym_jax.objectives.advantages import group_advantages
from caugym_jax.objectives.logprobs import score
from caugym_jax.optim import Optimizer
from caugym_jax.programs import Program
from caugym_jax.rewards.score import DEFAULT_WEIGHTS, parse_weights
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.sharding import put, row_count, rows
from caugym_jax.types import Experience, TrainState


def grpo(
    model: Model,
    optimizer: Optimizer,
    mesh,
    tokenizer: Tokenizer,
    reference: Any = None,
    adapter: Adapter = WHOLE,
    *,
    seed: int = 0,
    group_size: int = 8,
    max_prompt_length: int = 512,
    max_completion_length: int = 512,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    reward_weights: str | Mapping[str, float] = DEFAULT_WEIGHTS,
    scale_rewards: str = "group",
    dynamic_sampling: bool = True,
    max_refills: int = 4,
    mask_truncated_completions: bool = False,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    delta: float | None = None,
    beta: float = 0.0,
    kl_estimator: str = "k3",
    num_iterations: int = 1,
    num_minibatches: int = 1,
    microbatches: int | None = 1,
    sample_batch_size: int | None = None,
) -> Algorithm:
    """GRPO (Shao et al. 2024) as the paper trains it.

        loss = 1/G sum_i 1/|o_i| sum_t -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)
               + beta KL(policy || reference)

    Defaults are the paper's where it states them: beta 0, clip 0.2/0.28, groups whose rewards all
    agree resampled. The prompts of a step are what the loader draws, `group_size` samples each.

    Args:
      reference: a frozen model's weights for the KL term; needed if beta > 0.
      reward_weights: reward functions by name or "package.module:function", with weights: a
        mapping, or text like "answer=1,form=0.1".
      scale_rewards: divide advantages by the group's or batch's standard deviation, or "none".
      dynamic_sampling: drop groups without a signal and draw more prompts, at most `max_refills`
        times, until the step is full; surplus groups are dropped. If it stays short, the step is
        taken on the groups there are; with none it is skipped and counted.
      mask_truncated_completions: leave samples that did not end out of the loss.
      loss_type: how token losses are averaged: "grpo" (the paper's), "dapo" or "dr_grpo", or
        "cispo" (token mean of the CISPO loss, where epsilon_high is the largest weight).
      importance_sampling_level: "token", or "sequence" (GSPO).
      num_iterations: passes over one rollout (mu); old log-probs stay those before the first.
      num_minibatches: optimiser steps per pass.
      microbatches: parts into which each optimiser step is cut to save memory; None: one row to
        each device at a time. No result changes.
      sample_batch_size: prompts sampled at a time (all at once if None).
    """
    if beta and reference is None:
        raise UserError("grpo.beta > 0 needs reference parameters: set a reference model")
    if group_size < 2:
        raise UserError(f"grpo.group_size={group_size}: a group needs at least 2 samples")
    weights = parse_weights(reward_weights)
    for key, value, known in (
        ("scale_rewards", scale_rewards, ("group", "batch", "none")),
        ("loss_type", loss_type, ("grpo", "dapo", "dr_grpo", "cispo")),
        ("importance_sampling_level", importance_sampling_level, ("token", "sequence")),
        ("kl_estimator", kl_estimator, ("k1", "k2", "k3")),
    ):
        if value not in known:
            raise UserError(f"grpo.{key}={value!r}: use {', '.join(known)}")
    sampler = Sampler(
        model,
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=max_completion_length,
        max_prompt_length=max_prompt_length,
        batch_size=sample_batch_size,
        mesh=mesh,
    )
    on_policy = num_iterations == 1 and num_minibatches == 1

    def completion_scores(params, e: Experience):
        start = e.tokens.shape[1] - e.mask.shape[1]
        return score(
            model, params, e.tokens, e.positions, e.segment_ids,
            start=start, temperature=temperature if temperature > 0 else 1.0,
        )  # fmt: skip

    def loss(params, e: Experience):
        scores = completion_scores(params, e)
        logprobs, mask = scores.logprobs, e.mask
        old = jax.lax.stop_gradient(logprobs) if e.old_logprobs is None else e.old_logprobs
        advantages = e.advantages[:, None]
        if loss_type == "cispo":
            terms = policy.cispo(
                logprobs, old, advantages, mask,
                clip_high=epsilon_high, level=importance_sampling_level,
            )  # fmt: skip
        else:
            terms = policy.clipped_surrogate(
                logprobs, old, advantages, mask, clip_low=epsilon, clip_high=epsilon_high,
                delta=delta, level=importance_sampling_level,
            )  # fmt: skip
        per_token, weight = terms.loss, mask.sum()

        def mean(x):
            return (x * mask).sum(), weight

        sums = {
            "entropy": mean(scores.entropy),
            "clip_ratio/low_mean": mean(terms.clipped_low),
            "clip_ratio/high_mean": mean(terms.clipped_high),
            "clip_ratio/region_mean": mean(jnp.maximum(terms.clipped_low, terms.clipped_high)),
            "sampling/sampling_logp_difference/mean": mean(
                jnp.abs(jax.lax.stop_gradient(old) - e.sampler_logprobs)
            ),
        }
        if e.ref_logprobs is not None:
            kl = policy.kl_estimate(logprobs, e.ref_logprobs, kl_estimator)
            per_token = per_token + beta * kl
            sums["kl"] = mean(kl)
        how = "dapo" if loss_type == "cispo" else loss_type
        return policy.aggregate(per_token, mask, how, max_completion_length), sums

    remedy = "grpo.group_size, data.batch_size or grpo.max_completion_length"
    step = make_step(loss, optimizer, mesh, adapter, microbatches=microbatches, remedy=remedy)

    def score_in_parts(weights, e: Experience):
        """As the update will see them: the same rows at a time."""
        parts = split_rows(e, num_minibatches)
        cut = microbatch_count(jax.tree.map(lambda x: x[0], parts), microbatches)
        parts = jax.tree.map(lambda x: jax.vmap(lambda y: split_rows(y, cut))(x), parts)
        one = lambda part: completion_scores(weights, part).logprobs  # noqa: E731
        scored = jax.lax.map(lambda minibatch: jax.lax.map(one, minibatch), parts)
        return merge_rows(jax.vmap(merge_rows)(scored))

    rescore = Program("score", score_in_parts, f"{remedy}, or raise microbatches")
    rescore_own = Program(
        "score",
        lambda params, e, frozen: score_in_parts(adapter.apply(params, frozen), e),
        f"{remedy}, or raise microbatches",
        last=(adapter.frozen,),
    )

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[Prompt]]):
        clock = time.perf_counter()
        weights_now = adapter.merge(state.params)
        drawn, groups, spent = [], [], {"sampling": 0.0, "rewards": 0.0}
        refills = 0
        wanted = None
        while True:
            prompts = draw()
            wanted = len(prompts) if wanted is None else wanted
            start = time.perf_counter()
            rollout = sampler(
                weights_now,
                [p.tokens for p in prompts],
                ids=[len(drawn) * wanted + i for i in range(len(prompts))],
                seed=seed,
                step=int(state.step),
                samples_per_prompt=group_size,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
            )
            spent["sampling"] += time.perf_counter() - start
            start = time.perf_counter()
            judged = judge(prompts, rollout, tokenizer, group_size, weights)
            spent["rewards"] += time.perf_counter() - start
            drawn.append(judged)
            groups += make_groups(
                prompts, rollout, judged, group_size,
                dynamic_sampling, mask_truncated_completions,
            )  # fmt: skip
            if len(groups) >= wanted or not dynamic_sampling or refills == max_refills:
                break
            refills += 1
        metrics = rollout_metrics(drawn, group_size, tuple(weights)) | {
            "sampling/refills": refills,
            "time/sampling": spent["sampling"],
            "time/rewards": spent["rewards"],
        }
        samples = [row for judged in drawn for row in judged.rows]
        if not groups:
            return None, metrics, samples
        size = wanted * group_size
        parts = num_minibatches * (microbatches or 1)
        check_rows(size, parts, row_count(mesh), "prompts x group_size")
        groups = groups[:wanted]
        rewards = np.concatenate([group.rewards for group in groups])
        advantages = group_advantages(rewards, group_size, scale_rewards)
        experience = lay_out(groups, advantages, size, max_prompt_length, max_completion_length)
        experience = put(experience, rows(mesh))
        if not on_policy:
            experience = experience._replace(old_logprobs=rescore_own(state.params, experience))
        if beta:
            experience = experience._replace(ref_logprobs=rescore(reference, experience))
        metrics["time/prepare"] = time.perf_counter() - clock
        return experience, metrics, samples

    def update(state: TrainState, experience: Experience):
        if on_policy:
            return step(state, experience)
        parts = split_rows(experience, num_minibatches)
        reports = []
        for _ in range(num_iterations):
            for part in range(num_minibatches):
                minibatch = jax.tree.map(lambda x, i=part: x[i], parts)
                state, metrics = step(state, minibatch)
                reports.append(metrics)
        mean = {k: sum(r[k] for r in reports) / len(reports) for k in reports[0]}
        return state, mean | {"learning_rate": reports[-1]["learning_rate"]}

    return Algorithm(init, prepare, update)
