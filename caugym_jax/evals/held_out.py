"""A run's examination: greedy answers to problems held out from its training."""

from __future__ import annotations

from typing import Any

import jax

from caugym_jax.cli.config import build
from caugym_jax.data.sources import problem_source, prompt_items
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.evals import probe
from caugym_jax.evals.probe import Evaluation, Probed
from caugym_jax.models.transformer import Model, Params
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Problem

STREAM = 1_000_003  # added to the seed of training problems; seeds of two runs differ by far less


class HeldOut:
    """The held-out problems of a run, asked whenever the model's progress is measured.

    Args:
      items: the problems with their prompt tokens.
      max_new_tokens: the longest answer.
      mesh: the devices, arranged for sampling.
    """

    def __init__(
        self,
        items: list[tuple[Problem, list[int]]],
        model: Model,
        tokenizer: Tokenizer,
        max_new_tokens: int,
        mesh: jax.sharding.Mesh | None,
    ):
        self._items, self._tokenizer = items, tokenizer
        self._sampler = Sampler(
            model,
            end_ids=tokenizer.end_ids,
            pad_id=tokenizer.pad_id,
            max_new_tokens=max_new_tokens,
            batch_size=min(128, len(items)),
            mesh=mesh,
        )

    @property
    def problems(self) -> list[Problem]:
        return [problem for problem, _ in self._items]

    def ask(self, params: Params) -> Probed:
        """The greedy answers of a model with these weights."""
        return probe.probe(self._sampler, params, self._tokenizer, self._items)

    def figures(self, answers: Probed) -> dict[str, float]:
        """What is logged of the answers; fractions."""
        return probe.figures(answers, self.problems)

    def summary(self, before: Probed, after: Probed) -> str:
        return probe.summary(before, after, self.problems)


def open_held_out(
    config: Any, model: Model, tokenizer: Tokenizer, mesh: jax.sharding.Mesh | None
) -> HeldOut:
    """The held-out problems that `config.evaluation` describes."""
    settings = build(Evaluation, config.evaluation)
    source = problem_source(settings, seed=config.seed + STREAM)
    room = settings.max_new_tokens
    items, _, _ = prompt_items(source, tokenizer, None, model.config.max_position, room)
    count = settings.n
    items = [items(i) for i in range(count)] if callable(items) else items[:count]
    return HeldOut(items, model, tokenizer, room, mesh)
