"""The settings of a study. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from caugym_jax.cli import config as configs
from caugym_jax.errors import UserError, require
from caugym_jax.types import TASKS, VARIANTS

METHODS = ("sft", "dpo", "kto", "ppo", "grpo")


@dataclasses.dataclass(frozen=True)
class StudyTests:
    """What every model is asked, before and after. The defaults are the paper's protocol, but for
    the length.

    Attributes:
      variants: generated sets, one of each variant.
      n: problems of each generated set.
      files: files of problems that are asked too, e.g. the official test sets.
      limit: of a file the first so many; None: all.
      samples: answers to each problem.
      temperature, top_p: how they are sampled.
      greedy: also one greedy answer to each problem.
      max_new_tokens: the longest answer, in tokens.
      lack_hint: which problems say that LACK_CONDITION may be the answer: insufficient, all or
        none.
      batch_size: problems asked at a time, which changes no answer; None: 64, or what fits.
    """

    variants: tuple[str, ...] = VARIANTS
    n: int = 140
    files: tuple[str, ...] = ()
    limit: int | None = None
    samples: int = 5
    temperature: float = 0.6
    top_p: float = 0.95
    greedy: bool = True
    max_new_tokens: int = 1024
    lack_hint: Literal["insufficient", "all", "none"] = "insufficient"
    batch_size: int | None = None

    def __post_init__(self):
        if self.variants:
            require(self, "variants", among=VARIANTS)
        elif not self.files:
            raise UserError("variants=(): ask generated sets, or files")
        require(self, "n", "limit", "samples", "max_new_tokens", "batch_size", at_least=1)
        require(self, "temperature", at_least=0)
        require(self, "top_p", above=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared: methods that start from one model and see the same problems.

    Attributes:
      method: study.
      model: the model that every run starts from.
      recipe: what the methods' configurations get, as in `grpo.py:RECIPE`; None: nothing.
      methods: of sft, dpo, kto, ppo and grpo.
      seeds: of the runs. The problems are the same for all.
      seed: of generated problems, of wrong answers and of the answers to the tests.
      problems: training problems.
      path: a file of training problems, of which the first so many are taken; None: generated.
      tasks: of the generated training problems.
      variants: of the generated training problems, in turn.
      adjusters: how many variables must be adjusted for in the generated training problems; None:
        as in the released sets.
      epochs: how often every problem is seen.
      batch_size: problems a step.
      solutions: what SFT imitates and DPO and KTO prefer: solutions in the "notation" of
        docs/solutions.md, or the "steps" of the released data.
      tries: answers of the first model to each training problem, of which a wrong one is what DPO
        and KTO avoid.
      cold_start: problems of a supervised run that comes before all others; 0: none.
      cold_tasks: the tasks of these problems.
      cold_epochs: how often each of these problems is seen.
      compute: also runs that go on until all methods have computed the same.
      evaluations: how often a run answers held-out problems greedily, for its learning curve.
      held_out: how many such problems.
      max_prompt_length: the longest prompt of training, in tokens.
      max_completion_length: the longest completion in training, in tokens.
      options: further settings of a method's configuration, e.g. {"sft": {"optim.peak": 1e-4}};
        on the command line --config.options.sft.optim.peak=1e-4. None: no more.
    """

    method: str = "study"
    model: str = "embedded-start"
    recipe: str | None = None
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    seed: int = 0
    problems: int = 512
    path: str | None = None
    tasks: tuple[str, ...] = TASKS
    variants: tuple[str, ...] = ("base",)
    adjusters: tuple[int, ...] | None = None
    epochs: int = 1
    batch_size: int = 16
    solutions: Literal["notation", "steps"] = "notation"
    tries: int = 4
    cold_start: int = 0
    cold_tasks: tuple[str, ...] = TASKS
    cold_epochs: int = 3
    compute: bool = True
    evaluations: int = 4
    held_out: int = 70
    max_prompt_length: int = 512
    max_completion_length: int = 320
    options: Mapping[str, Any] | None = None
    tests: StudyTests = StudyTests()

    def __post_init__(self):
        require(self, "method", among=("study",))
        require(self, "methods", among=METHODS)
        require(self, "tasks", "cold_tasks", among=TASKS)
        require(self, "variants", among=VARIANTS)
        require(self, "seeds", "seed", "cold_start", at_least=0)
        counts = ("problems", "epochs", "batch_size", "tries", "cold_epochs")
        require(self, *counts, "evaluations", "held_out", at_least=1)
        require(self, "max_prompt_length", "max_completion_length", at_least=1)
        if self.problems < self.batch_size:
            raise UserError(f"problems={self.problems}: must be at least batch_size")
        for name in ("methods", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)}: one is named twice")
        for name in self.options or {}:
            if name not in METHODS:
                raise UserError(f"options.{name}: no such method: {configs.nearest(name, METHODS)}")

    @property
    def steps(self) -> int:
        """Of a run that sees every problem `epochs` times."""
        return max(1, self.problems * self.epochs // self.batch_size)


def from_flat(stored: Mapping[str, Any]) -> Study:
    """The study of {dotted key: value}, as study.json has it.

    Raises:
      UserError: a key or a value is wrong.
    """
    nested: dict[str, Any] = {}
    for key, value in stored.items():
        *sections, last = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return configs.build(Study, nested, "")


def load(spec: str, overrides: Sequence[str] = ()) -> Study:
    """The study of `NAME[.py][:ARG]` with `key=value` overrides applied.

    Raises:
      UserError: there is no such file, or a key or a value is wrong (named).
    """
    values = configs.read(spec, overrides)
    if values.get("method") != "study":
        raise UserError(
            f"{spec} is no study but {values.get('method')!r}: use study.py, or train with it"
        )
    return configs.build(Study, values, "")
