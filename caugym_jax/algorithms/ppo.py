"""Proximal Policy Optimization with a critic of its own and the KL divergence in the reward."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.judging import Part, Prompt
from caugym_jax.algorithms.rollouts import Rollouts, RolloutSettings
from caugym_jax.algorithms.step import (
    Algorithm,
    Learner,
    Losses,
    Prepared,
    Updated,
    init_state,
    is_packed,
    make_step,
    mean_report,
    minibatches,
)
from caugym_jax.devices.mesh import fetch, put, replicated, rows
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import computed
from caugym_jax.errors import UserError, require
from caugym_jax.models.transformer import Params
from caugym_jax.models.value import ValueModel
from caugym_jax.models.work import Work, forward
from caugym_jax.objectives.gae import adapted_kl_coef, gae, place_rewards, whiten
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.objectives.policy import aggregate, clipped_surrogate, kl_estimate
from caugym_jax.objectives.value import clipped_value_loss, explained_variance
from caugym_jax.types import Experience, TrainState


@dataclasses.dataclass(frozen=True)
class Ppo(RolloutSettings):
    """Settings of PPO. Names are those of GRPO where both have a thing, else those of TRL's PPO.

    Attributes:
      critic: a model whose decoder the critic starts from; None: the policy's.
      missing_eos_penalty: taken off the reward of a completion that was cut off; None: nothing.
      beta: the coefficient of the KL divergence in the reward.
      kl_estimator: of the KL at each token, see `kl_estimate`; only k1 in the reward has the
        gradient of the KL divergence in expectation.
      kl_target: adapt the coefficient, from beta on, until the mean KL of a completion is this;
        None: it stays. See `adapted_kl_coef`.
      kl_horizon: completions after which an error of a fifth changed the coefficient by a fifth.
      gamma: the discount of later rewards, see `gae`.
      lam: how far advantages trust sampled rewards (1) or the critic (0), see `gae`.
      whiten_rewards: divide rewards by their standard deviation over the batch's tokens.
      whiten_advantages: centre advantages and divide by their standard deviation likewise.
      epsilon: how far the ratio may be from 1 before it is clipped.
      cliprange_value: how far a value may move before it is clipped; None: no clipping.
      delta: an upper bound of the ratio where A < 0 (dual clip; 3 is usual); None: none.
      entropy_coef: weight of the entropy, which is taken off the loss; 0: none.
      loss_type: how both losses are averaged, as in GRPO: "dapo" (over all tokens), "grpo" or
        "dr_grpo".
    """

    method: ClassVar[str] = "ppo"

    group_size: int = 4
    num_minibatches: int = 2
    packed: bool | None = False
    critic: str | None = None
    missing_eos_penalty: float | None = None
    beta: float = 0.001
    kl_estimator: str = "k1"
    kl_target: float | None = None
    kl_horizon: float = 10_000.0
    gamma: float = 1.0
    lam: float = 1.0
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    epsilon: float = 0.2
    cliprange_value: float | None = 0.2
    delta: float | None = None
    entropy_coef: float = 0.0
    loss_type: str = "dapo"

    def __post_init__(self) -> None:
        RolloutSettings.__post_init__(self)
        require(self, "loss_type", among=("dapo", "grpo", "dr_grpo"))
        require(self, "kl_estimator", among=("k1", "k2", "k3"))
        require(self, "missing_eos_penalty", "beta", "epsilon", at_least=0)
        require(self, "gamma", "lam", at_least=0, at_most=1)
        require(self, "kl_target", "kl_horizon", "cliprange_value", above=0)
        require(self, "entropy_coef")
        require(self, "delta", above=1 + self.epsilon, hint="which is 1 + epsilon, or None")
        if self.packed and self.shuffled:
            raise UserError(
                "packed=True: rows stay where they were packed, and several passes shuffle them "
                "over minibatches: set num_iterations=1, num_minibatches=1 or packed=none"
            )
        if self.kl_target is not None and not self.beta:
            raise UserError(f"kl_target={self.kl_target} adapts beta, which is 0: set beta above 0")

    @property
    def shuffled(self) -> bool:
        """Whether completions change minibatches between the passes over a rollout."""
        return self.num_iterations > 1 and self.num_minibatches > 1

    @property
    def part(self) -> Part | None:
        """The cost of a completion that was cut off."""
        penalty = self.missing_eos_penalty
        if not penalty:
            return None
        return "missing_eos", lambda judged: np.where(judged.ended, 0.0, -penalty)


class Critic(NamedTuple):
    """Where values come from, and how that is trained."""

    model: ValueModel
    optimizer: Optimizer
    start: Callable[[], Params] | None = None  # the decoder to start from; None: the policy's


def ppo(learner: Learner, settings: Ppo, rollouts: Rollouts, critic: Critic) -> Algorithm:
    """PPO (Schulman et al. 2017) as it is used on language models (Stiennon et al. 2020).

        r_t = reward at the last token - beta (log p - log p_ref)
        A, R = GAE(r, V; gamma, lam), A whitened over the global batch
        policy: -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A) - entropy_coef H
        critic: 1/2 max((V - R)^2, (clip(V, V_old - cliprange_value, V_old + ...) - R)^2)

    Log-probs and values before the first update are frozen for all of a step's updates. The
    learner's adapter is the policy's; the critic trains all its weights. The learner's reference is
    needed if beta > 0.
    """
    _, optimizer, mesh, adapter, reference = learner
    if settings.beta and reference is None:
        raise UserError("beta > 0 needs reference parameters: set a reference model")

    def init(params: Any) -> TrainState:
        decoder = adapter.merge(params) if critic.start is None else critic.start()
        values = computed(critic.model.init, decoder)
        return init_state(params, optimizer, mesh)._replace(
            critic=init_state(values, critic.optimizer, mesh),
            kl_coef=put(np.float32(settings.beta), replicated(mesh)),
        )

    prepare = _preparation(learner, settings, rollouts, critic)
    return Algorithm(init, prepare, _updates(learner, settings, rollouts, critic))


def _preparation(
    learner: Learner, settings: Ppo, rollouts: Rollouts, critic: Critic
) -> Callable[..., Any]:
    """PPO's `prepare`."""
    reference = learner.reference
    own_logprobs = rollouts.scorer("score", own=True)
    reference_logprobs = rollouts.scorer("reference", own=False)
    evaluate = rollouts.program("value", critic_values(critic), critic_work(critic))
    kl_of = _kl_of(settings)

    def prepare(state: TrainState, draw: Callable[[], list[Prompt]]) -> Prepared:
        clock = time.perf_counter()
        collected = rollouts.collect(state, draw)
        metrics, samples = collected.metrics, collected.samples
        e = rollouts.lay_out(collected, collected.rewards)
        if not e.mask.any():
            return None, metrics, samples
        # Here, so that rows are scored where they are updated.
        order = order_of(settings, rollouts.seed, int(fetch(state.step)), 0, len(e.tokens))
        e = jax.tree.map(lambda x: x[order], e)
        mask, scores, sampled = e.mask, e.advantages, e.sampler_logprobs
        placed = rollouts.place(e)
        placed.compute("old_logprobs", own_logprobs, state.params)
        placed.compute("values", evaluate, state.critic.params)
        old, values = placed.fetch("old_logprobs"), placed.fetch("values")
        coef, kl = 0.0, np.zeros_like(mask)
        if settings.beta:
            placed.compute("ref_logprobs", reference_logprobs, reference)
            both = {name: placed.fetch(name) for name in ("old_logprobs", "ref_logprobs")}
            coef, kl = fetch((state.kl_coef, computed(kl_of, e._replace(**both))))
        rewards = place_rewards(scores, coef * kl, mask)
        if settings.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
        metrics |= _reported(scores, coef, kl, old, values, returns, mask)
        difference = np.abs(old - sampled) * mask
        metrics["sampling/sampling_logp_difference/mean"] = float(difference.sum() / mask.sum())
        if settings.whiten_advantages:
            advantages = whiten(advantages, mask)
        placed.set("advantages", advantages.astype(np.float32))
        placed.set("returns", returns.astype(np.float32))
        metrics["time/prepare"] = time.perf_counter() - clock
        return placed.experience, metrics, samples

    return prepare


