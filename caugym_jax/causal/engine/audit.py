"""What is wrong with the labels of a set of problems, and what answers them without reading.

Items are compared with the solver's answers; every difference is classified. Beside it stand two
scores that a sound set keeps low: the best fixed rule that sees the task and the numbers in their
order but no graph, and the best constant answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

from caugym_jax.causal.engine.answers import DEAD_ZONE, TOLERANCE, labelled
from caugym_jax.causal.engine.solving import Solved, solve
from caugym_jax.causal.text.vocabulary import BadProblem, Unread
from caugym_jax.types import BOUND_TASKS, TASKS, Event, Problem, Story, Term


@dataclasses.dataclass(frozen=True)
class Defect:
    """One thing that is wrong with, or fragile in, an item."""

    item: int
    kind: str  # a few words; `KINDS` explains them
    why: str


KINDS = {
    "inverted verdict": "the label's Yes or No contradicts its own number and question",
    "flipped polarity": "the question asks 'less likely', the label answers 'more likely'",
    "open verdict": "the question has no Yes or No answer",
    "dead zone": "an effect below 0.001 makes Yes likelier; the released rule calls it No",
    "answerable": "the label is LACK_CONDITION, yet the graph and the numbers give the answer",
    "unanswerable": "the label is a number, yet the graph and the numbers do not determine it",
    "wrong number": "the label is not the answer, whatever the rounding of the inputs",
    "rounding": "the label is not what the printed numbers give, but within their rounding",
    "degenerate cell": "the answer rests on a conditional printed as exactly 0 or 1",
    "sets disagree": "two valid adjustment sets give different answers",
}


@dataclasses.dataclass(frozen=True)
class Checked:
    """One item beside the solver's answer."""

    item: int
    problem: Problem
    solved: Solved | None = None  # None: unread, or the numbers contradict each other
    unread: str = ""  # why
    broken: bool = False  # the text is in a known wording, but is not a sound problem

    @property
    def prob_agrees(self) -> bool:
        """The label is the solver's number within 0.0005, or both are LACK_CONDITION."""
        return self.solved is not None and score(self.problem, self.solved.value)

    @property
    def verdict_agrees(self) -> bool | None:
        """None where there is no verdict to compare; either agrees where |effect| < 0.001."""
        solved, said = self.solved, self.problem.verdict
        if solved is None or solved.value is None or solved.verdict is None or said is None:
            return None
        return abs(solved.value) < DEAD_ZONE or solved.verdict == said


def check(problem: Problem, item: int = 0) -> Checked:
    """Solves one item."""
    if problem.story is None:
        return Checked(item, problem, None, problem.unread, problem.broken)
    try:
        return Checked(item, problem, solve(problem.story))
    except (BadProblem, Unread) as error:
        return Checked(item, problem, None, str(error), isinstance(error, BadProblem))


def defects(checked: Checked) -> list[Defect]:
    """All defects of one item."""
    solved, problem, story = checked.solved, checked.problem, checked.problem.story
    if solved is None or story is None:
        return []
    value = solved.value
    found: list[tuple[str, str]] = []
    if value is None:
        if not problem.lacks:
            why = f"no valid adjustment set is printed whole, label {labelled(problem)}"
            found.append(("unanswerable", why))
    elif problem.lacks:
        found.append(("answerable", f"the answer is {value:.4f}{_because(story, solved)}"))
    else:
        if not checked.prob_agrees:
            found.append(_number_defect(labelled(problem), value, solved.interval))
        found += _verdict_defects(checked, story.direction, value)
    if cells := _degenerate(story, solved):
        found.append(("degenerate cell", cells))
    for adjusters, other in solved.others:
        if value is not None and abs(other - value) >= TOLERANCE:
            names = ", ".join(story.names[v] for v in adjusters) or "nothing"
            found.append(("sets disagree", f"{value:.4f}, but {other:.4f} adjusting for {names}"))
    return [Defect(checked.item, kind, why) for kind, why in found]


def _number_defect(
    said: Decimal, value: Decimal, interval: tuple[Decimal, Decimal] | None
) -> tuple[str, str]:
    if interval and interval[0] <= said <= interval[1]:
        low, high = interval
        why = f"label {said}, the numbers give {value:.4f} and reach {low:.4f} to {high:.4f}"
        return "rounding", why
    return "wrong number", f"label {said}, the numbers give {value:.4f}"


def _verdict_defects(
    checked: Checked, direction: int | None, value: Decimal
) -> list[tuple[str, str]]:
    solved, said = checked.solved, checked.problem.verdict
    if solved is None or said is None:
        return []
    if direction is None:
        return [("open verdict", f"the label is {said}, the question asks for no direction")]
    if 0 < abs(value) < DEAD_ZONE and solved.verdict == "Yes":
        why = f"the effect is {value:.5f}: Yes by its sign, No by the released rule"
        return [("dead zone", f"{why}; the label is {said}")]
    if checked.verdict_agrees:
        return []
    kind = "inverted verdict" if direction > 0 else "flipped polarity"
    return [(kind, f"the effect is {value:.4f}, so {solved.verdict}; the label is {said}")]


def _degenerate(story: Story, solved: Solved) -> str:
    """The conditionals in the formula that are exactly 0 or 1."""
    cells = [
        f"{_words(story, term)} is {value}"
        for term, value in solved.used
        if term.given and value in (0, 1)
    ]
    return "; ".join(cells)


