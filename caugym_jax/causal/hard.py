"""Problems that cannot be answered without reading the graph: blocks of twins.

The twins of a block tell the same numbers in the same sentences and ask the same question; they
differ in the edges alone (and in the order of sentences), and so in the answer:

    PN, PS          three different bounds, three LACK_CONDITION
    other tasks     three different effects, one 0 by the graph, two LACK_CONDITION

Whatever a rule makes of the text without its edges, it says the same of all six twins. So it is
right on at most as many as the constant LACK_CONDITION is, and on at most one of the three whose
numbers suffice for an effect.

All twins share one joint distribution, that of a structural model on a random graph, and each is
a model of its own: along any order of the nodes the joint factorises into P(v | boundary), where
the boundary holds those earlier nodes that the others do not separate from v (the minimal
independence map of that order; Verma & Pearl 1990). Labels are by enumeration of that model.

A twin lacks if the solver finds no valid set of numbers and the derivatives of
`identifying.determined` prove the answer open, both at this joint and at a random model on its
graph (where nothing holds by chance).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.causal.asking import BOUNDS, WITH_MEDIATORS, has_zero_effect
from caugym_jax.causal.estimands import (
    Query,
    by_definition,
    by_identification,
    exact_probability,
)
from caugym_jax.causal.graph import (
    MAX_PARENTS,
    Graph,
    d_separated,
    draw_graph,
    independence_map,
    is_adjustment_set,
    mediators,
)
from caugym_jax.causal.identifying import determined
from caugym_jax.causal.scm import draw_scm, factorised, joint
from caugym_jax.causal.solving import solve
from caugym_jax.causal.telling import DEGENERATE, Key, Route, Telling, Told, by_route
from caugym_jax.causal.vocabulary import Reading
from caugym_jax.causal.wording import Story
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS

TWINS = 6
EFFECTS = 3  # different ones in a block
WORLDS = 2_000  # graphs tried for one block
ORDERS = 30  # of the nodes of a graph
MODELS = {True: 10, False: 4}  # on a graph; of bounds many are clipped
DRAWS = 10  # of a model on the graph of a twin that lacks
MAX_HELD = 2  # mediators that a question or a formula sums over
MAX_NUMBERS = 18  # that the effects of a block need
MAX_LURE = 5  # numbers of a set that is told but for one
MAX_DISTRACTORS = 2
LARGE = 1 / 3  # share of blocks in which two nodes are adjusted for, or mediate, at once
MAX_CONDITIONS = 3  # of a distractor
APART = 0.002  # between any two answers of a block


class Twin(NamedTuple):
    """One problem of a block."""

    graph: Graph
    query: Query
    exact: float  # by enumeration of the twin's own model
    lacks: bool


class Block(NamedTuple):
    """Problems that share everything but the graph."""

    twins: tuple[Twin, ...]
    given: Told


def draw_block(
    rng: np.random.Generator,
    task: str,
    nodes: tuple[int, int],
    max_adjusters: int,
    max_mediators: int,
) -> Block:
    """Six twins: first those with an effect, then (not PN, PS) one without, last those that lack.

    nodes: smallest and largest graph. max_adjusters: at once. max_mediators: of NDE and NIE.
    """
    least = min(max(nodes[0], 6), nodes[1]) if task == "CDE" else nodes[0]  # it holds a node or two
    for _ in range(WORLDS):
        n = int(rng.integers(least, nodes[1] + 1))
        base = draw_graph(rng, n)
        query = _question(rng, base, task)
        if query is None:
            continue
        graphs = _graphs(rng, base, query)
        if task == "CDE":
            query = _held(query, graphs)
        routes = {g: _routes(g, query, max_adjusters, max_mediators) for g in graphs}
        if task not in BOUND_TASKS and None not in routes.values():
            continue
        for _ in range(MODELS[task in BOUND_TASKS]):
            numbers = Telling(rng, joint(draw_scm(rng, base)), query)
            if task in BOUND_TASKS and not 0 < numbers.exact(((), ())) < 1:
                continue  # most other sets give a clipped bound as well
            if len({round(numbers.exact(way), 9) for way in _ways(routes)}) < EFFECTS:
                break  # the graph's independencies make too many sets equal
            block = _block(rng, numbers, routes)
            if block is not None:
                return block
    raise UserError(f"no block of hard {task} problems from {WORLDS} graphs: widen nodes")


def _question(rng: np.random.Generator, base: Graph, task: str) -> Query | None:
    """About two nodes at random, dependent on each other; CDE holds one or two others."""
    x, y, *others = (int(v) for v in rng.permutation(base.n))
    if d_separated(base, 1 << x, 1 << y, 0):
        return None
    x_value, y_value, *values = (int(v) for v in rng.integers(2, size=2 + MAX_HELD))
    if task in BOUND_TASKS:
        value = int(task == "PS")
        return Query(task, x, y, value, value, bound=BOUNDS[x_value])
    held = int(rng.integers(1, min(MAX_HELD, base.n - 4) + 1)) if task == "CDE" else 0
    mediators = tuple(sorted(others[:held]))
    return Query(task, x, y, x_value, y_value, (), mediators, tuple(values[:held]))


def _held(query: Query, graphs: Sequence[Graph]) -> Query:
    """CDE: holds what mediates in most of the graphs, out of what was to be held."""
    found = Counter(mediators(graph, query.x, query.y) for graph in graphs)
    wanted = [m for m, _ in found.most_common() if m and set(m) <= set(query.mediators)]
    if not wanted:
        return query
    values = tuple(value for node, value in query.held if node in wanted[0])
    return dataclasses.replace(query, mediators=wanted[0], mediator_values=values)


# Graphs ---------------------------------------------------------------------------------------


def _graphs(rng: np.random.Generator, base: Graph, query: Query) -> list[Graph]:
    """Different graphs along which every distribution of the base factorises.

    Each other node comes before x, between x and y, or after y (what CDE holds comes between them,
    other nodes rarely do); in a quarter y comes before x.
    """
    others = [v for v in range(base.n) if v not in (query.x, query.y)]
    found: dict[frozenset, Graph] = {}
    for _ in range(ORDERS):
        zones = _zones(rng, query, others)
        x, y = (query.x, query.y) if rng.random() < 0.75 else (query.y, query.x)
        places = [*zip(zones + rng.random(len(others)), others, strict=True), (1.0, x), (2.0, y)]
        graph = independence_map(base, [v for _, v in sorted(places)])
        if max(map(len, graph.parents)) <= MAX_PARENTS:
            found.setdefault(frozenset(graph.edges), graph)
    return list(found.values())


def _zones(rng: np.random.Generator, query: Query, others: Sequence[int]) -> np.ndarray:
    """0, 1 or 2 for each node: before, between, after."""
    if query.task != "CDE":
        return rng.integers(3, size=len(others))
    zones = rng.choice(3, size=len(others), p=(0.6, 0.1, 0.3))
    return np.where([v in query.mediators for v in others], 1, zones)


def _routes(
    graph: Graph, query: Query, max_adjusters: int, max_mediators: int
) -> list[Route] | None:
    """All ways to the effect by sets of the sizes allowed, smaller ones first.

    None where the graph makes the effect 0; [] where the question does not fit the graph.
    """
    task, x, y = query.task, query.x, query.y
    between = mediators(graph, x, y) if task in WITH_MEDIATORS else ()
    if has_zero_effect(graph, task, x, y):
        return None if task != "CDE" or set(between) <= set(query.mediators) else []
    if task == "CDE" and between != query.mediators or len(between) > MAX_HELD:
        return []
    natural = task in ("NDE", "NIE")
    if natural and len(between) > max_mediators:
        return []
    others = [v for v in range(graph.n) if v not in (x, y, *between)]
    if natural:  # two nodes in all: with more, too many numbers would have to be told
        max_adjusters = min(max_adjusters, 2 - len(between))
    return [
        (between, z)
        for size in range(max_adjusters + 1)
        for z in itertools.combinations(others, size)
        if is_adjustment_set(graph, x, y, z, held=between, natural=natural)
    ]


def _ways(routes: dict[Graph, list[Route] | None]) -> list[Route]:
    """All routes, each once."""
    return list(dict.fromkeys(way for ways in routes.values() for way in ways or ()))


# Blocks ---------------------------------------------------------------------------------------


def _block(
    rng: np.random.Generator,
    numbers: Telling,
    routes: dict[Graph, list[Route] | None],
) -> Block | None:
    """Chooses what is told, and six of the graphs; None where they do not allow it."""
    query = numbers.query
    bounds = query.task in BOUND_TASKS
    zeros = [graph for graph, ways in routes.items() if ways is None]
    goals = _goals(rng, numbers, routes)
    if goals is None:
        return None
    keys = dict.fromkeys(key for goal in goals for key in numbers.keys(goal))
    keys |= dict.fromkeys(_lure(rng, numbers, routes, keys))
    keys |= dict.fromkeys(_distractors(rng, numbers))
    given = numbers.told(keys)
    if DEGENERATE & {number for _, number in given}:
        return None
    found: dict[Route, list[Twin]] = {goal: [] for goal in goals}
    lacking = []
    for graph, ways in routes.items():
        told = [way for way in ways or () if keys.keys() >= set(numbers.keys(way))]
        answers = [numbers.answer(way) for way in told]
        sharp = [way for way, answer in zip(told, answers, strict=True) if answer.sharp]
        if ways and not told:
            if not bounds or 0 < numbers.exact(ways[0]) < 1:
                lacking.append((graph, ways[0]))
        elif sharp and all(answer.sound for answer in answers):
            for goal in goals:
                if abs(numbers.exact(goal) - numbers.exact(told[0])) < 1e-9:
                    found[goal].append((graph, sharp[0]))
    if not all(found.values()):
        return None
    twins = [_twin(*_one(rng, found[goal]), numbers) for goal in goals]
    if not bounds:
        twins.append(_zero_twin(_one(rng, zeros), query, numbers.observed))
    for i in rng.permutation(len(lacking)):
        graph, way = lacking[i]
        if _lacks(rng, graph, numbers, way, given):
            twins.append(_twin(graph, way, numbers, lacks=True))
        if len(twins) == TWINS:
            return Block(tuple(twins), given)
    return None


def _goals(
    rng: np.random.Generator,
    numbers: Telling,
    routes: dict[Graph, list[Route] | None],
) -> list[Route] | None:
    """Routes to EFFECTS different answers, by small sets where possible.

    In a share LARGE of the cases one uses two nodes at once in any case.
    """
    every = _ways(routes)
    every = [every[i] for i in rng.permutation(len(every))]
    every.sort(key=lambda way: _size(numbers.query, way))
    if every and rng.random() < LARGE:
        every.insert(0, every[-1])
    goals: list[Route] = []
    values = [] if numbers.query.task in BOUND_TASKS else [0.0]
    keys: dict[Key, None] = {}
    for way in every:
        more = keys | dict.fromkeys(numbers.keys(way))
        if len(more) > MAX_NUMBERS:
            continue
        exact = numbers.exact(way)
        if all(abs(exact - value) >= APART for value in values) and numbers.answer(way).sharp:
            goals.append(way)
            values.append(exact)
            keys = more
        if len(goals) == EFFECTS:
            return goals
    return None


def _size(query: Query, route: Route) -> int:
    summed = route[0] if query.task in ("NDE", "NIE") else ()
    return max(len(summed), len(route[1]))


def _lure(
    rng: np.random.Generator,
    numbers: Telling,
    routes: dict[Graph, list[Route] | None],
    keys: dict[Key, None],
) -> list[Key]:
    """All but one of the numbers that some small route still lacks."""
    short = [way for way in _ways(routes) if _size(numbers.query, way) < 2]
    missing = [[key for key in numbers.keys(way) if key not in keys] for way in short]
    missing = [lure for lure in missing if 0 < len(lure) <= MAX_LURE]
    if not missing:
        return []
    lure = _one(rng, missing)
    lure.pop(int(rng.integers(len(lure))))
    return lure


def _distractors(rng: np.random.Generator, numbers: Telling) -> list[Key]:
    """Up to MAX_DISTRACTORS further numbers about the same world."""
    n = numbers.observed.ndim
    found = []
    for _ in range(int(rng.integers(MAX_DISTRACTORS + 1))):
        count = int(rng.integers(min(MAX_CONDITIONS, n - 1) + 1))
        target, *given = (int(v) for v in rng.choice(n, size=count + 1, replace=False))
        events = frozenset((v, int(rng.integers(2))) for v in given)
        found.append((frozenset([target]), events))
    return found


# Twins ----------------------------------------------------------------------------------------


def _twin(graph: Graph, way: Route, numbers: Telling, lacks: bool = False) -> Twin:
    query = by_route(numbers.query, way)
    return Twin(graph, query, by_definition(query, factorised(graph, numbers.observed)), lacks)


def _zero_twin(graph: Graph, query: Query, observed: np.ndarray) -> Twin:
    query = dataclasses.replace(query, zero=True)
    return Twin(graph, query, by_definition(query, factorised(graph, observed)), False)


def _lacks(
    rng: np.random.Generator, graph: Graph, numbers: Telling, way: Route, given: Told
) -> bool:
    """Whether what is told leaves the answer open on the graph: see the module's docstring."""
    names = tuple(f"v{v}" for v in range(graph.n))
    story = Story(names, (("low", "high"),) * graph.n, graph.edges, given, numbers.query)
    if not solve(Reading(story)).lacks:
        return False
    query, terms = by_route(numbers.query, way), [term for term, _ in given]
    own = factorised(graph, numbers.observed)
    if determined(own, query, terms, numbers.observed):
        return False
    for _ in range(DRAWS):
        observed = joint(scm := draw_scm(rng, graph))
        if 0 < abs(by_identification(query, exact_probability(observed))) < 1:  # no clipped bound
            return not determined(scm, query, terms, observed)
    return False


def _one(rng: np.random.Generator, items: Sequence) -> Any:
    return items[rng.integers(len(items))]