def _updates(
    learner: Learner, settings: Ppo, rollouts: Rollouts, critic: Critic
) -> Callable[..., Any]:
    """PPO's `update`: policy and critic in turn on each minibatch."""
    mesh = learner.mesh
    policy_step, value_step = _steps(learner, settings, rollouts, critic)
    kl_of = _kl_of(settings)

    def completions(e: Experience) -> jax.Array:
        if e.share is None:
            return jnp.sum(jnp.any(e.mask > 0, axis=1))
        return jnp.round(e.share.sum()).astype(jnp.int32)

    @jax.jit
    def adapted(coef: jax.Array, parts: list[Experience]) -> jax.Array:
        assert settings.kl_target is not None  # else the coefficient stays
        count = jnp.asarray(sum(map(completions, parts)))
        kl = jnp.asarray(sum(jnp.sum(kl_of(e)) for e in parts)) / count
        return adapted_kl_coef(
            coef, kl, target=settings.kl_target, horizon=settings.kl_horizon, rows=count
        )

    shuffle = jax.jit(
        lambda e, order: jax.tree.map(lambda x: x[order], e), out_shardings=rows(mesh)
    )

    def update(state: TrainState, given: Experience | list[Experience]) -> Updated:
        policy, value = state._replace(critic=None, kl_coef=None), state.critic
        coef, step, reports = state.kl_coef, int(fetch(state.step)), []
        if settings.kl_target is not None:
            coef = computed(adapted, coef, given if isinstance(given, list) else [given])
        for iteration in range(settings.num_iterations):
            if isinstance(given, list):  # packed, and never shuffled
                parts = [e._replace(ref_logprobs=None) for e in given]
            else:
                given = given._replace(ref_logprobs=None)
                if iteration and settings.num_minibatches > 1:
                    order = order_of(settings, rollouts.seed, step, iteration, len(given.tokens))
                    given = computed(shuffle, given, order, places=rows(mesh))
                parts = minibatches(given, settings.num_minibatches, mesh)
            for part in parts:
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

    return update


