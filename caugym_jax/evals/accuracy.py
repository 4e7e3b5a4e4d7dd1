"""From answered problems to the `sets` part of results.json, and its table.

A figure is the mean over items of the item's mean over its samples, a fraction in [0, 1]; None
(null) where it is undefined: no such items, or the file does not say. An item without any sample
counts as wrong (the released scripts skip it).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from caugym_jax.data.solutions import checking
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.evals import paper
from caugym_jax.evals.scorers import SCORER_VERSION, published
from caugym_jax.evals.suites import Question, answer_of, right
from caugym_jax.rewards.answer import expected, extract, is_right, near
from caugym_jax.rewards.form import form_reward
from caugym_jax.types import TASKS, Problem


@dataclasses.dataclass(frozen=True)
class Answered:
    """A problem and its S sampled completions."""

    problem: Problem | Question
    completions: tuple[str, ...]  # S texts, as generated
    truncated: tuple[bool, ...] | None = None  # S: stopped at the length limit; None: not known
    num_tokens: tuple[int, ...] | None = None  # S: tokens generated; None: not known
    thinking: bool = False  # the prompt opened a thought, which the texts go on with


@dataclasses.dataclass(frozen=True)
class ItemGrades:
    """One item's means over its samples."""

    task: str
    cluster: Hashable  # the graph (see `graph_key`)
    unread: bool  # without a story, so that its number alone is graded
    published: float
    strict: float
    wellformed: float
    lacks: bool  # the right answer is LACK_CONDITION
    nonzero: bool  # it has a label of 0.0005 or more in size: a constant 0 is wrong
    verdict_checked: bool
    lack: float  # final answer LACK_CONDITION
    truncated: float | None
    num_tokens: float | None
    failures: dict[str, float] | None = None  # share of samples that fail by each kind of step


def graph_key(problem: Problem) -> frozenset[tuple[str, str]] | str:
    """The named edges of a problem's graph, which items about one graph share.

    The text itself where the problem is unread: such an item is a cluster of its own.
    """
    story = problem.story
    if story is None:
        return problem.text
    names = [name.casefold() for name in story.names]
    return frozenset((names[a], names[b]) for a, b in story.edges)


def grade_item(answered: Answered) -> ItemGrades:
    """Grades every sample of one item by both rules; a suite's question by its own."""
    if isinstance(answered.problem, Question):
        return _grade_question(answered, answered.problem)
    problem, texts, thinking = answered.problem, answered.completions, answered.thinking
    cuts = answered.truncated or (False,) * len(texts)
    truth = expected(problem)
    opened = "<think>" if thinking else ""  # what is cut off inside a thought is no answer
    answers = [extract(opened + text, cut) for text, cut in zip(texts, cuts, strict=True)]
    forms = [
        form_reward(text, problem, cut, thinking, answer)
        for text, cut, answer in zip(texts, cuts, answers, strict=True)
    ]
    rights = [is_right(answer, truth) for answer in answers]
    return ItemGrades(
        task=problem.task,
        cluster=graph_key(problem),
        unread=problem.story is None,
        published=_mean([published(text, problem) for text in texts]) or 0.0,
        strict=_mean(rights) or 0.0,
        wellformed=_mean(forms) or 0.0,
        lacks=truth.prob is None,
        nonzero=truth.prob is not None and not near(truth.prob, Decimal(0)),
        verdict_checked=truth.verdicts is not None,
        lack=_mean([answer.lack for answer in answers]) or 0.0,
        truncated=_mean(answered.truncated),
        num_tokens=_mean(answered.num_tokens),
        failures=failure_kinds(problem, texts, rights),
    )


def _grade_question(answered: Answered, question: Question) -> ItemGrades:
    opened = "<think>" if answered.thinking else ""
    cuts = answered.truncated or (False,) * len(answered.completions)
    texts = [(opened + text, cut) for text, cut in zip(answered.completions, cuts, strict=True)]
    accuracy = _mean([right(question, *text) for text in texts]) or 0.0
    formed = [question.kind == "math" or answer_of(question.kind, *text) for text in texts]
    return ItemGrades(
        task=question.task,
        cluster=question.text,
        unread=False,
        published=accuracy,
        strict=accuracy,
        wellformed=_mean([float(bool(x)) for x in formed]) or 0.0,
        lacks=False,
        nonzero=False,
        verdict_checked=False,
        lack=0.0,
        truncated=_mean(answered.truncated),
        num_tokens=_mean(answered.num_tokens),
    )


def failure_kinds(
    problem: Problem, texts: Sequence[str], rights: Sequence[bool]
) -> dict[str, float] | None:
    """Which kind of step went wrong first in the samples that are not right (`solutions.checking`).

    None where no sample is in the notation of worked solutions, or the problem has none in it.
    """
    plan = plan_for(problem) if any(map(checking.in_notation, texts)) else None
    if plan is None:
        return None
    found = [
        checking.failure(checking.check(text, plan)) or "unexpected"
        for text, right in zip(texts, rights, strict=True)
        if not right
    ]
    return {kind: found.count(kind) / len(texts) for kind in checking.KINDS}


