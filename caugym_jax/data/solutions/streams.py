"""Training rows without end: drills of single skills, and whole problems with their solutions.

    lists    numbers in random text: to be listed
    given    a list of numbers with conditions: the formula's steps
    digits   a product's rows, or a quotient's digits, alone
    reading  a problem in shuffled sentences: its list alone, conditions counting most
    shuffled, usual    a problem and its whole solution
    graph    a problem without any number: whether its effect is zero is left to the graph

Row i of a stream is a function of (seed, i) and of how hard rows are to be.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.causal.text import wording
from caugym_jax.data.solutions import notation as n
from caugym_jax.data.solutions import varying, vocabulary, writing
from caugym_jax.data.solutions.conditions import plan_of, story_of
from caugym_jax.data.solutions.vocabulary import ASSISTANT, END, USER
from caugym_jax.types import BOUND_TASKS, TASKS, Example, Problem, Story

REACH = 64  # problems looked at for one that a stream can use
CONDITION_WEIGHT = 3  # of a condition in a row that is there for conditions


@dataclasses.dataclass(frozen=True)
class Hardness:
    """How hard rows are.

    large: the share of problems on graphs as large as in the released sets, not on 3 to 5 nodes.
    thin: the share of texts with numbers that tell only some edges, which makes them short.
    renamed: the share of texts with other names, and often other states, than the generator's.
    idle: the share of texts with one to four more numbers that nothing needs.
    spread: tokens between two numbers of the lists drill, on average.
    numbers: the share of effects whose numbers are of kinds that a drawn world seldom has.
    """

    large: float = 1.0
    thin: float = 0.0
    renamed: float = 0.5
    idle: float = 0.25
    spread: float = 10.0
    numbers: float = 0.1


class Kind(NamedTuple):
    """Which problems are drawn, and how often."""

    weight: float
    tasks: tuple[str, ...]
    options: Mapping[str, Any]
    held: int = 0  # the fewest mediators, which CDE holds


EFFECTS = tuple(task for task in TASKS if task not in BOUND_TASKS)
LARGE = (
    Kind(0.22, TASKS, {"variant": "base"}),
    Kind(0.22, TASKS, {"variant": "deconfounding"}),
    Kind(0.06, BOUND_TASKS, {"variant": "deconfounding", "adjusters": (0,)}),
    Kind(0.24, TASKS, {"variant": "redundant"}),
    Kind(0.16, EFFECTS, {"variant": "redundant", "zero_fraction": 1.0}),
    Kind(0.04, ("CDE",), {"variant": "deconfounding"}, held=2),
    Kind(0.04, ("CDE",), {"variant": "redundant", "zero_fraction": 0.5}, held=2),
    Kind(0.12, TASKS, {"variant": "insufficient"}),
    Kind(0.08, TASKS, {"variant": "base", "nodes": (4, 8), "codes": True}),
)
SMALL = tuple(
    kind._replace(options={**kind.options, "nodes": (3 if i == 0 else 4, 5)})
    for i, kind in enumerate(LARGE)
)


class Row:
    """One row in the making."""

    def __init__(self, seed: int, index: int, hardness: Hardness) -> None:
        self.rng = random.Random(f"solutions {seed} {index}")
        self.seed = seed
        self.index = index
        self.hardness = hardness

    def problem(self, wanted: Callable[[Problem], bool] = lambda problem: True) -> Problem:
        """The first of this row's problems, as hard as it is to be, that is wanted."""
        return self.drawn(LARGE if self.rng.random() < self.hardness.large else SMALL, wanted)

    def drawn(self, kinds: Sequence[Kind], wanted: Callable[[Problem], bool]) -> Problem:
        for place in range(REACH * self.index, REACH * (self.index + 1)):
            (kind,) = self.rng.choices(kinds, [kind.weight for kind in kinds])
            problem = generate_problem(self.seed, place, kind.tasks, **kind.options)
            if len(story_of(problem).query.mediators) >= kind.held and wanted(problem):
                return problem
        raise AssertionError("no problem is wanted")

    def example(self, front: Sequence[str], learned: Sequence[str]) -> Example:
        """Of known tokens: what is given, and what is learned."""
        ids = _ids()
        return Example([ids[t] for t in front], [ids[t] for t in learned])

    def prompted(self, prompt: str, learned: Sequence[str]) -> Example:
        ids = _ids()
        text = _tokenizer().encode(vocabulary.marked(prompt)).ids
        return Example([ids[USER], *text, ids[ASSISTANT]], [ids[t] for t in learned])


