"""What GRPO and PPO share: sampling, rewards, groups, and their rectangle.

`Rollouts` places the weights for the sampler, samples, judges, collects groups with a signal and
lays them out as an `Experience`; its programs score the rows as the updates will see them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from caugym_jax.algorithms import packed
from caugym_jax.algorithms.judging import Judge, Part, Prompt, RolloutRewards, judge_by_share
from caugym_jax.algorithms.step import (
    Learner,
    check_rows,
    in_parts,
    is_packed,
    microbatch_count,
)
from caugym_jax.data.packing import width_for
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes, terminal
from caugym_jax.devices.mesh import fetch, put, row_count, rows, sampling_mesh
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import on_shapes
from caugym_jax.errors import UserError, require
from caugym_jax.models.transformer import Params, cached
from caugym_jax.models.work import Work, forward
from caugym_jax.objectives.advantages import informative_groups
from caugym_jax.objectives.logprobs import Scores, score, score_places
from caugym_jax.rewards.combination import ON_ERROR, parse_weights
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.sampling.stops import stop_ids
from caugym_jax.types import Experience, Rollout, TrainState


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """How completions are sampled and judged, and how often a rollout is trained on.

    Attributes:
      group_size: samples of each prompt.
      max_completion_length: the longest completion, in tokens.
      temperature: what logits are divided by before sampling.
      top_k: sample among the k most probable tokens; 0: among all.
      top_p: sample among the fewest tokens that have this probability together; 1: among all.
      min_p: leave out tokens less probable than this fraction of the most probable one; 0: none.
      stop: texts at which a completion ends (it keeps them), besides the model's end tokens.
      reward_weights: reward functions by name or "package.module:function", with weights: text like
        "answer=1,form=0.1", or a mapping.
      on_reward_error: where a reward function raises or returns what is no number: "stop" the run,
        naming function and item, or "skip" it as if it had returned None.
      reward_timeout: seconds after which a reward function has failed; None: never.
      reward_while_sampling: judge completions as they end, while others are still sampled, in parts
        of the batch: for reward functions that take long and look at each completion by itself
        (then no result changes; ours all do). False: call each once with the whole batch.
      sample_batch_size: prompts sampled at a time; None: all of a step, or as many as fit by
        estimate (`runs/recipe.py`).
      cache_dtype: of the keys and values kept while sampling: int8, which takes half of bfloat16's
        memory, or None: the compute type. Samples then come from slightly other probabilities than
        the updates see (`sampling/sampling_logp_difference` is how much).
      num_iterations: passes over one rollout; old log-probs stay those before the first.
      num_minibatches: optimiser steps per pass.
      microbatches: parts into which each optimiser step is cut to save memory; None: one row to
        each device at a time. No result changes.
      packed: put several completions into a row of an update, so that next to nothing is padding,
        and a prompt once for several of its completions; False: one in each row. None: packed,
        unless the attention kernel is cudnn, which takes one document a row, or PPO takes several
        passes over shuffled minibatches. No result changes.
    """

    method: ClassVar[str]  # the section of the configuration

    group_size: int = 8
    max_completion_length: int = 512
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    reward_weights: str | Mapping[str, float] = "answer=1,form=0.1"
    on_reward_error: str = "stop"
    reward_timeout: float | None = 600.0
    reward_while_sampling: bool = False
    sample_batch_size: int | None = None
    cache_dtype: str | None = None
    num_iterations: int = 1
    num_minibatches: int = 1
    microbatches: int | None = 1
    packed: bool | None = None

    def __post_init__(self) -> None:
        counts = ("group_size", "max_completion_length", "num_iterations", "num_minibatches")
        require(self, *counts, "sample_batch_size", "microbatches", at_least=1)
        require(self, "temperature", above=0, hint="or all samples of a prompt would be the same")
        require(self, "top_k", at_least=0)
        require(self, "top_p", above=0, at_most=1)
        require(self, "min_p", at_least=0, at_most=1)
        require(self, "on_reward_error", among=ON_ERROR)
        require(self, "reward_timeout", above=0)
        require(self, "cache_dtype", among=("int8",))
        if "" in self.stop:
            raise UserError("stop: a text to stop at must not be empty")

    @property
    def updates(self) -> int:
        """Optimiser steps on one rollout."""
        return self.num_iterations * self.num_minibatches

    @property
    def shuffled(self) -> bool:
        """Whether completions change minibatches between the passes over a rollout."""
        return False

    @property
    def part(self) -> Part | None:
        """What is added to the rewards besides the reward functions."""
        return None

    @property
    def remedy(self) -> str:
        """What to lower where a program does not fit."""
        return f"{self.method}.group_size, data.batch_size or {self.method}.max_completion_length"


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one prompt that carry a signal."""

    prompt: list[int]
    completions: list[np.ndarray]  # G arrays of token ids, end token included
    logprobs: list[np.ndarray]  # G arrays, the sampler's
    counted: np.ndarray  # [G] bool: False where a truncated sample is masked
    rewards: np.ndarray  # [G] float32; NaN = not judged
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the sample table


