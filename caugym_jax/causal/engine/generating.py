"""From a seed to problems with exact truth. Problem i is a function of (seed, i) alone."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.causal.engine.answers import DEAD_ZONE, TOLERANCE, label
from caugym_jax.causal.engine.determinacy import determined
from caugym_jax.causal.engine.estimands import (
    by_identification,
    exact_probability,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import MAX_NODES, draw_graph
from caugym_jax.causal.engine.hard import TWINS, Block, draw_block
from caugym_jax.causal.engine.queries import WITH_MEDIATORS, draw_query
from caugym_jax.causal.engine.scm import SCM, draw_scm, joint, probability
from caugym_jax.causal.engine.variants import EXTRA_SENTENCES, RELEASED, distractors
from caugym_jax.causal.text import names as words
from caugym_jax.causal.text.rephrasing import rephrased_text
from caugym_jax.causal.text.wording import problem_text
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, TASKS, Problem, Query, Story, Term

GENERATED_VARIANTS = tuple(RELEASED)
WORDINGS = ("train", "test")  # the halves of the grammar of `rephrased`
ORDERS = ("usual", "shuffled")
MAX_IDLE = 4
ATTEMPTS = 100_000  # graphs tried for one problem


@dataclasses.dataclass(frozen=True)
class Settings:
    """What kinds of problems to draw; checked once by `settings`."""

    tasks: tuple[str, ...]
    variant: str
    nodes: tuple[int, int]
    names: tuple[str, ...]
    adjusters: tuple[int, ...]
    bound_adjusters: tuple[int, ...]  # of PN and PS
    max_mediators: int
    zero_fraction: float
    codes: bool
    instruction: bool
    wordings: str
    sentences: str
    idle: int


def settings(
    tasks: Sequence[str],
    *,
    variant: str = "base",
    nodes: tuple[int, int] | None = None,
    names: Sequence[str] = words.KINDS,
    adjusters: Sequence[int] | None = None,
    max_mediators: int | None = None,
    zero_fraction: float | None = None,
    codes: bool | None = None,
    instruction: bool | None = None,
    wordings: str = "train",
    sentences: str = "usual",
    idle: int = 0,
) -> Settings:
    """Checks the options of `generate_problems`; a UserError names the first bad one.

    tasks: of types.TASKS; each block of len(tasks) problems holds each once.
    variant: one of GENERATED_VARIANTS; where an option below is None, the released set of that
        variant decides (variants.RELEASED).
    nodes: smallest and largest graph.
    names: kinds of names ("real", "random", "fake"; or "shared"), equally often.
    adjusters: sizes of the smallest valid adjustment set of non-zero problems, equally often
        (hard: all sizes up to the largest). None: as released, where PN and PS may differ.
    max_mediators: of NDE (0 to this many) and NIE (1 to this many); None: 1, hard 2.
    zero_fraction: share of problems whose effect the graph makes 0 (never PN and PS). hard: one in
        six, whatever is said here.
    codes: whether states carry codes such as "(A=0)" (never in "rephrased").
    instruction: whether the line that names the task is there (None: but for "omitted";
        "rephrased" has its own way).
    wordings: "rephrased" alone: the half of the grammar to use, "train" or "test".
    sentences: the order of the probabilities, "usual" or "shuffled".
    idle: up to so many more probabilities that nothing needs (not in hard), in any variant.
    """
    for task in tasks:
        _known("task", task, TASKS)
    _known("variant", variant, GENERATED_VARIANTS)
    for kind in names:
        _known("kind of names", kind, words.ALL_KINDS)
    released = RELEASED[variant]
    low, high = nodes or released.nodes
    bound_adjusters = released.bound_adjusters if adjusters is None else None
    adjusters = tuple(released.adjusters if adjusters is None else adjusters)
    zero_fraction = released.zero_fraction if zero_fraction is None else zero_fraction
    max_mediators = released.mediators if max_mediators is None else max_mediators
    _known("half of the wordings", wordings, WORDINGS)
    _known("order of sentences", sentences, ORDERS)
    if not 0 <= idle <= MAX_IDLE:
        raise UserError(f"idle {idle}: give a number from 0 to {MAX_IDLE}")
    if not (tasks and names and adjusters):
        raise UserError("tasks, names and adjusters must each hold at least one value")
    if not all(0 <= size <= 2 for size in adjusters):
        raise UserError(f"adjusters {adjusters}: give sizes of adjustment sets from 0 to 2")
    if not int("NIE" in tasks) <= max_mediators <= 2:
        raise UserError(f"max_mediators {max_mediators}: give 1 or 2, or 0 where no task is NIE")
    if not 0 <= zero_fraction <= 1:
        raise UserError(f"zero_fraction {zero_fraction} is not between 0 and 1")
    through = max(1, max_mediators) if set(tasks) & set(WITH_MEDIATORS) else 0
    least = max(3, 2 + max(adjusters) + through)
    if not 3 <= low <= high <= MAX_NODES or high < least:
        raise UserError(
            f"nodes {low}..{high}: give a range within 3..{MAX_NODES}, low end first, that reaches "
            f"{least} (these tasks with {max(adjusters)} adjusters need as many)"
        )
    if variant == "hard" and not (low >= 5 and max(adjusters) and max_mediators):
        raise UserError("hard needs at least 5 nodes, and adjusters and mediators of 1 or more")
    return Settings(
        tuple(tasks),
        variant,
        (low, high),
        tuple(names),
        adjusters,
        tuple(bound_adjusters or adjusters),
        max_mediators,
        zero_fraction,
        released.codes if codes is None else codes,
        variant != "omitted" if instruction is None else instruction,
        wordings,
        sentences,
        idle,
    )


def generate_problems(
    tasks: Sequence[str], n: int, seed: int, *, start: int = 0, **options: Any
) -> Iterator[Problem]:
    """Problems start .. start + n - 1 of the stream that (seed, tasks, options) define.

    Options, their defaults and the UserError for a bad one: see `settings`.
    """
    chosen = settings(tasks, **options)
    return (_problem(chosen, seed, index) for index in range(start, start + n))


def generate_problem(seed: int, index: int, tasks: Sequence[str], **options: Any) -> Problem:
    """Problem `index` of that stream."""
    return _problem(settings(tasks, **options), seed, index)


def _problem(chosen: Settings, seed: int, index: int) -> Problem:
    if chosen.variant == "hard":
        return _hard_problem(chosen, seed, index)
    block, place = divmod(index, len(chosen.tasks))
    order = np.random.default_rng((seed, 0, block)).permutation(len(chosen.tasks))
    task = chosen.tasks[order[place]]
    rng = np.random.default_rng((seed, 1, index))
    zero = rng.random() < chosen.zero_fraction and task not in BOUND_TASKS
    sizes = chosen.bound_adjusters if task in BOUND_TASKS else chosen.adjusters
    size = int(rng.choice(sizes))
    through = 0
    if task in ("NDE", "NIE"):
        through = int(rng.integers(int(task == "NIE"), chosen.max_mediators + 1))
    kind = str(rng.choice(chosen.names))
    least = 2 + size + (1 if task == "CDE" else through)
    n = int(rng.integers(max(chosen.nodes[0], least), chosen.nodes[1] + 1))
    for _ in range(ATTEMPTS):
        graph = draw_graph(rng, n)
        query = draw_query(rng, graph, task, zero=zero, size=size, through=through)
        if query is None:
            continue
        scm = draw_scm(rng, graph)
        world = _world(rng, chosen, scm, query)
        if world is not None:
            names, states = words.draw_names(rng, kind, n)
            codes = chosen.codes and chosen.variant != "rephrased"
            given = _ordered(chosen, world.given, np.random.default_rng((seed, 6, index)))
            story = Story(
                *(names, states, graph.edges, given, query, codes),
                exact=float(world.exact),
                name_kind=kind,
            )
            return _worded(chosen, story, world.value, np.random.default_rng((seed, 5, index)))
    raise UserError(
        f"no {task} problem with {size} adjusters on {n} nodes after {ATTEMPTS} graphs: widen nodes"
    )


def _ordered(
    chosen: Settings, given: tuple[tuple[Term, str], ...], rng: np.random.Generator
) -> tuple[tuple[Term, str], ...]:
    """The probabilities in the order in which they are told."""
    if chosen.sentences == "usual":
        return given
    return tuple(given[i] for i in rng.permutation(len(given)).tolist())


def _worded(
    chosen: Settings, story: Story, value: Decimal | None, rng: np.random.Generator
) -> Problem:
    """The problem that a story makes; value: by the printed numbers, None: LACK_CONDITION."""
    if chosen.variant == "rephrased":
        text = rephrased_text(story, rng, chosen.wordings)
    else:
        stop = chosen.variant != "insufficient"
        text = problem_text(story, instruction=chosen.instruction, stop=stop)
    task = story.query.task
    return Problem(text, label(task, value), task, variant=chosen.variant, story=story)


def _hard_problem(chosen: Settings, seed: int, index: int) -> Problem:
    """Twins are spread: problems come in groups of one block for each task, in random order."""
    size = TWINS * len(chosen.tasks)
    group, place = divmod(index, size)
    number, i = divmod(group * size + _slots(seed, group, size)[place], TWINS)
    block, names, states, kind = _hard_block(chosen, seed, number)
    graph, query, exact, lacks = block.twins[i]
    rng = np.random.default_rng((seed, 4, index))
    edges = tuple(graph.edges[i] for i in rng.permutation(len(graph.edges)).tolist())
    given = tuple(block.given[i] for i in rng.permutation(len(block.given)).tolist())
    codes = chosen.codes
    story = Story(
        names, states, edges, given, query, codes, exact=exact, name_kind=kind, block=number
    )
    value = None if lacks else Decimal(round(exact, 9))  # enumeration leaves 1e-17 of a 0
    return _worded(chosen, story, value, rng)


@functools.lru_cache(maxsize=4)
def _slots(seed: int, group: int, size: int) -> list[int]:
    return np.random.default_rng((seed, 2, group)).permutation(size).tolist()


@functools.lru_cache(maxsize=128)
def _hard_block(
    chosen: Settings, seed: int, number: int
) -> tuple[Block, tuple[str, ...], tuple[tuple[str, str], ...], str]:
    """A block, and what its nodes are called."""
    rng = np.random.default_rng((seed, 3, number))
    task = chosen.tasks[number % len(chosen.tasks)]
    kind = str(rng.choice(chosen.names))
    block = draw_block(rng, task, chosen.nodes, max(chosen.adjusters), chosen.max_mediators)
    names, states = words.draw_names(rng, kind, block.twins[0].graph.n)
    return block, names, states, kind


class World(NamedTuple):
    """The numbers of one problem."""

    given: tuple[tuple[Term, str], ...]  # as printed
    value: Decimal | None  # the estimand from the printed numbers; None: they leave it open
    exact: float  # the estimand from the exact joint


def _world(rng: np.random.Generator, chosen: Settings, scm: SCM, query: Query) -> World | None:
    """The numbers to print, or None where they would not make a sound problem:

    rounding them moves the answer by TOLERANCE, the effect is too small for a clear verdict, a
    printed probability is 0 or 1, or (insufficient) what remains still determines the answer.
    """
    terms = ingredients(query)
    count = EXTRA_SENTENCES if chosen.variant == "redundant" else 0
    count += int(rng.integers(chosen.idle + 1)) if chosen.idle else 0
    idle = distractors(rng, scm.graph, count, terms)
    printed = [*terms, *idle]
    observed = joint(scm) if printed else np.ones(())
    numbers = {term: f"{probability(observed, *term):.4f}" for term in printed}
    if {"0.0000", "1.0000", "nan"} & set(numbers.values()):
        return None
    needed = {term: Decimal(numbers[term]) for term in terms}
    exact = 0.0
    value: Decimal | None = Decimal(0)
    if not query.zero:
        exact = by_identification(query, exact_probability(observed))
        value = by_identification(query, printed_probability(needed))
        if abs(float(value) - exact) >= float(TOLERANCE):
            return None
        # As a float, which is a little more than 0.001: an effect of exactly 0.001 is skipped too.
        if query.task not in BOUND_TASKS and abs(value) < float(DEAD_ZONE):
            return None
    if chosen.variant == "insufficient":
        printed = [*terms[:-EXTRA_SENTENCES], *idle]
        if determined(scm, query, printed, observed if observed.ndim else None):
            return None
        value = None
    return World(tuple((term, numbers[term]) for term in printed), value, exact)


def _known(what: str, value: str, known: Sequence[str]) -> None:
    if value in known:
        return
    folded = {v.casefold(): v for v in known}
    (close,) = difflib.get_close_matches(value.casefold(), folded, 1, cutoff=0.0)
    raise UserError(f"unknown {what} {value!r}: did you mean {folded[close]!r}?")
