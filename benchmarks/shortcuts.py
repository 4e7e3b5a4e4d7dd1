"""How far a set of problems can be answered without its graphs: a family of rules, fitted.

A rule sees all of a problem but its edges: the task, the treatment, the outcome, what each
probability is about, and the order in which numbers are printed. The family holds

* the constants 0, 1 and LACK_CONDITION;
* the formula of the task by some set that all numbers are printed for: none, the smallest, the
  largest, the first or the last printed, or the mean over them; where there is none, 0 or
  LACK_CONDITION;
* fixed arithmetic on numbers by their place: the released order (`audit.shortcut`), and every
  difference of two of the first six.

`fit` takes the best rule for each task and number of numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from caugym_jax.causal.engine.audit import score, shortcut
from caugym_jax.causal.engine.estimands import by_identification, printed_probability
from caugym_jax.causal.engine.queries import as_asked
from caugym_jax.types import Problem, Query, Story, Term

FIRST = 6  # numbers of which all differences are tried
CELL = 20  # items with one task and one number of numbers that are fitted by themselves

Answers = Mapping[str, Decimal | None]  # by rule; None: LACK_CONDITION
Cell = tuple[str, int | None]  # task, number of numbers


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One problem and which rules are right on it."""

    problem: Problem
    numbers: int
    right: frozenset[str]


def judge(problem: Problem) -> Outcome:
    """Tries every rule."""
    found = answers(problem)
    right = frozenset(rule for rule in found if score(problem, found[rule]))
    return Outcome(problem, len(problem.story.given), right)


def fit(items: Sequence[Outcome]) -> Callable[[Outcome], bool]:
    """Takes the best rule for each task and number of numbers; returns whether it is right."""
    cells: dict[Cell, list[Outcome]] = defaultdict(list)
    for item in items:
        cells[item.problem.task, item.numbers].append(item)
        cells[item.problem.task, None].append(item)
    best = {cell: _best(own) for cell, own in cells.items() if cell[1] is None or len(own) >= CELL}

    def right(item: Outcome) -> bool:
        task = item.problem.task
        return best.get((task, item.numbers), best.get((task, None), "lack")) in item.right

    return right


def _best(items: Sequence[Outcome]) -> str:
    counts = Counter(rule for item in items for rule in sorted(item.right))
    return counts.most_common(1)[0][0] if counts else "lack"


def figures(problems: Sequence[Problem]) -> dict[str, float]:
    """Scores of rules fitted on every other problem, on the remaining ones.

    fitted: the best rule; constant: the best of 0, 1 and LACK_CONDITION, one for all problems;
    nonzero: the best rule on problems whose answer is a number other than 0; nonzero_only: there
    too, a rule fitted to such problems alone.
    """
    items = [judge(problem) for problem in problems]
    seen, unseen = items[::2], items[1::2]
    rule = fit(seen)
    numeric = [item for item in unseen if item.problem.prob]
    own = fit([item for item in seen if item.problem.prob])
    return {
        "fitted": _share(map(rule, unseen), unseen),
        "constant": max(
            _share((name in item.right for item in unseen), unseen)
            for name in ("zero", "one", "lack")
        ),
        "nonzero": _share(map(rule, numeric), numeric),
        "nonzero_only": _share(map(own, numeric), numeric),
    }


def _share(marks: Iterator[bool], items: Sequence) -> float:
    return sum(marks) / len(items) if items else 0.0


# The rules ------------------------------------------------------------------------------------


def answers(problem: Problem) -> Answers:
    """What each rule says; rules that have nothing to say are absent."""
    story = problem.story
    numbers = [Decimal(number) for _, number in story.given]
    found: dict[str, Decimal | None] = {"zero": Decimal(0), "one": Decimal(1), "lack": None}
    for i, j in itertools.permutations(range(min(FIRST, len(numbers))), 2):
        found[f"number {i} - number {j}"] = numbers[i] - numbers[j]
    value = shortcut(story)
    if value is not None:
        found["released order"] = value
    return found | _by_formula(story)


def _by_formula(story: Story) -> dict[str, Decimal | None]:
    printed = {term: Decimal(number) for term, number in story.given}
    values: dict[tuple, Decimal] = {}
    for query in _queries(as_asked(story.query), printed):
        try:
            value = by_identification(query, printed_probability(printed))
        except (KeyError, ArithmeticError):
            continue
        values[query.mediators, query.adjusters] = Decimal(value)
    found: dict[str, Decimal | None] = {}
    every = list(values.values())
    sized = sorted(values, key=lambda sets: len(sets[0]) + len(sets[1]))
    for name, chosen in {
        "first": every[:1],
        "last": every[-1:],
        "smallest": [values[sets] for sets in sized[:1]],
        "largest": [values[sets] for sets in sized[-1:]],
        "none": [values[sets] for sets in sized if not sets[1]][:1],
        "mean": every,
    }.items():
        value = sum(chosen) / len(chosen) if chosen else None
        found[f"formula, {name} set"] = value
        found[f"formula, {name} set, else 0"] = Decimal(0) if value is None else value
    return found


def _queries(asked: Query, printed: Mapping[Term, Decimal]) -> Iterator[Query]:
    """The question with every choice of sets that some conditional of the outcome mentions."""
    mentioned: dict[frozenset[int], None] = {}
    for target, given in printed:
        rest = {v for v, _ in given} - {asked.x}
        if [v for v, _ in target] == [asked.y] and len(rest) < len(given):
            mentioned[frozenset(rest.difference(asked.mediators))] = None
    for rest in dict.fromkeys([*mentioned, frozenset()]):
        natural = asked.task in ("NDE", "NIE")
        for size in range(len(rest) + 1) if natural else (0,):
            for through in itertools.combinations(sorted(rest), size):
                z = tuple(sorted(rest.difference(through)))
                m = through if natural else asked.mediators
                if m or asked.task != "NIE":
                    yield dataclasses.replace(asked, mediators=m, adjusters=z)