def summarize(answered: Iterable[Answered]) -> dict[str, Any]:
    """One set's entry of results.json. `n` counts items; `stderr` is `clustered_stderr`."""
    answered = list(answered)
    items = [grade_item(one) for one in answered]
    suite = next((x.problem.suite for x in answered if isinstance(x.problem, Question)), None)
    found = {item.task for item in items}
    tasks = sorted(found) if suite else sorted(found, key=TASKS.index)

    def mean(field: str, keep: Iterable[ItemGrades] = items) -> float | None:
        values = [getattr(item, field) for item in keep]
        return _mean([value for value in values if value is not None])

    def by_task(field: str) -> dict[str, float | None]:
        return {task: mean(field, [item for item in items if item.task == task]) for task in tasks}

    return {
        "n": len(items),
        **({"suite": suite} if suite else {}),
        "published": {"all": mean("published"), "by_task": by_task("published")},
        "strict": {
            "all": mean("strict"),
            "by_task": by_task("strict"),
            "nonzero": mean("strict", [item for item in items if item.nonzero]),
            "stderr": clustered_stderr(
                [item.strict for item in items], [item.cluster for item in items]
            ),
            "n_scored": len(items),
            "n_nonzero": sum(item.nonzero for item in items),
            "n_verdict": sum(item.verdict_checked for item in items),
            "n_unread": sum(item.unread for item in items),
        },
        "lack": mean("lack", [item for item in items if item.lacks]),
        "false_lack": mean("lack", [item for item in items if not item.lacks]),
        "wellformed": mean("wellformed"),
        "truncated": mean("truncated"),
        "mean_tokens": mean("num_tokens"),
        "failures": _failures([item.failures for item in items if item.failures is not None]),
    }


def _failures(found: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The shares of samples that fail by each kind, over the items of which it is known."""
    if not found:
        return None
    return {kind: sum(one[kind] for one in found) / len(found) for kind in checking.KINDS}


def clustered_stderr(values: Sequence[float], clusters: Sequence[Any]) -> float | None:
    """The standard error of the mean of `values` when items of one cluster are dependent.

        r_g = sum of (y_i - mean) over the items i of cluster g
        SE = sqrt( G / (G - 1) * sum_g r_g^2 ) / n        G clusters, n items

    With one item a cluster it is the usual s / sqrt(n). None where G < 2. The linearised
    (sandwich) estimator, e.g. Cameron and Miller (2015), J. Human Resources 50(2), section II,
    for a regression on a constant.

    By hand: values 1, 1, 0, 0 in clusters a, a, b, b: r = 1, -1; sqrt(2 * 2) / 4 = 0.5.
    """
    if not values:
        return None
    mean = sum(values) / len(values)
    residuals: dict[Any, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] += value - mean
    groups = len(residuals)
    if groups < 2:
        return None
    spread = sum(residual**2 for residual in residuals.values())
    return math.sqrt(groups / (groups - 1) * spread) / len(values)


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


# --- results.json ----------------------------------------------------------------------------

_SETTINGS = ("samples", "temperature", "top_p", "max_new_tokens", "lack_hint", "seed")


def results(
    model: str | None, settings: Mapping[str, Any], sets: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of results.json, for `data.files.write_json`; unknown settings are null."""
    known = {key: settings.get(key) for key in _SETTINGS} | dict(settings)
    known["scorer_version"] = SCORER_VERSION
    return {"model": model, "settings": known, "sets": dict(sets)}


def table(sets: Mapping[str, dict[str, Any]]) -> str:
    """The figures as text: one row a set and scorer, one column a task, percentages."""
    tasks = [task for task in TASKS if any(task in s["strict"]["by_task"] for s in sets.values())]
    header = ["set", "n", "scorer", "all", *tasks, "nonzero", "stderr"]
    rows = [header]
    for name, entry in sets.items():
        for scorer in ("published", "strict"):
            part = entry[scorer]
            figures = [part["all"], *(part["by_task"].get(task) for task in tasks)]
            figures += [part.get("nonzero"), part.get("stderr")]
            rows.append([name, str(entry["n"]), scorer, *map(_percent, figures)])
    extra = ["set", "n", "lack", "false_lack", "wellformed", "truncated", "mean_tokens"]
    others = [extra]
    for name, entry in sets.items():
        tokens = entry["mean_tokens"]
        figures = [_percent(entry[key]) for key in extra[2:-1]]
        others.append([name, str(entry["n"]), *figures, "-" if tokens is None else f"{tokens:.0f}"])
    parts = [_aligned(rows), _aligned(others)]
    failing = {name: entry["failures"] for name, entry in sets.items() if entry.get("failures")}
    if failing:
        kinds = checking.KINDS
        lines = [[name, *(_percent(found[k]) for k in kinds)] for name, found in failing.items()]
        parts.append(_aligned([["failures", *kinds], *lines]))
    unread = [
        f"{name}: {entry['strict']['n_unread']} of {entry['n']} items unread: "
        "strict scores their number alone"
        for name, entry in sets.items()
        if entry["strict"].get("n_unread")
    ]
    suites = [_by_task(name, entry) for name, entry in sets.items() if "suite" in entry]
    return "\n\n".join(filter(None, [*parts, "\n".join(unread), "\n".join(suites)]))


def _by_task(name: str, entry: Mapping[str, Any]) -> str:
    """A suite's accuracy by task, and what the paper reports of it."""
    shares = entry["strict"]["by_task"]
    line = f"{name} ({entry['suite']}): "
    line += ", ".join(f"{task} {_percent(share)}" for task, share in shares.items())
    if (reported := paper.SUITES.get(entry["suite"])) is not None:
        before, after = reported
        line += f"; the paper's 14B: {_percent(before)} before, {_percent(after)} after GRPO"
    return line


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
