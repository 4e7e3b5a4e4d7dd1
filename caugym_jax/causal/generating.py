"""From a seed to problems with exact truth. Problem i is a function of (seed, i) alone."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np

from caugym_jax.causal import names as words
from caugym_jax.causal.estimands import (
    Query,
    Term,
    by_identification,
    ingredients,
    printed_probability,
    verdict,
)
from caugym_jax.causal.graph import MAX_NODES, Graph, adjustment_sets, draw_graph
from caugym_jax.causal.scm import SCM, draw_scm, joint, probability
from caugym_jax.causal.solution import symbolic_steps
from caugym_jax.causal.wording import Story, problem_text
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, TASKS, VARIANTS, Problem

GENERATED_TASKS = ("ATE", "ETT")
GENERATED_VARIANTS = ("base", "omitted")
MIN_EFFECT = 0.001  # below it the verdict is a matter of rounding: such problems are skipped
TOLERANCE = 0.0005  # the printed numbers must give the exact truth within this


@dataclasses.dataclass(frozen=True)
class Settings:
    """What kinds of problems to draw; checked once by `settings`."""

    tasks: tuple[str, ...]
    variant: str
    nodes: tuple[int, int]
    names: tuple[str, ...]
    adjusters: tuple[int, ...]
    zero_fraction: float
    codes: bool


def settings(
    tasks: Sequence[str],
    *,
    variant: str = "base",
    nodes: tuple[int, int] = (3, 5),
    names: Sequence[str] = words.KINDS,
    adjusters: Sequence[int] = (0, 1),
    zero_fraction: float = 1 / 3,
    codes: bool = False,
) -> Settings:
    """Checks the arguments of `generate_problems`; a UserError names the first bad one."""
    for task in tasks:
        _known("task", task, TASKS, GENERATED_TASKS)
    _known("variant", variant, VARIANTS, GENERATED_VARIANTS)
    for kind in names:
        _known("kind of names", kind, words.KINDS, words.KINDS)
    low, high = nodes
    least = 2 + min(adjusters, default=0)
    if not tasks or not names or not adjusters:
        raise UserError("tasks, names and adjusters must each hold at least one value")
    if not max(3, least) <= low <= high <= MAX_NODES:
        raise UserError(
            f"nodes {low}..{high}: give a range within {max(3, least)}..{MAX_NODES}, low end first"
        )
    if not all(0 <= k <= 2 for k in adjusters):
        raise UserError(f"adjusters {tuple(adjusters)}: adjustment sets of size 0, 1 or 2 exist")
    if not 0 <= zero_fraction <= 1:
        raise UserError(f"zero_fraction {zero_fraction} is not between 0 and 1")
    sizes = tuple(k for k in adjusters if k + 2 <= low)
    if sizes != tuple(adjusters):
        raise UserError(
            f"adjusters {tuple(adjusters)} need at least {2 + max(adjusters)} nodes, not {low}"
        )
    return Settings(
        tuple(tasks), variant, (low, high), tuple(names), tuple(adjusters), zero_fraction, codes
    )


def generate_problems(
    tasks: Sequence[str], n: int, seed: int, *, start: int = 0, **options
) -> Iterator[Problem]:
    """Problems start .. start + n - 1 of the stream that (seed, tasks, options) define.

    Options and defaults are those of `settings`: variant="base", nodes=(3, 5) (the range of
    graph sizes), names=("real", "random", "fake"), adjusters=(0, 1) (sizes of the smallest
    valid adjustment set of non-zero problems, equally often), zero_fraction=1/3 (share of
    problems whose effect the graph makes 0), codes=False (the "(A=0)" surface).

    Raises UserError for an argument that cannot be met.
    """
    chosen = settings(tasks, **options)
    return (_problem(chosen, seed, index) for index in range(start, start + n))


def generate_problem(seed: int, index: int, tasks: Sequence[str], **options) -> Problem:
    """Problem `index` of that stream."""
    return _problem(settings(tasks, **options), seed, index)


def _problem(chosen: Settings, seed: int, index: int) -> Problem:
    block, place = divmod(index, len(chosen.tasks))
    order = np.random.default_rng((seed, 0, block)).permutation(len(chosen.tasks))
    task = chosen.tasks[order[place]]  # every block of len(tasks) problems holds each task once
    rng = np.random.default_rng((seed, 1, index))
    zero = rng.random() < chosen.zero_fraction and task not in BOUND_TASKS
    size = int(rng.choice(chosen.adjusters))
    kind = str(rng.choice(chosen.names))
    n = int(rng.integers(chosen.nodes[0], chosen.nodes[1] + 1))
    while True:
        graph = draw_graph(rng, n)
        query = _query(rng, graph, task, zero, size)
        if query is None:
            continue
        scm = draw_scm(rng, graph)
        numbers = _printed(scm, query)
        if numbers is None:
            continue
        given, value, exact = numbers
        names, states = words.draw_names(rng, kind, n)
        story = Story(names, states, graph.edges, given, query)
        return _finished(chosen, graph, story, value, exact, kind)


def _query(
    rng: np.random.Generator, graph: Graph, task: str, zero: bool, size: int
) -> Query | None:
    """A question of the wanted kind about the graph, or None if the graph has none."""
    pairs = [
        (x, y)
        for x in range(graph.n)
        for y in range(graph.n)
        if x != y and (y in graph.descendants[x]) != zero
    ]
    x_value, y_value = (int(v) for v in rng.integers(2, size=2))
    for i in rng.permutation(len(pairs)):
        x, y = pairs[i]
        if zero:
            return Query(task, x, y, x_value, y_value, zero=True)
        sets = adjustment_sets(graph, x, y, size)
        if sets and len(sets[0]) == size:
            chosen = sets[rng.integers(len(sets))]
            return Query(task, x, y, x_value, y_value, adjusters=chosen)
    return None


def _printed(scm: SCM, query: Query) -> tuple[tuple[tuple[Term, str], ...], Decimal, float] | None:
    """(printed terms, the estimand from the printed numbers, the exact estimand).

    None where rounding the inputs would move the answer by TOLERANCE, the effect is too small
    to have a verdict, or a printed probability is 0 or 1.
    """
    if query.zero:
        return (), Decimal(0), 0.0
    observed = joint(scm)
    given = tuple((t, f"{probability(observed, *t):.4f}") for t in ingredients(query))
    if any(number in ("0.0000", "1.0000") for _, number in given):
        return None
    exact = by_identification(query, lambda t, g: probability(observed, t, g) if t else 1.0)
    value = by_identification(query, printed_probability({t: Decimal(s) for t, s in given}))
    if abs(float(value) - exact) >= TOLERANCE or not math.isfinite(exact):
        return None
    if query.task not in BOUND_TASKS and abs(value) < MIN_EFFECT:
        return None
    return given, value, exact


def _finished(
    chosen: Settings, graph: Graph, story: Story, value: Decimal, exact: float, kind: str
) -> Problem:
    query = story.query
    label = {"PROB": four_decimals(value)}
    if (said := verdict(query, value)) is not None:
        label = {"ANSWER": said, **label}
    return Problem(
        text=problem_text(
            story, codes=chosen.codes, instruction=None if chosen.variant == "omitted" else True
        ),
        answer=json.dumps(label),
        task=query.task,
        reason=symbolic_steps(graph, query, {t: Decimal(s) for t, s in story.given}),
        variant=chosen.variant,
        extra=_record(story, exact, kind),
    )


def four_decimals(value: Decimal) -> str:
    """The official number format: rounded once to four decimals, no trailing zeros, no "-0"."""
    text = f"{round(value, 4):f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _record(story: Story, exact: float, kind: str) -> dict:
    """The problem as JSON-serialisable structure. Events are lists of [node, value]."""
    query = story.query
    return {
        "graph": {"nodes": list(story.names), "edges": [list(edge) for edge in story.edges]},
        "states": [list(pair) for pair in story.states],
        "names": kind,
        "x": query.x,
        "y": query.y,
        "x_value": query.x_value,
        "y_value": query.y_value,
        "adjusters": list(query.adjusters),
        "zero": query.zero,
        "given": [
            {
                "target": [list(e) for e in term.target],
                "given": [list(e) for e in term.given],
                "p": number,
            }
            for term, number in story.given
        ],
        "exact": exact,
    }


def _known(what: str, value: str, all_values: Sequence[str], built: Sequence[str]) -> None:
    if value in built:
        return
    if value in all_values:
        raise UserError(f"{what} {value!r} is not generated yet; choose from {', '.join(built)}")
    close = difflib.get_close_matches(value.upper(), [v.upper() for v in built], 1, 0.0)
    nearest = next(v for v in built if v.upper() == close[0])
    raise UserError(f"unknown {what} {value!r}: did you mean {nearest!r}?")