def lay_out(
    groups: list[Group], advantages: np.ndarray, rows_wanted: int, max_prompt: int, max_new: int
) -> Experience:
    """Groups as one rectangular Experience (NumPy); missing rows are all padding.

    Args:
      advantages: [rows of the groups] float32.
    """
    completions = [c for g in groups for c in g.completions]
    P = width_for(max(len(g.prompt) for g in groups), max_prompt)
    C = width_for(max(len(c) for c in completions), max_new)
    tokens = np.zeros((rows_wanted, P + C), np.int32)
    positions = np.zeros_like(tokens)
    segments = np.zeros_like(tokens)
    mask = np.zeros((rows_wanted, C), np.float32)
    logprobs = np.zeros((rows_wanted, C), np.float32)
    advantages = np.pad(advantages, (0, rows_wanted - len(advantages)))
    row = 0
    for group in groups:
        for i, completion in enumerate(group.completions):
            first, last = P - len(group.prompt), P + len(completion)
            tokens[row, first:P] = group.prompt
            tokens[row, P:last] = completion
            positions[row, first:last] = np.arange(last - first)
            segments[row, first:last] = 1
            mask[row, : len(completion)] = group.counted[i]
            logprobs[row, : len(completion)] = group.logprobs[i]
            row += 1
    return Experience(tokens, positions, segments, mask, advantages, logprobs, None, None)


def longest(rollout: Rollout, group_size: int) -> RolloutRewards:
    """The rewards of a step on shapes: completions as long as may be, a signal in every group."""
    rows, width = rollout.logprobs.shape
    total = (np.arange(rows) % group_size == 0).astype(np.float32)
    return RolloutRewards(
        total,
        (),
        np.zeros((rows, 0), np.float32),
        np.full(rows, width),
        0,
        np.ones(rows, bool),
        [],
    )


def make_groups(
    prompts: list[Prompt],
    rollout: Rollout,
    judged: RolloutRewards,
    group_size: int,
    only_informative: bool,
    mask_truncated: bool,
) -> list[Group]:
    """The groups of a rollout, in order; only those with a signal if asked."""
    P, G = rollout.prompt_width, group_size
    tokens, logprobs = np.asarray(rollout.tokens), np.asarray(rollout.logprobs)
    wanted = informative_groups(judged.total, G)
    counted = np.isfinite(judged.total) & (judged.ended | (not mask_truncated))
    groups = []
    for g, prompt in enumerate(prompts):
        if only_informative and not wanted[g]:
            continue
        members = range(g * G, (g + 1) * G)
        groups.append(
            Group(
                prompt.tokens,
                [tokens[i, P : P + judged.lengths[i]] for i in members],
                [logprobs[i, : judged.lengths[i]] for i in members],
                counted[g * G : (g + 1) * G],
                judged.total[g * G : (g + 1) * G],
                judged.rows[g * G : (g + 1) * G],
            )
        )
    return groups