def _steps(
    learner: Learner, settings: Ppo, rollouts: Rollouts, critic: Critic
) -> tuple[Program, Program]:
    """The compiled updates of policy and critic."""
    epsilon, values_of = settings.epsilon, critic_values(critic)

    def averaged(per_token: jax.Array, e: Experience) -> tuple[jax.Array, jax.Array]:
        horizon = settings.max_completion_length
        return aggregate(per_token, e.mask, settings.loss_type, horizon, e.share)

    def policy_loss(params: Any, e: Experience) -> Losses:
        scores, mask = rollouts.score(params, e), e.mask
        terms = clipped_surrogate(
            scores.logprobs,
            e.old_logprobs,
            e.advantages,
            mask,
            clip_low=epsilon,
            clip_high=epsilon,
            delta=settings.delta,
        )
        change = scores.logprobs - e.old_logprobs
        sums = {
            "loss/policy_avg": averaged(terms.loss, e),
            "policy/approxkl_avg": _mean(jnp.square(change) / 2, mask),
            "policy/clipfrac_avg": _mean(terms.clipped_low + terms.clipped_high, mask),
            "policy/entropy_avg": _mean(scores.entropy, mask),
            "val/ratio": _mean(terms.ratio, mask),
        }
        return averaged(terms.loss - settings.entropy_coef * scores.entropy, e), sums

    def value_loss(params: Params, e: Experience) -> Losses:
        values = values_of(params, e)
        terms = clipped_value_loss(values, e.values, e.returns, settings.cliprange_value)
        return averaged(terms.loss, e), {"val/clipfrac_avg": _mean(terms.clipped, e.mask)}

    options: Any = {"microbatches": settings.microbatches, "remedy": settings.remedy}
    _, optimizer, mesh, adapter, _ = learner
    return (
        make_step(policy_loss, optimizer, mesh, adapter, work=rollouts.work, **options),
        make_step(
            value_loss,
            critic.optimizer,
            mesh,
            name="critic update",
            work=critic_work(critic),
            **options,
        ),
    )


def critic_values(critic: Critic) -> Callable[[Params, Experience], jax.Array]:
    """(critic's weights, rows) -> values [B, C] of the completions' places; of packed rows in
    their lists."""

    def values(params: Params, e: Experience) -> jax.Array:
        if is_packed(e):
            return critic.model.values_at_places(params, e)
        return critic.model.values(
            params, e.tokens, e.positions, e.segment_ids, start=e.prompt_width
        )

    return values


def critic_work(critic: Critic) -> Callable[[Experience], Work]:
    return lambda e: forward(critic.model.model, e.tokens.shape)


def _kl_of(settings: Ppo) -> Callable[[Experience], jax.Array]:
    """rows -> the KL's estimate at each counted token, [B, C]."""
    return jax.jit(
        lambda e: kl_estimate(e.old_logprobs, e.ref_logprobs, settings.kl_estimator) * e.mask
    )


def order_of(settings: Ppo, seed: int, step: int, iteration: int, count: int) -> np.ndarray:
    """How a pass over a rollout takes its rows."""
    if settings.num_minibatches == 1:
        return np.arange(count)
    return np.random.default_rng((seed, step, iteration)).permutation(count)


def _reported(
    scores: np.ndarray,
    coef: float,
    kl: np.ndarray,
    logprobs: np.ndarray,
    values: np.ndarray,
    returns: np.ndarray,
    mask: np.ndarray,
) -> dict[str, float]:
    """What is reported of a rollout, under TRL's names: means over completions of their sums."""
    real = mask.any(axis=1)

    def mean(x: np.ndarray) -> float:
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
