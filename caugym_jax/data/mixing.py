"""Several sources of examples, drawn by weights that change as training goes on.

A mixture is written as stages, each a number of examples and what they are drawn from:

    300000 lists=.33 given=.32 digits=.15 usual=.2 large=.2..0.5; 500000 shuffled=.6 mine.jsonl=.4

Sources are the streams of `solutions.streams` and files of examples (anything with a dot or a
slash in its name). The fields of `streams.Hardness` (large, thin, renamed, idle, spread) say how
hard rows are: a number, or two between which it moves over the stage. The last stage goes on for
ever.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

from caugym_jax.data.files import naming
from caugym_jax.data.grouping import drawn, sorted_batches, stage_at
from caugym_jax.data.items import training_items
from caugym_jax.data.prompts import sft_examples
from caugym_jax.data.solutions import streams, vocabulary
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Batch, Example

GROUP = 320  # examples that are sorted by length together
HARDNESS = tuple(field.name for field in dataclasses.fields(streams.Hardness))


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is drawn for a number of examples."""

    examples: int
    weights: Mapping[str, float]
    hardness: Mapping[str, tuple[float, float]]  # at the stage's start and end

    def hardness_at(self, done: float) -> streams.Hardness:
        """How hard rows are when that share of the stage is done."""
        return streams.Hardness(**{k: a + (b - a) * done for k, (a, b) in self.hardness.items()})


def read_stages(text: str) -> tuple[Stage, ...]:
    """The stages that a text describes; a UserError says what in it is wrong."""
    stages = []
    for part in filter(None, map(str.strip, text.split(";"))):
        count, *pairs = part.split()
        if not count.isdigit() or not int(count):
            raise UserError(f"data.mixture: {part!r} must start with a number of examples")
        weights: dict[str, float] = {}
        hardness: dict[str, tuple[float, float]] = {}
        for pair in pairs:
            name, equals, value = pair.rpartition("=")
            ends = [_number(v, pair) for v in value.split("..")]
            if not equals or len(ends) > 2 or (len(ends) == 2 and name not in HARDNESS):
                raise UserError(f"data.mixture: {pair!r} must be SOURCE=WEIGHT")
            if name in HARDNESS:
                hardness[name] = ends[0], ends[-1]
            else:
                weights[name] = ends[0]
        if not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise UserError(f"data.mixture: {part!r} names no source with a weight above 0")
        stages.append(Stage(int(count), weights, hardness))
    if not stages:
        raise UserError("data.mixture has no stage: write e.g. '1000 usual=1'")
    return tuple(stages)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"data.mixture: {where!r} must be SOURCE=WEIGHT") from None


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Batches of a mixture: group g is a function of this object and g alone.

    Attributes:
      files: the examples of each file that is a source.
      places: of a batch, rows x width.
      multiple: of which a batch's rows are a multiple.
      max_length: longer examples are left out.
    """

    stages: tuple[Stage, ...]
    files: Mapping[str, Sequence[Example]]
    seed: int
    places: int
    multiple: int
    max_length: int
    pad_id: int

    def example(self, index: int) -> Example:
        stage, done = stage_at([(s.examples, s) for s in self.stages], index)
        rng = random.Random(f"mixture {self.seed} {index}")
        name = drawn(dict(stage.weights), rng)
        if name in self.files:
            return rng.choice(self.files[name])
        return streams.example(name, self.seed, index, stage.hardness_at(done))

    def group(self, g: int) -> list[Batch]:
        examples = [self.example(i) for i in range(g * GROUP, (g + 1) * GROUP)]
        fitting = [e for e in examples if len(e.prompt) + len(e.completion) <= self.max_length]
        rng = random.Random(f"group {self.seed} {g}")
        return sorted_batches(fitting, self.places, self.pad_id, rng, self.multiple)


def open_mixture(
    text: str,
    tokenizer: Tokenizer,
    *,
    seed: int,
    places: int,
    multiple: int,
    max_length: int,
) -> Mixture:
    """Reads the stages, and the files among their sources.

    Raises:
      UserError: a source that is neither a stream nor a file; streams for a model with other tokens
        than theirs.
    """
    stages = read_stages(text)
    names = list(dict.fromkeys(name for stage in stages for name in stage.weights))
    files = {}
    for name in names:
        if "/" in name or "." in name:
            with naming(name):
                files[name], _ = sft_examples(training_items(name), tokenizer, max_length)
        elif name not in streams.STREAMS:
            known = ", ".join(streams.STREAMS)
            raise UserError(f"data.mixture: no source {name!r}: use {known}, or a file")
    if len(files) < len(names) and tokenizer.raw.get_vocab() != vocabulary.build().get_vocab():
        raise UserError(
            "data.mixture: the streams are written in the tokens of `python -m "
            "caugym_jax.tokenizer`, the model has others: set model.name to a folder made by it"
        )
    return Mixture(stages, files, seed, places, multiple, max_length, tokenizer.pad_id)
