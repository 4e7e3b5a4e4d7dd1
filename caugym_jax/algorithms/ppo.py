"""Proximal Policy Optimization with a critic of its own and the KL divergence in the reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.groups import (
    Prompt,
    collect,
    judge,
    lay_out,
    longest_rows,
    penalise_missing_end,
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
from caugym_jax.devices.mesh import fetch, put, replicated, row_count, rows, sampling_mesh
from caugym_jax.devices.programs import Call, Program, described
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.models.value import ValueModel
from caugym_jax.objectives.gae import adapted_kl_coef, gae, place_rewards, whiten
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.objectives.policy import aggregate, clipped_surrogate, kl_estimate
from caugym_jax.objectives.value import clipped_value_loss, explained_variance
from caugym_jax.rewards.score import DEFAULT_WEIGHTS, ON_ERROR, parse_weights
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Experience, TrainState


class Critic(NamedTuple):
    """Where values come from, and how that is trained."""

    model: ValueModel
    optimizer: Optimizer
    start: Callable[[], Params] | None = None  # the decoder to start from; None: the policy's


def ppo(
    model: Model,
    optimizer: Optimizer,
    mesh,
    tokenizer: Tokenizer,
    critic: Critic,
    reference: Any = None,
    adapter: Adapter = WHOLE,
    *,
    seed: int = 0,
    group_size: int = 1,
    max_prompt_length: int = 512,
    max_completion_length: int = 512,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    reward_weights: str | Mapping[str, float] = DEFAULT_WEIGHTS,
    on_reward_error: str = "stop",
    reward_timeout: float | None = 600.0,
    missing_eos_penalty: float | None = None,
    kl_coef: float = 0.001,
    kl_estimator: str = "k1",
    kl_target: float | None = None,
    kl_horizon: float = 10_000.0,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten_rewards: bool = False,
    whiten_advantages: bool = True,
    cliprange: float = 0.2,
    cliprange_value: float | None = 0.2,
    delta: float | None = None,
    entropy_coef: float = 0.0,
    loss_type: str = "dapo",
    num_ppo_epochs: int = 4,
    num_mini_batches: int = 1,
    microbatches: int | None = 1,
    sample_batch_size: int | None = None,
    sampler_mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """PPO (Schulman et al. 2017) as it is used on language models (Stiennon et al. 2020).

        r_t = score at the last token - kl_coef (log p - log p_ref)
        A, R = GAE(r, V; gamma, lam), A whitened over the global batch
        policy: -min(ratio A, clip(ratio, 1 - cliprange, 1 + cliprange) A) - entropy_coef H
        critic: 1/2 max((V - R)^2, (clip(V, V_old - cliprange_value, V_old + ...) - R)^2)

    Log-probs and values before the first update are frozen for all of a step's updates. Names are
    those of TRL's PPO where it has them; defaults too, but for kl_coef, which is the paper's.

    Args:
      reference: a frozen model's weights for the KL term; needed if kl_coef > 0 or kl_target.
      adapter: of the policy; the critic trains all its weights.
      group_size: samples of each prompt.
      reward_weights: reward functions by name or "package.module:function", with weights: a
        mapping, or text like "answer=1,form=0.1".
      on_reward_error, reward_timeout: what a reward function's failure does, and how many seconds
        it may take, see `rewards.score.score`.
      missing_eos_penalty: taken off the score of a completion that was cut off; None: nothing.
      kl_estimator: of the KL at each token, see `kl_estimate`; only k1 in the reward has the
        gradient of the KL divergence in expectation.
      kl_target: adapt the coefficient, from kl_coef on, until the mean KL of a completion is this;
        None: it stays. See `adapted_kl_coef`.
      gamma, lam: see `gae`.
      whiten_rewards, whiten_advantages: divide by the standard deviation over the batch's tokens
        (advantages are also centred).
      cliprange_value: None: no clipping.
      delta: an upper bound of the ratio where A < 0 (dual clip; 3 is usual); None: none.
      loss_type: how both losses are averaged, as in GRPO: "dapo" (over all tokens), "grpo" or
        "dr_grpo".
      num_ppo_epochs: passes over one rollout.
      num_mini_batches: updates per pass; rows are shuffled anew for each pass.
      microbatches: parts into which each update is cut to save memory; None: one row to each device
        at a time. No result changes.
      sample_batch_size: prompts sampled at a time (all at once if None).
      sampler_mesh: the same devices arranged for sampling; None: `sampling_mesh(mesh)`.
    """
    with_kl = kl_coef > 0 or kl_target is not None
    if with_kl and reference is None:
        raise UserError("ppo.kl_coef > 0 needs reference parameters: set a reference model")
    for key, value, known in (
        ("loss_type", loss_type, ("dapo", "grpo", "dr_grpo")),
        ("kl_estimator", kl_estimator, ("k1", "k2", "k3")),
        ("on_reward_error", on_reward_error, ON_ERROR),
    ):
        if value not in known:
            raise UserError(f"ppo.{key}={value!r}: use {', '.join(known)}")
    if kl_target is not None and not (kl_target > 0 and kl_coef > 0):
        raise UserError("ppo.kl_target: it and kl_coef, which is adapted, must be above 0")
    weights = parse_weights(reward_weights)
    sampler = Sampler(
        model,
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=max_completion_length,
        max_prompt_length=max_prompt_length,
        batch_size=sample_batch_size,
        mesh=sampler_mesh or sampling_mesh(mesh),
    )

    def completion_scores(params, e: Experience):
        return score(
            model, params, e.tokens, e.positions, e.segment_ids,
            start=e.prompt_width, temperature=temperature if temperature > 0 else 1.0,
        )  # fmt: skip

    def completion_values(params, e: Experience):
        return critic.model.values(
            params, e.tokens, e.positions, e.segment_ids, start=e.prompt_width
        )

    def averaged(per_token, mask):
        return aggregate(per_token, mask, loss_type, max_completion_length)

    def policy_loss(params, e: Experience):
        scores, mask = completion_scores(params, e), e.mask
        terms = clipped_surrogate(
            scores.logprobs, e.old_logprobs, e.advantages, mask,
            clip_low=cliprange, clip_high=cliprange, delta=delta,
        )  # fmt: skip
        change = scores.logprobs - e.old_logprobs
        sums = {
            "loss/policy_avg": averaged(terms.loss, mask),
            "policy/approxkl_avg": _mean(jnp.square(change) / 2, mask),
            "policy/clipfrac_avg": _mean(terms.clipped_low + terms.clipped_high, mask),
            "policy/entropy_avg": _mean(scores.entropy, mask),
            "val/ratio": _mean(terms.ratio, mask),
        }
        return averaged(terms.loss - entropy_coef * scores.entropy, mask), sums

    def value_loss(params, e: Experience):
        values = completion_values(params, e)
        terms = clipped_value_loss(values, e.values, e.returns, cliprange_value)
        return averaged(terms.loss, e.mask), {"val/clipfrac_avg": _mean(terms.clipped, e.mask)}

    remedy = "ppo.group_size, data.batch_size or ppo.max_completion_length"
    options = dict(microbatches=microbatches, remedy=remedy)
    policy_step = make_step(policy_loss, optimizer, mesh, adapter, **options)
    value_step = make_step(value_loss, critic.optimizer, mesh, **options)

    def scored(name: str, function: Callable, last: tuple = ()) -> Program:
        """A program (weights, experience) -> what the updates will find for its rows."""

        def run(weights, e, *frozen):
            return in_parts(
                lambda part: function(weights, part, *frozen), e, num_mini_batches, microbatches
            )

        return Program(name, run, f"{remedy}, or raise microbatches", last=last)

    def own_logprobs(params, e, frozen):
        return completion_scores(adapter.apply(params, frozen), e).logprobs

    rescore = scored("score", own_logprobs, (adapter.frozen,))
    rescore_reference = scored("score", lambda weights, e: completion_scores(weights, e).logprobs)
    evaluate = scored("value", completion_values)

    @jax.jit
    def kl_of(e: Experience):
        return kl_estimate(e.old_logprobs, e.ref_logprobs, kl_estimator) * e.mask

    @jax.jit
    def adapted(coef, e: Experience):
        count = jnp.sum(jnp.any(e.mask > 0, axis=1))
        kl = jnp.sum(kl_of(e)) / count
        return adapted_kl_coef(coef, kl, target=kl_target, horizon=kl_horizon, rows=count)

    shuffle = jax.jit(
        lambda e, order: jax.tree.map(lambda x: x[order], e), out_shardings=rows(mesh)
    )

    def order_of(step: int, epoch: int, count: int) -> np.ndarray:
        """How a pass over a rollout takes its rows."""
        if num_mini_batches == 1:
            return np.arange(count)
        return np.random.default_rng((seed, step, epoch)).permutation(count)

    def init(params: Any) -> TrainState:
        decoder = adapter.merge(params) if critic.start is None else critic.start()
        return init_state(params, optimizer, mesh)._replace(
            critic=init_state(critic.model.init(decoder), critic.optimizer, mesh),
            kl_coef=put(np.float32(kl_coef), replicated(mesh)),
        )

    def prepare(state: TrainState, draw: Callable[[], list[Prompt]]):
        clock = time.perf_counter()
        step = int(state.step)
        weights_now = jax.block_until_ready(sampler.place(adapter.merge(state.params)))
        placed = time.perf_counter() - clock

        def sample(prompts: list[Prompt], ids: list[int]):
            return sampler(
                weights_now, [p.tokens for p in prompts], ids=ids,
                seed=seed, step=step, samples_per_prompt=group_size,
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            )  # fmt: skip

        def judged(prompts, rollout):
            found = judge(
                prompts,
                rollout,
                tokenizer,
                group_size,
                weights,
                on_error=on_reward_error,
                timeout=reward_timeout,
            )
            return penalise_missing_end(found, missing_eos_penalty or 0.0)

        groups, wanted, metrics, samples = collect(
            draw, sample, judged, group_size, only_informative=False
        )
        metrics["time/place"] = placed
        size = wanted * group_size
        check_rows(
            size, num_mini_batches * (microbatches or 1), row_count(mesh), "prompts x group_size"
        )
        scores = np.concatenate([group.rewards for group in groups])
        e = lay_out(groups, scores, size, max_prompt_length, max_completion_length)
        if not e.mask.any():
            return None, metrics, samples
        order = order_of(step, 0, size)  # here, so that rows are scored where they are updated
        e = jax.tree.map(lambda x: x[order], e)
        mask, scores = e.mask, e.advantages
        e = put(e, rows(mesh))
        e = e._replace(
            old_logprobs=rescore(state.params, e), values=evaluate(state.critic.params, e)
        )
        coef, kl = 0.0, np.zeros_like(mask)
        if with_kl:
            e = e._replace(ref_logprobs=rescore_reference(reference, e))
            coef, kl = fetch((state.kl_coef, kl_of(e)))
        old, values, sampled = fetch((e.old_logprobs, e.values, e.sampler_logprobs))
        rewards = place_rewards(scores, coef * kl, mask)
        if whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
        metrics |= _told(scores, coef, kl, old, values, returns, mask)
        difference = np.abs(old - sampled) * mask
        metrics["sampling/sampling_logp_difference/mean"] = float(difference.sum() / mask.sum())
        if whiten_advantages:
            advantages = whiten(advantages, mask)
        known = advantages.astype(np.float32), returns.astype(np.float32)
        advantages, returns = put(known, rows(mesh))
        metrics["time/prepare"] = time.perf_counter() - clock
        return e._replace(advantages=advantages, returns=returns), metrics, samples

    def update(state: TrainState, e: Experience):
        policy, value = state._replace(critic=None, kl_coef=None), state.critic
        coef, step, reports = state.kl_coef, int(state.step), []
        if kl_target is not None:
            coef = adapted(coef, e)
        e = e._replace(ref_logprobs=None)
        for epoch in range(num_ppo_epochs):
            if epoch and num_mini_batches > 1:
                e = shuffle(e, order_of(step, epoch, len(e.tokens)))
            parts = split_rows(e, num_mini_batches)
            for i in range(num_mini_batches):
                part = jax.tree.map(lambda x, i=i: x[i], parts)
                policy, report = policy_step(policy, part)
                value, of_value = value_step(value, part)
                report |= {
                    "loss/value_avg": of_value["loss"],
                    "val/clipfrac_avg": of_value["val/clipfrac_avg"],
                    "critic/grad_norm": of_value["grad_norm"],
                    "critic/lr": of_value["learning_rate"],
                }
                reports.append(report)
        metrics = mean_report(reports)
        metrics |= {
            "entropy": metrics["policy/entropy_avg"],
            "val/first_ratio": reports[0]["val/ratio"],
            "critic/skipped_updates": value.skipped,
        }
        return policy._replace(critic=value, kl_coef=coef), metrics

    def calls(prompts: list[Prompt]) -> tuple[Call, ...]:
        """For prompts and completions of the longest kind."""
        state, count = ppo_template(optimizer, critic, mesh), len(prompts)
        policy, value = state._replace(critic=None, kl_coef=None), state.critic
        laid = longest_rows(count * group_size, max_prompt_length, max_completion_length)
        e = described(laid, rows(mesh))
        plain = merged_template(adapter, policy, model, mesh)
        found = list(sampler.calls(plain, count, group_size, (state, reference, adapter.frozen)))
        moments = policy.opt_state, value.opt_state, reference
        found += [
            Call("score", rescore, (policy.params, e), beside=(moments, value.params)),
            Call("value", evaluate, (value.params, e), beside=(moments, policy.params)),
        ]
        drawn = e.sampler_logprobs
        e = e._replace(old_logprobs=drawn, values=drawn)
        if with_kl:
            found.append(Call("reference", rescore_reference, (reference, e), beside=state))
        e = e._replace(advantages=drawn, returns=drawn)
        part = minibatch_template(e, num_mini_batches, mesh)
        times = num_ppo_epochs * num_mini_batches
        return (
            *found,
            Call("update", policy_step, (policy, part), times, (value, reference)),
            Call("critic update", value_step, (value, part), times, (policy, reference)),
        )

    return Algorithm(init, prepare, update, calls)


def ppo_template(optimizer: Optimizer, critic: Critic, mesh) -> TrainState:
    """Shapes, types and shardings of PPO's training state: what a checkpoint is restored onto."""
    return state_template(optimizer, mesh)._replace(
        critic=state_template(critic.optimizer, mesh),
        kl_coef=jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)),
    )


def _told(scores, coef, kl, logprobs, values, returns, mask) -> dict[str, float]:
    """What a rollout says, under TRL's names: means over completions of sums over their tokens."""
    real = mask.any(axis=1)

    def mean(x):
        return float(x[real].sum(axis=-1).mean()) if x.ndim > 1 else float(x[real].mean())

    penalty = -coef * kl
    return {
        "objective/kl": mean(kl),
        "objective/kl_coef": float(coef),
        "objective/entropy": mean(-logprobs * mask),
        "objective/non_score_reward": mean(penalty),
        "objective/scores": mean(scores),
        "objective/rlhf_reward": mean(scores) + mean(penalty),
        "critic/vf_explained_var": explained_variance(values, returns, mask),
        "critic/vpred_mean": float((values * mask).sum() / mask.sum()),
    }


def _mean(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.sum(x * mask), jnp.sum(mask)
