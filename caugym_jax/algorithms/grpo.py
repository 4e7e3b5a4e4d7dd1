"""Group Relative Policy Optimization with the paper's settings, and its relatives by options."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from caugym_jax.algorithms.groups import (
    Prompt,
    collect,
    judge,
    lay_out,
    longest_rows,
    overlong_reward,
)
from caugym_jax.algorithms.step import (
    WHOLE,
    Adapter,
    Algorithm,
    check_rows,
    in_parts,
    init_state,
    make_step,
    mean_report,
    merged_template,
    minibatch_template,
    split_rows,
    state_template,
)
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices.mesh import fetch, put, row_count, rows, sampling_mesh
from caugym_jax.devices.programs import Call, Program, described
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model
from caugym_jax.objectives import policy
from caugym_jax.objectives.advantages import group_advantages
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.rewards.score import DEFAULT_WEIGHTS, ON_ERROR, parse_weights
from caugym_jax.sampling.sampler import Sampler
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
    on_reward_error: str = "stop",
    reward_timeout: float | None = 600.0,
    overlong_buffer: int = 0,
    overlong_penalty: float = 1.0,
    baseline: str = "group",
    scale_rewards: str = "group",
    normalize_advantages: bool = False,
    dynamic_sampling: bool = True,
    max_refills: int = 4,
    mask_truncated_completions: bool = False,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    delta: float | None = None,
    beta: float = 0.0,
    kl_in_reward: bool = False,
    kl_estimator: str = "k3",
    use_bias_correction_kl: bool = False,
    entropy_coef: float = 0.0,
    importance_sampling_correction: str = "none",
    importance_sampling_cap: float = 3.0,
    num_iterations: int = 1,
    num_minibatches: int = 1,
    microbatches: int | None = 1,
    sample_batch_size: int | None = None,
    sampler_mesh: jax.sharding.Mesh | None = None,
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
      on_reward_error: where a reward function raises or returns what is no number: "stop" the run,
        naming function and item, or "skip" it as if it had returned None.
      reward_timeout: seconds after which a reward function has failed (`rewards.score.score`).
      overlong_buffer, overlong_penalty: the last so many tokens before max_completion_length cost
        up to this much reward (`groups.overlong_reward`); 0: off.
      baseline, scale_rewards, normalize_advantages: see `group_advantages`; configs/grpo.py lists
        what GRPO's relatives set.
      dynamic_sampling: drop groups without a signal and draw more prompts, at most `max_refills`
        times, until the step is full; surplus groups are dropped. If it stays short, the step is
        taken on the groups there are; with none it is skipped and counted.
      mask_truncated_completions: leave samples that did not end out of the loss.
      loss_type: how token losses are averaged: "grpo" (the paper's), "dapo" = "bnpo" (over all
        tokens) or "dr_grpo", or "cispo" (token mean of the CISPO loss, where epsilon_high is the
        largest weight).
      importance_sampling_level: "token", or "sequence" (GSPO).
      delta: two-sided clipping; PPO's dual clip is delta = 3.
      kl_in_reward: take beta times the sample's summed log p / p_ref (k1) off its reward, before
        baseline and scale, instead of adding a KL term to the loss (RLOO, REINFORCE++); this one
        has the gradient of the KL divergence in expectation.
      kl_estimator, use_bias_correction_kl, entropy_coef: see `policy_loss`; of the loss's KL term.
      importance_sampling_correction: "none", "token" or "sequence": weigh by how likely the trainer
        finds what the sampler drew, at most importance_sampling_cap (TRL's vllm_...).
      num_iterations: passes over one rollout (mu); old log-probs stay those before the first.
      num_minibatches: optimiser steps per pass.
      microbatches: parts into which each optimiser step is cut to save memory; None: one row to
        each device at a time. No result changes.
      sample_batch_size: prompts sampled at a time (all at once if None).
      sampler_mesh: the same devices arranged for sampling; None: `sampling_mesh(mesh)`.
    """
    if beta and reference is None:
        raise UserError("grpo.beta > 0 needs reference parameters: set a reference model")
    alone = baseline == "none" and scale_rewards != "group" and not dynamic_sampling
    if group_size < (1 if alone else 2):
        raise UserError(
            f"grpo.group_size={group_size}: a group needs at least 2 samples (1 is enough only for "
            "baseline none, scale_rewards none or batch, dynamic_sampling False)"
        )
    if kl_in_reward and not beta:
        raise UserError("grpo.kl_in_reward=True takes beta x KL off the reward: set grpo.beta")
    if delta is not None and delta <= 1 + epsilon_high:
        raise UserError(
            f"grpo.delta={delta} caps ratios that the clip allows: above 1 + epsilon_high = "
            f"{1 + epsilon_high:.4g} is wanted, or None"
        )
    if importance_sampling_cap <= 0:
        raise UserError(
            f"grpo.importance_sampling_cap={importance_sampling_cap}: above 0 is wanted"
        )
    weights = parse_weights(reward_weights)
    for key, value, known in (
        ("on_reward_error", on_reward_error, ON_ERROR),
        ("baseline", baseline, ("group", "leave_one_out", "none")),
        ("scale_rewards", scale_rewards, ("group", "batch", "none")),
        ("loss_type", loss_type, tuple(policy.AGGREGATIONS)),
        ("importance_sampling_level", importance_sampling_level, ("token", "sequence")),
        (
            "importance_sampling_correction",
            importance_sampling_correction,
            ("none", "token", "sequence"),
        ),
        ("kl_estimator", kl_estimator, ("k1", "k2", "k3")),
    ):
        if value not in known:
            raise UserError(f"grpo.{key}={value!r}: use {', '.join(known)}")
    if not 0 <= overlong_buffer <= max_completion_length:
        raise UserError(
            f"grpo.overlong_buffer={overlong_buffer}: between 0 and max_completion_length="
            f"{max_completion_length} is wanted"
        )
    sampler = Sampler(
        model,
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=max_completion_length,
        max_prompt_length=max_prompt_length,
        batch_size=sample_batch_size,
        mesh=sampler_mesh or sampling_mesh(mesh),
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
        return policy.policy_loss(
            scores.logprobs, scores.entropy, e,
            loss_type=loss_type, importance_sampling_level=importance_sampling_level,
            epsilon=epsilon, epsilon_high=epsilon_high, delta=delta,
            beta=beta, kl_estimator=kl_estimator, use_bias_correction_kl=use_bias_correction_kl,
            entropy_coef=entropy_coef,
            importance_sampling_correction=importance_sampling_correction,
            importance_sampling_cap=importance_sampling_cap,
            horizon=max_completion_length,
        )  # fmt: skip

    remedy = "grpo.group_size, data.batch_size or grpo.max_completion_length"
    step = make_step(loss, optimizer, mesh, adapter, microbatches=microbatches, remedy=remedy)

    def score_rows(weights, e: Experience):
        """As the update will see them."""
        one = lambda part: completion_scores(weights, part).logprobs  # noqa: E731
        return in_parts(one, e, num_minibatches, microbatches)

    rescore = Program("score", score_rows, f"{remedy}, or raise microbatches")
    rescore_own = Program(
        "score",
        lambda params, e, frozen: score_rows(adapter.apply(params, frozen), e),
        f"{remedy}, or raise microbatches",
        last=(adapter.frozen,),
    )
    overlong = None
    if overlong_buffer:
        overlong = functools.partial(
            overlong_reward,
            limit=max_completion_length, buffer=overlong_buffer, penalty=overlong_penalty,
        )  # fmt: skip

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer, mesh)

    def prepare(state: TrainState, draw: Callable[[], list[Prompt]]):
        clock = time.perf_counter()
        weights_now = jax.block_until_ready(sampler.place(adapter.merge(state.params)))
        placed = time.perf_counter() - clock

        def sample(prompts: list[Prompt], ids: list[int]):
            return sampler(
                weights_now, [p.tokens for p in prompts], ids=ids,
                seed=seed, step=int(state.step), samples_per_prompt=group_size,
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            )  # fmt: skip

        groups, wanted, metrics, samples = collect(
            draw, sample,
            lambda prompts, rollout: judge(
                prompts, rollout, tokenizer, group_size, weights, overlong, on_reward_error,
                reward_timeout,
            ),
            group_size,
            only_informative=dynamic_sampling, mask_truncated=mask_truncated_completions,
            max_refills=max_refills,
        )  # fmt: skip
        metrics["time/place"] = placed
        if not groups:
            return None, metrics, samples
        size = wanted * group_size
        parts = num_minibatches * (microbatches or 1)
        check_rows(size, parts, row_count(mesh), "prompts x group_size")
        rewards = np.concatenate([group.rewards for group in groups])
        laid = lay_out(
            groups, np.zeros_like(rewards), size, max_prompt_length, max_completion_length
        )
        e = put(laid, rows(mesh))
        if not on_policy or kl_in_reward:
            e = e._replace(old_logprobs=rescore_own(state.params, e))
        if beta:
            e = e._replace(ref_logprobs=rescore(reference, e))
        if beta and kl_in_reward:
            real = laid.segment_ids[: len(rewards), -laid.mask.shape[1] :]
            k1 = (fetch(e.old_logprobs) - fetch(e.ref_logprobs))[: len(rewards)] * real
            metrics["kl"] = float(k1.sum() / real.sum())
            rewards = rewards - beta * k1.sum(axis=1)
            e = e._replace(ref_logprobs=None)
        if on_policy:
            e = e._replace(old_logprobs=None)
        advantages = group_advantages(
            rewards, group_size, scale_rewards, baseline=baseline, normalize=normalize_advantages
        )
        advantages = np.pad(advantages, (0, size - len(rewards)))
        e = e._replace(advantages=put(advantages, rows(mesh)))
        metrics["tokens_updated"] = int(laid.segment_ids.sum()) * num_iterations
        metrics["time/prepare"] = time.perf_counter() - clock
        return e, metrics, samples

    def update(state: TrainState, e: Experience):
        if on_policy:
            return step(state, e)
        parts = split_rows(e, num_minibatches)
        reports = []
        for _ in range(num_iterations):
            for part in range(num_minibatches):
                state, metrics = step(state, jax.tree.map(lambda x, i=part: x[i], parts))
                reports.append(metrics)
        return state, mean_report(reports)

    def calls(prompts: list[Prompt]) -> tuple[Call, ...]:
        """For prompts and completions of the longest kind."""
        state, count = state_template(optimizer, mesh), len(prompts)
        laid = longest_rows(count * group_size, max_prompt_length, max_completion_length)
        e = described(laid, rows(mesh))
        plain = merged_template(adapter, state, model, mesh)
        beside = state, reference, adapter.frozen
        found = list(sampler.calls(plain, count, group_size, beside))
        if not on_policy or kl_in_reward:
            found.append(Call("score", rescore_own, (state.params, e), beside=state.opt_state))
            e = e._replace(old_logprobs=e.sampler_logprobs)
        if beta:
            found.append(Call("reference", rescore, (reference, e), beside=state))
        if on_policy:
            e = e._replace(old_logprobs=None)
        if beta and not kl_in_reward:
            e = e._replace(ref_logprobs=e.sampler_logprobs)
        part = minibatch_template(e, num_minibatches, mesh)
        times = num_iterations * num_minibatches
        return (*found, Call("update", step, (state, part), times, reference))

    return Algorithm(init, prepare, update, calls)