def _words(story: Story, term: Term) -> str:
    def said(event: Event) -> str:
        return ", ".join(f"{story.names[v]} {story.states[v][value]}" for v, value in event)

    return f"P({said(term.target)} | {said(term.given)})"


def _because(story: Story, solved: Solved) -> str:
    if not solved.implied:
        return ""
    term = solved.implied[0]
    value = dict(solved.used)[term]
    return f": {_words(story, term)} = {value} by the graph's independencies"


# Answers without reading ----------------------------------------------------------------------


def shortcut(story: Story) -> Decimal | None:
    """What a rule says that sees the task's name and the numbers in their order, but no graph.

    No number: 0. Else the fixed arithmetic that the released order of sentences calls for, on the
    longest list of numbers that it knows, taken from the front.
    """
    query, numbers = story.query, [Decimal(number) for _, number in story.given]
    if not numbers:
        return Decimal(0)
    rules = _RULES[query.task]
    length = max((k for k in rules if k <= len(numbers)), default=None)
    if length is None:
        return None
    value = rules[length](numbers[:length])
    if query.task not in BOUND_TASKS:
        return value
    do, first, second = value
    upper = query.bound == "upper"
    top, bottom = (do - first, second) if upper else (first - do, second)
    if upper and query.task == "PS":
        top, bottom = do - second, first
    if bottom == 0:
        return None
    return min(Decimal(1), top / bottom) if upper else max(Decimal(0), top / bottom)


def _weighted(n: Sequence[Decimal]) -> Decimal:
    return (n[0] - n[1]) * n[2] + (n[3] - n[4]) * (n[5] if len(n) > 5 else 1 - n[2])


def _through(n: Sequence[Decimal]) -> Decimal:
    return (n[0] - n[3]) * (n[1] - n[2])


_CONTRAST = {2: lambda n: n[0] - n[1], 6: _weighted}
_BOUND = {3: tuple, 6: lambda n: (n[0] * n[1] + n[2] * n[3], n[4], n[5])}
_RULES = {
    "ATE": _CONTRAST,
    "CDE": _CONTRAST,
    "ETT": {2: lambda n: n[0] - n[1], 5: lambda n: n[0] - n[1] * n[2] - n[3] * n[4]},
    "NDE": {
        2: lambda n: n[0] - n[1],
        5: _weighted,
        11: lambda n: n[0] * _weighted(n[1:6]) + (1 - n[0]) * _weighted(n[6:]),
    },
    "NIE": {
        4: _through,
        9: lambda n: n[0] * _through(n[1:5]) + (1 - n[0]) * _through(n[5:]),
    },
    "PN": _BOUND,
    "PS": _BOUND,
}


def score(problem: Problem, answer: Decimal | None) -> bool:
    """Whether a number is the label within 0.0005; None stands for LACK_CONDITION."""
    if answer is None or problem.lacks:
        return answer is None and problem.lacks
    return abs(answer - labelled(problem)) < TOLERANCE


# A whole set ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Marks:
    """What the summary of a set keeps of one item: small, so that sets may be large."""

    task: str
    prob: bool | None  # None: unread
    verdict: bool | None  # None: unread, or there is none to compare
    constants: tuple[bool, ...]  # whether 0, 1, LACK_CONDITION is right
    shortcut: bool
    defects: tuple[Defect, ...] = ()
    unread: dict | None = None  # {"item", "why"}
    broken: bool = False


def marks(checked: Checked) -> Marks:
    """The marks of one item."""
    problem, story, solved = checked.problem, checked.problem.story, checked.solved is not None
    return Marks(
        problem.task,
        checked.prob_agrees if solved else None,
        checked.verdict_agrees,
        tuple(score(problem, constant) for constant in (Decimal(0), Decimal(1), None)),
        story is not None and not problem.lacks and score(problem, shortcut(story)),
        tuple(defects(checked)),
        None if solved else {"item": checked.item, "why": checked.unread},
        checked.broken,
    )


def summary(items: Sequence[Marks]) -> dict:
    """Agreement over the items that were read, by task; scores without reading; defects.

    {"n", "read", "unread", "prob": {"all", "by_task"}, "verdict": {"all", "by_task"}, "shortcut",
    "constant", "defects": [{"item", "kind", "why"}], "unread_items": [{"item", "why"}]}.
    Shares are over the items read (prob), those with a verdict to compare (verdict), and all items
    (shortcut, which is wrong on unread ones; constant: the best of 0, 1 and LACK_CONDITION).
    A share of nothing is None.
    """
    unread = [item.unread for item in items if item.unread]
    constants = zip(*(item.constants for item in items), strict=True)
    return {
        "n": len(items),
        "read": len(items) - len(unread),
        "unread": len(unread),
        "prob": _by_task([(item.task, item.prob) for item in items]),
        "verdict": _by_task([(item.task, item.verdict) for item in items]),
        "shortcut": share([item.shortcut for item in items]),
        "constant": max((sum(c) / len(c) for c in constants), default=None),
        "defects": [dataclasses.asdict(defect) for item in items for defect in item.defects],
        "unread_items": unread,
    }


def _by_task(found: Sequence[tuple[str, bool | None]]) -> dict:
    """{"all": share, "by_task": {task: share}} over the marks that are not None."""
    known = [(task, bool(mark)) for task, mark in found if mark is not None]
    tasks = {task: [mark for t, mark in known if t == task] for task in TASKS}
    return {
        "all": share([mark for _, mark in known]),
        "by_task": {task: share(own) for task, own in tasks.items() if own},
    }


def share(marks: Sequence[bool]) -> float | None:
    return sum(marks) / len(marks) if marks else None
