"""What a run measures of held-out rows that need not be causal problems: their loss, or the rewards
of answers to them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from caugym_jax.algorithms.judging import Prompt
from caugym_jax.algorithms.rollouts import RolloutSettings
from caugym_jax.algorithms.step import Algorithm
from caugym_jax.data.items import shown, truth
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.devices.mesh import fetch
from caugym_jax.errors import UserError
from caugym_jax.evals.probe import require_finite
from caugym_jax.models.transformer import Model, Params
from caugym_jax.objectives.optim import evaluated
from caugym_jax.rewards.combination import combine, parse_weights
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.sampling.stops import cut, stop_ids
from caugym_jax.types import TrainState

SHOWN = 3  # answered rows of a summary


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of held-out rows, and the answers where some were sampled."""

    values: Mapping[str, float]
    completions: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        return {"figures": dict(self.values), "completions": list(self.completions)}

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Measured:
        figures = {str(key): float(value) for key, value in stored["figures"].items()}
        return Measured(figures, [str(text) for text in stored["completions"]])


class HeldOutLoss:
    """The mean loss of held-out rows, and what the method logs beside it.

    Sums and their weights are added over all batches and divided once, so that the figures do not
    depend on how the rows are batched; of KTO the reference point is each batch's own.

    Args:
      algorithm: one with `measure`.
      draws: what the loader would give, batch by batch, filled up with rows without tokens.
    """

    def __init__(self, algorithm: Algorithm, draws: Sequence[Any]):
        self._algorithm, self._draws = algorithm, draws

    def ask(self, params: Params, state: TrainState) -> Measured:
        """The figures of a model with these weights, which are the state's."""
        measure = self._algorithm.measure
        assert measure is not None  # of SFT, DPO and KTO
        state = state._replace(params=evaluated(state.params, state.opt_state))
        sums: dict[str, np.ndarray] = {}
        for draw in self._draws:
            experience, _, _ = self._algorithm.prepare(state, itertools.repeat(draw).__next__)
            loss, others = fetch(measure(params, experience))
            for key, pair in {"loss": loss, **others}.items():
                sums[key] = sums.get(key, np.zeros(2)) + np.array(pair, np.float64)
        found = {k: float(x / w) for k, (x, w) in sums.items() if w and not k.startswith("count/")}
        if {"rewards/chosen", "rewards/rejected"} <= found.keys():
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return Measured(found)

    def figures(self, measured: Measured) -> dict[str, float]:
        """What is logged."""
        return dict(measured.values)

    def summary(self, before: Measured, after: Measured) -> str:
        return _table("Held-out rows", before, after)


class HeldOutRewards:
    """The rewards of greedy answers to held-out prompts.

    Args:
      settings: whose reward functions judge.
      max_new_tokens: the longest answer.
      mesh: the devices, arranged for sampling.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        model: Model,
        tokenizer: Tokenizer,
        settings: RolloutSettings,
        max_new_tokens: int,
        mesh: jax.sharding.Mesh | None,
    ):
        self._prompts, self._tokenizer, self._settings = prompts, tokenizer, settings
        self._sampler = Sampler(
            model,
            end_ids=[*tokenizer.end_ids, *stop_ids(settings.stop, tokenizer.encode)],
            pad_id=tokenizer.pad_id,
            max_new_tokens=max_new_tokens,
            batch_size=min(128, len(prompts)),
            mesh=mesh,
        )

    def ask(self, params: Params, state: TrainState) -> Measured:
        """The answers of a model with these weights, and what they earn."""
        prompts = self._prompts
        rollout = require_finite(
            self._sampler(
                params, [p.tokens for p in prompts], ids=range(len(prompts)), temperature=0.0
            )
        )
        tokenizer = self._tokenizer
        rollout = cut(rollout, self._settings.stop, tokenizer.decode, tokenizer.pad_id)
        P, lengths = rollout.prompt_width, np.asarray(rollout.completion_length)
        ids = [row[P : P + n].tolist() for row, n in zip(rollout.tokens, lengths, strict=True)]
        texts = [tokenizer.decode_completion(x) for x in ids]
        ended = np.asarray(rollout.ended, bool)
        own = processes.share_of(range(len(prompts)))
        scores = combine(
            [texts[i] for i in own],
            [prompts[i].item for i in own],
            [not ended[i] for i in own],
            parse_weights(self._settings.reward_weights),
            self._settings.on_reward_error,
            self._settings.reward_timeout,
            [ids[i] for i in own],
        )
        columns = dict(zip(scores.names, scores.values.T, strict=True)) | dict(scores.parts)
        named = {"reward": scores.total} | {f"rewards/{key}": x for key, x in columns.items()}
        rows = [{key: float(x[i]) for key, x in named.items()} for i in range(len(own))]
        return Measured(_means(processes.all_rows(rows), lengths, ended), texts)

    def figures(self, measured: Measured) -> dict[str, float]:
        """What is logged."""
        return dict(measured.values)

    def summary(self, before: Measured, after: Measured) -> str:
        lines = [_table("Greedy answers to held-out rows", before, after), "", "Answered rows"]
        for i, (item, _) in enumerate(self._prompts[:SHOWN]):
            lines.append(f"  {shown(item)!s:.200}")
            for when, answers in (("before", before), ("after", after)):
                lines.append(f"    {when}:")
                lines += [f"      {x}" for x in answers.completions[i].strip().splitlines()]
            if (right := truth(item)) is not None:
                lines.append(f"    truth: {' '.join(right.split())}")
        return "\n".join(lines)


def batches(rows: Sequence[Any], size: int, make: Callable[[list[Any]], Any]) -> list[Any]:
    """`make` of every so many rows; of the last fewer."""
    return [make(list(rows[start : start + size])) for start in range(0, len(rows), size)]


def _means(
    rows: list[dict[str, float]], lengths: np.ndarray, ended: np.ndarray
) -> dict[str, float]:
    found = {}
    for key in sorted({key for row in rows for key in row}):
        values = np.array([row.get(key, np.nan) for row in rows])
        if np.isfinite(values).any():
            found[key] = float(values[np.isfinite(values)].mean())
    if "reward" not in found:
        raise UserError("no reward function applies to any held-out row: see reward_weights")
    return found | {
        "truncated": float(1 - ended.mean()),
        "completions/mean_length": float(lengths.mean()),
    }


def _table(title: str, before: Measured, after: Measured) -> str:
    width = max(map(len, after.values))
    lines = [f"{title}", f"  {'':<{width}}  {'before':>9}  {'after':>9}"]
    for key, value in after.values.items():
        first = before.values.get(key)
        shown_first = "-" if first is None else f"{first:.4f}"
        lines.append(f"  {key:<{width}}  {shown_first:>9}  {value:>9.4f}")
    return "\n".join(lines)
