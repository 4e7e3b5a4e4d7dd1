"""Greedy answers to a fixed set of problems: how a run knows that it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from caugym_jax.causal.engine.answers import TOLERANCE
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from caugym_jax.rewards.form import form_reward
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Problem, Rollout


@dataclasses.dataclass(frozen=True)
class Probed:
    """One greedy answer per problem, judged by the strict rule."""

    completions: list[str]
    right: np.ndarray  # [n] bool
    wellformed: np.ndarray  # [n] bool
    ended: np.ndarray  # [n] bool

    def as_json(self) -> dict[str, Any]:
        return {
            "completions": self.completions,
            "right": [int(x) for x in self.right],
            "wellformed": [int(x) for x in self.wellformed],
            "ended": [int(x) for x in self.ended],
        }

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Probed:
        right, wellformed, ended = (
            np.array(stored[k], bool) for k in ("right", "wellformed", "ended")
        )
        if not len(stored["completions"]) == len(right) == len(wellformed) == len(ended):
            raise ValueError("lists of different lengths")
        return Probed(stored["completions"], right, wellformed, ended)


def require_finite(rollout: Rollout) -> Rollout:
    """The rollout.

    Raises:
      UserError: log-probabilities of it are NaN or infinite, so that its tokens mean nothing.
    """
    wrong = ~np.isfinite(np.asarray(rollout.logprobs)).all(axis=1)
    if wrong.any():
        raise UserError(
            f"the model's logits are not finite in {wrong.sum()} of {len(wrong)} answers: its "
            "weights hold NaN or infinity, or are too large for its dtype (try float32)"
        )
    return rollout


def probe(
    sampler: Sampler, params: Any, tokenizer: Tokenizer, items: Sequence[tuple[Problem, list[int]]]
) -> Probed:
    """Answers every (problem, prompt tokens) greedily and judges the answers."""
    rollout = require_finite(
        sampler(params, [tokens for _, tokens in items], ids=range(len(items)), temperature=0.0)
    )
    P, ended = rollout.prompt_width, np.asarray(rollout.ended, bool)

    def judged(i: int) -> tuple[str, bool, bool]:
        text = tokenizer.decode_completion(rollout.tokens[i, P : P + rollout.completion_length[i]])
        sample = text, items[i][0], not ended[i]
        return text, answer_reward(*sample) == 1, form_reward(*sample) == 1

    own = [judged(i) for i in processes.share_of(range(len(items)))]
    texts, right, formed = zip(*processes.all_rows(own), strict=True)
    return Probed(list(texts), np.array(right), np.array(formed), ended)


def nonzero(problems: Sequence[Problem]) -> np.ndarray:
    """[n] bool: the items that a constant answer of 0 gets wrong."""
    return np.array(
        [p.prob is not None and abs(p.prob) >= float(TOLERANCE) for p in problems], bool
    )


def paired_gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """(gain, low, high): mean of the paired differences and its 95% interval.

        d_i = after_i - before_i,   mean(d) +- 1.96 sd(d) / sqrt(n)

    By hand: before (0, 0, 1, 1), after (1, 1, 1, 1): d = (1, 1, 0, 0), mean 0.5, sd 0.57735,
    half-width 1.96 * 0.57735 / 2 = 0.5658.
    """
    d = after.astype(float) - before.astype(float)
    half = 1.96 * d.std(ddof=1) / np.sqrt(len(d)) if len(d) > 1 else float("nan")
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def figures(probed: Probed, problems: Sequence[Problem]) -> dict[str, float]:
    """What is logged of a probe; fractions."""
    answerable = nonzero(problems)
    tasks = np.array([p.task for p in problems])
    out = {
        "strict": float(probed.right.mean()),
        "wellformed": float(probed.wellformed.mean()),
        "truncated": float(1 - probed.ended.mean()),
    }
    if answerable.any():
        out["strict_nonzero"] = float(probed.right[answerable].mean())
    for task in sorted(set(tasks)):
        out[f"strict_{task}"] = float(probed.right[tasks == task].mean())
    return out


def summary(
    before: Probed,
    after: Probed,
    problems: Sequence[Problem],
    notes: Sequence[str] = (),
    *,
    shown: int = 5,
) -> str:
    """Before, after, the paired gain, per task, and a few answered problems with the truth.

    Args:
      notes: what the figures are about, a line each.
    """
    lines = []
    tasks = np.array([p.task for p in problems])
    answerable = nonzero(problems)

    def row(name: str, chosen: np.ndarray) -> str:
        gain, low, high = paired_gain(before.right[chosen], after.right[chosen])
        return (
            f"  {name:<18} {chosen.sum():>5}  {100 * before.right[chosen].mean():>6.1f}%"
            f"  {100 * after.right[chosen].mean():>6.1f}%"
            f"  {100 * gain:>+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        )

    lines.append("Strict accuracy, greedy, on problems held out from training")
    lines += [f"  {note}" for note in notes]
    lines.append(f"  {'':<18} {'n':>5}  {'before':>7}  {'after':>7}  gain, points [95% interval]")
    for name, chosen in [
        ("all", np.ones(len(tasks), bool)),
        ("non-zero answers", answerable),
        *((f"{t} non-zero", answerable & (tasks == t)) for t in sorted(set(tasks))),
    ]:
        if chosen.sum() > 1:
            lines.append(row(name, chosen))
    lines.append(
        f"  well-formed answers: {100 * before.wellformed.mean():.1f}% before, "
        f"{100 * after.wellformed.mean():.1f}% after"
    )
    lines += ["", "Answered problems"]
    for i in _by_turns(tasks, answerable if answerable.any() else ~answerable, shown):
        problem = problems[i]
        question = next(
            (x for x in problem.text.splitlines() if x.startswith("Question:")), problem.text[-200:]
        )
        lines.append(f"  [{problem.task}] {question}")
        for when, probed in (("before", before), ("after", after)):
            mark = "right" if probed.right[i] else "wrong"
            lines.append(f"    {when} ({mark}):")
            lines += [f"      {line}" for line in probed.completions[i].strip().splitlines()]
        lines.append(f"    engine: {problem.answer}")
    return "\n".join(lines)


def _by_turns(tasks: np.ndarray, chosen: np.ndarray, n: int) -> list[int]:
    """The first `n` chosen items, taking the tasks in turn."""
    queues = [np.flatnonzero(chosen & (tasks == t)).tolist() for t in sorted(set(tasks))]
    rounds = max(map(len, queues))
    return [q[r] for r in range(rounds) for q in queues if r < len(q)][:n]