def best_and_worst(rows: list[dict[str, Any]], group_size: int) -> list[dict[str, Any]]:
    """Of each prompt's samples the one of the highest reward and the one of the lowest."""

    def rank(row: dict[str, Any]) -> float:
        return -np.inf if np.isnan(row["reward"]) else row["reward"]

    groups = [rows[i : i + group_size] for i in range(0, len(rows), group_size)]
    ranked = [sorted(group, key=rank, reverse=True) for group in groups]
    return [
        row for group in ranked for row in (group if group_size == 1 else (group[0], group[-1]))
    ]


class Collected(NamedTuple):
    """What a step is trained on, and what is reported about all that was sampled for it."""

    groups: list[Group]  # at most `wanted`
    wanted: int  # prompts of a full step
    metrics: dict[str, float]
    samples: list[dict[str, Any]]  # the best and the worst of each prompt

    def note_advantages(self, advantages: np.ndarray) -> None:
        """Writes them into the table; samples of groups that are not trained on have none."""
        for row in self.samples:
            row["advantage"] = None
        rows = (row for group in self.groups for row in group.rows)
        for row, advantage in zip(rows, advantages, strict=False):  # on shapes there are no rows
            row["advantage"] = float(advantage)

    @property
    def rewards(self) -> np.ndarray:
        """[rows of the groups] float32."""
        return np.concatenate([group.rewards for group in self.groups])


class Placed:
    """An experience on the devices: padded, or in packed rows a minibatch each.

    Args:
      laid: [B, P + C] (NumPy).
      shape: of the packed rows of a minibatch; None: padded.
      updates: minibatches; number i has rows i, i + updates, ...
    """

    def __init__(
        self,
        laid: Experience,
        mesh: jax.sharding.Mesh,
        shape: packed.Shape | None,
        updates: int,
    ):
        self._shape, self._mesh, self._updates = laid.mask.shape, mesh, updates
        self._packings: list[packed.Packing] = []
        self.parts = [put(laid, rows(mesh))]
        if shape is None:
            return
        self.parts = []
        for i in range(updates):
            part = jax.tree.map(lambda x, i=i: x[i::updates], laid)
            one, packing = packed.pack_rows(part, shape)
            self.parts.append(put(one, rows(mesh)))
            self._packings.append(packing)

    def compute(self, name: str, program: Callable[..., Any], *arguments: Any) -> None:
        """Sets a field to program(*arguments, experience)."""
        self.parts = [e._replace(**{name: program(*arguments, e)}) for e in self.parts]

    def clear(self, name: str) -> None:
        """Sets a field to None."""
        self.parts = [e._replace(**{name: None}) for e in self.parts]

    def set(self, name: str, values: np.ndarray) -> None:
        """Sets a field to [B] or [B, C] float32."""
        for i, e in enumerate(self.parts):
            own = values
            if self._packings:
                own = self._packings[i].pack(values[i :: self._updates])
            self.parts[i] = e._replace(**{name: put(own, rows(self._mesh))})

    def fetch(self, name: str) -> np.ndarray:
        """A field, [B, C]."""
        found: list[np.ndarray] = fetch([getattr(e, name) for e in self.parts])
        if not self._packings:
            return found[0]
        whole = np.zeros(self._shape, found[0].dtype)
        for i, (lists, packing) in enumerate(zip(found, self._packings, strict=True)):
            part = whole[i :: self._updates]
            part[:] = packing.unpack(lists, part.shape)
        return whole

    @property
    def experience(self) -> Experience | list[Experience]:
        """Padded: of all rows; packed: of each minibatch."""
        return self.parts if self._packings else self.parts[0]


