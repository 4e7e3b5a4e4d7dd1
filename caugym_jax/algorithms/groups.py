"""From a rollout to an experience, on the host: rewards, groups, and their rectangle."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.data.packing import width_for
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.objectives.advantages import informative_groups
from caugym_jax.rewards.score import score as reward_score
from caugym_jax.types import Experience, Problem, Rollout

TOLD = 3  # failures of reward functions told of a rollout


class Prompt(NamedTuple):
    """A problem and the tokens it is asked with."""

    problem: Problem
    tokens: list[int]


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one prompt that carry a signal."""

    prompt: list[int]
    completions: list[np.ndarray]  # G arrays of token ids, end token included
    logprobs: list[np.ndarray]  # G arrays, the sampler's
    counted: np.ndarray  # [G] bool: False where a truncated sample is masked
    rewards: np.ndarray  # [G] float32; NaN = not judged


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


def longest_rows(size: int, max_prompt: int, max_new: int) -> Experience:
    """What `lay_out` makes of the longest prompts and completions there may be (all zeros)."""
    blank = np.zeros(max_new, np.int32)
    group = Group([0] * max_prompt, [blank], [blank], np.zeros(1, bool), np.zeros(1, np.float32))
    return lay_out([group], np.zeros(1, np.float32), size, max_prompt, max_new)


class Verdicts(NamedTuple):
    """A rollout's rewards and what is logged about it."""

    total: np.ndarray  # [B] float32; NaN = not judged
    names: tuple[str, ...]  # R, of the parts
    values: np.ndarray  # [B, R]
    lengths: np.ndarray  # [B] of completions
    prompt_tokens: int  # of all rows
    ended: np.ndarray  # [B] bool
    rows: list[dict[str, Any]]  # prompt, completion, reward parts: the sample table
    failures: int = 0  # values that reward functions failed to give, each taken as None


def judge(
    prompts: list[Prompt],
    rollout: Rollout,
    tokenizer: Tokenizer,
    group_size: int,
    weights: Mapping[str, float],
    overlong: Callable[[np.ndarray], np.ndarray] | None = None,
    on_error: str = "stop",
    timeout: float | None = None,
) -> Verdicts:
    """Decodes completions and applies the reward functions.

    Args:
      on_error, timeout: what a reward function's failure does, and how long it may take, see
        `rewards.score.score`; what is skipped is told on stderr.
      overlong: what is added to the reward for a completion's length, logged as a part of its own.
    """
    P = rollout.prompt_width
    tokens, lengths, ended = map(
        np.asarray, (rollout.tokens, rollout.completion_length, rollout.ended)
    )
    texts = [
        tokenizer.decode_completion(row[P : P + n]) for row, n in zip(tokens, lengths, strict=True)
    ]
    problems = [p.problem for p in prompts for _ in range(group_size)]
    scores = reward_score(texts, problems, list(~ended), weights, on_error, timeout)
    for failure in scores.failures[:TOLD]:
        print(failure, file=sys.stderr)
    names, parts, totals = scores.names, scores.values, scores.total
    if overlong is not None:
        penalty = overlong(lengths).astype(np.float32)
        names, totals = (*names, "overlong"), totals + penalty
        parts = np.concatenate([parts, penalty[:, None]], axis=1)
    table = [
        {
            "prompt": problem.prompt or problem.text,
            "completion": text,
            "answer": problem.answer,
            "reward": float(total),
            **{f"rewards/{n}": float(v) for n, v in zip(names, values, strict=True)},
        }
        for problem, text, total, values in zip(problems, texts, totals, parts, strict=True)
    ]
    prompt_tokens = int(np.sum(rollout.prompt_length))
    failures = len(scores.failures)
    return Verdicts(totals, names, parts, lengths, prompt_tokens, ended, table, failures)


def judge_by_share(
    judge: Callable[[list[Prompt], Rollout], Verdicts],
    prompts: list[Prompt],
    rollout: Rollout,
    group_size: int,
) -> Verdicts:
    """`judge` where every process takes its share of the prompts (`processes.share_of`), as
    rewards may take long, and all get all verdicts."""
    if processes.count() == 1:
        return judge(prompts, rollout)
    rows = np.arange(len(prompts) * group_size).reshape(-1, group_size)
    own = Rollout(*(np.asarray(x)[processes.share_of(rows).reshape(-1)] for x in rollout))
    parts = processes.together(lambda: judge(list(processes.share_of(prompts)), own))

    def merged(name: str) -> list:
        """A field of all rows: what was one process's is a group at a time."""
        fields = [getattr(part, name) for part in parts]
        groups = [[x[i : i + group_size] for i in range(0, len(x), group_size)] for x in fields]
        return [row for group in processes.interleaved(groups) for row in group]

    return Verdicts(
        names=parts[0].names,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        failures=sum(part.failures for part in parts),
        rows=merged("rows"),
        **{name: np.stack(merged(name)) for name in ("total", "values", "lengths", "ended")},
    )


