"""A run's examination: greedy answers to problems held out from its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from caugym_jax.data.items import holds_problems
from caugym_jax.data.sources import Problems, item_source, prompt_items
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.errors import require
from caugym_jax.evals import probe
from caugym_jax.evals.probe import Probed
from caugym_jax.models.transformer import Model, Params
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Problem, TrainState

STREAM = 1_000_003  # added to the seed of training problems; seeds of two runs differ by far less


@dataclasses.dataclass(frozen=True)
class Evaluation(Problems):
    """How progress is measured: greedy answers to problems held out from training.

    Held-out rows that are no causal problems, and those of `data.held_out`, give the loss and what
    is logged beside it (SFT, DPO, KTO), or the mean reward of greedy answers (GRPO, PPO).

    Attributes:
      every: steps from one evaluation to the next; 0: none.
      n: how many problems or rows; of a file the first so many.
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

    def ask(self, params: Params, state: TrainState) -> Probed:
        """The greedy answers of a model with these weights."""
        return probe.probe(self._sampler, params, self._tokenizer, self._items)

    def figures(self, answers: Probed) -> dict[str, float]:
        """What is logged of the answers; fractions."""
        return probe.figures(answers, self.problems)

    def summary(self, before: Probed, after: Probed) -> str:
        return probe.summary(before, after, self.problems, self._notes)


class Examination(Protocol):
    """What measures progress: `HeldOut`, `HeldOutLoss` or `HeldOutRewards`."""

    def ask(self, params: Params, state: TrainState) -> Any:
        """What a model with these weights, which are the state's, does."""

    def figures(self, answers: Any) -> dict[str, float]:
        """What is logged of it."""

    def summary(self, before: Any, after: Any) -> str:
        """What the run prints at its end."""


class Own(NamedTuple):
    """What a method makes of rows that are no causal problems."""

    path: str | None  # the files that are trained on
    apart: Sequence[Any]  # their rows that are held out
    read: Callable[[str], Sequence[Any]]  # the rows of another file
    examine: Callable[[Sequence[Any]], Examination]


def open_held_out(
    settings: Evaluation,
    seed: int,
    model: Model,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh | None,
    own: Own,
    card: Path | None = None,
) -> Examination | None:
    """What measures progress; None where evaluation is off.

    Rows of `evaluation.path` come first, then those of `data.held_out`; without either, problems
    are generated where what is trained on are such.

    Args:
      seed: the run's.
      card: what is known of the model otherwise.
    """
    if not settings.every:
        return None
    if settings.path is None and own.apart:
        return own.examine(own.apart[: settings.n])
    if settings.path is not None and not holds_problems(settings.path):
        return own.examine(own.read(settings.path)[: settings.n])
    if settings.path is None and own.path is not None and not holds_problems(own.path):
        processes.say(
            "no evaluation: set evaluation.path to a file of like rows, or data.held_out to a "
            "share of these"
        )
        return None
    source, room = item_source(settings, seed=seed + STREAM), settings.max_new_tokens
    key = "evaluation.max_new_tokens"
    items, _, _ = prompt_items(source, tokenizer, None, model.config.longest, room, room_key=key)
    items = [items(i) for i in range(settings.n)] if callable(items) else items[: settings.n]
    problems = [(item.problem, tokens) for item, tokens in items if item.problem is not None]
    notes = [settings.described]
    if card is not None:
        notes.append(f"What the first model does on other problems, the official sets too: {card}")
    return HeldOut(problems, model, tokenizer, room, mesh, notes)
