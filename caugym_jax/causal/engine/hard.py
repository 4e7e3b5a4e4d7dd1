"""Problems that cannot be answered without reading the graph: blocks of twins.

The twins of a block print the same numbers in the same sentences and ask the same question; they
differ in the edges alone (and in the order of sentences), and so in the answer:

    PN, PS          three different bounds, three LACK_CONDITION
    other tasks     three different effects, one 0 by the graph, two LACK_CONDITION

Whatever a rule makes of the text without its edges, it says the same of all six twins. So it is
right on at most as many as the constant LACK_CONDITION is, and on at most one of the three whose
numbers suffice for an effect.

All twins share one joint distribution, that of a structural model on a random graph, and each is
a model of its own (see `routes`). Labels are by enumeration of that model.

A twin lacks if the derivatives of `identifying.determined` prove the answer open, both at this
joint and at a random model on its graph (where nothing holds by chance).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from caugym_jax.causal.engine.determinacy import determined
from caugym_jax.causal.engine.estimands import by_definition, by_identification, exact_probability
from caugym_jax.causal.engine.facts import DEGENERATE, Facts, Key, Printed, draw_facts, keys
from caugym_jax.causal.engine.graph import Graph
from caugym_jax.causal.engine.routes import World, draw_world
from caugym_jax.causal.engine.scm import draw_scm, factorised, joint
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, Query, Term

TWINS = 6
EFFECTS = 3  # different ones in a block
WORLDS = 2_000  # graphs tried for one block
DRAWS = 10  # of a model on the graph of a twin that lacks
MAX_NUMBERS = 18  # that the effects of a block need
MAX_LURE = 5  # numbers of a set that is printed but for one
MAX_DISTRACTORS = 2
LARGE = 1 / 3  # share of blocks in which two nodes are adjusted for, or mediate, at once
MAX_CONDITIONS = 3  # of a distractor
APART = 0.002  # between any two answers of a block
SAME = 1e-9  # between two derivations of one answer

T = TypeVar("T")


class Twin(NamedTuple):
    """One problem of a block."""

    graph: Graph
    query: Query
    exact: float  # by enumeration of the twin's own model
    lacks: bool


class Block(NamedTuple):
    """Problems that share everything but the graph."""

    twins: tuple[Twin, ...]
    given: Printed


def draw_block(
    rng: np.random.Generator,
    task: str,
    nodes: tuple[int, int],
    max_adjusters: int,
    max_mediators: int,
) -> Block:
    """Six twins: first those with an effect, then (not PN, PS) one without, last those that lack.

    nodes, max_adjusters, max_mediators: as in `routes.draw_world`.
    """
    for _ in range(WORLDS):
        world = draw_world(rng, task, nodes, max_adjusters, max_mediators)
        if world is None or not _may_do(world):
            continue
        for numbers in draw_facts(rng, world.base, world.every_way, EFFECTS):
            block = _block(rng, world, numbers)
            if block is not None:
                return block
    raise UserError(f"no block of hard {task} problems from {WORLDS} graphs: widen nodes")


def _may_do(world: World) -> bool:
    """Whether there are ways and graphs enough for a block."""
    bounds = world.query.task in BOUND_TASKS
    solvable = sum(map(bool, world.ways.values()))
    return (
        (bounds or None in world.ways.values())
        and len(world.every_way) >= EFFECTS
        and solvable >= TWINS - (not bounds)
    )


def _block(rng: np.random.Generator, world: World, numbers: Facts) -> Block | None:
    """Chooses what to print, and six of the graphs; None where they do not allow it."""
    bounds = world.query.task in BOUND_TASKS
    goals = _goals(rng, numbers, bounds)
    if goals is None:
        return None
    needed = dict.fromkeys(key for goal in goals for key in keys(goal))
    needed |= dict.fromkeys(_lure(rng, world.every_way, needed))
    needed |= dict.fromkeys(_distractors(rng, world.base.n))
    given, observed = numbers.printed(needed), numbers.observed
    if DEGENERATE & {number for _, number in given}:
        return None
    found: dict[Query, list[tuple[Graph, Query]]] = {goal: [] for goal in goals}
    lacking = []
    whole = {way for way in world.every_way if all(key in needed for key in keys(way))}
    for graph, ways in world.ways.items():
        answered = [way for way in ways or () if way in whole]
        sharp = [way for way in answered if numbers.answer(way).sharp]
        if ways and not answered:
            if not bounds or _inside(numbers.exact[ways[0]]):
                lacking.append((graph, ways[0]))
        elif sharp and all(numbers.answer(way).sound for way in answered):
            for goal in goals:
                if abs(numbers.exact[goal] - numbers.exact[sharp[0]]) < SAME:
                    found[goal].append((graph, sharp[0]))
    missing = TWINS - EFFECTS - (not bounds)
    if not all(found.values()) or len(lacking) < missing:
        return None
    chosen = [_one(rng, found[goal]) for goal in goals]
    twins = [_twin(graph, way, observed) for graph, way in chosen]
    if not bounds:
        zeros = [graph for graph, ways in world.ways.items() if ways is None]
        query = dataclasses.replace(world.query, zero=True)
        twins.append(_twin(_one(rng, zeros), query, observed))
    terms = [term for term, _ in given]
    for i in rng.permutation(len(lacking)):
        graph, way = lacking[i]
        if _lacks(rng, graph, way, terms, observed):
            twins.append(_twin(graph, way, observed, lacks=True))
        if len(twins) == TWINS:
            return Block(tuple(twins), given)
    return None


def _goals(rng: np.random.Generator, numbers: Facts, bounds: bool) -> list[Query] | None:
    """Ways to EFFECTS different answers, by small sets where possible.

    In a share LARGE of the cases one uses two nodes at once in any case.
    """
    hopeful = [numbers.hopeful[i] for i in rng.permutation(len(numbers.hopeful))]
    hopeful.sort(key=_size)
    if rng.random() < LARGE:
        hopeful.insert(0, hopeful[-1])
    goals: list[Query] = []
    values = [] if bounds else [0.0]
    needed: set[Key] = set()
    for way in hopeful:
        exact = numbers.exact[way]
        if any(abs(exact - value) < APART for value in values):
            continue
        more = needed.union(keys(way))
        if len(more) > MAX_NUMBERS:
            continue
        goals.append(way)
        values.append(exact)
        needed = more
        if len(goals) == EFFECTS:
            return goals if all(numbers.answer(goal).sharp for goal in goals) else None
    return None


def _size(way: Query) -> int:
    summed = way.mediators if way.task in ("NDE", "NIE") else ()
    return max(len(summed), len(way.adjusters))


def _lure(rng: np.random.Generator, ways: Sequence[Query], chosen: dict[Key, None]) -> list[Key]:
    """All but one of the numbers that some small way still lacks."""
    missing = [[key for key in keys(way) if key not in chosen] for way in ways if _size(way) < 2]
    missing = [lure for lure in missing if 0 < len(lure) <= MAX_LURE]
    if not missing:
        return []
    lure = _one(rng, missing)
    lure.pop(int(rng.integers(len(lure))))
    return lure


def _distractors(rng: np.random.Generator, n: int) -> list[Key]:
    """Up to MAX_DISTRACTORS further numbers about the same world."""
    found = []
    for _ in range(int(rng.integers(MAX_DISTRACTORS + 1))):
        count = int(rng.integers(min(MAX_CONDITIONS, n - 1) + 1))
        target, *given = (int(v) for v in rng.choice(n, size=count + 1, replace=False))
        events = frozenset((v, int(rng.integers(2))) for v in given)
        found.append((frozenset([target]), events))
    return found


def _twin(graph: Graph, way: Query, observed: np.ndarray, lacks: bool = False) -> Twin:
    return Twin(graph, way, by_definition(way, factorised(graph, observed)), lacks)


def _lacks(
    rng: np.random.Generator,
    graph: Graph,
    way: Query,
    printed: Sequence[Term],
    observed: np.ndarray,
) -> bool:
    """Whether the printed terms leave the answer open on the graph: see the module's docstring."""
    if determined(factorised(graph, observed), way, printed, observed):
        return False
    for _ in range(DRAWS):
        other = joint(scm := draw_scm(rng, graph))
        p = exact_probability(other)
        if way.task not in BOUND_TASKS or _inside(by_identification(way, p)):
            return not determined(scm, way, printed, other)
    return False


def _inside(bound: float) -> bool:
    """Whether a bound is not clipped."""
    return SAME < bound < 1 - SAME


def _one(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]
