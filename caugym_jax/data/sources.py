"""Where training and evaluation problems come from: a file, or the generator without end."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.causal.text.names import KINDS
from caugym_jax.data.conversations import desirable
from caugym_jax.data.items import problem_item, training_items
from caugym_jax.data.packing import pack, pad, width_for
from caugym_jax.data.prompts import item_example, prompt_tokens
from caugym_jax.data.solutions.mistakes import solution
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError, require
from caugym_jax.types import TASKS, Batch, Example, Item, Problem

Source = Sequence[Item] | Callable[[int], Item]

# A generated item that is too long is replaced by the one this far on, which no run reaches.
ELSEWHERE = 2**40
ATTEMPTS = 16


TOO_LONG = ("drop", "refuse")


@dataclasses.dataclass(frozen=True)
class Problems:
    """Where problems come from.

    Attributes:
      path: a file in any layout (docs/data.md), or `hf:owner/name[@config][:split]`; several by
        commas. As FILE=WEIGHT,... rows are drawn from each by its weight. None: generated without
        end, as the following keys say.
      tasks: of ATE, CDE, ETT, NDE, NIE, PN and PS.
      variant: base, insufficient, rephrased, hard, or another name that `generate` takes.
      nodes: the least and the most nodes of a graph.
      names: what variables are called: real, random or fake words.
      adjusters: how many variables must be adjusted for.
      max_mediators: the most mediators, of NDE and NIE.
      zero_fraction: the share of effects that are exactly 0.
    """

    path: str | None = None
    tasks: tuple[str, ...] = TASKS
    variant: str = "base"
    nodes: tuple[int, int] = (3, 5)
    names: tuple[str, ...] = KINDS
    adjusters: tuple[int, ...] = (0, 1)
    max_mediators: int = 1
    zero_fraction: float = 0.143

    def __post_init__(self):
        require(self, "tasks", among=TASKS)
        require(self, "names", among=KINDS)
        require(self, "nodes", at_least=2)
        require(self, "adjusters", "max_mediators", at_least=0)
        require(self, "zero_fraction", at_least=0, at_most=1)

    @property
    def described(self) -> str:
        """The problems in words."""
        if self.path is not None:
            return f"problems of {self.path}"
        (least, most), counts = self.nodes, " or ".join(map(str, self.adjusters))
        return (
            f"generated problems ({self.variant}) of {', '.join(self.tasks)}: {least} to {most} "
            f"nodes, {counts} adjusters, at most {self.max_mediators} mediators"
        )


@dataclasses.dataclass(frozen=True)
class TrainingData(Problems):
    """What is trained on. Of a file, whose rows may be any conversations:

    Attributes:
      held_out: the share of the rows that is set apart and evaluated (see evaluation.path); rows
        with equal prompts stay together.
      epochs: passes over the rows; steps follows from it. None: as many as `steps` makes.
      shuffle: draw them in another order in every pass; false: always in the file's.
      system: a system message for conversations that have none.
      chat_template_kwargs: what the chat template takes besides the messages, e.g.
        `{"enable_thinking": False}`.
      show: print so many rows before training, as tokens with those that are learned marked.
    """

    held_out: float = 0.0
    epochs: float | None = None
    shuffle: bool = True
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    show: int = 0

    def __post_init__(self):
        super().__post_init__()
        require(self, "held_out", at_least=0, below=1)
        require(self, "epochs", above=0)
        require(self, "show", at_least=0)
        for name, given in (("held_out", self.held_out), ("epochs", self.epochs)):
            if given and self.path is None:
                raise UserError(f"{name}={given}: generated data have no rows: set data.path")


@dataclasses.dataclass(frozen=True)
class SftData(TrainingData):
    """What supervised fine-tuning learns from.

    Attributes:
      batch_size: examples a step.
      max_length: of a prompt with its solution, in tokens; a file's longer ones are dropped.
      packing: several of a file's examples share a row of max_length.
      mixture: sources with weights that change, see `data/mixing.py`; a batch then holds rows of
        like length, and batch_size counts tokens. None: one source, as the other keys say.
      workers: processes that make a mixture's batches ahead; 0: none.
    """

    batch_size: int = 32
    max_length: int = 2048
    packing: bool = False
    mixture: str | None = None
    workers: int = 0

    def __post_init__(self):
        super().__post_init__()
        require(self, "batch_size", "max_length", at_least=1)
        require(self, "workers", at_least=0)


@dataclasses.dataclass(frozen=True)
class PromptData(TrainingData):
    """What GRPO and PPO sample answers to.

    Attributes:
      batch_size: prompts a step.
      max_prompt_length: the longest prompt, in tokens.
      too_long: drop a file's longer prompts, or refuse the file.
    """

    batch_size: int = 32
    max_prompt_length: int = 512
    too_long: str = "drop"

    def __post_init__(self):
        super().__post_init__()
        require(self, "batch_size", "max_prompt_length", at_least=1)
        require(self, "too_long", among=TOO_LONG)


def item_source(
    settings: Problems = Problems(),
    *,
    seed: int = 0,
    solutions: bool = False,
) -> Source:
    """The items of a file, or item i = a generated problem (see `problem_stream`)."""
    if settings.path is not None:
        return training_items(settings.path)
    problems = problem_stream(settings, seed=seed, solutions=solutions)
    return lambda index: problem_item(problems(index))


def problem_stream(
    settings: Problems = Problems(),
    *,
    seed: int = 0,
    solutions: bool = False,
) -> Callable[[int], Problem]:
    """Problem i = generate_problem(seed, i, ...).

    Args:
      solutions: problems carry a solution to imitate (docs/solutions.md).
    """

    def fresh(index: int) -> Problem:
        problem = generate_problem(
            seed,
            index,
            settings.tasks,
            variant=settings.variant,
            nodes=settings.nodes,
            names=settings.names,
            adjusters=settings.adjusters,
            max_mediators=settings.max_mediators,
            zero_fraction=settings.zero_fraction,
        )
        return dataclasses.replace(problem, solution=solution(problem)) if solutions else problem

    fresh(0)  # an impossible request fails here
    return fresh


def prompt_items(
    source: Source,
    tokenizer: Tokenizer,
    max_prompt_length: int | None,
    max_position: int,
    room: int,
    too_long: str = "refuse",
    room_key: str = "max_completion_length",
) -> tuple[list[tuple[Item, list[int]]] | Callable, int, int]:
    """(items with their prompt tokens, the longest prompt to expect, prompts dropped).

    Args:
      max_prompt_length: longest prompt allowed; None: what the model takes.
      max_position, room: the model's longest sequence, and what of it is kept for completions.
      too_long: "refuse" a longer prompt, or "drop" those of a file and count them. A generated
        one is replaced by another in either case.
      room_key: what `room` is called in a configuration.

    Raises:
      UserError: a prompt is longer than allowed (its item and length are named), or all are; or
        completions leave no room for prompts.
    """
    limit = max_position - room
    if limit < 1:
        raise UserError(
            f"config.{room_key}={room} leaves no room for a prompt in the model's {max_position} "
            "positions: lower it"
        )
    allowed = limit if max_prompt_length is None else min(max_prompt_length, limit)

    def refusal(name: str, length: int) -> UserError:
        remedy = f"raise config.data.max_prompt_length={max_prompt_length}"
        if allowed == limit:
            remedy = (
                f"lower config.{room_key}={room}, which leaves so many of the model's "
                f"{max_position} positions"
            )
        return UserError(
            f"the prompt of {name} has {length} tokens, {allowed} are allowed: {remedy}"
        )

    if callable(source):

        def fresh(index: int) -> tuple[Item, list[int]]:
            for attempt in range(ATTEMPTS):
                item = source(index + attempt * ELSEWHERE)
                tokens = prompt_tokens(item.prompt, tokenizer)
                if len(tokens) <= allowed:
                    return item, tokens
            raise refusal(
                f"generated problem {index} (and {ATTEMPTS - 1} in its place)", len(tokens)
            )

        fresh(0)

        return fresh, allowed, 0
    items = [(item, _asked(i, item, tokenizer)) for i, item in enumerate(source)]
    lengths = [len(tokens) for _, tokens in items]
    kept = [item for item, length in zip(items, lengths, strict=True) if length <= allowed]
    if len(kept) < len(items) and (too_long == "refuse" or not kept):
        first = next(i for i, length in enumerate(lengths) if length > allowed)
        raise refusal(items[first][0].named(first), lengths[first])
    return kept, max(len(tokens) for _, tokens in kept), len(items) - len(kept)


def _asked(place: int, item: Item, tokenizer: Tokenizer) -> list[int]:
    try:
        tokens = prompt_tokens(item.prompt, tokenizer)
    except UserError as error:
        raise UserError(f"{item.named(place)}: {error}") from error
    if not tokens:
        raise UserError(f"{item.named(place)}: nothing is asked, the prompt is empty")
    return tokens


def desirable_items(items: Sequence[Item]) -> tuple[list[Item], int]:
    """(the items to imitate, how many were left out): those of a KTO file that are desirable.

    Raises UserError for a label that is neither true nor false.
    """
    kept = []
    for i, item in enumerate(items):
        labelled = "label" in item.columns and "completion" in item.columns
        try:
            if not labelled or desirable(item.columns["label"]):
                kept.append(item)
        except ValueError as error:
            raise UserError(f"{item.named(i)}: {error}") from error
    if not kept:
        raise UserError("all rows are labelled undesirable: there is nothing to imitate")
    return kept, len(items) - len(kept)


def set_apart(
    rows: Sequence[Any], prompt_of: Callable[[Any], Hashable], share: float, seed: int
) -> tuple[list[Any], list[Any]]:
    """(rows to train on, rows held out): a share of them drawn by the seed, in the file's order.

    Rows with equal prompts go the same way, so that nothing held out is asked in training.

    Raises:
      UserError: one of the two would be empty.
    """
    if not share:
        return list(rows), []
    prompts = [prompt_of(row) for row in rows]
    order = list(dict.fromkeys(prompts))
    random.Random(f"held out {seed}").shuffle(order)
    counts, apart, found = collections.Counter(prompts), set(), 0
    while found < max(1, round(share * len(rows))) and order:
        apart.add(prompt := order.pop())
        found += counts[prompt]
    if not order:
        raise UserError(f"data.held_out={share} of {len(rows)} rows leaves none to train on")
    kept: tuple[list[Any], list[Any]] = [], []
    for row, prompt in zip(rows, prompts, strict=True):
        kept[prompt in apart].append(row)
    return kept


def generated_examples(
    source: Callable[[int], Item], tokenizer: Tokenizer, max_length: int
) -> Callable[[int], Example]:
    """Item i as tokens; one that is too long is replaced by another."""

    def example(index: int) -> Example:
        for attempt in range(ATTEMPTS):
            example = item_example(source(index + attempt * ELSEWHERE), tokenizer)
            length = len(example.prompt) + len(example.completion)
            if length <= max_length:
                return example
        raise UserError(
            f"generated example {index} (and {ATTEMPTS - 1} in its place) has "
            f"{length} tokens: raise data.max_length={max_length}"
        )

    example(0)  # an impossible request fails here
    return example


def padded(examples: Sequence[Example], max_length: int, pad_id: int, rows: int | None) -> Batch:
    """One example a row, padded to the longest of them (see `width_for`)."""
    longest = max(len(e.prompt) + len(e.completion) for e in examples)
    return pad(examples, min(width_for(longest), max_length), pad_id, rows)


def packed_rows(examples: Sequence[Example], max_length: int, pad_id: int) -> list[Any]:
    """Examples packed into rows of max_length, as the loader draws them; see `stacked`."""
    packed, _ = pack(examples, max_length, pad_id)
    return list(zip(*packed, strict=True))


def stacked(packed: Sequence[Any]) -> Batch:
    """The batch of some of `packed_rows`."""
    return Batch(*map(np.stack, zip(*packed, strict=True)))