@functools.cache
def _ids() -> dict[str, int]:
    return {token: i for i, token in enumerate(vocabulary.vocabulary())}


@functools.cache
def _tokenizer():
    return vocabulary.build(numbering=False)


# Drills ---------------------------------------------------------------------------------------


def lists(row: Row) -> Example:
    """Numbers with anything between them. Conditions, of which there are none, are not learned."""
    rng = row.rng
    tokens, items = [USER, wording.HEADER, "\u010a"], []  # ByteLevel's line break
    for k in range(1, rng.randrange(3, n.MAX_ITEMS + 1)):
        number = rng.randrange(10_000) if rng.random() < 0.95 else rng.choice((0, 10_000))
        items.append(writing.Item(n.IDLE, number))
        gap = 1 + min(24, int(rng.expovariate(1 / row.hardness.spread)))
        tokens += [". "] * (k > 1) + rng.choices(_fillers(), k=gap)
        tokens += [vocabulary.numbered(" is", k), n.high(number), n.low(number)]
    tokens += [". ", "\n" + wording.STEP_BY_STEP, ASSISTANT]
    solution = writing.listed(items, 0, 0)
    unknown = (n.HEADER_X[0], n.HEADER_Y[0], n.role(n.IDLE))
    mask = [int(token not in unknown) for token in solution]
    return dataclasses.replace(row.example(tokens, solution), mask=mask)


@functools.cache
def _fillers() -> list[str]:
    """What may stand between two numbers, frequent ones often."""
    known = list(vocabulary.prompt_tokens())
    states = [t for t in known if t.startswith(" being ")]
    codes = [t for t in known if t.startswith(" (")]
    pairs = [a + b for a in string.ascii_lowercase for b in string.ascii_lowercase]
    words = [" " + word for word in vocabulary.words()[:120]]
    often = [", the probability of"] * 25 + states[:2] * 20
    return [*often, *codes, *states, *words, *pairs[:200]]


def given(row: Row) -> Example:
    story = story_of(row.problem(lambda p: not (p.lacks or story_of(p).query.zero)))
    if row.rng.random() < row.hardness.numbers:
        story = varying.renumbered(row.rng, story)
    plan = plan_of(story)
    items = row.rng.sample(plan.items, len(plan.items))
    front = [ASSISTANT, *writing.listed(items, plan.x, plan.y), n.form(plan.formula)]
    return row.example(front, [*writing.worked(plan.formula, items, plan.x, plan.y, row.rng), END])


def digits(row: Row) -> Example:
    return (_quotient_drill if row.rng.random() < 0.6 else _product_drill)(row)


def _product_drill(row: Row) -> Example:
    """E's digits and the multiplier are given: the rows."""
    rng = row.rng
    e = (rng.choice((0, 0, -1, -1, 1, -2)), *rng.choices(range(10), k=4))
    factor = rng.randrange(10_000)
    front = [ASSISTANT, n.step(rng.choice(("E=D-G", "E=H-G")))]
    front += [n.result("E", p, e[p], rng.randrange(2)) for p in n.PLACES] + [n.top("E", e[0])]
    front += [n.step("*"), n.role(rng.choice(("z0", "m0|x1", "y1|x0,m0,z0")))]
    front += [n.tag(rng.choice((1, 2, 3, 4, 9))), n.high(factor), n.low(factor)]
    steps = writing.Steps((), {})
    steps.rows(e, writing.digits(factor))
    return row.example(front, steps.tokens)


def _quotient_drill(row: Row) -> Example:
    """A divisor is given, then rests below it, each with its quotient digit to say."""
    rng = row.rng
    divisor = int(10_000 * min(0.97, max(0.01, 0.8 * rng.random() ** 1.5)))
    steps = writing.Steps(("y0,x1",), {"y0,x1": (rng.randrange(1, 8), divisor)}, rng)
    steps.say(n.step("-E"))
    steps.column_sums("E", (0,) * 5, steps.spell(1, "b"), -1)
    learned: set[int] = set()
    for i in range(8):
        place, rest = i % 4 + 1, rng.randrange(divisor)
        if rng.random() < 0.2:
            rest = int(divisor * (0.88 + 0.12 * rng.random()))  # a 9, or hardly an 8
        if place == 1:
            steps.say(n.quotient(0, 1))
        elif rng.random() < 0.25:
            steps.say(n.back(place - 1, rng.randrange(10)))
        if i and rng.random() < 0.05 and rest + divisor < 10_000:
            rest += divisor
        r = writing.digits(rest)
        steps.say(*(n.multiply_add(p, r[p] + 10 * rng.randrange(10)) for p in n.PLACES))
        steps.say(n.multiply_top(r[0]))
        learned.add(len(steps.tokens))
        steps.say(n.quotient(place, steps.guess(10 * rest, divisor, last=True)))
    mask = [int(i in learned) for i in range(len(steps.tokens))]
    return dataclasses.replace(row.example([ASSISTANT], steps.tokens), mask=mask)


