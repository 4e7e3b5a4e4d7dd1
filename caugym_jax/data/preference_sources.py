"""Where preferences come from: a file, or solutions and mistakes generated without end."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable

from caugym_jax.data.items import asked
from caugym_jax.data.preferences import (
    Made,
    Row,
    Sifted,
    Unusable,
    judged,
    longest,
    mismatched,
    preference,
    sift,
)
from caugym_jax.data.rows import make_row
from caugym_jax.data.solutions.mistakes import mistaken_solution, solution
from caugym_jax.data.sources import ATTEMPTS, ELSEWHERE, TOO_LONG, TrainingData
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError, require
from caugym_jax.types import Judged, Preference, Problem

SOLUTIONS = ("worked", "steps")


@dataclasses.dataclass(frozen=True)
class PreferenceData(TrainingData):
    """What DPO and KTO learn from: a file of rows, or solutions and mistakes made as it goes.

    Attributes:
      batch_size: pairs (DPO) or completions (KTO) a step.
      max_length: of a prompt with a completion, in tokens.
      too_long: drop a file's longer rows, or refuse the file.
      unusable: drop a file's identical pairs and empty completions, or refuse the file.
      solutions: of generated problems: "worked" in the notation of docs/solutions.md, or the
        "steps" of the released data; beside each one with a mistake.
    """

    batch_size: int = 32
    max_length: int = 2048
    too_long: str = "drop"
    unusable: str = "drop"
    solutions: str = "steps"

    def __post_init__(self):
        super().__post_init__()
        require(self, "batch_size", "max_length", at_least=1)
        require(self, "too_long", "unusable", among=TOO_LONG)
        require(self, "solutions", among=SOLUTIONS)


def generated_preferences(
    problems: Callable[[int], Problem],
    tokenizer: Tokenizer,
    paired: bool,
    settings: PreferenceData,
    *,
    seed: int = 0,
) -> Callable[[int], Preference | Judged]:
    """Items for the loader; a row that is too long or unusable is replaced by another.

    Args:
      paired: DPO's pairs; else KTO's judged completions, half of them desirable.
    """
    rows = generated_rows(problems, seed, settings.solutions)
    if paired:
        return generated(rows, preference, tokenizer, settings.max_length)
    items = generated(one_of_each(rows), judged, tokenizer, settings.max_length)
    return generated_with_others(items, settings.max_length)


def file_preferences(
    path: str, tokenizer: Tokenizer, paired: bool, settings: PreferenceData
) -> Sifted:
    """The rows of a file, as tokens; KTO's without `other`."""
    make: Callable[[Row, Tokenizer], Preference | Judged] = preference if paired else judged
    return sift(path, make, tokenizer, settings.max_length, settings.too_long, settings.unusable)


def generated_rows(
    problems: Callable[[int], Problem], seed: int = 0, solutions: str = "worked"
) -> Callable[[int], Row]:
    """Rows of DPO without end: problem i, a right solution, and a wrong one.

    Args:
      solutions: as `PreferenceData` has it.
    """
    if solutions == "steps":
        return lambda index: make_row("dpo", problems(index), index, seed=seed)

    def row(index: int) -> Row:
        problem = problems(index)
        rng = random.Random(f"rejected {seed} {index}")
        return {
            "prompt": asked(problem),
            "chosen": solution(problem),
            "rejected": mistaken_solution(problem, rng)[1],
        }

    return row


def one_of_each(pairs: Callable[[int], Row]) -> Callable[[int], Row]:
    """Rows of KTO from rows of DPO: of even ones the chosen completion, else the rejected."""

    def row(index: int) -> Row:
        pair, label = pairs(index), index % 2 == 0
        return {
            "prompt": pair["prompt"],
            "completion": pair["chosen" if label else "rejected"],
            "label": label,
        }

    return row


def generated(
    rows: Callable[[int], Row],
    make: Callable[[Row, Tokenizer], Made],
    tokenizer: Tokenizer,
    max_length: int,
) -> Callable[[int], Made]:
    """Item i as tokens; a row that is too long or unusable is replaced by another.

    Raises:
      UserError: on making or at any item, where none is found.
    """

    @functools.lru_cache(maxsize=64)  # an item is asked for again as its neighbour's `other`
    def fresh(index: int) -> Made:
        for attempt in range(ATTEMPTS):
            try:
                item = make(rows(index + attempt * ELSEWHERE), tokenizer)
            except Unusable as kind:
                why = str(kind)
                continue
            if longest(item) <= max_length:
                return item
            why = f"{longest(item)} tokens, where data.max_length={max_length} are allowed"
        raise UserError(f"generated row {index} (and {ATTEMPTS - 1} in its place) has {why}")

    fresh(0)  # an impossible request fails here
    return fresh


def generated_with_others(
    items: Callable[[int], Judged], max_length: int
) -> Callable[[int], Judged]:
    """Gives item i the completion of the next item with another prompt."""

    def fresh(index: int) -> Judged:
        item = items(index)
        for later in range(index + 1, index + 1 + ATTEMPTS):
            if items(later).prompt != item.prompt:
                return mismatched(item, items(later), max_length)
        raise UserError(f"generated problem {index} and the {ATTEMPTS} after it are all the same")

    return fresh
