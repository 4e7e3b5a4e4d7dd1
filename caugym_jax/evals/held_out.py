"""A run's examination: greedy answers to problems held out from its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from caugym_jax.data.sources import Problems, item_source, prompt_items
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError, require
from caugym_jax.evals import probe
from caugym_jax.evals.probe import Probed
from caugym_jax.models.transformer import Model, Params
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import TASKS, Problem

STREAM = 1_000_003  # added to the seed of training problems; seeds of two runs differ by far less


@dataclasses.dataclass(frozen=True)
class Evaluation(Problems):
    """How progress is measured: greedy answers to problems held out from training.

    Attributes:
      every: steps from one evaluation to the next; 0: none.
      n: how many problems; of a file the first so many.
      max_new_tokens: the longest answer, in tokens.
    """

    every: int = 50
    n: int = 400
    max_new_tokens: int = 48

    def __post_init__(self):
        super().__post_init__()
        require(self, "every", at_least=0)
        require(self, "n", "max_new_tokens", at_least=1)


class HeldOut:
    """The held-out problems of a run, asked whenever the model's progress is measured.

    Args:
      items: the problems with their prompt tokens.
      max_new_tokens: the longest answer.
      mesh: the devices, arranged for sampling.
      notes: what the problems are, and are not, a line each.
    """

    def __init__(
        self,
        items: list[tuple[Problem, list[int]]],
        model: Model,
        tokenizer: Tokenizer,
        max_new_tokens: int,
        mesh: jax.sharding.Mesh | None,
        notes: Sequence[str] = (),
    ):
        self._items, self._tokenizer, self._notes = items, tokenizer, notes
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

    def check(self, figure: str | None) -> None:
        """Refuses a `checkpoint.best` that the answers to these problems do not have."""
        tasks = sorted({problem.task for problem in self.problems})
        task = (figure or "").removeprefix("strict_")
        if task != figure and task in TASKS and task not in tasks:
            raise UserError(
                f"config.checkpoint.best={figure}: the evaluation asks {', '.join(tasks)} only"
            )

    def ask(self, params: Params) -> Probed:
        """The greedy answers of a model with these weights."""
        return probe.probe(self._sampler, params, self._tokenizer, self._items)

    def figures(self, answers: Probed) -> dict[str, float]:
        """What is logged of the answers; fractions."""
        return probe.figures(answers, self.problems)

    def summary(self, before: Probed, after: Probed) -> str:
        return probe.summary(before, after, self.problems, self._notes)


def open_held_out(
    settings: Evaluation,
    seed: int,
    model: Model,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh | None,
    card: Path | None = None,
) -> HeldOut | None:
    """The held-out problems; None where evaluation is off.

    Args:
      seed: the run's.
      card: what is known of the model otherwise.
    """
    if not settings.every:
        return None
    source, room = item_source(settings, seed=seed + STREAM), settings.max_new_tokens
    items, _, _ = prompt_items(source, tokenizer, None, model.config.longest, room)
    items = [items(i) for i in range(settings.n)] if callable(items) else items[: settings.n]
    problems = [(item.problem, tokens) for item, tokens in items if item.problem is not None]
    if len(problems) < len(items):
        raise UserError(
            f"evaluation.path={settings.path} holds rows that are no causal problems: choose "
            "another file, or evaluation.every=0"
        )
    notes = [settings.described]
    if card is not None:
        notes.append(f"What the first model does on other problems, the official sets too: {card}")
    return HeldOut(problems, model, tokenizer, room, mesh, notes)