def overlong_reward(
    lengths: np.ndarray, limit: int, buffer: int, penalty: float = 1.0
) -> np.ndarray:
    """DAPO's soft punishment of long completions: 0 up to limit - buffer tokens, then linearly down
    to -penalty at the limit (Yu et al. 2025, eq. 13).

    By hand: limit 100, buffer 20: lengths 80, 85, 100 give 0, -0.25, -1.
    """
    excess = np.asarray(lengths, np.float64) - (limit - buffer)
    return -penalty * np.clip(excess / buffer, 0.0, 1.0)


def penalise_missing_end(judged: Verdicts, penalty: float) -> Verdicts:
    """The rewards less `penalty` where no end token was sampled, as a part of its own; 0: none."""
    if not penalty:
        return judged
    part = np.where(judged.ended, 0.0, -penalty).astype(np.float32)
    total = judged.total + part
    table = [
        row | {"reward": float(reward), "rewards/missing_eos": float(lost)}
        for row, reward, lost in zip(judged.rows, total, part, strict=True)
    ]
    return judged._replace(
        total=total,
        names=(*judged.names, "missing_eos"),
        values=np.concatenate([judged.values, part[:, None]], axis=1),
        rows=table,
    )


def make_groups(
    prompts: list[Prompt],
    rollout: Rollout,
    judged: Verdicts,
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
            )
        )
    return groups


class Collected(NamedTuple):
    """What a step is trained on, and what is told about everything that was sampled for it."""

    groups: list[Group]  # at most `wanted`
    wanted: int  # prompts of a full step
    metrics: dict[str, float]
    samples: list[dict[str, Any]]


def collect(
    draw: Callable[[], list[Prompt]],
    sample: Callable[[list[Prompt], list[int]], Rollout],
    judge: Callable[[list[Prompt], Rollout], Verdicts],
    group_size: int,
    *,
    only_informative: bool = True,
    mask_truncated: bool = False,
    max_refills: int = 4,
) -> Collected:
    """Samples and judges prompts until a step is full of groups with a signal (DAPO's dynamic
    sampling), at most `max_refills` more times; the surplus is dropped.

    Of several processes each judges a share, and all have the same prompts, rollout and verdicts:
    so all come to the same decisions and groups as one process does.

    Args:
      sample: (prompts, ids) -> Rollout; ids are unique in the step, 0 upwards.
      only_informative: drop groups whose rewards agree; False: one draw, all of it.
    """
    drawn, groups, samples, prompts_drawn, wanted = [], [], [], 0, 0
    spent = {"time/sampling": 0.0, "time/rewards": 0.0}
    while True:
        prompts = draw()
        wanted = wanted or len(prompts)
        ids = list(range(prompts_drawn, prompts_drawn + len(prompts)))
        prompts_drawn += len(prompts)
        start = time.perf_counter()
        rollout = sample(prompts, ids)
        sampled = time.perf_counter()
        judged = judge_by_share(judge, prompts, rollout, group_size)
        spent["time/sampling"] += sampled - start
        spent["time/rewards"] += time.perf_counter() - sampled
        drawn.append(judged)
        samples += judged.rows
        groups += make_groups(
            prompts, rollout, judged, group_size, only_informative, mask_truncated
        )
        if not only_informative or len(groups) >= wanted or len(drawn) > max_refills:
            break
    metrics = rollout_metrics(drawn, group_size) | {"sampling/refills": len(drawn) - 1} | spent
    return Collected(groups[:wanted], wanted, metrics, samples)


def rollout_metrics(drawn: list[Verdicts], group_size: int) -> dict[str, float]:
    """TRL's metrics, over everything that was sampled in the step (refills included)."""
    total = np.concatenate([j.total for j in drawn])
    values = np.concatenate([j.values for j in drawn])
    lengths = np.concatenate([j.lengths for j in drawn])
    ended = np.concatenate([j.ended for j in drawn])
    groups = total.reshape(-1, group_size)
    finished = lengths[ended] if ended.any() else np.zeros(1)

    def known(x):  # NaN only where nothing was judged
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
    return metrics