# Problems -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Text:
    """A problem's story as it is worded."""

    story: Story
    lacks: bool
    codes: bool
    stop: bool


def reading(row: Row) -> Example:
    text = _varied(row, row.problem(lambda p: bool(story_of(p).given)), shuffled=True, thin=1.5)
    plan = plan_of(text.story, lacks=text.lacks)
    solution = writing.listed(plan.items, plan.x, plan.y)
    mask = [1] * len(solution)
    mask[3::5] = [CONDITION_WEIGHT] * len(plan.items)
    return dataclasses.replace(row.prompted(_asked(row, text), solution), mask=mask)


def shuffled(row: Row) -> Example:
    return _whole(row, shuffled=True)


def usual(row: Row) -> Example:
    return _whole(row, shuffled=False)


def _whole(row: Row, *, shuffled: bool) -> Example:
    text = _varied(row, row.problem(), shuffled=shuffled)
    plan = plan_of(text.story, lacks=text.lacks)
    solution = writing.written(plan.formula, plan.items, plan.x, plan.y, row.rng, plan.missing)
    return row.prompted(_asked(row, text), [*solution, END])


def _varied(row: Row, problem: Problem, *, shuffled: bool, thin: float = 1.0) -> Text:
    """The story with other names, states, idle numbers, gaps, orders: no mark tells an answer."""
    rng = row.rng
    story, lacks = story_of(problem), problem.lacks
    zero = story.query.zero
    codes = story.codes or rng.random() < 0.2
    stop = (problem.variant != "insufficient" or rng.random() < 0.5) and rng.random() < 0.95
    if not (lacks or zero) and rng.random() < 0.08:
        fewer = varying.without_some(rng, story)
        story, lacks = (story, False) if fewer is None else (fewer, True)
    if rng.random() < row.hardness.renamed:
        story = varying.renamed(rng, story, states=codes)
    if rng.random() < row.hardness.numbers:
        story = varying.renumbered(rng, story)
    often = 0.6 if lacks else 2.0 if zero else 1.0
    if (story.given or zero) and rng.random() < often * row.hardness.idle:
        story = varying.with_idle(rng, story, rng.randrange(1, 5), about_y=not lacks)
    if shuffled:
        story = varying.shuffled(rng, story)
    if story.given and rng.random() < thin * row.hardness.thin:
        story = varying.with_fewer_edges(rng, story)
    return Text(story, lacks, codes, stop)


def _asked(row: Row, text: Text) -> str:
    """As a prompt: with and without the Instruction line and the hint."""
    rng = row.rng
    ending = ["\n" if rng.random() < 0.85 else " "]
    if rng.random() < 0.15:
        ending.append(" " + wording.LACK_HINT)
    instruction = rng.random() < 0.88
    return varying.worded(
        text.story, codes=text.codes, instruction=instruction, stop=text.stop, ending=ending
    )


def graph(row: Row) -> Example:
    """Half of the texts look as released, where size and spaces tell zero from lacking too."""
    rng = row.rng
    released, zero = rng.random() < 0.6, rng.random() < 0.5
    if zero:
        tasks, nodes = EFFECTS, (3, 5) if released else (3, 8)
        options = {"variant": "base", "nodes": nodes, "zero_fraction": 1.0}
    else:
        tasks, nodes = TASKS, (8, 8) if released else (4, 8)
        options = {"variant": "insufficient", "nodes": nodes}
    problem = row.drawn([Kind(1.0, tasks, options)], lambda p: not story_of(p).given)
    story, codes = story_of(problem), rng.random() < 0.5
    if rng.random() < row.hardness.renamed:
        story = varying.renamed(rng, story, states=True)
    text = Text(story, problem.lacks, codes if not released else not zero, stop=True)
    plan = plan_of(story, lacks=text.lacks)
    solution = writing.written(plan.formula, plan.items, plan.x, plan.y, rng, plan.missing)
    return row.prompted(_asked(row, text), [*solution, END])


STREAMS: dict[str, Callable[[Row], Example]] = {
    f.__name__: f for f in (lists, given, digits, reading, shuffled, usual, graph)
}


def example(name: str, seed: int, index: int, hardness: Hardness) -> Example:
    """Row `index` of a stream."""
    return STREAMS[name](Row(seed, index, hardness))