def refill_size(wanted: int, found: int, seen: int, waiting: int, parts: Sequence[int]) -> int:
    """How many prompts to sample next: the fewest that fill the step if as many of them have a
    signal as of those before.

    By hand: 16 wanted, 12 found in the first 16, so 4 are missing and 6 prompts should do: 8 of
    parts 4 and 8. With 1 found: all 16.

    Args:
      wanted: groups of a full step, which are the prompts of a draw.
      found: groups with a signal among the `seen` prompts that were sampled.
      waiting: prompts that are drawn and not sampled, at least one.
      parts: rising numbers of prompts that may be sampled at a time, beside all `wanted`.
    """
    possible = [count for count in (*parts, wanted) if count <= waiting]
    enough = [count for count in possible if found and count * found >= (wanted - found) * seen]
    return enough[0] if enough else possible[-1]


class Rollouts:
    """Samples, judges and lays out what a step is trained on.

    Args:
      max_prompt_length: in tokens; longer prompts are refused.
      sampler_mesh: the devices arranged for sampling; None: `sampling_mesh` of the learner's.
    """

    def __init__(
        self,
        learner: Learner,
        settings: RolloutSettings,
        tokenizer: Tokenizer,
        *,
        max_prompt_length: int = 512,
        seed: int = 0,
        sampler_mesh: jax.sharding.Mesh | None = None,
    ):
        self.settings, self.seed = settings, seed
        self._judging = Judge(
            tokenizer,
            settings.group_size,
            parse_weights(settings.reward_weights),  # an unknown function is refused here
            settings.on_reward_error,
            settings.reward_timeout,
            settings.part,
            settings.stop,
            tokenizer.pad_id,
        )
        self._learner = learner
        self._longest = max_prompt_length, settings.max_completion_length
        self._sampler = Sampler(
            cached(learner.model, settings.cache_dtype),
            end_ids=[*tokenizer.end_ids, *stop_ids(settings.stop, tokenizer.encode)],
            pad_id=tokenizer.pad_id,
            max_new_tokens=settings.max_completion_length,
            max_prompt_length=max_prompt_length,
            batch_size=settings.sample_batch_size,
            mesh=sampler_mesh or sampling_mesh(learner.mesh),
        )

    def score(self, weights: Params, e: Experience) -> Scores:
        """The completions' teacher-forced scores, [B, C], at the temperature they were sampled
        at; of packed rows in their lists."""
        if is_packed(e):
            return score_places(self._learner.model, weights, e, self.settings.temperature)
        return score(
            self._learner.model,
            weights,
            e.tokens,
            e.positions,
            e.segment_ids,
            start=e.prompt_width,
            temperature=self.settings.temperature,
        )

    def work(self, e: Experience) -> Work:
        """Of `score`; packed rows hold the longest completions."""
        scored = e.mask.shape[-1]
        if is_packed(e):
            prompt, new = self._longest
            scored = e.tokens.shape[-1] * new // (prompt + new)
        return forward(self._learner.model, e.tokens.shape, scored)

    def scorer(self, name: str, *, own: bool) -> Program:
        """The program (weights, experience) -> log-probs [B, C] as the updates will see them.

        Args:
          own: the weights are the trained ones, below which an adapter's frozen ones may lie; else
            a plain model's.
        """
        apply, frozen = self._learner.adapter.apply, self._learner.adapter.frozen
        return self.program(
            name,
            lambda weights, e: self.score(weights, e).logprobs,
            self.work,
            apply=apply if own else None,
            last=(frozen,) if own else (),
        )

    def program(
        self,
        name: str,
        function: Callable[[Params, Experience], jax.Array],
        work: Callable[[Experience], Work],
        *,
        apply: Callable[..., Params] | None = None,
        last: tuple[Any, ...] = (),
    ) -> Program:
        """The program (weights, experience) -> function(weights, rows) of all rows [B, C], taken
        together as the updates will take them; of packed rows, of a minibatch's lists."""
        settings = self.settings
        updates, microbatches = settings.num_minibatches, settings.microbatches

        def run(weights: Params, e: Experience, *frozen: Any) -> Any:
            weights = weights if apply is None else apply(weights, *frozen)
            return in_parts(lambda part: function(weights, part), e, updates, microbatches)

        def working(_: Params, e: Experience) -> Work:
            if is_packed(e):
                return work(e)._replace(parts=microbatch_count(e, None))
            count = len(e.tokens) // updates
            one = jax.ShapeDtypeStruct((count,), np.int32)
            return work(e)._replace(parts=updates * microbatch_count(one, microbatches))

        return Program(
            name,
            run,
            f"{settings.remedy}, or raise microbatches",
            last=last,
            places=rows(self._learner.mesh),
            work=working,
        )

    def collect(
        self,
        state: TrainState,
        draw: Callable[[], list[Prompt]],
        *,
        only_informative: bool = False,
        mask_truncated: bool = False,
        max_refills: int = 4,
    ) -> Collected:
        """Samples and judges prompts until a step is full of groups with a signal (DAPO's dynamic
        sampling); for that it draws prompts at most `max_refills` more times. What is drawn is
        sampled in the order of its ids, as much at a time as will be needed (`refill_size`), and
        the surplus is dropped: the step's groups do not depend on these amounts.

        Of several processes each judges a share, and all have the same prompts, rollout and
        verdicts: so all come to the same decisions and groups as one process does.

        Args:
          only_informative: drop groups whose rewards agree; False: one draw, all of it.
          mask_truncated: leave samples that did not end out of the loss.
        """
        group_size, step = self.settings.group_size, int(fetch(state.step))
        start = time.perf_counter()
        weights = self._sampler.place(self._learner.adapter.merge(state.params))
        jax.block_until_ready(weights)
        spent = {"time/sampling": 0.0, "time/rewards": 0.0}
        placed = time.perf_counter() - start
        drawn: list[RolloutRewards] = []
        groups: list[Group] = []
        samples: list[dict[str, Any]] = []
        sampled = wanted = draws = 0
        waiting: list[Prompt] = []
        while True:
            if not waiting:
                waiting, draws = draw(), draws + 1
                wanted = wanted or len(waiting)
            parts = self._parts(wanted)
            count = refill_size(wanted, len(groups), sampled, len(waiting), parts)
            prompts, waiting = waiting[:count], waiting[count:]
            ids = list(range(sampled, sampled + count))
            sampled += count
            start = time.perf_counter()
            rollout, judge = self._sampled(weights, prompts, ids, step)
            middle = time.perf_counter()
            terminal.doing("judging")
            judged = judge_by_share(judge, prompts, rollout, group_size)
            spent["time/sampling"] += middle - start
            spent["time/rewards"] += time.perf_counter() - middle
            drawn.append(judged)
            samples += judged.rows
            groups += make_groups(
                prompts, rollout, judged, group_size, only_informative, mask_truncated
            )
            if not only_informative or len(groups) >= wanted:
                break
            if not waiting and draws > max_refills:
                break
        metrics = rollout_metrics(drawn, group_size) | {"sampling/refills": draws - 1}
        metrics |= spent | {"time/place": placed}
        return Collected(groups[:wanted], wanted, metrics, best_and_worst(samples, group_size))

    def _parts(self, wanted: int) -> list[int]:
        """The numbers of prompts, fewer than a whole draw, that may be sampled at a time. Each is a
        program more: that pays where the sampler halves its waves, too."""
        if not self._sampler.halves(wanted * self.settings.group_size):
            return []
        return [wanted // k for k in (4, 2) if wanted % (k * processes.count()) == 0]

    def _sampled(
        self, weights: Params, prompts: list[Prompt], ids: list[int], step: int
    ) -> tuple[Rollout, Callable[[list[Prompt], Rollout], RolloutRewards]]:
        """(the prompts' rollout, what judges this process's share of it)."""
        s, judge = self.settings, self._judging
        sample = functools.partial(
            self._sampler,
            weights,
            [p.tokens for p in prompts],
            ids=ids,
            seed=self.seed,
            step=step,
            samples_per_prompt=s.group_size,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
        )
        if on_shapes():
            return sample(), lambda _, rollout: longest(rollout, s.group_size)
        if not s.reward_while_sampling:
            return judge.cut(sample()), judge

        def telling(leave: Callable[[np.ndarray, Rollout], None]) -> Rollout:
            with self._sampler.telling(leave):
                return sample()

        rollout, scores = judge.while_sampling(prompts, telling)
        return rollout, lambda own, its_rollout: judge(own, its_rollout, scores())

    def lay_out(self, collected: Collected, advantages: np.ndarray) -> Experience:
        """`lay_out` of a full step's rows.

        Raises:
          UserError: the mesh, minibatches and microbatches do not divide them.
        """
        settings = self.settings
        size = collected.wanted * settings.group_size
        parts = settings.num_minibatches * (settings.microbatches or 1)
        check_rows(size, parts, row_count(self._learner.mesh), "prompts x group_size")
        return lay_out(collected.groups, advantages, size, *self._longest)

    def place(self, laid: Experience) -> Placed:
        """What `lay_out` made, on the devices, as the updates will take it."""
        s, learner, shape = self.settings, self._learner, None
        kernel = learner.model.attention
        if s.packed or (s.packed is None and kernel != "cudnn" and not s.shuffled):
            prompt, new = self._longest
            shape = packed.shape_for(
                len(laid.tokens) // s.num_minibatches,
                prompt + new,
                prompt + s.group_size * new // 2,
                shards=row_count(learner.mesh),
                microbatches=s.microbatches,
                kernel=kernel,
                platform=learner.mesh.devices.flat[0].platform,
            )
        return Placed(laid, learner.mesh, shape, s.num_minibatches)


def rollout_metrics(drawn: list[RolloutRewards], group_size: int) -> dict[str, float]:
    """TRL's metrics, over everything that was sampled in the step (refills included)."""
    total = np.concatenate([j.total for j in drawn])
    values = np.concatenate([j.values for j in drawn])
    lengths = np.concatenate([j.lengths for j in drawn])
    ended = np.concatenate([j.ended for j in drawn])
    groups = total.reshape(-1, group_size)
    finished = lengths[ended] if ended.any() else np.zeros(1)

    def known(x: np.ndarray) -> np.ndarray:  # NaN only where nothing was judged
        return x[np.isfinite(x)] if np.isfinite(x).any() else np.full(1, np.nan)

    metrics = {
        "reward": float(known(total).mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/mean_terminated_length": float(finished.mean()),
        "completions/min_terminated_length": float(finished.min()),
        "completions/max_terminated_length": float(finished.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "tokens": int(lengths.sum()) + sum(j.prompt_tokens for j in drawn),
    }
    if group_size > 1:
        spread = [known(g).std(ddof=1) if known(g).size > 1 else 0.0 for g in groups]
        metrics["reward_std"] = float(np.mean(spread))
        informative = informative_groups(total, group_size)
        metrics["frac_reward_zero_std"] = float(1 - informative.mean())
    if any(j.failures for j in drawn):
        metrics["rewards/failures"] = sum(j.failures for j in drawn)
    for name, column in zip(drawn[0].names, values.T, strict=True):
        metrics[f"rewards/{name}/mean"] = float(known(column).mean())
        metrics[f"rewards/{name}/std"] = float(known(column).std())
    table = [row for j in drawn for row in j.rows]
    for part in sorted({key for row in table for key in row if key.count("/") == 2}):
        column = np.array([row.get(part, np.nan) for row in table])
        metrics[f"{part}/mean"] = float(known(column).mean())
    return metrics
