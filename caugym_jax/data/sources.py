"""Where training and evaluation problems come from: a file, or the generator without end."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caugym_jax.causal.generating import generate_problem
from caugym_jax.causal.worked import work
from caugym_jax.data.files import read_problems
from caugym_jax.data.packing import pack, pad, width_for
from caugym_jax.data.prompts import completion_tokens, prompt_tokens, sft_examples
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Batch, Example, Problem

Source = Sequence[Problem] | Callable[[int], Problem]

# A generated item that is too long gives way to the one this far on, which no run reaches.
ELSEWHERE = 2**40
ATTEMPTS = 16


def problem_source(
    path: str | None = None,
    *,
    seed: int = 0,
    solutions: bool = False,
    direct_fraction: float | Mapping[str, float] = 0.0,
    tasks: Sequence[str] = ("ATE", "ETT"),
    variant: str = "base",
    nodes: tuple[int, int] = (3, 5),
    names: Sequence[str] = ("real", "random", "fake"),
    adjusters: Sequence[int] = (0,),
    max_mediators: int = 1,
    zero_fraction: float = 0.2,
) -> Source:
    """The problems of `path`, or, where it is None, item i = generate_problem(seed, i, ...).

    Args:
      path: a file in any of the official layouts, or `hf:owner/name[:split]`; several by commas.
      solutions: generated problems carry a solution to imitate.
      direct_fraction: the share of those that only state the answer, the others being worked; one
        number, or one for each task.
      tasks, variant, nodes, names, adjusters, max_mediators, zero_fraction: what to generate; not
        used with a path.
    """
    if path is not None:
        return read_problems(path)

    def fresh(index: int) -> Problem:
        problem = generate_problem(
            seed,
            index,
            tuple(tasks),
            variant=variant,
            nodes=tuple(nodes),
            names=tuple(names),
            adjusters=tuple(adjusters),
            max_mediators=max_mediators,
            zero_fraction=zero_fraction,
        )
        if not solutions:
            return problem
        by_task = isinstance(direct_fraction, Mapping)
        share = direct_fraction.get(problem.task, 0.0) if by_task else direct_fraction
        direct = random.Random(f"direct {seed} {index}").random() < share
        return dataclasses.replace(problem, solution=problem.answer if direct else work(problem))

    fresh(0)  # an impossible request fails here
    return fresh


def prompt_items(
    source: Source,
    tokenizer: Tokenizer,
    max_prompt_length: int | None,
    max_position: int,
    room: int,
    too_long: str = "refuse",
) -> tuple[list[tuple[Problem, list[int]]] | Callable, int, int]:
    """(problems with their prompt tokens, the longest prompt to expect, prompts dropped).

    Args:
      max_prompt_length: longest prompt allowed; None: what the model takes.
      max_position, room: the model's longest sequence, and what of it is kept for completions.
      too_long: "refuse" a longer prompt, or "drop" those of a file and count them. A generated
        one gives way to another in either case.

    Raises:
      UserError: a prompt is longer than allowed (its item and length are named), or all are.
    """
    if too_long not in ("refuse", "drop"):
        raise UserError(f"data.too_long={too_long!r}: use refuse or drop")
    limit = max_position - room
    allowed = limit if max_prompt_length is None else min(max_prompt_length, limit)

    def refusal(name: str, length: int) -> UserError:
        return UserError(
            f"the prompt of {name} has {length} tokens, {allowed} are allowed: raise "
            f"data.max_prompt_length (the model takes {max_position} with the completion)"
        )

    if callable(source):

        def fresh(index: int) -> tuple[Problem, list[int]]:
            for attempt in range(ATTEMPTS):
                problem = source(index + attempt * ELSEWHERE)
                tokens = prompt_tokens(problem, tokenizer)
                if len(tokens) <= allowed:
                    return problem, tokens
            raise refusal(
                f"generated problem {index} (and {ATTEMPTS - 1} in its place)", len(tokens)
            )

        fresh(0)

        return fresh, allowed, 0
    items = [(problem, prompt_tokens(problem, tokenizer)) for problem in source]
    lengths = [len(tokens) for _, tokens in items]
    kept = [item for item, length in zip(items, lengths, strict=True) if length <= allowed]
    if len(kept) < len(items) and (too_long == "refuse" or not kept):
        first = next(i for i, length in enumerate(lengths) if length > allowed)
        raise refusal(f"item {first} (counting from 0)", lengths[first])
    return kept, max(len(tokens) for _, tokens in kept), len(items) - len(kept)


def sft_batches(
    source: Source, tokenizer: Tokenizer, max_length: int, packing: bool
) -> tuple[Sequence | Callable[[int], Example], Callable[[list], Batch], int]:
    """(items for the loader, what makes a batch of them, examples dropped as too long).

    A file is tokenized once; with `packing` its examples are packed into rows of max_length and
    the items are those rows. Generated examples are padded, one to a row; one that is too long
    gives way to another.
    """

    def padded(items: list[Example]) -> Batch:
        longest = max(len(e.prompt) + len(e.completion) for e in items)
        return pad(items, min(width_for(longest), max_length), tokenizer.pad_id)

    if callable(source):
        if packing:
            raise UserError("data.packing packs a file's examples: set data.path, or packing=False")

        def example(index: int) -> Example:
            for attempt in range(ATTEMPTS):
                problem = source(index + attempt * ELSEWHERE)
                prompt = prompt_tokens(problem, tokenizer)
                completion = completion_tokens(problem, problem.solution, tokenizer)
                if len(prompt) + len(completion) <= max_length:
                    return Example(prompt, completion)
            raise UserError(
                f"generated example {index} (and {ATTEMPTS - 1} in its place) has "
                f"{len(prompt) + len(completion)} tokens: raise data.max_length={max_length}"
            )

        example(0)
        return example, padded, 0
    examples, dropped = sft_examples(source, tokenizer, max_length)
    if not packing:
        return examples, padded, dropped
    packed, _ = pack(examples, max_length, tokenizer.pad_id)
    row_list = list(zip(*packed, strict=True))

    def stack(items: list) -> Batch:
        return Batch(*map(np.stack, zip(*items, strict=True)))

    return row_list, stack, dropped
